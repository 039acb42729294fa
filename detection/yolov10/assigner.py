"""Which anchors learn which box: the task-aligned assignment of YOLOv10 (TOOD, arXiv 2108.07755, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from ppdet.core.workspace import register

from detection.yolov10.boxes import complete_iou
from ppcls_ext.utils.errors import UserError

# Box-anchor pairs that are compared at once: bounds the memory on crowded frames (16 MB for each intermediate value).
PAIRS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Objects:
    """What one image shows: G objects, in the order of the annotation.

    Attributes:
        boxes: corners in pixels ``float32`` ``[G, 4]``.
        labels: classes ``int64`` ``[G]``.
    """

    boxes: paddle.Tensor
    labels: paddle.Tensor


@dataclass(frozen=True)
class Assignment:
    """What the anchors of a batch have to learn.

    Attributes:
        positive: flat numbers ``int64`` ``[P]`` (image * A + anchor) of the anchors that learn a box, rising.
        boxes: their boxes ``float32`` ``[P, 4]``.
        labels: their classes ``int64`` ``[P]``.
        scores: the score that each has to learn for its class, ``float32`` ``[P]``; 0 for all else.
    """

    positive: paddle.Tensor
    boxes: paddle.Tensor
    labels: paddle.Tensor
    scores: paddle.Tensor


def objects_of(batch: Mapping[str, Any]) -> list[Objects]:
    """Returns what can be learnt from each image of a batch of ppdet.

    Left out are the boxes that ``PadGT`` filled up with, crowds (``is_crowd``) as ppdet itself leaves them out when it
    reads annotations, and boxes without area.

    Args:
        batch: ``gt_bbox`` ``[N, G, 4]`` (corners in pixels), ``gt_class``, ``pad_gt_mask`` and, if there,
            ``is_crowd``, all ``[N, G, 1]``.

    Raises:
        UserError: the reader leaves something out.
    """
    missing = [name for name in ("gt_bbox", "gt_class", "pad_gt_mask") if name not in batch]
    if missing:
        raise UserError(f"TrainReader: YOLOv10 finds no '{missing[0]}' in the batch; batch_transforms needs PadGT")
    boxes, labels = batch["gt_bbox"].astype("float32"), batch["gt_class"].astype("int64")
    count, most = boxes.shape[0], boxes.shape[1]
    if most == 0:
        return [Objects(paddle.zeros([0, 4]), paddle.zeros([0], dtype="int64")) for _ in range(count)]
    usable = batch["pad_gt_mask"].reshape([count, most]) > 0
    if "is_crowd" in batch:
        usable = usable & (batch["is_crowd"].reshape([count, most]) == 0)
    usable = usable & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    # One look at the device for the whole batch.
    numbers = [np.flatnonzero(row) for row in usable.numpy()]
    labels = labels.reshape([count, most])
    return [Objects(_rows(boxes[image], chosen), _rows(labels[image], chosen)) for image, chosen in enumerate(numbers)]


def _rows(values: paddle.Tensor, numbers: np.ndarray) -> paddle.Tensor:
    if len(numbers) == 0:
        return paddle.zeros([0, *values.shape[1:]], dtype=values.dtype)
    return paddle.gather(values, paddle.to_tensor(numbers))


@register
class YOLOv10Assigner:
    """Gives each box the anchors whose prediction suits it best, by ``score^alpha * CIoU^beta``.

    Only anchors whose centre lies in the box are asked, and only those with a metric above 0. An anchor that several
    boxes want goes to the one that it overlaps most. Ties go to the first anchor, and to the first box.

    Args:
        one_to_many: anchors for each box in the branch that is for training only.
        one_to_one: anchors for each box in the branch that needs no suppression.
        alpha: exponent of the score of the box's class.
        beta: exponent of the CIoU, which counts as 0 if negative.

    Raises:
        ValueError: an argument is out of range; the message begins with its key.
    """

    def __init__(self, one_to_many: int = 10, one_to_one: int = 1, alpha: float = 0.5, beta: float = 6.0) -> None:
        for name, value in (("one_to_many", one_to_many), ("one_to_one", one_to_one)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"YOLOv10Assigner.{name}: must be a whole number of at least 1, got {value!r}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"YOLOv10Assigner.{name}: must be a number above 0, got {value!r}")
        self.one_to_many, self.one_to_one = one_to_many, one_to_one
        self.alpha, self.beta = float(alpha), float(beta)

    @paddle.no_grad()
    def assign(
        self,
        scores: paddle.Tensor,
        boxes: paddle.Tensor,
        points: paddle.Tensor,
        objects: list[Objects],
        most: int,
    ) -> Assignment:
        """Assigns the objects of each image to at most ``most`` anchors each.

        Args:
            scores: predicted, after the sigmoid, ``[N, A, K]``.
            boxes: predicted, ``[N, A, 4]`` in pixels.
            points: anchors in pixels ``[A, 2]``.
            objects: of each of the N images.
            most: anchors for each box, such as :attr:`one_to_many`.
        """
        anchors = points.shape[0]
        found: list[Assignment] = []
        for image, present in enumerate(objects):
            if present.labels.shape[0] == 0:
                continue
            part = self._assign_image(scores[image], boxes[image], points, present, most)
            if part is not None:
                found.append(Assignment(part.positive + image * anchors, part.boxes, part.labels, part.scores))
        if not found:
            nothing = paddle.zeros([0], dtype="int64")
            return Assignment(nothing, paddle.zeros([0, 4]), nothing, paddle.zeros([0]))
        return Assignment(
            paddle.concat([part.positive for part in found]),
            paddle.concat([part.boxes for part in found]),
            paddle.concat([part.labels for part in found]),
            paddle.concat([part.scores for part in found]),
        )

    def _assign_image(
        self, scores: paddle.Tensor, boxes: paddle.Tensor, points: paddle.Tensor, objects: Objects, most: int
    ) -> Assignment | None:
        """Scores ``[A, K]`` and boxes ``[A, 4]`` -> what the anchors of this image learn, numbered from 0; ``None`` if
        no prediction overlaps its box at all."""
        step = max(1, PAIRS_AT_ONCE // points.shape[0])
        parts = []
        for start in range(0, objects.labels.shape[0], step):
            some = Objects(objects.boxes[start : start + step], objects.labels[start : start + step])
            parts.append(self._wanted(scores, boxes, points, some, most))
        metric = paddle.concat([part[0] for part in parts])
        overlap = paddle.concat([part[1] for part in parts])
        # Whoever overlaps most gets the anchor; argmax takes the first of equals.
        owner = paddle.argmax(overlap, axis=0)
        positive = paddle.nonzero(metric.max(axis=0) > 0).flatten()
        if positive.shape[0] == 0:
            return None
        owner = paddle.gather(owner, positive)
        pairs = paddle.stack([owner, positive], axis=-1)
        own_metric, own_overlap = paddle.gather_nd(metric, pairs), paddle.gather_nd(overlap, pairs)
        # Only where the anchor belongs to the box do its values count towards the maxima of the box.
        belongs = paddle.arange(objects.labels.shape[0]).unsqueeze(-1) == owner.unsqueeze(0)
        best_metric = paddle.where(belongs, own_metric, 0.0).max(axis=-1)
        best_overlap = paddle.where(belongs, own_overlap, 0.0).max(axis=-1)
        target = own_metric / paddle.gather(best_metric, owner) * paddle.gather(best_overlap, owner)
        return Assignment(positive, paddle.gather(objects.boxes, owner), paddle.gather(objects.labels, owner), target)

    def _wanted(
        self, scores: paddle.Tensor, boxes: paddle.Tensor, points: paddle.Tensor, objects: Objects, most: int
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Returns metric and CIoU ``[G, A]`` where a box wants an anchor, 0 elsewhere."""
        corners = objects.boxes.unsqueeze(1)
        inside = ((points > corners[..., :2]) & (points < corners[..., 2:])).all(axis=-1)
        overlap = paddle.where(inside, complete_iou(boxes.unsqueeze(0), corners).clip(min=0), 0.0)
        score = paddle.index_select(scores, objects.labels, axis=1).transpose([1, 0])
        metric = score**self.alpha * overlap**self.beta
        wanted = first_of_best(metric, most) & (metric > 0)
        return paddle.where(wanted, metric, 0.0), paddle.where(wanted, overlap, 0.0)


def first_of_best(values: paddle.Tensor, most: int) -> paddle.Tensor:
    """Marks the ``most`` largest values of each row ``[G, A]``, of equal ones the first; ``bool`` ``[G, A]``.

    ``paddle.topk`` takes any of equal values, which would make runs on different devices differ.
    """
    most = min(most, values.shape[-1])
    last = paddle.topk(values, most, axis=-1).values[:, -1:]
    above, equal = values > last, values == last
    left = most - above.astype("int64").sum(axis=-1, keepdim=True)
    return above | (equal & (equal.astype("int64").cumsum(axis=-1) <= left))
