"""Training curves: a picture that shows what was measured, also of one epoch and of runs without evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.common.plots import draw_training_curves


def record(epoch: int, evaluated: bool = True, averaged: bool = True) -> dict:
    figures = {"loss": 2.0 / epoch, "top1": 1 - 0.5 / epoch, "top5": 1 - 0.1 / epoch}
    result = {"epoch": epoch, "lr": 0.1 / epoch, "train": {"loss": 3.0 / epoch, "top1": 1 - 0.6 / epoch}}
    if evaluated:
        result["eval"] = figures
        if averaged:
            result["ema"] = {name: value * 0.9 for name, value in figures.items()}
    return result


def draw(tmp_path, history) -> np.ndarray:
    file = tmp_path / "run" / "curves.png"
    draw_training_curves(history, file, "EConvNeXt_mini")
    assert [path.name for path in file.parent.iterdir()] == ["curves.png"]
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def coloured(picture: np.ndarray) -> np.ndarray:
    """Marks the pixels of curves: everything but text, axes and grid is grey."""
    return (picture.max(axis=2).astype(int) - picture.min(axis=2)) > 60


def panels(marks: np.ndarray) -> list[int]:
    half_height, half_width = marks.shape[0] // 2, marks.shape[1] // 2
    rows, columns = (slice(0, half_height), slice(half_height, None)), (slice(0, half_width), slice(half_width, None))
    return [int(marks[row, column].sum()) for row in rows for column in columns]


def test_all_four_panels_show_curves(tmp_path):
    picture = draw(tmp_path, [record(epoch) for epoch in range(1, 6)])
    assert picture.shape[0] > 600
    assert picture.shape[1] > 800
    assert min(panels(coloured(picture))) > 200


def test_without_evaluation_the_top_5_panel_is_empty_and_says_so(tmp_path):
    loss, top1, top5, rate = panels(coloured(draw(tmp_path, [record(epoch, evaluated=False) for epoch in (1, 2, 3)])))
    assert min(loss, top1, rate) > 100
    assert top5 == 0


def test_a_single_epoch_is_visible(tmp_path):
    assert min(panels(coloured(draw(tmp_path, [record(1)])))) > 10


def test_epochs_that_were_not_evaluated_are_left_out(tmp_path):
    history = [record(1, evaluated=False), record(2), record(3, evaluated=False), record(4, averaged=False)]
    assert min(panels(coloured(draw(tmp_path, history)))) > 50


def test_a_run_without_a_finished_epoch_still_gives_a_picture(tmp_path):
    assert not coloured(draw(tmp_path, [])).any()


def test_a_failure_while_drawing_leaves_the_old_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    before = draw(tmp_path, [record(1)])

    def fail(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        draw_training_curves([record(1), record(2)], tmp_path / "run" / "curves.png", "again")
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), before)
