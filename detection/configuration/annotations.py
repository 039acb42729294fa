"""Checks before every training and evaluation that configuration, annotation files and images fit together."""

from __future__ import annotations

from collections.abc import Sequence

from detection.annotations import Ledger
from detection.coco import AnnotationFileError, CocoSet, open_coco
from detection.configuration.config import DatasetFiles, DetectionConfig
from detection.geometry import as_keys
from ppcls_ext.utils.config import Problems

_COCO_CLASS = "COCODataSet"
_SHOWN = 12


def check_annotations(config: DetectionConfig, parts: Sequence[str] = ("Train", "Eval")) -> None:
    """Checks the COCO files of a configuration: a matter of the JSON files and of which images are there.

    Args:
        config: the configuration.
        parts: the data sets to look at, ``Train`` or ``Eval`` or both.

    Raises:
        ConfigError: an annotation file is missing, truncated, no COCO file or of another data set; it holds another
            number of classes than the configuration; there is nothing to learn from; its boxes do not fit the images;
            training and evaluation differ in their classes. One line each.
    """
    problems = Problems(config.document)
    read = []
    for part in parts:
        files, section = config.datasets.get(part), config.data.get(f"{part}Dataset")
        if files is None:
            continue
        name = section.get("name")
        if name != _COCO_CLASS:
            if part == "Eval":
                key, words = "EvalDataset.name", "for COCO's metrics are evaluated"
                problems.add(key, f"must be {_COCO_CLASS}, {words}, got {name}")
            continue
        coco = _read_part(part, files, problems)
        if coco is None:
            continue
        read.append(coco)
        names = coco.names
        if len(names) != config.num_classes:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            message = f"is {config.num_classes}, but {coco.path} has {len(names)} categories ({shown})"
            problems.add("num_classes", message)
    if len(read) > 1:
        _compare(*read, problems)
    problems.raise_any()


def _read_part(part: str, files: DatasetFiles, problems: Problems) -> CocoSet | None:
    """Reads one annotation file and looks for its images."""
    path, folder, key = files.annotations, files.image_dir, f"{part}Dataset.anno_path"
    if path is None:
        problems.add(f"{part}Dataset", "missing argument 'anno_path'")
        return None
    if not path.is_file():
        problems.add(key, f"{path}: no such file; prepare the data first (tools/prepare_data.py)")
        return None
    ledger = Ledger()
    try:
        coco = open_coco(path, folder, ledger, files.reading, as_keys(f"{part}Dataset"))
    except AnnotationFileError as error:
        problems.add(key, str(error))
        return None
    # A detector learns from a box that is no crowd; images without one teach what is background.
    if part == "Train" and all(box.crowd for frame in coco.frames for box in frame.boxes):
        message = "nothing to learn from: no annotation is a box with an area that is no crowd"
        problems.add(key, f"{path}: {ledger.boxes['input']} annotations, {message}")
    key = f"{part}Dataset.image_dir"
    if not folder.is_dir():
        problems.add(key, f"{folder}: no such folder")
        return coco
    missing = [frame.name for frame in coco.frames if not frame.image.is_file()]
    if len(missing) == len(coco):
        message = f"{path} is of another data set: none of its {len(coco)} images is in {folder}, such as {missing[0]}"
        problems.add(key, message)
    elif missing:
        message = f"{len(missing)} of the {len(coco)} images of {path} are not in {folder}, such as {missing[0]}"
        problems.add(key, message)
    return coco


def _compare(train: CocoSet, evaluation: CocoSet, problems: Problems) -> None:
    """Compares ids, names and order: the order of the categories in a file numbers the classes."""
    ours, others = (list(zip(coco.category_ids, coco.names, strict=True)) for coco in (train, evaluation))
    if ours == others:
        return
    only = [
        f"only {one.path} has {', '.join(names[:_SHOWN])}"
        for one, other in ((train, evaluation), (evaluation, train))
        if (names := [name for name in one.names if name not in other.names])
    ]
    if sorted(ours) == sorted(others):
        message = "list the same categories in a different order"
    elif only:
        message = f"have different categories: {'; '.join(only)}"
    else:
        message = "give the same categories different ids"
    problems.add("EvalDataset.anno_path", f"{train.path} and {evaluation.path} {message}")
