"""Metrics, by the names that PaddleClas's YAML gives them. Sums are kept, so that ranks can be added exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import paddle

# Raised with every change of what a metric means: results files of two versions are not compared.
EVALUATION_VERSION = 1


class TopkAcc:
    """Share of images whose class is among the ``k`` best ones.

    With fewer classes than ``k`` every image counts as right, as it must, unless the model answered NaN.
    """

    def __init__(self, topk: int | list[int]) -> None:
        self.topk = [topk] if isinstance(topk, int) else list(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f"topk: must hold whole numbers of at least 1, got {topk}")

    @property
    def names(self) -> list[str]:
        """``top1``, ``top5``, ..."""
        return [f"top{k}" for k in self.topk]

    def hits(self, logits: paddle.Tensor, label: paddle.Tensor) -> np.ndarray:
        """Returns how many images of a batch are right, ``float64`` ``[len(topk)]``: ``[N, class_num]`` and ``[N]``."""
        scores = logits.astype("float32").numpy()
        labels = label.numpy().reshape(-1)
        # The rank of the true class: how many others score strictly higher, ties broken by class number, so that a
        # model that answers the same for every class is not counted as always right.
        true_score = scores[np.arange(len(labels)), labels][:, None]
        higher = scores > true_score
        tied_before = (scores == true_score) & (np.arange(scores.shape[1])[None, :] < labels[:, None])
        rank = (higher | tied_before).sum(axis=1)
        # A NaN compares false with everything: it would rank first itself, and put the others before it.
        valid = ~np.isnan(scores).any(axis=1)
        return np.array([float((valid & (rank < k)).sum()) for k in self.topk])


METRICS: dict[str, type] = {"TopkAcc": TopkAcc}
