"""Writes an export folder: files in every format, ``inference.yml``, and the proof that they agree with the model.

One path for classifiers and detectors: build the network that is deployed, compile and save it (``to_static``), convert
it, reopen every file with the engine that will run it, compare that with the model as trained, describe it, and put the
whole folder in place in one step. If anything disagrees, nothing is written and an older export stays.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import paddle
from paddle import nn

from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.deploy.formats import EXACT, FORMATS, PRECISIONS, Request, check_target, plan, supported_pairs
from ppcls_ext.deploy.onnx import ANCHOR_BOXES, ANCHOR_SCORES, add_suppression, convert, halve_weights
from ppcls_ext.deploy.verify import ClassifierComparison, Comparison, EagerBackend
from ppcls_ext.preprocess import ImageError, build_pipeline
from ppcls_ext.runtime.backends import import_openvino, open_backend
from ppcls_ext.runtime.description import Artefact, Description, DetectionDescription
from ppcls_ext.runtime.nms import NmsSettings
from ppcls_ext.runtime.predictor import ImageSource, prepare_input
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, sha256_of
from ppcls_ext.utils.machine import available_cores

if TYPE_CHECKING:
    import onnx

FILE_STEM = "inference"


def export_classifier(
    model: nn.Layer, folder: str | os.PathLike[str], *, model_name: str, class_num: int, image_shape: Sequence[int],
    preprocess: list[Any], topk: int = 5, classes: Sequence[str] | None = None,
    images: Mapping[str, ImageSource] | None = None, formats: Sequence[str] = ("paddle",),
    precisions: Sequence[str] = (EXACT,),
) -> Description:  # fmt: skip
    """Exports ``model``, reloads every file with the engine that will run it, and compares that with the model.

    Args:
        model: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``; its mode (training or not) is left as it was.
        folder: is replaced by the export, in one step and only if everything agrees.
        model_name, class_num, classes, topk: travel in ``inference.yml``.
        image_shape: ``[3, H, W]`` of the network's input; the batch is free.
        preprocess: operators as in ``Infer.transforms``; they must give ``image_shape``.
        images: pictures to compare on, by name; None takes ``example_images()``.
        formats, precisions: keys of ``FORMATS`` and ``PRECISIONS``; every pair of them is written.

    Returns:
        What was written, with what was measured of each artefact.

    Raises:
        UserError: a format cannot be written in a precision or needs a missing package, the outputs disagree, the
            model is no classifier, or the operators do not fit it. No file is left.
    """
    requests = plan(formats, precisions)
    target = Path(folder)
    check_target(target, classes, class_num)
    was_training = model.training
    try:
        pipeline = build_pipeline(preprocess, "Infer.transforms")
        inputs = prepared_images(images, lambda image, name: prepare_input(pipeline, image, name, image_shape))
        trained = EagerBackend(model)
        shape = list(trained.run(next(iter(inputs.values()))[np.newaxis]).shape)
        if shape != [1, class_num]:
            raise UserError(
                f"{model_name} gives outputs of shape {shape} for one image, expected [1, {class_num}]: "
                "it is no classifier of that many classes"
            )
        description = Description(
            folder=target, model_name=model_name, class_num=class_num, input_shape=[-1, *image_shape],
            preprocess=preprocess, topk=min(topk, class_num), classes=list(classes) if classes else None,
        )  # fmt: skip
        network = Network(lambda: _Deployed(model), {"image": [None, *image_shape]}, ["logits"])
        write_export(description, network, requests, ClassifierComparison(trained, inputs))
    finally:
        if was_training:
            model.train()
    return description


class _Deployed(nn.Layer):
    """The classifier that is exported: its own layer, because ``to_static`` replaces the ``forward`` of its layer."""

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, 3, H, W]`` -> logits ``[N, class_num]``."""
        return logits_of(self.network(image))


def prepared_images(
    images: Mapping[str, ImageSource] | None, prepare: Callable[[ImageSource, str], Any]
) -> dict[str, Any]:
    """Prepares the pictures that an export is compared on, by name; None takes ``example_images()``.

    Raises:
        UserError: one cannot be read.
    """
    inputs = {}
    for name, image in (images or example_images()).items():
        try:
            inputs[name] = prepare(image, name)
        except ImageError as error:
            raise UserError(f"cannot compare the export on {error}") from error
    return inputs


@dataclass
class Network:
    """A network in the forms that files are made of; each is made once, when it is first asked for.

    Attributes:
        build: makes the layer that is deployed.
        inputs: shapes by name, in the order of its ``forward``; None is free.
        outputs: names of its outputs.
        suppression: a detector's NMS, which ONNX has no operator for: the ONNX form is then made of ``build_raw``,
            the network that ends with the boxes and scores of all anchors, and completed.
    """

    build: Callable[[], nn.Layer]
    inputs: Mapping[str, Sequence[int | None]]
    outputs: Sequence[str]
    suppression: NmsSettings | None = None
    build_raw: Callable[[], nn.Layer] | None = None
    scratch: Path = Path()

    @cached_property
    def paddle(self) -> list[Path]:
        """The files ``.json`` and ``.pdiparams`` of the whole network."""
        return self._saved("whole", self.build)

    @cached_property
    def onnx(self) -> onnx.ModelProto:
        """The network as ONNX, whole and with undamaged epsilons."""
        if self.suppression is None:
            return convert(*self.paddle, self.outputs)
        assert self.build_raw is not None
        raw = convert(*self._saved("raw", self.build_raw), [ANCHOR_BOXES, ANCHOR_SCORES])
        return add_suppression(raw, self.suppression)

    def _saved(self, name: str, build: Callable[[], nn.Layer]) -> list[Path]:
        layer = build()
        layer.eval()
        inputs = [paddle.static.InputSpec(list(shape), "float32", name) for name, shape in self.inputs.items()]
        # Without full_graph the specification would be ignored.
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=inputs, full_graph=True), str(self.scratch / name))
        return [self.scratch / f"{name}{suffix}" for suffix in (".json", ".pdiparams")]


