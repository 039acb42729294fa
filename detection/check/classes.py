"""Classes: how many boxes each has, and where the configuration and the two annotation files disagree about them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detection.check.coco import CocoSet
from detection.check.kinds import FEW_BOXES, Collector
from ppcls_ext.check.findings import Entry, count_of


class Classes:
    """The classes of all sets, by name: those of the training set in its order, then those that only others know.

    Args:
        sets: ``Train`` before ``Eval``.
        usable: which annotations of each set can be learnt from, ``bool`` ``[A]``.
        num_classes: outputs of the model; ``None`` where the configuration does not say.
    """

    def __init__(self, sets: Mapping[str, CocoSet], usable: Mapping[str, np.ndarray], num_classes: int | None) -> None:
        self.num_classes = num_classes
        self.names = list(dict.fromkeys(name for coco in sets.values() for name in coco.category_names))
        number_of = {name: number for number, name in enumerate(self.names)}
        #: Boxes of each class, and images that show it, ``int64`` ``[K]``.
        self.boxes: dict[str, np.ndarray] = {}
        self.images: dict[str, np.ndarray] = {}
        #: Class of each annotation in :attr:`names`, ``int64`` ``[A]``; -1 where it cannot be learnt from.
        self.numbers: dict[str, np.ndarray] = {}
        for part, coco in sets.items():
            merged = np.array([number_of[name] for name in coco.category_names] + [-1], dtype=np.int64)
            numbers = np.where(usable[part], merged[coco.classes], -1)
            shown = np.unique(np.stack([coco.rows, numbers], axis=1)[numbers >= 0], axis=0)[:, 1]
            self.numbers[part] = numbers
            self.boxes[part] = np.bincount(numbers[numbers >= 0], minlength=len(self.names))
            self.images[part] = np.bincount(shown, minlength=len(self.names))


def find_class_faults(sets: Mapping[str, CocoSet], classes: Classes, found: Collector) -> None:
    """Examines the categories of all sets."""
    for part, coco in sets.items():
        count = len(coco.category_names)
        if classes.num_classes is not None and count != classes.num_classes:
            names = ", ".join(coco.category_names[:20]) + (", ..." if count > 20 else "")
            categories = count_of(count, "category", "categories")
            note = f"num_classes is {classes.num_classes}, but {coco.path} has {categories}: {names}"
            found.add("class_count", part, Entry(note=note))
    if len(sets) == 2:
        _compare(sets["Train"], sets["Eval"], found)
    _find_empty_classes(classes, found)


def _compare(train: CocoSet, evaluation: CocoSet, found: Collector) -> None:
    """The number of a class is its place in the file, so two files must list the same names in the same order."""
    names, others = train.category_names, evaluation.category_names
    for number in range(max(len(names), len(others))):
        one = f"'{names[number]}'" if number < len(names) else "unknown"
        other = f"'{others[number]}'" if number < len(others) else "unknown"
        if one != other:
            note = f"class {number} is {one} in training and {other} in validation"
            found.add("class_order", "", Entry(note=note))
    ids = dict(zip(names, train.category_ids, strict=True))
    for name, identity in zip(others, evaluation.category_ids, strict=True):
        if ids.get(name, identity) != identity:
            found.add("category_ids_differ", "", Entry(note=f"'{name}' is {ids[name]} and {identity}"))


def _find_empty_classes(classes: Classes, found: Collector) -> None:
    if "Train" not in classes.boxes:
        return
    train = classes.boxes["Train"]
    evaluation = classes.boxes.get("Eval")
    for number, name in enumerate(classes.names):
        taught = int(train[number])
        measured = None if evaluation is None else int(evaluation[number])
        if not taught and measured:
            note = f"{name}: {count_of(measured, 'validation box', 'validation boxes')}"
            found.add("class_not_trained", "", Entry(note=note))
        elif not taught:
            found.add("class_empty", "", Entry(note=name))
        elif measured == 0:
            found.add("class_not_validated", "", Entry(note=name))
    for number in np.argsort(train, kind="stable").tolist():
        if 0 < train[number] < FEW_BOXES:
            note = f"{classes.names[number]}: {count_of(int(train[number]), 'box', 'boxes')}"
            found.add("class_small", "", Entry(note=note))
