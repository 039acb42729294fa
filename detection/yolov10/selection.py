"""The detections of YOLOv10 (arXiv 2405.14458, section 3.1): the best scores, without any suppression."""

from __future__ import annotations

import paddle

KEEP = 300


# Its default is a number because Paddle's conversion into a graph cannot see a module's names there.
def select(scores: paddle.Tensor, boxes: paddle.Tensor, keep: int = 300) -> paddle.Tensor:
    """Picks the anchors with the best top class, then the best pairs of anchor and class among them.

    An anchor may so be kept for several classes. Made of plain operators, so that every exporter knows them.

    Args:
        scores: ``[N, A, K]``, after the sigmoid.
        boxes: corners ``[N, A, 4]``.
        keep: detections of an image; all, if there are fewer anchors.

    Returns:
        ``[N, min(keep, A), 6]``: class, score, left, top, right, bottom; by falling score.
    """
    anchors, classes = scores.shape[1], scores.shape[2]
    # PaddleDetection's exporter leaves the size of the image open, and then only the graph will know their number.
    keep = min(keep, anchors) if isinstance(anchors, int) else paddle.clip(anchors, max=keep)
    best = paddle.topk(scores.max(axis=-1), keep, axis=-1)[1].unsqueeze(-1)
    scores = paddle.take_along_axis(scores, best.tile([1, 1, classes]), axis=1)
    boxes = paddle.take_along_axis(boxes, best.tile([1, 1, 4]), axis=1)
    values, pairs = paddle.topk(scores.reshape([-1, keep * classes]), keep, axis=-1)
    owners, labels = pairs // classes, pairs % classes
    boxes = paddle.take_along_axis(boxes, owners.unsqueeze(-1).tile([1, 1, 4]), axis=1)
    return paddle.concat([labels.unsqueeze(-1).astype(values.dtype), values.unsqueeze(-1), boxes], axis=-1)


def to_picture(detections: paddle.Tensor, scale_factor: paddle.Tensor, pad: paddle.Tensor | None) -> paddle.Tensor:
    """Moves detections from the network's input to the original picture.

    Args:
        detections: ``[N, k, 6]``, as :func:`select` returns them.
        scale_factor: size of the scaled picture in the input, by that of the original, (y, x) ``[N, 2]``.
        pad: pixels of the input above and left of the picture (top, left) ``[N, 2]``; none if missing.

    Returns:
        ``[N, k, 6]``, corners in pixels of the original.
    """
    corners = detections[:, :, 2:]
    if pad is not None:
        left_top = paddle.concat([pad[:, 1:], pad[:, :1]], axis=-1).astype(corners.dtype)
        corners = corners - paddle.concat([left_top, left_top], axis=-1).unsqueeze(1)
    x_y = paddle.concat([scale_factor[:, 1:], scale_factor[:, :1]], axis=-1).astype(corners.dtype)
    corners = corners / paddle.concat([x_y, x_y], axis=-1).unsqueeze(1)
    return paddle.concat([detections[:, :, :2], corners], axis=-1)


def centred(im_shape: paddle.Tensor, image: paddle.Tensor) -> paddle.Tensor:
    """Returns the padding above and left of pictures that lie in the middle of their input, as ``LetterResize`` pads.

    Args:
        im_shape: height and width of the pictures in the input ``[N, 2]``.
        image: the inputs ``[N, 3, H, W]``.

    Returns:
        (top, left) ``[N, 2]``, whole pixels.
    """
    size = paddle.shape(image)[2:].astype(im_shape.dtype)
    return paddle.floor((size - im_shape) / 2)
