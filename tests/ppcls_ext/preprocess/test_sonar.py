"""The echo is found and made visible, also in frames where there is nothing to see."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import pytest

from ppcls_ext.preprocess import ImageError
from ppcls_ext.preprocess.sonar import CHANNELS, Method, SonarEnhance

METHODS = get_args(Method)


def dark_echo(height: int = 48, width: int = 64) -> np.ndarray:
    """A nearly black frame with one bright spot, ``uint8`` ``[height, width]``."""
    echo = np.random.default_rng(3).integers(0, 12, (height, width), dtype=np.uint8)
    echo[height // 4 : height // 2, width // 4 : width // 2] = 40
    echo[:, :4] = 0
    return echo


def in_channel(echo: np.ndarray, name: str, others: int = 0) -> np.ndarray:
    image = np.full((*echo.shape, 3), others, np.uint8)
    image[:, :, CHANNELS.index(name)] = echo
    return image


def test_auto_finds_the_channel_with_the_echo_and_a_named_one_is_taken_whatever_it_holds():
    for name in CHANNELS:
        for others in (0, 255):
            image = in_channel(dark_echo(), name, others)
            assert np.array_equal(SonarEnhance()(image), np.dstack([dark_echo()] * 3))
        image = in_channel(dark_echo(), "green")
        assert np.array_equal(SonarEnhance(channel=name)(image)[:, :, 0], image[:, :, CHANNELS.index(name)])


@pytest.mark.parametrize("method", METHODS)
def test_three_equal_channels_whatever_the_form(method):
    enhance = SonarEnhance(method=method)
    echo = dark_echo()
    expected = enhance(echo)
    assert expected.shape == (48, 64, 3) and expected.dtype == np.uint8
    assert (expected == expected[:, :, :1]).all()
    forms = {
        "grey": np.dstack([echo] * 3),
        "one channel": echo[:, :, None],
        "blue": in_channel(echo, "blue"),
        "16 bits": (echo.astype(np.uint16) << 8) + 77,
        "mirrored view": np.ascontiguousarray(echo[:, ::-1])[:, ::-1],
    }
    for form, image in forms.items():
        before = image.copy()
        assert np.array_equal(enhance(image), expected), form
        assert np.array_equal(image, before), f"{form} was changed"


def test_values_of_the_curves():
    echo = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(SonarEnhance("none")(echo)[:, :, 0], echo)
    gamma = SonarEnhance("gamma", gamma=0.5)(echo)[:, :, 0].ravel()
    assert [gamma[value] for value in (0, 1, 64, 255)] == [0, 16, 128, 255]
    assert np.array_equal(SonarEnhance("gamma", gamma=1)(echo)[:, :, 0], echo)
    log = SonarEnhance("log")(echo)[:, :, 0].ravel()
    assert [log[value] for value in (0, 1, 15, 255)] == [0, 32, 128, 255]


def test_equalize_and_clahe_are_those_of_opencv():
    echo = dark_echo()
    assert np.array_equal(SonarEnhance("equalize")(echo)[:, :, 0], cv2.equalizeHist(echo))
    for grid, tiles in ((4, (4, 4)), ([2, 5], (2, 5))):
        expected = cv2.createCLAHE(3.0, tiles).apply(echo)
        assert np.array_equal(SonarEnhance("clahe", clip_limit=3.0, tile_grid=grid)(echo)[:, :, 0], expected)


@pytest.mark.parametrize("method", METHODS)
def test_tiny_frames_and_frames_of_one_value(method):
    enhance = SonarEnhance(method)
    for size in ((1, 1), (5, 40)):
        assert enhance(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).shape == (*size, 3)
    assert not enhance(np.zeros([20, 30, 3], np.uint8)).any()
    even = enhance(np.full([20, 30, 3], 9, np.uint8))
    assert even.min() == even.max() >= 9


def test_what_is_no_frame_is_refused():
    for shape, dtype in (([8, 8, 3], np.float32), ([8, 8, 4], np.uint8), ([0, 8, 3], np.uint8)):
        with pytest.raises(ImageError, match="SonarEnhance"):
            SonarEnhance("equalize")(np.zeros(shape, dtype))
