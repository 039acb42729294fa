"""Looks for faults in the images and labels of a configuration before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from classification.build import UnavailableDataError, evaluation_label_order, open_dataset
from classification.config import Config
from classification.data.datasets import ImageDataset, ImageNetDataset, relabel_hint
from classification.data.geometry import Pad, RandCropImage, RandomCropImage
from classification.prepare import choose_evenly
from ppcls_ext.check.duplicates import find_exact_duplicates, find_near_duplicates, groups_of_copies
from ppcls_ext.check.findings import (
    DUPLICATE_KINDS,
    ERROR,
    FEW,
    IMAGE_KINDS,
    PART_WORDS,
    UNOPENED_KINDS,
    WARNING,
    Findings,
    Kind,
    Picture,
    count_of,
    find_rare_classes,
)
from ppcls_ext.check.images import Scan, find_image_faults, scan_images, settle_range
from ppcls_ext.check.report import DataCheck
from ppcls_ext.engine.class_balance import class_sampling
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.operators import CropImage, ResizeImage
from ppcls_ext.utils.drawing import Card
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.fonts import drawable

# The overview: pixels, and how many samples it shows.
CHART_HEIGHT = 340
SAMPLES = 36
KINDS = {
    **UNOPENED_KINDS,
    "label_outside": Kind(ERROR, "with a label outside 0..{last_class} (Arch.class_num)"),
    "class_names": Kind(ERROR, "that training and validation name differently", "class", "classes"),
    "class_not_trained": Kind(ERROR, "with validation images but no training image", "class", "classes"),
    "class_empty": Kind(WARNING, "of {class_num} (Arch.class_num) without any image", "class", "classes"),
    "class_not_validated": Kind(WARNING, "without a validation image", "class", "classes"),
    "class_small": Kind(WARNING, f"with fewer than {FEW} training images", "class", "classes"),
    **IMAGE_KINDS,
    "label_conflict": Kind(ERROR, "with two or more different labels", "picture"),
    **DUPLICATE_KINDS,
}


class Classes:
    """The classes of the data sets of one configuration, by section of ``DataLoader``.

    Attributes:
        names: by set, the names of the classes by number, as far as the data tell.
        counts: by set, images of each class, ``int64`` ``[class_num]``; labels outside are not counted.
    """

    def __init__(self, datasets: Mapping[str, ImageDataset], class_num: int) -> None:
        self.datasets, self.class_num = datasets, class_num
        self.names = {part: class_names_of(dataset) for part, dataset in datasets.items()}
        labels = {part: dataset.labels for part, dataset in datasets.items()}
        inside = {part: values[(values >= 0) & (values < class_num)] for part, values in labels.items()}
        self.counts = {part: np.bincount(values, minlength=class_num) for part, values in inside.items()}

    def name(self, label: int, part: str = "Train") -> str:
        """Returns the name of a class, taken from ``part`` if it has any, else from the other set, else its number."""
        sets = (self.names.get(part, {}), *self.names.values())
        return next((names[label] for names in sets if label in names), str(label))

    def text(self, label: int, part: str = "Train") -> str:
        """Returns ``3 (cat)``, or ``3`` for a class without a name."""
        name = self.name(label, part)
        return str(label) if name == str(label) else f"{label} ({name})"

    def label_of(self, picture: Picture) -> int:
        """Returns the class of an image."""
        return int(self.datasets[picture.part].labels[picture.index])

    def text_of(self, picture: Picture) -> str:
        """Returns the class of an image as text."""
        return self.text(self.label_of(picture), picture.part)


def class_names_of(dataset: ImageDataset) -> dict[int, str]:
    """Returns the names of the classes by number, as far as the data tell.

    A list file carries none; but where each of its labels has a folder of its own, the folders are the names.
    """
    if dataset.class_names:
        return dict(enumerate(dataset.class_names))
    if not isinstance(dataset, ImageNetDataset):
        return {}
    labels = dataset.labels.tolist()
    pairs = {(label, PurePath(path).parent.name) for path, label in zip(dataset.paths, labels, strict=True)}
    names = dict(pairs)
    return names if len(names) == len(pairs) == len(set(names.values())) and "" not in names.values() else {}


@dataclasses.dataclass
class ClassificationCheck(DataCheck):
    """The result of a check, with the classes of the sets that could be opened."""

    classes: Classes


def draw_overview(check: ClassificationCheck) -> Image.Image:
    """Draws class counts, image sizes, what was found, and samples of the classes."""
    from ppcls_ext.check import overview

    classes, scan = check.classes, check.scan
    used = np.flatnonzero(sum(classes.counts.values()) > 0)
    empty = classes.class_num - len(used)
    title = "Images by class"
    title += f"  ({count_of(empty, 'empty class', 'empty classes')} not shown)" if empty else ""

    def class_counts(axes: Any) -> None:
        names = [drawable(classes.name(label), label) for label in used.tolist()]
        overview.draw_class_counts(axes, names, {part: values[used] for part, values in classes.counts.items()})

    def sample(picture: Picture) -> Card:
        label = classes.label_of(picture)
        return overview.card_of(scan, picture, drawable(classes.name(label, picture.part), label), scan.load)

    charts = {title: class_counts, "Image sizes": partial(overview.draw_sizes, scan)}
    part, dataset = next(iter(classes.datasets.items()))
    readable = scan.readable(part)
    labels = dataset.labels[readable]
    chosen = choose_evenly(labels, SAMPLES, seed=0)
    chosen = readable[chosen[np.argsort(labels[chosen], kind="stable")]].tolist()
    return overview.draw_overview(
        check,
        overview.draw_charts(CHART_HEIGHT, [[title, title, "Image sizes"]], charts),
        {part: [sample(Picture(part, index)) for index in chosen]},
        overview.COLUMNS,
        lambda picture, entry: scan.load(picture),
    )


def check_config_data(config: Config, limit: int = 0, threads: int = 1) -> ClassificationCheck:
    """Looks for faults in the data of a configuration; so many threads read images.

    At most ``limit`` images of each set are read, spread over the classes (0: all); labels are always examined all.

    Raises:
        UserError: the configuration names no data, or a value in it is refused.
    """
    sections = {"Train": config.train, "Eval": config.eval}
    sections = {part: settings for part, settings in sections.items() if settings is not None}
    name, class_num = str(config.document.path), config.arch.class_num
    if not sections:
        raise UserError(f"{name}: has neither DataLoader.Train nor DataLoader.Eval: nothing to check")
    found = Findings(KINDS, class_num=class_num, last_class=class_num - 1)
    datasets: dict[str, ImageDataset] = {}
    for part, settings in sections.items():
        label_order = evaluation_label_order(config, datasets.get("Train")) if part == "Eval" else None
        try:
            datasets[part] = open_dataset(config, settings, label_order)
        except UnavailableDataError as error:
            found.add(f"unopened_{PART_WORDS[part]}", note=str(error))
    classes = Classes(datasets, class_num)
    scan = Scan({}, {})
    if datasets:
        # Pretraining has no labels, whatever Arch.class_num is.
        if config.pretraining is None:
            find_label_faults(classes, found)
        chosen = {
            part: choose_evenly(dataset.labels, limit, seed=0) if limit else np.arange(len(dataset))
            for part, dataset in datasets.items()
        }
        settle_range(datasets, depth.statement_in(config.document.data), found)
        scan = scan_images(datasets, chosen, threads)
        sizes = {part: wanted_sizes(sections[part].operators, config.run.image_shape) for part in datasets}
        find_image_faults(scan, found, sizes)
        groups = groups_of_copies(scan)
        for pictures in groups:
            if len(set(map(classes.label_of, pictures))) > 1:
                note = " / ".join(dict.fromkeys(map(classes.text_of, pictures)))
                found.add("label_conflict", *pictures, note=note, part="")
        find_exact_duplicates(groups, found)

        def remark(first: Picture, second: Picture) -> str:
            if classes.label_of(first) == classes.label_of(second):
                return ""
            return f"labels differ: {classes.text_of(second)} / {classes.text_of(first)}"

        find_near_duplicates(groups, scan, found, remark)

    facts, tables = {}, {}
    for part, counts in classes.counts.items():
        used, total = np.flatnonzero(counts).tolist(), len(datasets[part])
        facts[part] = f"{PART_WORDS[part]}: {count_of(total, 'image')} in {count_of(len(used), 'class', 'classes')}"
        read = len(scan.chosen[part])
        facts[part] += f", {read:,} of them read" if read < total else ""
        if part == "Train" and config.run.class_sampling is not None and counts.any():
            names, labels = list(map(classes.name, range(class_num))), np.repeat(np.arange(class_num), counts)
            facts[part] += f"; {class_sampling(config.run.class_sampling, labels, names)[1]}"
        tables[part] = {"images_by_class": {classes.name(label, part): int(counts[label]) for label in used}}

    def about(picture: Picture) -> dict[str, Any]:
        label = classes.label_of(picture)
        return {"label": label, "class": classes.name(label, picture.part)}

    outputs, findings = {"class_num": class_num}, found.worst_first()
    return ClassificationCheck("classification", name, findings, scan, outputs, facts, tables, about, classes=classes)


def find_label_faults(classes: Classes, found: Findings) -> None:
    """Finds labels without an output, classes without images, and sets that disagree about the classes."""
    for part, dataset in classes.datasets.items():
        hint = relabel_hint(dataset)
        for index in np.flatnonzero((dataset.labels < 0) | (dataset.labels >= classes.class_num)).tolist():
            note = f"label {int(dataset.labels[index])}"
            # Once a set: it is long.
            found.add("label_outside", Picture(part, index), note=f"{note}; {hint}" if hint else note)
            hint = ""
    train, evaluation = classes.names.get("Train", {}), classes.names.get("Eval", {})
    if train and evaluation:
        for label in sorted(train.keys() & evaluation.keys()):
            if train[label] != evaluation[label]:
                note = f"class {label} is '{train[label]}' in training and '{evaluation[label]}' in validation"
                found.add("class_names", note=note)
    if "Train" not in classes.counts:
        return
    names = [classes.text(label) for label in range(classes.class_num)]
    find_rare_classes(names, classes.counts["Train"], classes.counts.get("Eval"), ("image", "images"), found)


def wanted_sizes(operators: Sequence[object], image_shape: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns width and height to which operators bring images, and those that an image must have for their crops.

    The first are those of ``image_shape``, ``[C, H, W]``, where no operator changes them; the second are 0 where
    something before the crop may have enlarged the image.
    """
    width, height = image_shape[2], image_shape[1]
    least, may_have_grown = (0, 0), False
    for operator in operators:
        if isinstance(operator, CropImage | RandomCropImage | RandCropImage):
            width, height = operator.width, operator.height
        elif isinstance(operator, ResizeImage) and operator.size is not None:
            width, height = operator.size
        may_have_grown = may_have_grown or isinstance(operator, RandCropImage | ResizeImage | Pad)
        if isinstance(operator, CropImage | RandomCropImage) and not may_have_grown:
            least = max(least[0], width), max(least[1], height)
    return (width, height), least
