"""Labels and classes: known without opening a single image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import numpy as np

from classification.data.datasets import ImageDataset, ImageNetDataset
from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Picture, Severity, count_of

# Below so many training images a class is hardly learnt, and its share of a validation set is luck.
FEW_IMAGES = 10


def class_names_of(dataset: ImageDataset) -> dict[int, str]:
    """Returns the names of the classes by number, as far as the data tell.

    A list file carries none; but where each of its labels has a folder of its own, the folders are the names.
    """
    if dataset.class_names:
        return dict(enumerate(dataset.class_names))
    if not isinstance(dataset, ImageNetDataset):
        return {}
    folder_of: dict[int, str] = {}
    for path, label in zip(dataset.paths, dataset.labels.tolist(), strict=True):
        if folder_of.setdefault(label, PurePath(path).parent.name) != PurePath(path).parent.name:
            return {}
    return folder_of if len(set(folder_of.values())) == len(folder_of) and "" not in folder_of.values() else {}


class Classes:
    """The classes of the data sets of one configuration.

    Args:
        datasets: by section of ``DataLoader``.
        class_num: outputs of the model.
    """

    def __init__(self, datasets: Mapping[str, ImageDataset], class_num: int) -> None:
        self.datasets = datasets
        self.class_num = class_num
        self.names = {part: class_names_of(dataset) for part, dataset in datasets.items()}
        #: Images of each class, ``int64`` ``[class_num]``; labels outside are not counted.
        self.counts = {part: self._count(dataset.labels) for part, dataset in datasets.items()}

    def _count(self, labels: np.ndarray) -> np.ndarray:
        inside = labels[(labels >= 0) & (labels < self.class_num)]
        return np.bincount(inside, minlength=self.class_num)

    def text(self, label: int, part: str = "Train") -> str:
        """Returns ``3 (cat)``, or ``3`` for a class without a name."""
        name = self.name(label, part)
        return str(label) if name == str(label) else f"{label} ({name})"

    def name(self, label: int, part: str = "Train") -> str:
        """Returns the name of a class, taken from ``part`` if it has any, else from the other set, else its number."""
        for names in (self.names.get(part, {}), *self.names.values()):
            if label in names:
                return names[label]
        return str(label)

    def label_of(self, picture: Picture) -> int:
        """Returns the class of an image."""
        return int(self.datasets[picture.part].labels[picture.index])

    def name_of(self, picture: Picture) -> str:
        """Returns the name of the class of an image."""
        return self.name(self.label_of(picture), picture.part)

    def text_of(self, picture: Picture) -> str:
        """Returns the class of an image as text."""
        return self.text(self.label_of(picture), picture.part)


def find_label_faults(classes: Classes) -> list[Finding]:
    """Finds labels without an output, classes without images, and sets that disagree about the classes."""
    return [
        _labels_outside(classes),
        _names_that_differ(classes),
        *_empty_classes(classes),
        _classes_with_few_images(classes),
    ]


def _labels_outside(classes: Classes) -> Finding:
    entries = []
    for part, dataset in classes.datasets.items():
        outside = np.flatnonzero((dataset.labels < 0) | (dataset.labels >= classes.class_num))
        entries.extend(Entry((Picture(part, int(index)),), f"label {int(dataset.labels[index])}") for index in outside)
    summary = f"{count_of(len(entries), 'image')} with a label outside 0..{classes.class_num - 1} (Arch.class_num)"
    return Finding("label_outside", Severity.ERROR, summary, entries)


def _names_that_differ(classes: Classes) -> Finding:
    train, evaluation = classes.names.get("Train", {}), classes.names.get("Eval", {})
    entries = []
    if train and evaluation:
        for label in sorted(train.keys() & evaluation.keys()):
            if train[label] != evaluation[label]:
                note = f"class {label} is '{train[label]}' in training and '{evaluation[label]}' in validation"
                entries.append(Entry(note=note))
        # A list file names only the classes that occur in it; of these, the empty classes below tell.
        if all(dataset.class_names for dataset in classes.datasets.values()):
            for names, others, part in ((train, evaluation, "training"), (evaluation, train, "validation")):
                only = sorted(names.keys() - others.keys())
                entries.extend(Entry(note=f"class {label} '{names[label]}' is known in {part} only") for label in only)
    summary = f"{count_of(len(entries), 'class', 'classes')} that training and validation name differently"
    return Finding("class_names", Severity.ERROR, summary, entries)


def _empty_classes(classes: Classes) -> list[Finding]:
    if "Train" not in classes.counts:
        return []
    train = classes.counts["Train"]
    evaluation = classes.counts.get("Eval", np.zeros_like(train))
    untaught = np.flatnonzero((train == 0) & (evaluation > 0)).tolist()
    unused = np.flatnonzero((train == 0) & (evaluation == 0)).tolist()
    unmeasured = np.flatnonzero((train > 0) & (evaluation == 0)).tolist() if "Eval" in classes.counts else []
    return [
        Finding(
            "class_not_trained",
            Severity.ERROR,
            f"{count_of(len(untaught), 'class', 'classes')} with validation images but no training image",
            [
                Entry(note=f"{classes.text(label, 'Eval')}: {count_of(int(evaluation[label]), 'validation image')}")
                for label in untaught
            ],
        ),
        Finding(
            "class_empty",
            Severity.WARNING,
            f"{count_of(len(unused), 'class', 'classes')} of {classes.class_num} (Arch.class_num) without any image",
            [Entry(note=classes.text(label)) for label in unused],
        ),
        Finding(
            "class_not_validated",
            Severity.WARNING,
            f"{count_of(len(unmeasured), 'class', 'classes')} without a validation image",
            [Entry(note=classes.text(label)) for label in unmeasured],
        ),
    ]


def _classes_with_few_images(classes: Classes) -> Finding:
    counts = classes.counts.get("Train", np.empty(0, dtype=np.int64))
    few = np.flatnonzero((counts > 0) & (counts < FEW_IMAGES))
    few = few[np.argsort(counts[few], kind="stable")].tolist()
    return Finding(
        "class_small",
        Severity.WARNING,
        f"{count_of(len(few), 'class', 'classes')} with fewer than {FEW_IMAGES} {PART_WORDS['Train']} images",
        [Entry(note=f"{classes.text(label)}: {count_of(int(counts[label]), 'image')}") for label in few],
    )
