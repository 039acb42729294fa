"""The report of a preparation: as data, and as lines for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from detection.prepare.classes import ClassMatcher
from detection.prepare.records import Action, Ledger
from detection.prepare.split import Parts

# Entries of one kind that the terminal shows; the report file has all.
SHOWN = 3


def report_of(parts: Parts, matcher: ClassMatcher, ledger: Ledger, source: str) -> dict[str, Any]:
    """Returns everything that was counted and listed, ready for JSON."""
    respelled = [
        {"written": written, "class": name, "boxes": count} for (written, name), count in matcher.respelled.items()
    ]
    return {
        "source": source,
        "classes": list(matcher.names),
        "images": dict(ledger.images),
        "boxes": dict(ledger.boxes),
        "box_forms": dict(ledger.forms),
        "respelled_classes": respelled,
        "parts": {part: _part(frames, matcher.names) for part, frames in parts.items()},
        "findings": {action.value: ledger.kinds(action) for action in Action},
        "entries": [{**asdict(entry), "action": entry.action.value} for entry in ledger.entries],
    }


def _part(frames: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    boxes = Counter(box.category for frame in frames for box in frame.boxes)
    return {
        "images": len(frames),
        "images_without_boxes": sum(not frame.boxes for frame in frames),
        "boxes": sum(boxes.values()),
        "boxes_by_class": {name: boxes[index] for index, name in enumerate(names)},
    }


def lines_of(report: dict[str, Any]) -> Iterator[str]:
    """Yields the summary as lines."""
    images, boxes = report["images"], report["boxes"]
    yield (
        f"images: {images['input']} found = {images['kept']} kept + {images['rejected']} rejected"
        f" + {images['left_out']} left out"
    )
    yield (
        f"boxes: {boxes['input']} read = {boxes['kept']} kept + {boxes['repaired']} repaired"
        f" + {boxes['rejected']} rejected"
    )
    forms = ", ".join(f"{form} ({count})" for form, count in report["box_forms"].items())
    yield f"boxes were written as {forms or 'nothing'}"
    for entry in report["respelled_classes"]:
        yield f"class '{entry['written']}' taken for '{entry['class']}' ({entry['boxes']} boxes)"
    if report.get("split", {}).get("method") == "seed":
        split = report["split"]
        yield (
            f"split by seed {split['seed']}: {split['groups']} groups of frames that look alike, the largest of "
            f"{split['largest_group']}, each on one side"
        )
    yield from _table(report)
    for action in (Action.REPAIRED, Action.REJECTED, Action.NOTED):
        for kind, count in report["findings"][action.value].items():
            yield f"{action.value} {kind}: {count}"
            some = [entry for entry in report["entries"] if (entry["action"], entry["kind"]) == (action.value, kind)]
            for entry in some[:SHOWN]:
                yield f"  {entry['file']}: {entry['reason']}"
            if count > SHOWN:
                yield f"  and {count - SHOWN} more in report.json"


def _table(report: dict[str, Any]) -> Iterator[str]:
    parts = report["parts"]
    width = max([len(name) for name in report["classes"]] + [len("without boxes")])
    yield f"{'':{width}} " + " ".join(f"{part:>7}" for part in parts)
    for key, label in (("images", "images"), ("images_without_boxes", "without boxes"), ("boxes", "boxes")):
        yield f"{label:{width}} " + " ".join(f"{part[key]:7d}" for part in parts.values())
    for name in report["classes"]:
        yield f"{name:{width}} " + " ".join(f"{part['boxes_by_class'][name]:7d}" for part in parts.values())
