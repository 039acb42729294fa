"""What an object of each class counts in the class losses of PP-YOLOE and YOLOv10.

Only the loss of an anchor that learns an object, at that object's class, gets the weight. To weigh all of a class's
losses, with those of the background, would leave their balance, which is against the rare class, as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle.nn import functional
from ppdet.modeling.heads import PPYOLOEHead

from detection.yolov10.head import YOLOv10Head


def weigh_classes(head: Any, weights: np.ndarray) -> None:
    """Gives a head its class weights, ``float32`` ``[K]``, in place; ``ValueError`` if it has no loss for them."""
    if isinstance(head, YOLOv10Head):
        head.class_weights = weights
        return
    if not isinstance(head, PPYOLOEHead) or not head.use_varifocal_loss:
        raise ValueError("needs PPYOLOEHead with use_varifocal_loss: true, or YOLOv10Head")
    plain = head._varifocal_loss

    def weighted(pred_score: paddle.Tensor, gt_score: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Scores ``[N, A, K]``, scores to be learnt and one-hot classes of the anchors, as many -> a scalar."""
        more = gt_score * label * (paddle.to_tensor(weights) - 1)
        entropies = functional.binary_cross_entropy(pred_score, gt_score, weight=more, reduction="sum")
        return plain(pred_score, gt_score, label) + entropies

    head._varifocal_loss = weighted
