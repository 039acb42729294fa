"""The best candidates of a network that needs no suppression, in NumPy: what its exported graph does inside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TopkSettings:
    """How many candidates are kept of a network that gives each object one box (YOLOv10, arXiv 2405.14458).

    Attributes:
        keep: at most so many boxes of an image are kept, over all classes; fewer if there are fewer anchors.
    """

    keep: int = 300

    def select(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Takes the ``keep`` anchors whose best class scores highest, and of their classes the ``keep`` best.

        Args:
            boxes: ``float32`` ``[A, 4]``, corners.
            scores: ``float32`` ``[C, A]``.

        Returns:
            ``float32`` ``[min(keep, A), 6]``: class, score, x1, y1, x2, y2; the best first.
        """
        keep = min(self.keep, len(boxes))
        anchors = np.argsort(-scores.max(axis=0), kind="stable")[:keep]
        candidates = scores[:, anchors].T.reshape(-1)
        best = np.argsort(-candidates, kind="stable")[:keep]
        places, labels = np.divmod(best, len(scores))
        numbers = np.stack([labels, candidates[best]], axis=1)
        return np.concatenate([numbers, boxes[anchors[places]]], axis=1, dtype=np.float32)
