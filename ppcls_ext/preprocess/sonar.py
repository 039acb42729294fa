"""Raw sonar frames made visible: the echo is taken from the channel that carries it and its contrast is raised.

Raw frames are nearly black, and recorders put the echo in one channel of three. Training and inference use the class
of this file, so that a network sees the same picture in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import cv2
import numpy as np

from ppcls_ext.preprocess.decode import ImageError
from ppcls_ext.utils.signature import Limits, PositiveNumber

Method = Literal["none", "gamma", "log", "equalize", "clahe"]
Channel = Literal["auto", "red", "green", "blue"]
Count = Annotated[int, Limits(ge=1)]
Tiles = Count | tuple[Count, Count]

CHANNELS = ("red", "green", "blue")


def echo_channel(image: np.ndarray) -> int:
    """Finds the channel that carries the echo: the one with the most energy about its mean.

    A channel with the same value everywhere tells nothing, however bright it is. Among equals, as in grey frames, the
    first one is taken. Of ``uint8`` ``[H, W, C]``, the number of the channel is returned.
    """
    image = np.ascontiguousarray(image)
    pixels, values = image.shape[0] * image.shape[1], np.arange(256)
    energies = []
    for number in range(image.shape[2]):
        counts = cv2.calcHist([image], [number], None, [256], [0, 256]).ravel().astype(np.int64)
        total, squares = int(counts @ values), int(counts @ values**2)
        # Whole numbers: the same answer on every machine.
        energies.append((pixels * squares - total * total, total))
    return energies.index(max(energies))


class SonarEnhance:
    """Takes the echo out of a frame, raises its contrast and repeats it in three channels.

    The curves of ``gamma`` and ``log`` are the same for every frame. ``equalize`` and ``clahe`` follow the histogram of
    the frame, or of its tiles; a frame of one value only has none and keeps its value.

    Args:
        method: ``none`` leaves the values; ``gamma`` is 255 (v / 255) ** gamma; ``log`` is 255 log(1 + v) / log(256);
            ``equalize`` spreads the histogram; ``clahe`` does so tile by tile, with limited contrast.
        channel: where the echo is; ``auto`` looks in each frame (see :func:`echo_channel`).
        gamma: exponent of ``gamma``; below 1 brightens.
        clip_limit: of ``clahe``: how often a value may occur in a tile, as a multiple of the average.
        tile_grid: of ``clahe``: so many tiles across and as many down, or ``[across, down]``.
    """

    def __init__(
        self,
        method: Method = "none",
        channel: Channel = "auto",
        gamma: PositiveNumber = 0.5,
        clip_limit: PositiveNumber = 2.0,
        tile_grid: Tiles = 8,
    ) -> None:
        self.method = method
        self.channel = channel
        self.gamma = float(gamma)
        self.clip_limit = float(clip_limit)
        self._tiles = (tile_grid, tile_grid) if isinstance(tile_grid, int) else tuple(tile_grid)
        # The value that each byte becomes; None where that depends on the frame.
        values = np.arange(256, dtype=np.float64)
        curves = {"gamma": 255.0 * (values / 255.0) ** self.gamma, "log": 255.0 * np.log1p(values) / np.log(256.0)}
        self._table = np.rint(curves[method]).astype(np.uint8) if method in curves else None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Enhances one frame.

        Args:
            image: ``uint8`` ``[H, W, 3]`` (RGB), ``[H, W, 1]`` or ``[H, W]``; of ``uint16`` the upper byte counts, as
                when a file of 16 bits is read. Anything else is an ``ImageError``.

        Returns:
            ``uint8`` ``[H, W, 3]``, three equal channels.
        """
        echo = self.enhance(self.echo(image))
        return cv2.merge([echo, echo, echo])

    def echo(self, image: np.ndarray) -> np.ndarray:
        """Returns the channel with the echo, ``uint8`` ``[H, W]``, as it is."""
        if image.dtype == np.uint16:
            image = (image >> 8).astype(np.uint8)
        if image.dtype != np.uint8:
            raise ImageError(
                "image", f"SonarEnhance works on bytes, got {image.dtype}; let it follow Decode, before other operators"
            )
        if image.ndim == 2:
            image = image[:, :, np.newaxis]
        if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
            raise ImageError("image", f"SonarEnhance expected [H, W, 3] or [H, W], got {list(image.shape)}")
        number = echo_channel(image) if self.channel == "auto" else CHANNELS.index(self.channel)
        number = min(number, image.shape[2] - 1)
        return np.ascontiguousarray(image[:, :, number])

    def enhance(self, echo: np.ndarray) -> np.ndarray:
        """``uint8`` ``[H, W]`` -> ``uint8`` ``[H, W]``."""
        if self._table is not None:
            return cv2.LUT(echo, self._table)
        if self.method == "none" or echo.min() == echo.max():
            return echo
        if self.method == "equalize":
            return cv2.equalizeHist(echo)
        # Made anew for each frame: it keeps buffers, and cannot be sent to another process.
        return cv2.createCLAHE(self.clip_limit, self._tiles).apply(echo)


def enhancement_of(operators: Any) -> SonarEnhance | None:
    """Returns what a reader's ``sample_transforms`` do to the contrast of a sonar frame; ``None`` if nothing.

    Pictures for people are drawn with it, so that they show what the detector sees. The operators stand in a checked
    configuration.
    """
    for step in operators or []:
        if isinstance(step, Mapping) and SonarEnhance.__name__ in step:
            return SonarEnhance(**(step[SonarEnhance.__name__] or {}))
    return None
