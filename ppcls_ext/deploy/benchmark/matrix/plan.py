"""Which combinations of model, backend, precision, threads and batch size are measured. Loads no Paddle."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppcls_ext.deploy.formats import FORMATS, PRECISIONS
from ppcls_ext.runtime import BACKENDS, Description, DetectionDescription, read_description
from ppcls_ext.runtime.description import DESCRIPTION_FILE
from ppcls_ext.utils.errors import UserError, suggestion

DEFAULT_MODELS = (
    "EConvNeXt_mini",
    "EConvNeXt_tiny",
    "EConvNeXt_small",
    "ConvNeXt_tiny",
    "MobileNetV4_conv_medium",
    "EfficientNetV2_S",
    "PPHGNetV2_B0",
    "ResNet50",
    "SwinTransformer_tiny_patch4_window7_224",
)
EXPORT_WORKER = "ppcls_ext.deploy.benchmark.matrix.export_worker"
# A detector is named by its configuration. A module of `detection`, which this package does not import, exports it.
DETECTOR_WORKER = "detection.benchmark_worker"
DETECTOR_SUFFIXES = (".yml", ".yaml")
DETECTOR_SIZE = 640
DEFAULT_PRECISIONS = ("fp32", "bf16")
INT8 = "int8"
# Made from the float32 network by quantisation instead of being written by the exporter.
QUANTIZED_BACKENDS = ("openvino",)


@dataclass(frozen=True, eq=False)
class Source:
    """What is measured: a model by its name, a detector by its configuration, or an export.

    Attributes:
        label: the name in reports.
        model: its architecture; of a detector the configuration file.
        size: side of the input in pixels; of an export height and width as text.
        description: of the export, None for a model that is still to be exported.
        worker: module that exports it.
    """

    label: str
    model: str
    size: int | str
    description: Description | DetectionDescription | None = None
    worker: str = EXPORT_WORKER


@dataclass(frozen=True)
class Combination:
    """One row of the report; it gets a process of its own."""

    source: Source
    backend: str
    precision: str
    threads: int
    batch: int

    @property
    def title(self) -> str:
        """The combination in one line, for messages."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.source.label}, {self.backend} {self.precision}, {threads}, batch {self.batch}"


def precisions_of(backend: str) -> tuple[str, ...]:
    """Returns the precisions that exports for ``backend`` can have."""
    written = next(row.precisions for row in FORMATS.values() if row.backend == backend)
    quantized = (INT8,) if backend in QUANTIZED_BACKENDS else ()
    return tuple(dict.fromkeys([*written, *quantized]))


def format_of(backend: str) -> str:
    """Returns the file format that ``backend`` opens."""
    return BACKENDS[backend].format


def choose_pairs(
    backends: Sequence[str] | None, precisions: Sequence[str] | None
) -> tuple[list[tuple[str, str]], dict[tuple[str, str], str]]:
    """Pairs backends with precisions.

    Args:
        backends: keys of ``BACKENDS``; None takes all.
        precisions: None takes the default ones, where a backend has them.

    Returns:
        The pairs that can be measured, and of each asked pair that cannot, why: it says what works.

    Raises:
        UserError: a name is unknown, or no pair is left.
    """
    known = list(dict.fromkeys([*PRECISIONS, INT8]))
    for kind, names, allowed in (("backend", backends, list(BACKENDS)), ("precision", precisions, known)):
        for name in names or ():
            if name not in allowed:
                raise UserError(f"unknown {kind} '{name}'{suggestion(name, allowed)}; allowed: {', '.join(allowed)}")
    works = "; ".join(f"{backend}: {', '.join(precisions_of(backend))}" for backend in BACKENDS)
    pairs, refused = [], {}
    for backend, precision in itertools.product(
        dict.fromkeys(backends or BACKENDS), dict.fromkeys(precisions or DEFAULT_PRECISIONS)
    ):
        if precision in precisions_of(backend):
            pairs.append((backend, precision))
        elif precisions:
            refused[backend, precision] = f"what works is {works}"
    if not pairs:
        raise UserError(f"no backend of {', '.join(backends or BACKENDS)} takes {', '.join(precisions or ())}; {works}")
    return pairs, refused


def find_sources(
    names: Sequence[str] | None, size: int, defaults: Sequence[str] = DEFAULT_MODELS
) -> tuple[list[Source], dict[str, str]]:
    """Finds what is to be measured.

    Args:
        names: models and configurations of detectors, ``NAME`` or ``NAME@SIZE``, and export folders; None takes
            ``defaults``.
        size: side of the input of classifiers that do not say it; detectors have 640.
        defaults: as ``names``, but one that this installation does not have is no error.

    Returns:
        The sources, and of those of ``defaults`` that this installation does not have, why.

    Raises:
        UserError: a name is unknown (the nearest ones are given), or a folder is no export.
    """
    missing = {}
    sources = []
    for name in dict.fromkeys(names or defaults):
        try:
            sources.append(_find(name, size))
        except UserError as error:
            if names:
                raise
            missing[name] = str(error)
    return sources, missing


def _find(name: str, size: int) -> Source:
    folder = Path(name)
    model, separator, side = name.partition("@")
    if separator and not (side.isdecimal() and int(side) > 0):
        raise UserError(f"--model {name}: after @ stands the side of the images in pixels, such as {model}@224")
    if Path(model).suffix in DETECTOR_SUFFIXES:
        if not Path(model).is_file():
            raise UserError(f"--model {name}: there is no such configuration")
        return Source(Path(model).stem, model, int(side) if separator else DETECTOR_SIZE, worker=DETECTOR_WORKER)
    if (folder / DESCRIPTION_FILE).is_file() or os.sep in name:
        description = read_description(folder)
        sides = " x ".join("any" if side < 0 else str(side) for side in description.input_shape[2:])
        return Source(name, description.model_name, sides, description)
    from ppcls_ext.arch.catalog import architecture_parameters

    try:
        architecture_parameters(model)
    except ValueError as error:
        raise UserError(f"--model {name}: {error}; an export folder has an {DESCRIPTION_FILE}") from error
    return Source(name, model, int(side) if separator else size)


def pairs_of(source: Source, pairs: Sequence[tuple[str, str]], asked: bool) -> list[tuple[str, str]]:
    """Returns the pairs of backend and precision to measure of one source.

    Args:
        source: a model or an export.
        pairs: see ``choose_pairs``.
        asked: the precisions were asked for; else all that an export holds for these backends are measured.
    """
    if asked or source.description is None:
        return list(pairs)
    held = [(artefact.format, artefact.precision) for artefact in source.description.artefacts]
    backends = dict.fromkeys(backend for backend, _ in pairs)
    found = [(backend, precision) for backend in backends for form, precision in held if form == format_of(backend)]
    # An export with nothing for them is a line in the report, too.
    return found or list(pairs)


def combine(
    pairs: Mapping[Source, Sequence[tuple[str, str]]], threads: Sequence[int], batches: Sequence[int]
) -> list[Combination]:
    """Returns every combination, those of one source together.

    Args:
        pairs: of backend and precision, by source.
        threads, batches: every one goes with every other.

    Raises:
        UserError: a number of threads or a batch size is below 1.
    """
    for option, values in (("threads", threads), ("batch", batches)):
        if not values or min(values) < 1:
            raise UserError(f"--{option} must be at least 1, got {' '.join(map(str, values)) or 'nothing'}")
    return [
        Combination(source, backend, precision, thread_count, batch)
        for source, of_source in pairs.items()
        for backend, precision in of_source
        for thread_count, batch in itertools.product(dict.fromkeys(threads), dict.fromkeys(batches))
    ]
