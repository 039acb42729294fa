"""Patches for unmodified scripts of PaddleDetection: what they do, and that they are still needed."""

from __future__ import annotations

import inspect
import os
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from detection import patches

BOX = [{"image_id": 1, "category_id": 1, "bbox": [8.0, 20.0, 30.0, 24.0], "score": 0.9}]


def drawn() -> np.ndarray:
    from ppdet.utils.visualizer import draw_bbox

    return np.asarray(draw_bbox(Image.new("RGB", (64, 64)), 1, {1: "tyre"}, BOX, 0.5))


def test_textsize_is_still_needed_and_draws_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ImageDraw.ImageDraw, "textsize", raising=False)
    with pytest.raises(AttributeError, match="textsize"):
        drawn()
    patches.restore_textsize()
    assert drawn()[:20].any(), "the name stands above the box"
    width, height = ImageDraw.Draw(Image.new("RGB", (64, 64))).textsize("tyre")
    assert 10 < width < 60
    assert 5 < height < 30


def test_whole_graphs_still_have_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import paddle
    from paddle.static import InputSpec
    from ppdet.engine import Trainer

    assert "full_graph" not in inspect.getsource(Trainer._get_infer_cfg_and_input_spec)

    def program() -> Any:
        layer = paddle.nn.Linear(2, 3)
        return paddle.jit.to_static(layer, input_spec=[InputSpec([None, 2])]).forward.main_program

    monkeypatch.delenv(patches.FALL_BACK, raising=False)
    with pytest.raises(RuntimeError, match="full_graph"):
        program()
    monkeypatch.setenv(patches.FALL_BACK, "True")
    patches.convert_whole_graphs()
    assert os.environ[patches.FALL_BACK] == "True", "what the user has set must stay"
    monkeypatch.delenv(patches.FALL_BACK)
    patches.convert_whole_graphs()
    assert program() is not None


def test_a_font_takes_the_place_of_one_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppdet.utils import visualizer

    def get_path(url: str, folder: str) -> tuple[str, bool]:
        if "there" in url:
            return f"{folder}/{url}", False
        raise ConnectionError(url)

    monkeypatch.setattr(visualizer, "get_path", get_path, raising=False)
    patches.replace_missing_font()
    once = visualizer.get_path
    patches.replace_missing_font()
    assert visualizer.get_path is once
    path, _ = visualizer.get_path("https://nowhere/font.ttf", "folder")
    assert ImageFont.truetype(path, 18).getlength("tyre") > 10
    assert visualizer.get_path("there.ttf", "folder") == ("folder/there.ttf", False)
    with pytest.raises(ConnectionError):
        visualizer.get_path("https://nowhere/weights.pdparams", "folder")


def test_numbers_still_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    import paddle

    monkeypatch.setattr(paddle, "concat", inspect.unwrap(paddle.concat))
    counts = [paddle.shape(paddle.zeros([number, 4]))[0] for number in (3, 2)]
    with pytest.raises(ValueError, match="axis"):
        paddle.concat(counts)
    patches.concatenate_numbers()
    assert paddle.concat(counts).tolist() == [3, 2]
    assert paddle.concat([paddle.zeros([1, 2]), paddle.zeros([1, 3])], axis=1).shape == [1, 5]
