"""One picture with two labels."""

from __future__ import annotations

from collections.abc import Sequence

from classification.check.labels import Classes
from ppcls_ext.check.findings import Entry, Finding, Picture, Severity, count_of


def find_label_conflicts(copies: Sequence[Sequence[Picture]], classes: Classes) -> Finding:
    """Finds images with the same pixels but different labels.

    Args:
        copies: groups of images with the same pixels.
        classes: knows the label of each image.
    """
    entries = [
        Entry(tuple(pictures), " / ".join(dict.fromkeys(map(classes.text_of, pictures))))
        for pictures in copies
        if len(set(map(classes.label_of, pictures))) > 1
    ]
    summary = f"{count_of(len(entries), 'picture')} with two or more different labels"
    return Finding("label_conflict", Severity.ERROR, summary, entries)


def label_remark(classes: Classes, first: Picture, second: Picture) -> str:
    """Says of two pictures that look alike that their labels differ, or nothing."""
    if classes.label_of(first) == classes.label_of(second):
        return ""
    return f"labels differ: {classes.text_of(second)} / {classes.text_of(first)}"