def write_export(
    description: Description | DetectionDescription, network: Network, requests: Sequence[Request],
    comparison: Comparison,
) -> None:  # fmt: skip
    """Writes an export folder in one step, and only if every artefact agrees with the model.

    Args:
        description: of the export; names the folder, which is replaced. Its ``artefacts`` are filled.
        network: what to write.
        requests: see ``plan``.
        comparison: compares the reopened files with the model.

    Raises:
        UserError: the network cannot be converted, or an artefact differs from the model.
    """
    target = description.folder
    with atomic_folder(target) as temporary, tempfile.TemporaryDirectory(prefix="export-") as scratch:
        description.folder = temporary
        network.scratch = Path(scratch)
        for request in requests:
            first = all(artefact.format != request.format for artefact in description.artefacts)
            stem = FILE_STEM if first else f"{FILE_STEM}_{request.precision}"
            files = WRITERS[request.format](network, temporary, stem, request.precision)
            artefact = Artefact(
                format=request.format, precision=request.precision, model_file=files[0],
                weights_file=files[1] if len(files) > 1 else None,
                checksums={name: sha256_of(temporary / name) for name in files},
            )  # fmt: skip
            engines = _open_engines(description, artefact)
            artefact.computed_in = next(iter(engines.values())).computed_in
            try:
                artefact.verification = comparison(engines, PRECISIONS[request.precision])
            except UserError as error:
                if request.precision == EXACT:
                    raise
                # Whether a model bears few bits is seen only here.
                raise UserError(
                    f"{error}: {request.precision} of format '{request.format}' does not suit this model; other pairs "
                    f"are {supported_pairs(without=request)}"
                ) from error
            description.artefacts.append(artefact)
        description.write()
    description.folder = target


def _write_paddle(network: Network, folder: Path, stem: str, precision: str) -> list[str]:
    """Writes ``inference.json`` and ``.pdiparams``. The precision is chosen by the engine: all share these files."""
    # A network without weights has one file only.
    files = {f"{FILE_STEM}{file.suffix}": file for file in network.paddle if file.is_file()}
    for name, file in files.items():
        shutil.copyfile(file, folder / name)
    return list(files)


def _write_onnx(network: Network, folder: Path, stem: str, precision: str) -> list[str]:
    """Writes ``STEM.onnx``."""
    import onnx

    model = halve_weights(network.onnx) if precision == "fp16" else network.onnx
    onnx.save(model, str(folder / f"{stem}.onnx"))
    return [f"{stem}.onnx"]


def _write_openvino(network: Network, folder: Path, stem: str, precision: str) -> list[str]:
    """Writes ``STEM.xml`` and ``STEM.bin``; 16-bit precisions store their weights in float16."""
    openvino = import_openvino()
    source = network.onnx.SerializeToString()
    try:
        model = openvino.Core().read_model(source)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"OpenVINO cannot read this network, whose ONNX form it is made of: {reason}") from error
    openvino.save_model(model, str(folder / f"{stem}.xml"), compress_to_fp16=precision in ("fp16", "bf16"))
    return [f"{stem}.xml", f"{stem}.bin"]


# How each format is written: network, folder, stem of the file names, precision -> names of the files.
WRITERS: dict[str, Callable[[Network, Path, str, str], list[str]]] = {
    "paddle": _write_paddle, "onnx": _write_onnx, "openvino": _write_openvino,
}  # fmt: skip


def _open_engines(description: Description | DetectionDescription, artefact: Artefact) -> dict[str, Any]:
    """Opens an artefact with every engine that it will run on, by a name for reports."""
    row = FORMATS[artefact.format]
    opened = partial(open_backend, description, artefact, row.backend, available_cores())
    precision = "" if artefact.precision == EXACT else f", {artefact.precision}"
    if artefact.format != "paddle":
        return {f"{row.engine}{precision}": opened()}
    # Without oneDNN Paddle computes in float32, which is checked as such.
    engines = {f"{row.engine}, oneDNN{precision or ' on'}": opened()}
    return engines if precision else {**engines, f"{row.engine}, oneDNN off": opened(onednn=False)}


def example_images() -> dict[str, np.ndarray]:
    """Returns pictures by name, ``uint8`` RGB ``[H, W, 3]``: shapes and lights that photographs come in.

    They are drawn from fixed numbers, the same on every machine: smooth light, sharp edges and sensor noise.
    """
    generator = np.random.default_rng(20250829)
    return {
        "generated photo, wide": _photo(generator, 360, 640),
        "generated photo, high": _photo(generator, 500, 333),
        "generated photo, dark": (_photo(generator, 240, 320) // 16).astype(np.uint8),
        "generated photo, overexposed": np.maximum(_photo(generator, 256, 256), 200),
        "generated photo, tiny": _photo(generator, 17, 23),
    }


def _photo(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws one picture ``uint8`` ``[height, width, 3]``: coloured patches under a sloping light, and noise."""
    picture = cv2.resize(generator.uniform(0, 255, size=(7, 9, 3)), (width, height), interpolation=cv2.INTER_NEAREST)
    picture += np.linspace(-60, 60, width)[:, np.newaxis] + generator.normal(scale=6, size=picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)
