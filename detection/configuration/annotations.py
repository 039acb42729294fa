"""Checks before every training and evaluation that configuration, annotation files and images fit together."""

from __future__ import annotations

from collections.abc import Sequence

from detection.annotations import Ledger
from detection.coco import AnnotationFileError, CocoSet, load_coco, open_coco, read_coco
from detection.configuration.config import DetectionConfig
from detection.configuration.short_keys import how_to_prepare
from detection.geometry import as_keys
from ppcls_ext.utils.config import Problems
from ppcls_ext.utils.errors import UserError, suggestion

_COCO_CLASS = "COCODataSet"
_SHOWN = 12


def open_part(config: DetectionConfig, part: str, ledger: Ledger | None = None) -> CocoSet:
    """Opens the COCO file of ``Train`` or ``Eval`` as training and evaluation use it; see :func:`open_coco`.

    Raises:
        UserError: the section names no annotation file, or it cannot be used.
    """
    files, section = config.datasets.get(part), f"{part}Dataset"
    if files is None or files.annotations is None:
        raise UserError(f"{config.path}: {section} names no annotation file (anno_path)")
    return open_coco(files.annotations, files.image_dir, ledger or Ledger(), files.reading, as_keys(section))


def check_annotations(config: DetectionConfig, parts: Sequence[str] = ("Train", "Eval")) -> None:
    """Checks the COCO files of a configuration: a matter of the JSON files and of which images are there.

    Args:
        config: the configuration.
        parts: the data sets to look at, ``Train`` or ``Eval`` or both.

    Raises:
        ConfigError: an annotation file is missing, truncated, no COCO file or of another data set; it holds another
            number of classes than the configuration; there is nothing to learn from; its boxes do not fit the images;
            the evaluation has classes that the training has not (it may lack some). One line each.
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
        coco = _read_part(config, part, problems)
        if coco is None:
            continue
        read.append(coco)
        names = coco.names
        # An evaluation may lack classes.
        if len(names) > config.num_classes or (part == "Train" and len(names) != config.num_classes):
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            message = f"is {config.num_classes}, but {coco.path} has {len(names)} categories ({shown})"
            problems.add("num_classes", message)
    if len(read) > 1:
        _compare(*read, problems)
    problems.raise_any()


def _read_part(config: DetectionConfig, part: str, problems: Problems) -> CocoSet | None:
    """Reads one annotation file and looks for its images."""
    path, folder, key = config.datasets[part].annotations, config.datasets[part].image_dir, f"{part}Dataset.anno_path"
    if path is None:
        problems.add(f"{part}Dataset", "missing argument 'anno_path'")
        return None
    if not path.is_file():
        problems.add(key, f"{path}: no such file; {how_to_prepare(path)}")
        return None
    ledger = Ledger()
    try:
        coco = open_part(config, part, ledger)
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
    """Notes the classes that only the evaluation has; the others are matched by name, whatever their ids and order."""
    evaluation.spell_classes_as(train.names)
    only = [name for name in evaluation.names if name not in train.names]
    if only:
        shown = ", ".join(only[:_SHOWN]) + (", ..." if len(only) > _SHOWN else "")
        message = f"{evaluation.path} has categories that {train.path} has not: {shown}"
        problems.add("EvalDataset.anno_path", f"{message}{suggestion(only[0], train.names)}")


def class_names_of(config: DetectionConfig, parts: Sequence[str] = ("Train", "Eval", "Test")) -> list[str] | None:
    """Returns the class names of the first annotation file that is there, in the toolkit's order, or ``None``.

    Raises:
        UserError: the file cannot be read.
    """
    for part in parts:
        files = config.datasets.get(part)
        if files is None or files.annotations is None or not files.annotations.is_file():
            continue
        if part == "Train" and config.data["TrainDataset"].get("name", _COCO_CLASS) != _COCO_CLASS:
            continue
        content = load_coco(files.annotations, ("categories",))
        return read_coco(files.annotations, Ledger(), content=content).names
    return None
