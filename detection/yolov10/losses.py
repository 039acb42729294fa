"""The losses of one branch of YOLOv10's head. All are computed in float32, whatever the network computes in."""

from __future__ import annotations

import paddle
from paddle.nn import functional

from detection.yolov10.assigner import Assignment
from detection.yolov10.boxes import boxes_around, complete_iou, distances_to, expected_distances

# How far a distance that is to be learnt stays below the last bin, so that a bin follows it.
MARGIN = 0.01


def class_loss(logits: paddle.Tensor, assignment: Assignment) -> paddle.Tensor:
    """Returns the sum of the binary cross-entropies of all anchors and classes.

    Args:
        logits: ``[N, A, K]``.
        assignment: the score that each positive anchor has to learn for its class; all else has to learn 0.

    Returns:
        A scalar, to be divided by the normaliser.
    """
    classes = logits.shape[-1]
    # With logit x and target t an entropy is softplus(x) - x t, and t is 0 nearly everywhere.
    total = functional.softplus(logits).sum()
    cells = assignment.positive * classes + assignment.labels
    return total - (paddle.gather(logits.flatten(), cells) * assignment.scores).sum()


def distribution_loss(distributions: paddle.Tensor, distances: paddle.Tensor, reg_max: int) -> paddle.Tensor:
    """Returns the distribution focal loss (arXiv 2006.04388, equation 6), the mean of the four sides.

    The cross-entropy with the two bins around the distance, each weighted by how near it is.

    Args:
        distributions: logits ``[P, 4 * reg_max]``.
        distances: to be learnt, in units of the stride ``[P, 4]``; cut to 0 ... ``reg_max`` - 1.01.
        reg_max: number of bins.

    Returns:
        ``[P]``.
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
    distributions: paddle.Tensor,
    points: paddle.Tensor,
    strides: paddle.Tensor,
    assignment: Assignment,
    reg_max: int,
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Returns the sums of ``1 - CIoU`` and of the distribution loss over the positive anchors, by their scores.

    Each anchor counts as much as the score that it has to learn.

    Args:
        distributions: logits of all anchors ``[N, A, 4 * reg_max]``.
        points: anchors in pixels ``[A, 2]``.
        strides: ``[A, 1]``.
        assignment: what the anchors have to learn.
        reg_max: number of bins.

    Returns:
        Two scalars, to be divided by the normaliser. Without positive anchors they are 0, and so are their gradients:
        several processes wait for the gradient of every weight.
    """
    if assignment.positive.shape[0] == 0:
        nothing = (distributions * 0.0).sum()
        return nothing, nothing
    anchors = assignment.positive % points.shape[0]
    points, strides = paddle.gather(points, anchors), paddle.gather(strides, anchors)
    chosen = paddle.gather(distributions.reshape([-1, 4 * reg_max]), assignment.positive)
    boxes = boxes_around(points, expected_distances(chosen, reg_max) * strides)
    box = (1 - complete_iou(boxes, assignment.boxes)) * assignment.scores
    wanted = distances_to(points, assignment.boxes) / strides
    distribution = distribution_loss(chosen, wanted, reg_max) * assignment.scores
    return box.sum(), distribution.sum()


@paddle.no_grad()
def normalisers(assignments: list[Assignment]) -> paddle.Tensor:
    """Returns what the losses of each branch are divided by: the sum of the scores to be learnt, but at least 1.

    Over several processes it is that of all their images together, divided by the number of processes: their
    gradients are averaged, and so equal those of one process with all the images.

    Args:
        assignments: of each branch.

    Returns:
        ``float32`` ``[branches]``.
    """
    sums = paddle.stack([assignment.scores.sum() for assignment in assignments])
    processes = paddle.distributed.get_world_size()
    if processes > 1:
        paddle.distributed.all_reduce(sums)
    return sums.clip(min=1.0) / processes
