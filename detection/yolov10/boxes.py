"""Anchors, box distributions and the overlap of boxes, as YOLOv10's head, assigner and losses need them.

Boxes are corners (left, top, right, bottom) in pixels of the network's input. An anchor is the centre of a cell of a
feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle.nn import functional

# Keeps quotients of empty boxes finite; far below the area of a pixel.
EPSILON = 1e-7


def anchor_points(features: Sequence[paddle.Tensor], strides: Sequence[int]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Returns the anchors of all feature maps, map by map and there row by row.

    Args:
        features: maps ``[N, C, H, W]``, of which only the size is read.
        strides: pixels between two cells of each map.

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
    """Returns the mean of each distribution over the bins 0 ... ``reg_max`` - 1.

    Generalized focal loss, arXiv 2006.04388, equation 3.

    Args:
        distributions: logits ``[..., 4 * reg_max]``: the bins of left, then top, right and bottom.
        reg_max: number of bins.

    Returns:
        Distances ``[..., 4]`` in units of the stride, from 0 to ``reg_max`` - 1.
    """
    leading = distributions.shape[:-1]
    probabilities = functional.softmax(distributions.reshape([*leading, 4, reg_max]), axis=-1)
    return (probabilities * paddle.arange(reg_max, dtype=probabilities.dtype)).sum(axis=-1)


def boxes_around(points: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Returns the boxes whose sides lie at these distances from the anchors.

    Args:
        points: anchors (x, y) ``[A, 2]``.
        distances: to left, top, right and bottom ``[..., A, 4]``, in pixels.

    Returns:
        Corners ``[..., A, 4]`` in pixels.
    """
    return paddle.concat([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def distances_to(points: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
    """Returns the distances from anchors ``[A, 2]`` to the sides of boxes ``[A, 4]``: the reverse of
    :func:`boxes_around`, ``[A, 4]`` in pixels; negative for an anchor outside."""
    return paddle.concat([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def complete_iou(first: paddle.Tensor, second: paddle.Tensor) -> paddle.Tensor:
    """Returns the complete IoU: overlap, less the distance of the centres, less the difference of the proportions.

    Distance-IoU loss, arXiv 1911.08287, equations 8 to 11: ``IoU - d^2 / c^2 - a v``, where d is the distance of the
    centres, c the diagonal of the smallest box around both, ``v = 4 / pi^2 (atan(w1 / h1) - atan(w2 / h2))^2`` and
    ``a = v / (1 - IoU + v)``, through which no gradient flows.

    Args:
        first: boxes ``[..., 4]``.
        second: boxes ``[..., 4]``; the leading axes may be broadcast against each other.

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
