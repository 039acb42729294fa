"""Training curves: a picture that shows what was measured, also of one epoch and of runs without evaluation."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from PIL import Image

from ppcls_ext.utils.plots import (
    Line,
    Point,
    draw_curves,
    draw_latency,
    draw_losses,
    draw_run_comparison,
    draw_study_curves,
    draw_tradeoff,
)  # fmt: skip


def record(epoch: int, evaluated: bool = True, seconds: bool = True) -> dict:
    train = {"loss": 3.0 / epoch, "loss_cls": 1.5 / epoch, "loss_iou": 0.9 / epoch, "loss_dfl": 0.6 / epoch}
    if seconds:
        train |= {"seconds": 90.0, "images_per_second": 4.0 + 0.1 * epoch}
    result = {"epoch": epoch, "lr": 1e-3 / epoch, "train": train}
    if evaluated:
        result["eval"] = {"AP": 0.5 - 0.4 / epoch, "AP50": 0.8 - 0.5 / epoch}
    return result


def drawn(file) -> np.ndarray:
    """Marks the pixels of curves: everything but text, axes and grid is grey."""
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return pixels.max(axis=2) - pixels.min(axis=2) > 60


def panels(marks: np.ndarray) -> list[int]:
    half_height, half_width = marks.shape[0] // 2, marks.shape[1] // 2
    rows, columns = (slice(0, half_height), slice(half_height, None)), (slice(0, half_width), slice(half_width, None))
    return [int(marks[row, column].sum()) for row in rows for column in columns]


def test_all_four_panels_show_what_was_measured(tmp_path):
    file = tmp_path / "run" / "curves.png"
    draw_curves([record(epoch) for epoch in range(1, 7)], file, "ppyoloe_s", ("AP", "AP50"))
    assert min(panels(drawn(file))) > 10
    draw_curves([record(epoch, evaluated=False, seconds=False) for epoch in (1, 2)], file, "not evaluated", ("AP",))
    loss, metric, rate, speed = panels(drawn(file))
    assert min(loss, rate) > 50 and metric == speed == 0
    draw_curves([], file, "nothing yet")
    assert not drawn(file).any()


def test_runs_are_compared_by_epoch_and_by_minutes(tmp_path):
    file = tmp_path / "comparison.png"
    fast = [record(epoch) for epoch in range(1, 5)]
    slow = [{**one, "train": {**one["train"], "seconds": 400.0}} for one in fast]
    draw_run_comparison({"fast": [fast], "slow": [slow, fast]}, file, "two backbones")
    both = panels(drawn(file))
    assert min(both) > 100
    # A run that does not tell its seconds is compared by epoch only.
    draw_run_comparison({"old": [[record(epoch, seconds=False) for epoch in (1, 2)]]}, file)
    by_epoch, by_minutes, *_ = panels(drawn(file))
    assert by_epoch > 50 and by_minutes == 0


def test_bands_and_points_show_what_was_measured(tmp_path):
    lines = [Line("a", [1.0, 2.0], [0.1, 0.3], deviations=[0.0, 0.1]), Line("b", [1.0], [0.2])]
    points = [Point("a", 1.0, 50.0), Point("b", 1.0, 60.0, 1.0, series="s", is_hollow=True)]
    amounts = []
    for count in (1, 2):
        draw_study_curves(dict.fromkeys("wxyz", lines[:count]), tmp_path / "curves.png", "title")
        draw_tradeoff({"cost": points[:count]}, tmp_path / "points.png", "title", "top-1")
        amounts.append([drawn(tmp_path / name).sum() for name in ("curves.png", "points.png")])
    assert 200 < amounts[0][0] < amounts[1][0] and 50 < amounts[0][1] < amounts[1][1]


def test_legends_tell_averaged_weights_and_names_that_begin_with_an_underscore(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    history = [record(epoch) for epoch in (1, 2)]
    draw_run_comparison({"_background_": [history]}, tmp_path / "runs.png")
    draw_curves(history, tmp_path / "curves.png", "ppyoloe_s", ("AP", "AP50"), averaged=True)
    runs, curves = ([text.get_text() for axes in figure.axes if axes.get_legend()
                     for text in axes.get_legend().get_texts()] for figure in figures)  # fmt: skip
    assert runs[2] == " _background_ (best 0.550)"
    assert "AP50, evaluation, EMA" in curves and "AP, evaluation, EMA" in curves


def test_ap_over_latency_names_rows_by_colour_and_precisions_by_fill(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    rows = pandas.DataFrame({"AP": [0.5, 0.6, 0.7, 0.4], "fp32, ms": [11.0, 11.0, 11.0, math.nan],
                             "int8, ms": [7.0, 7.0, 8.0, math.nan], "AP, int8": [0.49, 0.59, math.nan, math.nan]},
                            index=["_a", "_a", "b", "not timed"])  # fmt: skip
    draw_latency(rows, tmp_path / "latency.png")
    draw_latency(rows[["AP", "fp32, ms"]], tmp_path / "latency.png")
    both, one = figures
    assert [text.get_text() for text in both.legends[0].get_texts()] == [" _a", "b"]
    assert [figure.axes[0].get_xlabel() for figure in figures] == [
        "latency of one image, ms (filled: fp32, hollow: int8)", "latency of one image, ms"]  # fmt: skip
    # The mean of the first row's two seeds in both precisions; the second row's int8 export has no AP.
    points = [(*line.get_data()[0], *line.get_data()[1]) for line in both.axes[0].lines if line.get_marker() == "o"]
    assert points == [pytest.approx(point) for point in ((11.0, 0.55), (7.0, 0.54), (11.0, 0.7))]
    assert not one.axes[0].texts


def test_bars_show_values_and_say_where_there_is_none(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    ring = {"nearest": 0.0, "farthest": 5.0, "boxes": 12, "recall": 0.75, "ap50": None}
    for metrics in (SimpleNamespace(errors={"class": 0.125, "missed": -0.25}, rings=[ring]),
                    SimpleNamespace(errors={}, rings=[])):  # fmt: skip
        draw_losses(metrics, tmp_path / "errors.png", "errors")
    (errors, rings), (nothing,) = (figure.axes for figure in figures)
    assert [text.get_text() for text in errors.texts] == ["-0.250", "0.125"] and errors.get_xlim()[0] == -0.25
    assert [text.get_text() for text in rings.texts] == ["0.750", "none annotated"]
    assert [text.get_text() for text in rings.get_yticklabels()] == ["0 to 5 m (12)"]
    assert [text.get_text() for text in nothing.texts] == ["no annotated boxes"]
