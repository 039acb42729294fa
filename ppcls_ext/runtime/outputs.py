"""What the outputs of a detector's network mean, and how boxes in pixels of the image are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_ext.preprocess.detection import Prepared
from ppcls_ext.runtime.nms import NmsSettings
from ppcls_ext.runtime.topk import TopkSettings


@dataclass(frozen=True)
class OutputForm:
    """What the outputs of a detector's network mean.

    Attributes:
        selection: how detections are chosen among the candidates; None for a network that says nothing about it.
        final: the network gives detections. If not, it gives the boxes of all anchors, of which ``selection`` chooses.
        scaled: the network takes scale factors and gives boxes in pixels of the resized image's original. If not, its
            boxes are in pixels of its input.
    """

    selection: NmsSettings | TopkSettings | None = None
    final: bool = True
    scaled: bool = True

    @property
    def suppression(self) -> str:
        """Where overlapping boxes are thinned out, for people: ``inside``, ``outside`` or ``not needed``."""
        if not isinstance(self.selection, NmsSettings):
            return "not needed"
        return "inside" if self.final else "outside"

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in their order."""
        if not self.final:
            return ["boxes", "scores"]
        return ["detections"] if isinstance(self.selection, TopkSettings) else ["boxes", "count"]

    def rows(self, outputs: Sequence[np.ndarray], inputs: Sequence[Prepared]) -> list[np.ndarray]:
        """Reads what a backend gave.

        Args:
            outputs: what ``DetectionBackend.detect`` returns.
            inputs: the prepared images of the batch.

        Returns:
            For each image ``float32`` ``[n, 6]``: class, score, x1, y1, x2, y2 in pixels of the image.
        """
        chosen = split_by_image(outputs) if self.final else self._select(outputs)
        return [self._in_image(rows, prepared) for rows, prepared in zip(chosen, inputs, strict=True)]

    def boxes(self, boxes: np.ndarray, inputs: Sequence[Prepared]) -> np.ndarray:
        """Turns the boxes of all anchors ``[N, A, 4]`` into pixels of the images."""
        return np.stack([self._mapped(own, prepared) for own, prepared in zip(boxes, inputs, strict=True)])

    def _select(self, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        selection = self.selection or NmsSettings()
        return [selection.select(boxes, scores) for boxes, scores in zip(*outputs, strict=True)]

    def _in_image(self, rows: np.ndarray, prepared: Prepared) -> np.ndarray:
        return np.concatenate([rows[:, :2], self._mapped(rows[:, 2:], prepared)], axis=1)

    def _mapped(self, boxes: np.ndarray, prepared: Prepared) -> np.ndarray:
        """Takes boxes ``[n, 4]`` back to the image: off with the padding, then by the scale."""
        scale = np.tile(prepared.scale_factor[::-1], 2)
        offset = np.tile(prepared.pad[::-1], 2)
        return boxes - offset / scale if self.scaled else (boxes - offset) / scale


def split_by_image(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Splits detections by image.

    Args:
        outputs: ``[N, k, 6]``; or ``[M, 6]``, those of the first image first, and how many each image has ``[N]``.

    Returns:
        For each image ``[n, 6]``.
    """
    if len(outputs) == 1:
        return list(outputs[0])
    rows, counts = outputs
    return np.split(rows.reshape(-1, 6), np.cumsum(counts)[:-1])
