"""Report of a classifier's evaluation: figures of each class, calibration, confusions, mistakes, all predictions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classification.data.datasets import ImageDataset
from ppcls_ext.engine.environment import sum_over_ranks
from ppcls_ext.preprocess import decode_image
from ppcls_ext.runtime.predictor import softmax
from ppcls_ext.utils.drawing import Card, draw_sheet
from ppcls_ext.utils.files import atomic_path, write_json
from ppcls_ext.utils.fonts import drawable
from ppcls_ext.utils.plots import draw_confusion, draw_reliability
from ppcls_ext.utils.texts import shown_name

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

MISTAKES = 30
# Bins of the confidence, as Guo et al. have them.
BINS = 15
# In a terminal: of more classes the worst are shown.
MOST_ROWS, WORST_ROWS = 40, 20
FIGURES = ["precision", "recall", "f1"]


class Predictions:
    """The best ``topk`` classes of each of so many images, gathered over batches, and over processes with shares."""

    def __init__(self, images: int, topk: int) -> None:
        self._topk = topk
        # Of each image: 1 if it was evaluated, the probability of its class, the best classes and their probabilities.
        # In float64 class numbers are exact, so that processes may add up their tables.
        self._table = np.zeros([images, 2 + 2 * topk])

    def note(self, indices: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> None:
        """Keeps those of a batch: ``indices``, ``labels`` ``int64`` ``[N]``, ``logits`` ``float32`` ``[N, K]``.

        Of an image with a NaN among its logits nothing but that is kept.
        """
        with np.errstate(invalid="ignore"):
            scores = softmax(logits)
        best = np.argsort(-logits, axis=1, kind="stable")[:, : self._topk]
        own = scores[np.arange(len(labels)), labels]
        rows = [np.ones(len(labels)), own, *best.T, *np.take_along_axis(scores, best, axis=1).T]
        self._table[indices] = np.where(np.isnan(scores).any(axis=1)[:, None], np.eye(1, len(rows)), np.stack(rows, 1))

    def share(self, world_size: int) -> None:
        """Adds what the other processes gathered; all of them call it."""
        self._table = sum_over_ranks(self._table, world_size)

    def table(self, dataset: ImageDataset) -> pd.DataFrame:
        """Returns a row for each image that was evaluated, in the order of the data set.

        Columns are ``image``, ``true_class``, ``right`` (0 or 1), ``true_score``, then ``top1``, ``score1`` and so on.
        Classes are numbers; NaN stands where there is no answer.
        """
        import pandas as pd

        indices = np.flatnonzero(self._table[:, 0])
        rows = self._table[indices]
        rows[rows[:, -self._topk] == 0] = np.nan  # The best of some classes cannot have the probability 0.
        best, scores = rows[:, 2 : 2 + self._topk], rows[:, 2 + self._topk :]
        labels = dataset.labels[indices]
        columns = {"image": [dataset.name_of(index) for index in indices.tolist()], "true_class": labels,
                   "right": (best[:, 0] == labels).astype(int), "true_score": rows[:, 1]}  # fmt: skip
        for rank in range(self._topk):
            columns |= {f"top{rank + 1}": best[:, rank], f"score{rank + 1}": scores[:, rank]}
        return pd.DataFrame(columns, index=indices)


def calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[pd.DataFrame, float]:
    """Returns accuracy by confidence, and the expected calibration error (Guo et al., arXiv 1706.04599, equation 3).

    The table has ``BINS`` rows of ``above``, ``to`` (a bin holds confidences above the first, up to the second),
    ``images``, and the means ``confidence`` and ``accuracy``, NaN in an empty bin. The error is NaN without images.
    """
    import pandas as pd

    edges = np.linspace(0, 1, BINS + 1)
    bins = pd.Series(np.digitize(confidence, edges[1:-1], right=True))
    means = pd.DataFrame({"confidence": confidence, "accuracy": right}).astype(float).groupby(bins).mean()
    images = bins.value_counts().reindex(range(BINS), fill_value=0)
    table = pd.DataFrame({"above": edges[:-1], "to": edges[1:], "images": images}).join(means)
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return table, float((gaps * images).sum() / len(right)) if len(right) else float("nan")


def write_report(
    folder: Path, dataset: ImageDataset, table: pd.DataFrame, names: list[str], figures: dict[str, Any], title: str,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:  # fmt: skip
    """Writes ``figures.json``, ``classes.csv``, ``predictions.csv``, ``confusion.png``, ``calibration.png`` and
    ``mistakes.png`` (none where nothing is wrong), and logs the figures of the classes.

    A class without images has no figures, one that is never predicted has no precision: null, an empty cell, ``-``, and
    in no mean.

    The folder is made, files of an earlier evaluation are replaced. ``table`` is that of :class:`Predictions`,
    ``names`` are those of all K classes. So many ``mistakes`` are drawn, the most confident first, below each the true
    class.

    Returns:
        The content of ``figures.json``.
    """
    import pandas as pd

    answered = table.dropna(subset=["top1"])
    counts = np.zeros([len(names)] * 2, np.int64)
    np.add.at(counts, (answered["true_class"], answered["top1"].astype(int)), 1)
    images, predicted = np.bincount(table["true_class"], minlength=len(names)), counts.sum(axis=0)
    hits = np.where(images > 0, np.diagonal(counts), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [hits / predicted, hits / images, 2 * hits / (images + predicted)]
    figures_of = dict(zip(FIGURES, shares, strict=True))
    classes = pd.DataFrame({"class": names, "images": images, "predicted": predicted, **figures_of})
    bins, error = calibration(answered["score1"].to_numpy(), answered["right"].to_numpy())
    wrong = answered[answered["right"] == 0].sort_values("score1", ascending=False, kind="stable")
    confused = wrong.groupby(["true_class", "top1"]).size().rename("images").reset_index()
    confused = confused.sort_values("images", ascending=False, kind="stable")
    confused["share"] = confused["images"] / images[confused["true_class"]]
    result = {
        **figures,
        "without_answer": len(table) - len(answered),
        "macro": _records(classes[FIGURES].mean().to_frame().T)[0],
        "expected_calibration_error": None if np.isnan(error) else error,
        "calibration": _records(bins),
        "classes": _records(classes),
        "confused": _records(_named(confused, names).rename(columns={"top1": "predicted"})),
    }
    write_json(folder / "figures.json", result)
    for file, rows in (("classes.csv", classes), ("predictions.csv", _named(table, names))):
        with atomic_path(folder / file) as temporary:
            rows.to_csv(temporary, index=False, float_format="%.6f", errors="backslashreplace")
    heading = f"{title}: {table['right'].sum():,} of {len(table):,} images right"
    shown = [drawable(name, number) for number, name in enumerate(names)]
    draw_confusion(counts, shown, folder / "confusion.png", heading, background=False)
    draw_reliability(bins, folder / "calibration.png", f"{title}: expected calibration error {error:.3f}")
    gallery = folder / "mistakes.png"
    gallery.unlink(missing_ok=True)
    if len(wrong[:mistakes]):
        cards = [_card(dataset, row, names) for row in wrong[:mistakes].itertuples()]
        sheet = draw_sheet(cards, f"{len(cards)} of {len(wrong):,} mistakes")
        with atomic_path(gallery) as temporary:
            sheet.save(temporary)
    if result["without_answer"]:
        logger.warning("the model answered NaN to %d of %d images, which count as wrong", result["without_answer"],
                       len(table))  # fmt: skip
    logger.info("%s\nexpected calibration error: %.3f (%d bins)\nwrote %s", _text(classes), error, BINS, folder)
    return result


def _named(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Returns the table with the names of classes in place of their numbers."""
    columns = [name for name in table.columns if name == "true_class" or name.startswith("top")]
    return table.assign(**{name: table[name].map(dict(enumerate(names))) for name in columns})


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows as JSON takes them, ``None`` for NaN."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _text(classes: pd.DataFrame) -> str:
    """Returns the classes for a terminal; of many those with the lowest F1."""
    import pandas as pd

    rows, notes = classes, []
    if len(classes) > MOST_ROWS:
        rows = classes.sort_values("f1")[:WORST_ROWS]
        notes = [f"the {WORST_ROWS} worst of {len(classes):,} classes; all are in classes.csv"]
    absent = classes["class"][classes["images"] == 0].tolist()
    if absent:
        notes.append(f"{len(absent)} without images, in no mean: {', '.join(absent[:WORST_ROWS])}")
    mean = {"class": "all classes", **classes[["images", "predicted"]].sum(), **classes[FIGURES].mean()}
    rows = pd.concat([rows, pd.DataFrame([mean])]).set_index("class").rename_axis(None)
    return "\n".join([rows.to_string(na_rep="-", float_format="{:.3f}".format), *notes])


def _card(dataset: ImageDataset, row: Any, names: list[str]) -> Card:
    """Returns a mistake to be drawn: what was predicted, and below it the true class with its probability."""
    image, name = dataset.load(row.Index)[0], dataset.name_of(row.Index)
    if isinstance(image, bytes):
        image = decode_image(image, name, dataset.value_range)
    shown = [drawable(names[number], number) for number in (int(row.top1), row.true_class)]
    return Card(image, shown_name(Path(name).name), shown, [row.score1, row.true_score], shown[1])
