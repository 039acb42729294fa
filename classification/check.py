"""Looks for faults in the images and labels of a configuration before anything is trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from classification.build import UnavailableDataError, evaluation_label_order, open_dataset
from classification.config import Config
from classification.data.datasets import DATASETS, ImageDataset, ImageFolder, ImageNetDataset, relabel_hint
from classification.data.geometry import Pad, RandCropImage, RandomCropImage
from classification.prepare import choose_evenly
from ppcls_ext.check.duplicates import find_exact_duplicates, find_near_duplicates, groups_of_copies
from ppcls_ext.check.findings import (
    DUPLICATE_KINDS,
    ERROR,
    IMAGE_KINDS,
    PART_WORDS,
    UNOPENED_KINDS,
    WARNING,
    Findings,
    Kind,
    Picture,
    count_of,
)
from ppcls_ext.check.images import Mark, Scan, WantedSize, find_image_faults, scan_images, settle_range
from ppcls_ext.check.report import DataCheck
from ppcls_ext.engine.class_balance import class_sampling
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.operators import CropImage, ResizeImage
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.fonts import drawable
from ppcls_ext.utils.image_files import images_in
from ppcls_ext.utils.names import class_of_folder, is_left_behind, meant_path

# Below so many training images a class is hardly learnt, and its share of a validation set is luck.
FEW_IMAGES = 10
# The overview, in pixels, and how many classes it shows samples of.
CHART_HEIGHT = 340
SAMPLE_SIDE = 64
SAMPLE_GAP = 4
SAMPLE_TEXT = 140
SAMPLE_CLASSES = 24
KINDS = {
    **UNOPENED_KINDS,
    **{
        f"empty_folder_{word}": Kind(ERROR, f"without images; the {word} set was not examined further", "class folder")
        for word in PART_WORDS.values()
    },
    "label_outside": Kind(ERROR, "with a label outside 0..{last_class} (Arch.class_num)"),
    "class_names": Kind(ERROR, "that training and validation name differently", "class", "classes"),
    "class_not_trained": Kind(ERROR, "with validation images but no training image", "class", "classes"),
    "class_empty": Kind(WARNING, "of {class_num} (Arch.class_num) without any image", "class", "classes"),
    "class_not_validated": Kind(WARNING, "without a validation image", "class", "classes"),
    "class_small": Kind(WARNING, f"with fewer than {FEW_IMAGES} training images", "class", "classes"),
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

    def draw_overview(self) -> Image.Image:
        """Draws class counts, image sizes, what was found, and samples of each class."""
        from ppcls_ext.check import overview

        facts = [*self.facts.values(), f"Arch.class_num: {self.classes.class_num:,}"]
        used = np.flatnonzero(sum(self.classes.counts.values()) > 0)
        empty = self.classes.class_num - len(used)
        hidden = f"  ({count_of(empty, 'empty class', 'empty classes')} not shown)" if empty else ""
        charts = [
            (2.2, f"Images by class{hidden}", lambda axes: self._draw_class_counts(used, axes)),
            (1.0, "Image sizes", lambda axes: overview.draw_sizes(self.scan, axes)),
        ]
        heading = overview.draw_heading(f"Data of {self.name}", facts, self.findings)
        found = overview.draw_findings(
            self.findings, self.scan,
            lambda picture: drawable(self.about(picture)["class"], self.classes.label_of(picture)),
        )  # fmt: skip
        return overview.stack([heading, overview.charts_panel(CHART_HEIGHT, charts), found, self._draw_samples()])

    def _draw_class_counts(self, used: np.ndarray, axes: Any) -> None:
        """Draws the images of each class that has any: bars, or a curve where there are too many."""
        from ppcls_ext.check import overview

        counts = {part: values[used] for part, values in self.classes.counts.items()}
        if len(used) <= overview.MOST_BARS:
            names = [drawable(self.classes.name(label), label) for label in used.tolist()]
            overview.draw_bars(axes, names, counts)
        else:
            for part, values in counts.items():
                colour = overview.CHART_COLOURS[part]
                axes.stairs(np.sort(values)[::-1], fill=True, alpha=0.25, color=colour)
                axes.stairs(np.sort(values)[::-1], color=colour, label=PART_WORDS[part])
            axes.set_xlabel("classes, largest first")
            axes.margins(x=0)
            axes.grid(axis="y", alpha=0.25)
        overview.draw_key(axes)

    def _draw_samples(self) -> Image.Image:
        """Draws two columns of rows, a class each, with images drawn at random (the same ones every time)."""
        from ppcls_ext.check.overview import COLUMN, PADDING, TOP, evenly, panel, thumbnail
        from ppcls_ext.utils.drawing import INK, SUBTLE, shortened
        from ppcls_ext.utils.fonts import font_of, write

        part = next(iter(self.scan.datasets))
        counts = self.classes.counts[part]
        used = np.flatnonzero(counts)
        shown = used[np.unique(evenly(len(used), SAMPLE_CLASSES))]
        title = f"Samples, {PART_WORDS[part]}"
        title += f"  ({len(shown)} of {len(used):,} classes)" if len(shown) < len(used) else ""
        rows, step = (len(shown) + 1) // 2, SAMPLE_SIDE + SAMPLE_GAP
        image, pen = panel(TOP + max(rows, 1) * step + PADDING // 2, title)
        readable = self.scan.readable(part)
        labels = self.classes.datasets[part].labels[readable]
        generator = np.random.default_rng(0)
        for number, label in enumerate(shown.tolist()):
            x, y = PADDING + number // rows * (COLUMN + PADDING), TOP + number % rows * step
            name = shortened(drawable(self.classes.name(label, part), label), font_of(15), SAMPLE_TEXT - 12)
            write(pen, (x, y + SAMPLE_SIDE // 2 - 10), name, font_of(15), INK, anchor="lm")
            images = count_of(int(counts[label]), "image")
            write(pen, (x, y + SAMPLE_SIDE // 2 + 11), images, font_of(12), SUBTLE, anchor="lm")
            chosen = generator.permutation(readable[labels == label])[: (COLUMN - SAMPLE_TEXT + SAMPLE_GAP) // step]
            for place, index in enumerate(chosen.tolist()):
                tile = thumbnail(self.scan, Picture(part, index), SAMPLE_SIDE)
                image.paste(tile, (x + SAMPLE_TEXT + place * step, y))
        return image


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
        root = meant_path(settings.dataset_arguments.get("image_root", ""))
        is_folder = DATASETS[settings.dataset] is ImageFolder and root.is_dir()
        folders = [path for path in sorted(root.iterdir()) if path.is_dir()] if is_folder else []
        folders = [path for path in folders if not is_left_behind(path.name)]
        label_order = evaluation_label_order(config, datasets.get("Train")) if part == "Eval" else None
        if label_order is not None:
            # Training stops at a class that only the validation has; here it is one finding of several.
            names = [class_of_folder(path.name) for path in folders]
            label_order += [each for each in names if each not in label_order]
        try:
            datasets[part] = open_dataset(config, settings, label_order)
        except UnavailableDataError as error:
            # The data set itself stops at the first class folder without images; a person wants to know them all.
            empty = [str(path) for path in folders if not images_in(path) and label_order is None]
            for note in empty or [str(error)]:
                found.add(f"{'empty_folder' if empty else 'unopened'}_{PART_WORDS[part]}", note=note)
    classes = Classes(datasets, class_num)
    scan, seconds = Scan({}, {}), 0.0
    if datasets:
        # Pretraining has no labels, whatever Arch.class_num is.
        if config.pretraining is None:
            find_label_faults(classes, found)
        chosen = {
            part: choose_evenly(dataset.labels, limit, seed=0) if limit else np.arange(len(dataset))
            for part, dataset in datasets.items()
        }
        settle_range(datasets, depth.statement_in(config.document.data), found)
        start = time.monotonic()
        scan = scan_images(datasets, chosen, threads)
        seconds = time.monotonic() - start
        wanted = {part: wanted_size(sections[part].operators, config.run.image_shape) for part in datasets}
        find_image_faults(scan, found, wanted)
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

        find_near_duplicates(groups, scan, threads, found, remark)

    facts, tables = {}, {}
    for part, counts in classes.counts.items():
        used, total = np.flatnonzero(counts).tolist(), len(datasets[part])
        facts[part] = f"{PART_WORDS[part]}: {count_of(total, 'image')} in {count_of(len(used), 'class', 'classes')}"
        unseen = len(scan.marked(part, Mark.NOT_READ))
        facts[part] += f", {total - unseen:,} of them read" if unseen else ""
        if part == "Train" and config.run.class_sampling is not None and counts.any():
            names, labels = list(map(classes.name, range(class_num))), np.repeat(np.arange(class_num), counts)
            facts[part] += f"; {class_sampling(config.run.class_sampling, labels, names)[1]}"
        tables[part] = {"images_by_class": {classes.name(label, part): int(counts[label]) for label in used}}

    def about(picture: Picture) -> dict[str, Any]:
        label = classes.label_of(picture)
        return {"label": label, "class": classes.name(label, picture.part)}

    outputs, findings = {"class_num": class_num}, found.worst_first()
    return ClassificationCheck(
        "classification", name, findings, scan, seconds, outputs, facts, tables, about, classes=classes
    )


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
        # A list file names only the classes that occur in it; of these, the empty classes below tell.
        if all(dataset.class_names for dataset in classes.datasets.values()):
            for names, others, word in ((train, evaluation, "training"), (evaluation, train, "validation")):
                for label in sorted(names.keys() - others.keys()):
                    found.add("class_names", note=f"class {label} '{names[label]}' is known in {word} only")
    if "Train" not in classes.counts:
        return
    taught, measured = classes.counts["Train"], classes.counts.get("Eval")
    for label in range(classes.class_num):
        seen = None if measured is None else int(measured[label])
        if not taught[label] and seen:
            note = f"{classes.text(label, 'Eval')}: {count_of(seen, 'validation image')}"
            found.add("class_not_trained", note=note)
        elif not taught[label]:
            found.add("class_empty", note=classes.text(label))
        elif seen == 0:
            found.add("class_not_validated", note=classes.text(label))
    for label in np.argsort(taught, kind="stable").tolist():
        if 0 < taught[label] < FEW_IMAGES:
            found.add("class_small", note=f"{classes.text(label)}: {count_of(int(taught[label]), 'image')}")


def wanted_size(operators: Sequence[object], image_shape: Sequence[int]) -> WantedSize:
    """Returns the size that operators lead to; that of ``image_shape``, ``[C, H, W]``, where none changes it."""
    width, height, strict, may_have_grown = image_shape[2], image_shape[1], False, False
    for operator in operators:
        if isinstance(operator, CropImage | RandomCropImage):
            width, height = operator.width, operator.height
            strict = strict or not may_have_grown
        elif isinstance(operator, RandCropImage):
            width, height = operator.width, operator.height
        elif isinstance(operator, ResizeImage) and operator.size is not None:
            width, height = operator.size
        may_have_grown = may_have_grown or isinstance(operator, RandCropImage | ResizeImage | Pad)
    return WantedSize(width, height, strict)
