"""Puts a model card together: what is known of a model, and the page made of it."""

from __future__ import annotations

import os
from pathlib import Path

from ppcls_ext.arch.registry import architecture_parameters
from ppcls_ext.deploy.cards import deployment, overview, training
from ppcls_ext.deploy.cards.counts import Counts, count_classifier
from ppcls_ext.deploy.cards.facts import Facts
from ppcls_ext.deploy.cards.latency import read_latency
from ppcls_ext.deploy.cards.sources import CLASSIFICATION, DETECTION, Source, read_run
from ppcls_ext.runtime import Description, DetectionDescription, read_description
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of, write_text

DEFAULT_SHAPE = (3, 224, 224)


def gather_facts(
    source: Source | str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    counts: Counts | None = None,
    export: str | os.PathLike[str] | None = None,
    benchmark: str | os.PathLike[str] | None = None,
) -> Facts:
    """Collects what files tell of a model, and counts a classifier (which loads Paddle).

    Args:
        source: what was read already; or the folder of a run, a checkpoint or a pruning.
        model: name of a classifier; with a source it must be that of the source.
        counts: of the network; ``None`` counts a classifier, and leaves a detector uncounted.
        export: folder that ``tools/export_model.py`` wrote.
        benchmark: JSON file of ``tools/benchmark.py models``.

    Raises:
        UserError: nothing is named, a file is missing or damaged, or the parts belong to different models.
    """
    if source is not None and not isinstance(source, Source):
        source = read_run(source)
    description = None if export is None else read_description(export)
    if source is None:
        if model is None and description is None:
            raise UserError("nothing is named that a card could be made of: a model, a run or an export")
        detects = isinstance(description, DetectionDescription)
        name = model or str(description.model_name)
        source = Source(name, DETECTION if detects else CLASSIFICATION)
    check_model(source, model)
    if description is not None:
        check_export(source, description)
    latency = None
    if benchmark is not None:
        folder = None if export is None else Path(export)
        latency = read_latency(benchmark, source.model, source.arguments, folder)
    if counts is None and source.task == CLASSIFICATION and (source.arguments or description is None):
        counts = count_classifier(source.model, source.arguments, image_shape_of(source))
    checksum = None if source.weights is None else sha256_of(source.weights)
    return Facts(source, counts, description, latency, checksum)


def check_model(source: Source, model: str | None) -> None:
    """Raises a UserError if ``model`` is not that of ``source``, or if there is no such model."""
    if model is not None and model not in (source.model, source.architecture):
        where = "the export" if source.folder is None else str(source.folder)
        raise UserError(f"{where}: holds {source.model}, not {model}")
    if source.task == CLASSIFICATION:
        try:
            architecture_parameters(source.model)
        except ValueError as error:
            raise UserError(str(error)) from error


def check_export(source: Source, description: Description | DetectionDescription) -> None:
    """Raises a UserError if an export is not one of the model of ``source``."""
    folder = description.folder
    detects = isinstance(description, DetectionDescription)
    if detects != (source.task == DETECTION) or description.model_name != source.model:
        raise UserError(f"{folder}: is an export of {description.model_name}, not of {source.model}")
    names, number = source.class_names, source.arguments.get("class_num", description.class_num)
    differ = names is not None and description.classes is not None and names != description.classes
    if differ or number != description.class_num:
        raise UserError(f"{folder}: its classes are not those of {source.folder or source.model}")


def image_shape_of(source: Source) -> tuple[int, int, int]:
    """Returns channels, height and width of the images that a classifier was trained for; 224 px if nothing tells."""
    section = source.config.get("Global")
    shape = section.get("image_shape") if isinstance(section, dict) else None
    if isinstance(shape, list) and len(shape) == 3 and all(isinstance(size, int) and size > 0 for size in shape):
        return shape[0], shape[1], shape[2]
    return DEFAULT_SHAPE


def card_text(facts: Facts) -> str:
    """Returns the card as Markdown, with a head in YAML as Hugging Face reads it."""
    sections = (
        overview.introduction(facts),
        overview.results(facts),
        overview.cost(facts),
        overview.inputs(facts),
        training.recipe(facts),
        deployment.reductions(facts),
        deployment.latency(facts),
        deployment.use(facts),
        training.limitations(facts),
        deployment.weights(facts),
    )
    return overview.front_matter(facts) + "\n" + "\n\n".join(filter(None, sections)) + "\n"


def write_card(facts: Facts, path: str | os.PathLike[str]) -> str:
    """Writes a card, whole or not at all; returns its text."""
    text = card_text(facts)
    write_text(path, text)
    return text
