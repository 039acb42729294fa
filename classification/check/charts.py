"""The chart of how many images each class has."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from classification.check.labels import Classes
from ppcls_ext.check.charts import COLOURS, INK, chart_to_image, new_chart
from ppcls_ext.check.findings import PART_WORDS, count_of

# More bars than these cannot bear their names; the counts are then drawn as a curve.
MOST_BARS = 40
LONGEST_NAME = 16


def draw_class_counts(classes: Classes, width: int, height: int) -> Image.Image:
    """Draws the images of each class in both sets; RGB of ``width`` x ``height`` pixels."""
    figure, axes = new_chart(width, height)
    used = np.flatnonzero(sum(classes.counts.values()) > 0)
    if len(used) <= MOST_BARS:
        _draw_bars(axes, classes, used)
    else:
        for part, counts in classes.counts.items():
            ordered = np.sort(counts)[::-1]
            axes.fill_between(np.arange(len(ordered)), ordered, step="post", alpha=0.25, color=COLOURS[part], lw=0)
            axes.step(np.arange(len(ordered)), ordered, where="post", color=COLOURS[part], label=PART_WORDS[part])
        axes.set_xlabel("classes, largest first")
        axes.margins(x=0)
        axes.set_ylim(bottom=0)
    axes.set_title(_class_title(classes, used), loc="left", fontsize=12, color=INK)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    axes.grid(axis="y", alpha=0.25)
    return chart_to_image(figure)


def _draw_bars(axes: Any, classes: Classes, used: np.ndarray) -> None:
    bar = 0.8 / len(classes.counts)
    for position, (part, counts) in enumerate(classes.counts.items()):
        places = np.arange(len(used)) + (position - (len(classes.counts) - 1) / 2) * bar
        axes.bar(places, counts[used], width=bar, color=COLOURS[part], label=PART_WORDS[part])
    names = [classes.name(label)[:LONGEST_NAME] for label in used.tolist()]
    crowded = sum(map(len, names)) > 80
    axes.set_xticks(
        np.arange(len(used)),
        names,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else "default",
        fontsize=9 if len(used) <= 24 else 7,
    )
    for text in axes.get_xticklabels():
        text.set_parse_math(False)  # A class may be called "US$".
    axes.set_xlim(-0.7, len(used) - 0.3)


def _class_title(classes: Classes, used: np.ndarray) -> str:
    empty = classes.class_num - len(used)
    return "Images by class" + (
        f"  ({count_of(empty, 'empty class', 'empty classes')} not shown)" if empty and len(used) <= MOST_BARS else ""
    )
