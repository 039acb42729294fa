"""Every kind of fault that annotations can have, how bad it is, and the words that tell it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Severity, count_of

# A box is tiny if, at the size at which the model is evaluated, a side or its area (in pixels) is below these.
TINY_SIDE = 2.0
TINY_AREA = 16.0
# Below so many training boxes a class is hardly learnt.
FEW_BOXES = 10


class Kind(NamedTuple):
    """How bad a kind of fault is, what its instances are called, and what is said of them."""

    severity: Severity
    one: str
    many: str
    words: str


def _kind(severity: Severity, one: str, words: str, many: str = "") -> Kind:
    return Kind(severity, one, many or f"{one}s", words)


ERROR, WARNING, INFORMATION = Severity.ERROR, Severity.WARNING, Severity.INFORMATION
KINDS = {
    "image_folder_missing": _kind(ERROR, "image folder", "that is not there; only the annotations were examined"),
    "malformed_image": _kind(ERROR, "image entry", "without a usable id or file name", "image entries"),
    "image_without_size": _kind(ERROR, "image", "without a usable width and height in the annotations"),
    "duplicate_image_id": _kind(ERROR, "image", "with an id that another image has"),
    "duplicate_file_name": _kind(ERROR, "image", "with a file that is listed already"),
    "malformed_category": _kind(ERROR, "category", "without a usable id or name", "categories"),
    "duplicate_category": _kind(ERROR, "category", "with an id or a name that another category has", "categories"),
    "category_ids": _kind(WARNING, "annotation file", "whose category ids are not 1, 2, 3, ... or 0, 1, 2, ..."),
    "malformed_annotation": _kind(ERROR, "annotation", "without a usable image_id, category_id or bbox"),
    "incomplete_annotation": _kind(ERROR, "annotation", "without an id, an area or iscrowd, which training needs"),
    "duplicate_annotation_id": _kind(ERROR, "annotation", "with an id that another annotation has"),
    "annotation_id_zero": _kind(WARNING, "annotation", "with id 0, which COCO evaluation takes for no match"),
    "unknown_image": _kind(ERROR, "annotation", "of an image that is not listed"),
    "unknown_category": _kind(ERROR, "annotation", "of a category that is not listed"),
    "class_count": _kind(ERROR, "annotation file", "whose number of categories is not num_classes"),
    "class_order": _kind(ERROR, "class", "that training and validation number or name differently", "classes"),
    "category_ids_differ": _kind(
        WARNING, "class", "whose category ids differ between training and validation", "classes"
    ),
    "class_not_trained": _kind(ERROR, "class", "with validation boxes but no training box", "classes"),
    "class_empty": _kind(WARNING, "class", "without any box", "classes"),
    "class_not_validated": _kind(WARNING, "class", "without a validation box", "classes"),
    "class_small": _kind(WARNING, "class", f"with fewer than {FEW_BOXES} training boxes", "classes"),
    "non_finite_box": _kind(ERROR, "box", "with a coordinate that is no finite number", "boxes"),
    "zero_area_box": _kind(ERROR, "box", "without area (width or height is zero or less)", "boxes"),
    "box_outside": _kind(ERROR, "box", "wholly outside of the image", "boxes"),
    "box_partly_outside": _kind(WARNING, "box", "partly outside of the image", "boxes"),
    "area_not_positive": _kind(ERROR, "box", "whose area is given as zero or less, so that training drops it", "boxes"),
    "area_differs": _kind(INFORMATION, "box", "whose area is not width times height (matters to AP by size)", "boxes"),
    "tiny_box": _kind(
        WARNING, "box", f"with a side below {TINY_SIDE:g} px or under {TINY_AREA:g} px² when evaluated", "boxes"
    ),
    "duplicate_box": _kind(WARNING, "box", "that another one of the same class covers almost exactly", "boxes"),
    "box_with_two_classes": _kind(WARNING, "box", "that one of another class covers almost exactly", "boxes"),
    "all_crowd": _kind(WARNING, "image", "in which every box is a crowd, so that nothing is learnt from it"),
    "image_without_boxes": _kind(INFORMATION, "image", "without boxes"),
    "wrong_size": _kind(ERROR, "image", "of another size than the annotations say"),
    "other_data": _kind(ERROR, "set", "of which no image is in the image folder: another image_dir or data set?"),
    "copies_annotated_differently": _kind(WARNING, "picture", "found more than once, with different boxes"),
    "unlisted_image": _kind(INFORMATION, "image file", "in the image folders that no annotation file lists"),
}  # fmt: skip


class Collector:
    """Gathers instances by kind."""

    def __init__(self) -> None:
        self._entries: dict[str, list[tuple[str, Entry]]] = defaultdict(list)

    def add(self, kind: str, part: str, entry: Entry) -> None:
        """Adds an instance.

        Args:
            kind: a key of :data:`KINDS`.
            part: ``Train`` or ``Eval``; empty where it is about both.
            entry: the instance.
        """
        self._entries[kind].append((part, entry))

    def findings(self) -> list[Finding]:
        """Returns what was gathered, in the order of :data:`KINDS`."""
        found = []
        for name, kind in KINDS.items():
            entries = self._entries.get(name)
            if entries:
                summary = f"{_counted([part for part, _ in entries], kind)} {kind.words}"
                found.append(Finding(name, kind.severity, summary, [entry for _, entry in entries]))
        return found


def _counted(parts: list[str], kind: Kind) -> str:
    """Returns ``3 training and 1 validation boxes``, or ``2 classes`` of kinds that are about both sets."""
    if not all(parts):
        return count_of(len(parts), kind.one, kind.many)
    words = [f"{parts.count(part):,} {word}" for part, word in PART_WORDS.items() if part in parts]
    return f"{' and '.join(words)} {kind.one if len(parts) == 1 else kind.many}"
