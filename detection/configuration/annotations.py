"""Checks before every training and evaluation that configuration, annotation files and images fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.annotations import AnnotationFileError, is_whole, load_coco
from detection.configuration.config import DatasetFiles, DetectionConfig
from ppcls_ext.utils.config import Problems

Class = tuple[int, str]
_COCO_CLASS = "COCODataSet"
_SHOWN = 12


@dataclass(frozen=True)
class _Part:
    """One annotation file of the configuration.

    Attributes:
        section: ``TrainDataset`` or ``EvalDataset``.
        path: the file.
        classes: id and name of each category, in the order of the file, which numbers the classes.
    """

    section: str
    path: Path
    classes: list[Class]


def check_annotations(config: DetectionConfig, parts: Sequence[str] = ("Train", "Eval")) -> None:
    """Checks the COCO files of a configuration: a matter of the JSON files and of which images are there.

    Args:
        config: the configuration.
        parts: the data sets to look at, ``Train`` or ``Eval`` or both.

    Raises:
        ConfigError: an annotation file is missing, truncated, no COCO file or of another data set; it holds another
            number of classes than the configuration; there is nothing to learn from; training and evaluation differ in
            their classes. One line each.
    """
    problems = Problems(config.document)
    read = []
    for part in parts:
        section = f"{part}Dataset"
        files = config.datasets.get(part)
        if files is None:
            continue
        name = config.data[section].get("name")
        if name != _COCO_CLASS:
            if part == "Eval":
                problems.add(f"{section}.name", f"must be {_COCO_CLASS}, for COCO's figures are evaluated, got {name}")
            continue
        found = _read_part(section, files, problems)
        if found is not None:
            read.append(found)
            _check_count(config, found, problems)
    if len(read) > 1:
        _compare(read[0], read[1], problems)
    problems.raise_any()


def _read_part(section: str, files: DatasetFiles, problems: Problems) -> _Part | None:
    key = f"{section}.anno_path"
    path = files.annotations
    if path is None:
        problems.add(section, "missing argument 'anno_path'")
        return None
    if not path.is_file():
        problems.add(key, f"{path}: no such file; prepare the data first (tools/prepare_data.py)")
        return None
    try:
        data = load_coco(path)
    except AnnotationFileError as error:
        problems.add(key, str(error))
        return None
    message = _shape_problem(data)
    if message:
        problems.add(key, f"{path}: {message}")
        return None
    message = _reference_problem(data)
    if message:
        problems.add(key, f"{path}: {message}")
    if section == "TrainDataset" and not any(map(_teaches, data["annotations"])):
        message = "nothing to learn from: no annotation is a box with an area that is no crowd"
        problems.add(key, f"{path}: {len(data['annotations'])} annotations, {message}")
    _check_images(section, path, files.image_dir, data["images"], problems)
    return _Part(section, path, [(record["id"], str(record["name"])) for record in data["categories"]])


def _shape_problem(data: dict[str, Any]) -> str:
    """Says which record of a COCO file lacks what the toolkit reads, or nothing."""
    needed = {
        "images": ("id", "file_name", "width", "height"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "area", "iscrowd"),
    }
    for name, words in needed.items():
        for index, record in enumerate(data[name]):
            lacking = [word for word in words if not isinstance(record, dict) or word not in record]
            if lacking:
                return f"{name}[{index}] has no '{lacking[0]}'"
            numbers = [word for word in words if word.endswith("id")]
            wrong = [word for word in numbers if not is_whole(record[word])]
            if wrong:
                return f"{name}[{index}].{wrong[0]} must be a whole number, got {record[wrong[0]]!r}"
    if not data["images"]:
        return "lists no image"
    for name in ("images", "categories"):
        numbers = [record["id"] for record in data[name]]
        if len(set(numbers)) < len(numbers):
            return f"two {name} have the same id"
    return ""


def _reference_problem(data: dict[str, Any]) -> str:
    """Says which annotations name an image or a category that is not listed, or nothing."""
    for name, word in (("images", "image_id"), ("categories", "category_id")):
        known = {record["id"] for record in data[name]}
        unknown = [record[word] for record in data["annotations"] if record[word] not in known]
        if unknown:
            return f"{len(unknown)} annotations name a {word} that is not listed, such as {unknown[0]}"
    return ""


def _teaches(annotation: dict[str, Any]) -> bool:
    """Tells whether a detector learns from an annotation: it has a box with an area, and is no crowd."""
    box = annotation.get("bbox")
    if annotation["iscrowd"] or not isinstance(box, list):
        return False
    return len(box) == 4 and all(isinstance(side, int | float) and side > 0 for side in box[2:])


def _check_images(section: str, path: Path, folder: Path, images: list[dict[str, Any]], problems: Problems) -> None:
    key = f"{section}.image_dir"
    if not folder.is_dir():
        problems.add(key, f"{folder}: no such folder")
        return
    missing = [str(image["file_name"]) for image in images if not (folder / str(image["file_name"])).is_file()]
    if len(missing) == len(images):
        problems.add(
            key, f"{path} is of another data set: none of its {len(images)} images is in {folder}, such as {missing[0]}"
        )
    elif missing:
        problems.add(
            key, f"{len(missing)} of the {len(images)} images of {path} are not in {folder}, such as {missing[0]}"
        )


def _check_count(config: DetectionConfig, part: _Part, problems: Problems) -> None:
    if len(part.classes) != config.num_classes:
        names = [name for _, name in part.classes]
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        problems.add("num_classes", f"is {config.num_classes}, but {part.path} has {len(names)} categories ({shown})")


def _compare(train: _Part, evaluation: _Part, problems: Problems) -> None:
    """Compares ids, names and order: the order of the categories in a file numbers the classes."""
    if train.classes == evaluation.classes:
        return
    key = f"{evaluation.section}.anno_path"
    place = f"{train.path} and {evaluation.path}"
    if sorted(train.classes) == sorted(evaluation.classes):
        problems.add(key, f"{place} list the same categories in a different order")
        return
    only_train = [name for name in dict(train.classes).values() if name not in dict(evaluation.classes).values()]
    only_evaluation = [name for name in dict(evaluation.classes).values() if name not in dict(train.classes).values()]
    if not only_train and not only_evaluation:
        problems.add(key, f"{place} give the same categories different ids")
        return
    parts = [f"only {path} has {', '.join(names[:_SHOWN])}"
             for path, names in ((train.path, only_train), (evaluation.path, only_evaluation)) if names]  # fmt: skip
    problems.add(key, f"{place} have different categories: {'; '.join(parts)}")
