"""How YOLOv10 learns: anchors and boxes, which anchors learn which box (the assigner), and the losses.

Boxes are corners (left, top, right, bottom) in pixels of the network's input. An anchor is the centre of a cell of a
feature map. All is computed in float32, whatever the network computes in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import paddle
from paddle.nn import functional
from ppdet.core.workspace import register

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.signature import Limits, PositiveNumber

# Keeps quotients of empty boxes finite; far below the area of a pixel.
EPSILON = 1e-7
# Box-anchor pairs that are compared at once: bounds the memory on crowded frames (16 MB for each intermediate value).
PAIRS_AT_ONCE = 2**22
# How far a distance that is to be learnt stays below the last bin, so that a bin follows it.
MARGIN = 0.01


def anchor_points(features: Sequence[paddle.Tensor], strides: Sequence[int]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Returns the anchors of all feature maps, map by map and there row by row.

    Of the maps ``[N, C, H, W]`` only the size is read.

    Returns:
        Centres (x, y) in pixels ``[A, 2]`` and the stride of each ``[A, 1]``, ``float32``.
    """
    points, sizes = [], []
    for index, stride in enumerate(strides):
        height, width = features[index].shape[2], features[index].shape[3]
        x = (paddle.arange(width, dtype="float32") + 0.5) * stride
        y = (paddle.arange(height, dtype="float32") + 0.5) * stride
        rows, columns = paddle.meshgrid(y, x)
        points.append(paddle.stack([columns, rows], axis=-1).reshape([-1, 2]))
        sizes.append(paddle.full([height * width, 1], float(stride), dtype="float32"))
    return paddle.concat(points), paddle.concat(sizes)


def expected_distances(distributions: paddle.Tensor, reg_max: int) -> paddle.Tensor:
    """Returns the mean of each distribution over the bins 0 ... ``reg_max`` - 1 (arXiv 2006.04388, equation 3).

    Logits ``[..., 4 * reg_max]``, the bins of left, then top, right and bottom -> distances ``[..., 4]`` in units of
    the stride.
    """
    leading = distributions.shape[:-1]
    probabilities = functional.softmax(distributions.reshape([*leading, 4, reg_max]), axis=-1)
    return (probabilities * paddle.arange(reg_max, dtype=probabilities.dtype)).sum(axis=-1)


