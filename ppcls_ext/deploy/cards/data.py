"""What a resolved configuration, of a classifier or a detector, says of data and operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppcls_ext.deploy.cards.sources import DETECTION, Source
from ppcls_ext.deploy.cards.text import shown_path, shown_value

# Classes of the data sets that are known by their kind alone.
CLASSES = {"Cifar10": 10, "Cifar100": 100}


def section_of(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Returns a section of a configuration by its keys; empty where it is not there."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def dataset_of(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Returns the section of the data set of ``Train`` or ``Eval``."""
    return section_of(config, "DataLoader", part, "dataset") or section_of(config, f"{part}Dataset")


def data_name(config: Mapping[str, Any], part: str) -> str | None:
    """Returns what a data set is called: its folder, or the name of its kind where it has none."""
    section = dataset_of(config, part)
    place = section.get("image_root") or section.get("dataset_dir")
    if isinstance(place, str) and place.strip("./~ "):
        return shown_path(place).rpartition("/")[2]
    name = section.get("name")
    classes = section_of(config, "Arch").get("class_num")
    if name in CLASSES and isinstance(classes, int) and 0 < classes < CLASSES[name]:
        # An accuracy among fewer classes must not pass for one of the whole data set.
        return f"{name} ({classes} of its {CLASSES[name]} classes)"
    return str(name) if name else None


def evaluation_data(config: Mapping[str, Any]) -> str:
    """Returns the data set of the evaluation with the part that is taken of it."""
    section = dataset_of(config, "Eval")
    name = data_name(config, "Eval")
    if name is None:
        return "data that are not recorded"
    part = section.get("split") or section.get("cls_label_path") or section.get("anno_path")
    return f"{name} ({shown_path(str(part))})" if part else name


def operators_of(config: Mapping[str, Any], purpose: str) -> list[Any]:
    """Returns operators as the configuration lists them.

    Args:
        config: resolved configuration.
        purpose: ``training`` or ``deployment``.
    """
    if purpose == "deployment":
        found = section_of(config, "Infer").get("transforms") or section_of(config, "TestReader").get(
            "sample_transforms"
        )
        return found if isinstance(found, list) else []
    dataset, reader = dataset_of(config, "Train"), section_of(config, "TrainReader")
    lists = (
        dataset.get("transform_ops"), dataset.get("batch_transform_ops"), reader.get("sample_transforms"),
        reader.get("batch_transforms"),
    )  # fmt: skip
    return [entry for each in lists if isinstance(each, list) for entry in each]


def input_size(source: Source) -> str:
    """Returns height and width of the network's input; empty where nothing tells."""
    if source.task == DETECTION:
        sizes = [
            section_of(entry, name).get("target_size") or section_of(entry, name).get("size")
            for entry in operators_of(source.config, "deployment")
            if isinstance(entry, Mapping)
            for name in ("Resize", "LetterResize", "Pad")
            if name in entry
        ]
        size = next((each for each in reversed(sizes) if each), None)
    else:
        shape = section_of(source.config, "Global").get("image_shape")
        size = shape[1:] if isinstance(shape, list) else None
    if isinstance(size, int):
        size = [size, size]
    return f"{size[0]} x {size[1]} px" if isinstance(size, list) and len(size) == 2 else ""


def batch_size(config: Mapping[str, Any]) -> str:
    """Returns the images of a step of one process; empty where nothing tells."""
    loader = section_of(config, "DataLoader", "Train")
    section = section_of(loader, "sampler") or section_of(config, "TrainReader")
    size = section.get("batch_size")
    return "" if size is None else str(size)


def optimizer_text(config: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the optimizer and the learning rate's schedule as lines of text; empty where nothing tells."""
    plain = section_of(config, "Optimizer")
    if plain:
        schedule = section_of(plain, "lr")
        rest = {key: value for key, value in plain.items() if key not in ("name", "lr")}
        return _named(str(plain.get("name", "")), rest), _named(
            str(schedule.get("name", "")), {key: value for key, value in schedule.items() if key != "name"}
        )
    builder, rate = section_of(config, "OptimizerBuilder"), section_of(config, "LearningRate")
    optimizer = section_of(builder, "optimizer")
    rest = {key: value for key, value in optimizer.items() if key != "type"}
    rest |= {key: value for key, value in builder.items() if key != "optimizer"}
    schedules = [
        _named(str(entry.get("name", "")), {key: value for key, value in entry.items() if key != "name"})
        for entry in rate.get("schedulers") or []
        if isinstance(entry, Mapping)
    ]
    start = f"{shown_value(rate['base_lr'])}: " if "base_lr" in rate else ""
    return _named(str(optimizer.get("type", "")), rest), start + ", ".join(schedules)


def _named(name: str, arguments: Mapping[str, Any]) -> str:
    if not name and not arguments:
        return ""
    return f"{name} ({shown_value(arguments)})" if arguments else name
