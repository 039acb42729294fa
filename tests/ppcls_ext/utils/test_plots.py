"""Training curves: a picture that shows what was measured, also of one epoch and of runs without evaluation."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ppcls_ext.utils.plots import (
    Line,
    Point,
    draw_detection_curves,
    draw_run_comparison,
    draw_study_curves,
    draw_tradeoff,
    draw_training_curves,
)  # fmt: skip


def record(epoch: int, evaluated: bool = True) -> dict:
    figures = {"loss": 2.0 / epoch, "top1": 1 - 0.5 / epoch, "top5": 1 - 0.1 / epoch}
    result = {"epoch": epoch, "lr": 0.1 / epoch, "train": {"loss": 3.0 / epoch, "top1": 1 - 0.6 / epoch}}
    return {**result, "eval": figures, "ema": {**figures, "loss": 1.0 / epoch}} if evaluated else result


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
    draw_training_curves([record(epoch) for epoch in range(1, 6)], file, "EConvNeXt_mini")
    assert [path.name for path in file.parent.iterdir()] == ["curves.png"]
    assert min(panels(drawn(file))) > 200
    draw_training_curves([record(epoch, evaluated=False) for epoch in (1, 2, 3)], file, "EConvNeXt_mini")
    loss, top1, top5, rate = panels(drawn(file))
    assert min(loss, top1, rate) > 100 and top5 == 0


def detector_record(epoch: int, evaluated: bool = True, seconds: bool = True) -> dict:
    train = {"loss": 3.0 / epoch, "loss_cls": 1.5 / epoch, "loss_iou": 0.9 / epoch, "loss_dfl": 0.6 / epoch}
    if seconds:
        train |= {"seconds": 90.0, "images_per_second": 4.0 + 0.1 * epoch}
    result = {"epoch": epoch, "lr": 1e-3 / epoch, "train": train}
    if evaluated:
        result["eval"] = {"AP": 0.5 - 0.4 / epoch, "AP50": 0.8 - 0.5 / epoch}
    return result


def test_a_detector_has_losses_precision_rate_and_speed(tmp_path):
    file = tmp_path / "curves.png"
    draw_detection_curves([detector_record(epoch) for epoch in range(1, 7)], file, "ppyoloe_s")
    assert min(panels(drawn(file))) > 10
    history = [detector_record(epoch, evaluated=False, seconds=False) for epoch in (1, 2)]
    draw_detection_curves(history, file, "not evaluated")
    loss, precision, rate, speed = panels(drawn(file))
    assert min(loss, rate) > 50 and precision == speed == 0
    draw_detection_curves([], file, "nothing yet")
    assert not drawn(file).any()


def test_runs_are_compared_by_epoch_and_by_minutes(tmp_path):
    file = tmp_path / "comparison.png"
    fast = [detector_record(epoch) for epoch in range(1, 5)]
    slow = [{**record, "train": {**record["train"], "seconds": 400.0}} for record in fast]
    draw_run_comparison({"fast": [fast], "slow": [slow, fast]}, file, "two backbones")
    both = panels(drawn(file))
    assert min(both) > 100
    # A run that does not tell its seconds is compared by epoch only.
    draw_run_comparison({"old": [[detector_record(epoch, seconds=False) for epoch in (1, 2)]]}, file)
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
    history = [detector_record(epoch) for epoch in (1, 2)]
    draw_run_comparison({"_background_": [history]}, tmp_path / "runs.png")
    draw_detection_curves(history, tmp_path / "curves.png", "ppyoloe_s", averaged=True)
    legends = [[axes.get_legend() for axes in figure.axes] for figure in figures]
    named = [[text.get_text() for legend in each if legend for text in legend.get_texts()] for each in legends]
    assert named[0][0] == " _background_ (best 0.550)"
    assert "AP50, evaluation, EMA" in named[1] and "AP, evaluation, EMA" in named[1]
