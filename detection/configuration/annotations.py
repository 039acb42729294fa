"""Checks before every training and evaluation that configuration, annotation files and images fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.annotations import AnnotationFileError, is_whole, load_coco
from detection.configuration.config import DetectionConfig
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
            number of classes than the configuration; there is nothing to learn from; training and evaluation differ in
            their classes. One line each.
    """
    problems = Problems(config.document)
    # File, and id and name of each category in the order of the file, which numbers the classes.
    found: list[tuple[Path, list[tuple[int, str]]]] = []
    for part in parts:
        section, files = f"{part}Dataset", config.datasets.get(part)
        if files is None:
            continue
        name, path, key = config.data[section].get("name"), files.annotations, f"{section}.anno_path"
        if name != _COCO_CLASS:
            if part == "Eval":
                problems.add(f"{section}.name", f"must be {_COCO_CLASS}, for COCO's figures are evaluated, got {name}")
            continue
        if path is None:
            problems.add(section, "missing argument 'anno_path'")
            continue
        if not path.is_file():
            problems.add(key, f"{path}: no such file; prepare the data first (tools/prepare_data.py)")
            continue
        try:
            data = load_coco(path)
        except AnnotationFileError as error:
            problems.add(key, str(error))
            continue
        message = _shape_problem(data)
        if message:
            problems.add(key, f"{path}: {message}")
            continue
        for name, word in (("images", "image_id"), ("categories", "category_id")):
            known = {record["id"] for record in data[name]}
            unknown = [record[word] for record in data["annotations"] if record[word] not in known]
            if unknown:
                message = f"{len(unknown)} annotations name a {word} that is not listed, such as {unknown[0]}"
                problems.add(key, f"{path}: {message}")
        if part == "Train" and not any(map(_teaches, data["annotations"])):
            message = "nothing to learn from: no annotation is a box with an area that is no crowd"
            problems.add(key, f"{path}: {len(data['annotations'])} annotations, {message}")
        _check_images(problems, f"{section}.image_dir", path, files.image_dir, data["images"])
        classes = [(record["id"], str(record["name"])) for record in data["categories"]]
        if len(classes) != config.num_classes:
            shown = ", ".join([*(name for _, name in classes[:_SHOWN]), *(["..."] if len(classes) > _SHOWN else [])])
            message = f"is {config.num_classes}, but {path} has {len(classes)} categories ({shown})"
            problems.add("num_classes", message)
        found.append((path, classes))
    if len(found) > 1 and found[0][1] != found[1][1]:
        problems.add(f"{parts[1]}Dataset.anno_path", _difference(*found))
    problems.raise_any()


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


def _teaches(annotation: dict[str, Any]) -> bool:
    """Tells whether a detector learns from an annotation: it has a box with an area, and is no crowd."""
    box = annotation.get("bbox")
    if annotation["iscrowd"] or not isinstance(box, list):
        return False
    return len(box) == 4 and all(isinstance(side, int | float) and side > 0 for side in box[2:])


def _check_images(problems: Problems, key: str, path: Path, folder: Path, images: list[dict[str, Any]]) -> None:
    if not folder.is_dir():
        problems.add(key, f"{folder}: no such folder")
        return
    missing = [str(image["file_name"]) for image in images if not (folder / str(image["file_name"])).is_file()]
    if len(missing) == len(images):
        message = f"{path} is of another data set: none of its {len(images)} images is in {folder}"
        problems.add(key, f"{message}, such as {missing[0]}")
    elif missing:
        message = f"{len(missing)} of the {len(images)} images of {path} are not in {folder}"
        problems.add(key, f"{message}, such as {missing[0]}")


def _difference(train: tuple[Path, list[tuple[int, str]]], evaluation: tuple[Path, list[tuple[int, str]]]) -> str:
    """Says in what the categories of two files differ: ids, names or order."""
    place = f"{train[0]} and {evaluation[0]}"
    if sorted(train[1]) == sorted(evaluation[1]):
        return f"{place} list the same categories in a different order"
    parts = []
    for (path, classes), (_, others) in ((train, evaluation), (evaluation, train)):
        names = [name for name in dict(classes).values() if name not in dict(others).values()]
        if names:
            parts.append(f"only {path} has {', '.join(names[:_SHOWN])}")
    if not parts:
        return f"{place} give the same categories different ids"
    return f"{place} have different categories: {'; '.join(parts)}"