def boxes_around(points: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Anchors ``[A, 2]``, distances to left, top, right, bottom ``[..., A, 4]`` -> corners ``[..., A, 4]``"""
    return paddle.concat([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def complete_iou(first: paddle.Tensor, second: paddle.Tensor) -> paddle.Tensor:
    """Returns the complete IoU: overlap, less the distance of the centres, less the difference of the proportions.

    Distance-IoU loss, arXiv 1911.08287, equations 8 to 11: ``IoU - d^2 / c^2 - a v``, where d is the distance of the
    centres, c the diagonal of the smallest box around both, ``v = 4 / pi^2 (atan(w1 / h1) - atan(w2 / h2))^2`` and
    ``a = v / (1 - IoU + v)``, through which no gradient flows.

    The leading axes of the boxes ``[..., 4]`` may be broadcast against each other.

    Returns:
        Values ``[...]`` from -1.5 (nothing in common) to 1 (equal); finite also for boxes without area.
    """
    left1, top1, right1, bottom1 = paddle.unstack(first, axis=-1)
    left2, top2, right2, bottom2 = paddle.unstack(second, axis=-1)
    width1, height1, width2, height2 = right1 - left1, bottom1 - top1, right2 - left2, bottom2 - top2
    shared_width = (paddle.minimum(right1, right2) - paddle.maximum(left1, left2)).clip(min=0)
    shared_height = (paddle.minimum(bottom1, bottom2) - paddle.maximum(top1, top2)).clip(min=0)
    shared = shared_width * shared_height
    iou = shared / (width1 * height1 + width2 * height2 - shared + EPSILON)

    outer_width = paddle.maximum(right1, right2) - paddle.minimum(left1, left2)
    outer_height = paddle.maximum(bottom1, bottom2) - paddle.minimum(top1, top2)
    distance = ((left1 + right1 - left2 - right2) ** 2 + (top1 + bottom1 - top2 - bottom2) ** 2) / 4
    apart = distance / (outer_width**2 + outer_height**2 + EPSILON)

    angles = paddle.atan(width1 / (height1 + EPSILON)) - paddle.atan(width2 / (height2 + EPSILON))
    skew = 4 / math.pi**2 * angles**2
    with paddle.no_grad():
        weight = skew / (1 - iou + skew + EPSILON)
    return iou - apart - weight * skew


@dataclass(frozen=True)
class Objects:
    """Ground truth of one image: corners in pixels ``float32`` ``[G, 4]`` and classes ``int64`` ``[G]``."""

    boxes: paddle.Tensor
    labels: paddle.Tensor


@dataclass(frozen=True)
class Assignment:
    """Training targets of the anchors of a batch.

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
    # One look at the device for the whole batch.
    arrays = {name: batch[name].numpy() for name in ("gt_bbox", "gt_class", "pad_gt_mask", "is_crowd") if name in batch}
    boxes = arrays["gt_bbox"].astype(np.float32)
    labels = arrays["gt_class"].astype(np.int64).reshape(boxes.shape[:2])
    usable = arrays["pad_gt_mask"].reshape(boxes.shape[:2]) > 0
    if "is_crowd" in arrays:
        usable &= arrays["is_crowd"].reshape(boxes.shape[:2]) == 0
    usable &= (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)
    chosen = zip(boxes, labels, usable, strict=True)
    return [Objects(paddle.to_tensor(box[kept]), paddle.to_tensor(label[kept])) for box, label, kept in chosen]


@register
class YOLOv10Assigner:
    """Gives each box the anchors whose prediction suits it best, by ``score^alpha * CIoU^beta``.

    Only anchors whose centre lies in the box are asked, and only those with a metric above 0. An anchor that several
    boxes want goes to the one that it overlaps most. Ties go to the first anchor, and to the first box.

    Args:
        one_to_many: anchors for each box in the branch that is for training only.
        one_to_one: anchors for each box in the branch that needs no NMS.
        alpha: exponent of the score of the box's class.
        beta: exponent of the CIoU, which counts as 0 if negative.
    """

    def __init__(
        self,
        one_to_many: Annotated[int, Limits(ge=1)] = 10,
        one_to_one: Annotated[int, Limits(ge=1)] = 1,
        alpha: PositiveNumber = 0.5,
        beta: PositiveNumber = 6.0,
    ) -> None:
        self.one_to_many, self.one_to_one = one_to_many, one_to_one
        self.alpha, self.beta = float(alpha), float(beta)

    @paddle.no_grad()
    def assign(
        self, scores: paddle.Tensor, boxes: paddle.Tensor, points: paddle.Tensor, objects: list[Objects], most: int
    ) -> Assignment:
        """Assigns the objects of each image to at most ``most`` anchors each.

        Predicted are scores, after the sigmoid, ``[N, A, K]`` and boxes ``[N, A, 4]``, in pixels as the anchors
        ``[A, 2]``.
        """
        anchors = points.shape[0]
        step = max(1, PAIRS_AT_ONCE // anchors)
        found: list[tuple[paddle.Tensor, ...]] = []
        for image, present in enumerate(objects):
            slices = [slice(start, start + step) for start in range(0, present.labels.shape[0], step)]
            if not slices:
                continue
            parts = [
                self._wanted(scores[image], boxes[image], points, present.boxes[part], present.labels[part], most)
                for part in slices
            ]
            # [G, A] each.
            metric, overlap = (paddle.concat(list(column)) for column in zip(*parts, strict=True))
            # Whoever overlaps most gets the anchor; argmax takes the first of equals.
            owner = paddle.argmax(overlap, axis=0)
            positive = paddle.nonzero(metric.max(axis=0) > 0).flatten()
            if positive.shape[0] == 0:
                continue
            owner = paddle.gather(owner, positive)
            pairs = paddle.stack([owner, positive], axis=-1)
            own_metric, own_overlap = paddle.gather_nd(metric, pairs), paddle.gather_nd(overlap, pairs)
            # Only where the anchor belongs to the box do its values count towards the maxima of the box.
            belongs = paddle.arange(present.labels.shape[0]).unsqueeze(-1) == owner.unsqueeze(0)
            best_metric = paddle.where(belongs, own_metric, 0.0).max(axis=-1)
            best_overlap = paddle.where(belongs, own_overlap, 0.0).max(axis=-1)
            target = own_metric / paddle.gather(best_metric, owner) * paddle.gather(best_overlap, owner)
            own_box, own_label = paddle.gather(present.boxes, owner), paddle.gather(present.labels, owner)
            found.append((positive + image * anchors, own_box, own_label, target))
        if not found:
            nothing = paddle.zeros([0], dtype="int64")
            return Assignment(nothing, paddle.zeros([0, 4]), nothing, paddle.zeros([0]))
        return Assignment(*(paddle.concat(list(column)) for column in zip(*found, strict=True)))

    def _wanted(
        self, scores: paddle.Tensor, predicted: paddle.Tensor, points: paddle.Tensor, boxes: paddle.Tensor,
        labels: paddle.Tensor, most: int,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:  # fmt: skip
        """Scores ``[A, K]``, predicted boxes ``[A, 4]``, objects' boxes ``[G, 4]`` and labels ``[G]`` -> metric and
        CIoU ``[G, A]`` where a box wants an anchor, 0 elsewhere."""
        corners = boxes.unsqueeze(1)
        inside = ((points > corners[..., :2]) & (points < corners[..., 2:])).all(axis=-1)
        overlap = paddle.where(inside, complete_iou(predicted.unsqueeze(0), corners).clip(min=0), 0.0)
        score = paddle.index_select(scores, labels, axis=1).transpose([1, 0])
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


def class_loss(
    logits: paddle.Tensor, assignment: Assignment, class_weights: np.ndarray | None = None
) -> paddle.Tensor:
    """Returns the sum of the binary cross-entropies of all anchors and classes, of logits ``[N, A, K]``.

    Positive anchors have to learn their score for their class, which ``class_weights`` ``[K]`` multiply; all else 0.
    """
    classes = logits.shape[-1]
    # With logit x and target t an entropy is softplus(x) - x t, and t is 0 nearly everywhere.
    total = functional.softplus(logits).sum()
    cells = assignment.positive * classes + assignment.labels
    chosen = paddle.gather(logits.flatten(), cells)
    total = total - (chosen * assignment.scores).sum()
    if class_weights is None:
        return total
    more = paddle.gather(paddle.to_tensor(class_weights) - 1, assignment.labels)
    return total + (more * (functional.softplus(chosen) - chosen * assignment.scores)).sum()


def distribution_loss(distributions: paddle.Tensor, distances: paddle.Tensor, reg_max: int) -> paddle.Tensor:
    """Returns the distribution focal loss (arXiv 2006.04388, equation 6), the mean of the four sides.

    The cross-entropy with the two bins around the distance, each weighted by how near it is: logits
    ``[P, 4 * reg_max]`` and distances to be learnt ``[P, 4]`` (in strides, cut to ``reg_max`` - 1.01) -> ``[P]``.
    """
    logarithms = functional.log_softmax(distributions.reshape([-1, 4, reg_max]), axis=-1)
    distances = distances.clip(0, reg_max - 1 - MARGIN)
    lower = distances.floor()
    share = (distances - lower).unsqueeze(-1)
    lower = lower.astype("int64").unsqueeze(-1)
    low = paddle.take_along_axis(logarithms, lower, axis=-1)
    high = paddle.take_along_axis(logarithms, lower + 1, axis=-1)
    return -(low * (1 - share) + high * share).squeeze(-1).mean(axis=-1)


def box_losses(
    distributions: paddle.Tensor, points: paddle.Tensor, strides: paddle.Tensor, assignment: Assignment, reg_max: int
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Returns the sums of ``1 - CIoU`` and of the distribution loss over the positive anchors, by their scores.

    Logits are ``[N, A, 4 * reg_max]``, anchors in pixels ``[A, 2]``, strides ``[A, 1]``. Without positive anchors both
    sums are 0, and so are their gradients: several processes wait for the gradient of every weight.
    """
    if assignment.positive.shape[0] == 0:
        nothing = (distributions * 0.0).sum()
        return nothing, nothing
    anchors = assignment.positive % points.shape[0]
    points, strides = paddle.gather(points, anchors), paddle.gather(strides, anchors)
    chosen = paddle.gather(distributions.reshape([-1, 4 * reg_max]), assignment.positive)
    boxes = boxes_around(points, expected_distances(chosen, reg_max) * strides)
    box = (1 - complete_iou(boxes, assignment.boxes)) * assignment.scores
    wanted = paddle.concat([points - assignment.boxes[:, :2], assignment.boxes[:, 2:] - points], axis=-1) / strides
    distribution = distribution_loss(chosen, wanted, reg_max) * assignment.scores
    return box.sum(), distribution.sum()


@paddle.no_grad()
def normalisers(assignments: list[Assignment]) -> paddle.Tensor:
    """Returns what the losses of each branch are divided by: the sum of the scores to be learnt, but at least 1.

    Over several processes it is that of all their images together, divided by the number of processes: their
    gradients are averaged, and so equal those of one process with all the images.
    """
    sums = paddle.stack([assignment.scores.sum() for assignment in assignments])
    processes = paddle.distributed.get_world_size()
    if processes > 1:
        paddle.distributed.all_reduce(sums)
    return sums.clip(min=1.0) / processes
