"""How detections are chosen among all anchors, in NumPy, for exports that leave it out of their graph.

``NmsSettings``: non-maximum suppression (PP-YOLOE); ``TopkSettings``: the best candidates (YOLOv10).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Below this threshold ``nms_eta`` lowers it no further.
LOWEST_ADAPTED = 0.5


@dataclass(frozen=True)
class NmsSettings:
    """How overlapping boxes are thinned out; the names are those of ppdet's ``MultiClassNMS``.

    Attributes:
        score_threshold: candidates with a lower or equal score are dropped.
        nms_top_k: so many best candidates of each class enter the comparison; -1 takes all.
        keep_top_k: at most so many boxes of an image are kept, over all classes; -1 keeps all.
        nms_threshold: of two boxes of a class whose intersection over union is larger, the lower-scored one is dropped.
        normalized: whether a box from x 3 to x 5 is 2 wide; if not, it covers the pixels 3, 4 and 5 and is 3 wide.
        nms_eta: below 1, the threshold (while above 0.5) is multiplied by it after each box that is kept.
        background_label: a class that is left out; -1 leaves out none.
        class_agnostic: what is left is thinned out once more, by the same threshold, whatever the classes.
    """

    score_threshold: float = 0.05
    nms_top_k: int = -1
    keep_top_k: int = 100
    nms_threshold: float = 0.5
    normalized: bool = True
    nms_eta: float = 1.0
    background_label: int = -1
    class_agnostic: bool = False

    def select(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """See :func:`suppress`."""
        return suppress(boxes, scores, self)


def intersection_over_union(box: np.ndarray, others: np.ndarray, normalized: bool = True) -> np.ndarray:
    """Returns the overlap of ``box`` ``[4]`` (x1, y1, x2, y2) with each of ``others`` ``[N, 4]`` as ``[N]``, 0 to 1."""
    extra = box.dtype.type(0 if normalized else 1)
    x1, y1 = np.maximum(others[:, 0], box[0]), np.maximum(others[:, 1], box[1])
    x2, y2 = np.minimum(others[:, 2], box[2]), np.minimum(others[:, 3], box[3])
    common = (x2 - x1 + extra) * (y2 - y1 + extra)
    total = _area(others, extra) + _area(box[np.newaxis], extra) - common
    # Two boxes without area give no number, which is below no threshold: the operator drops the second too.
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap = common / total
    apart = (others[:, :2] > box[2:]) | (others[:, 2:] < box[:2])
    return np.where(apart.any(axis=1), box.dtype.type(0), overlap)


def _area(boxes: np.ndarray, extra: np.floating) -> np.ndarray:
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return np.where((width < 0) | (height < 0), 0, (width + extra) * (height + extra)).astype(boxes.dtype)


def suppress(boxes: np.ndarray, scores: np.ndarray, settings: NmsSettings) -> np.ndarray:
    """Thins out the candidates of one image exactly as the operator ``multiclass_nms3`` does.

    ``boxes`` are ``float32`` ``[A, 4]``, corners, and ``scores`` ``[C, A]``. Returns ``float32`` ``[K, 6]``: class,
    score, x1, y1, x2, y2; class by class, the best of each class first.
    """
    boxes = np.ascontiguousarray(boxes, dtype=np.float32)
    kept: list[tuple[int, int]] = []
    for label, column in enumerate(np.asarray(scores, dtype=np.float32)):
        if label != settings.background_label:
            kept += [(label, index) for index in _suppress_class(boxes, column, settings)]
    if -1 < settings.keep_top_k < len(kept):
        best = np.argsort([-scores[label, index] for label, index in kept], kind="stable")[: settings.keep_top_k]
        # The order of classes first, then that of scores.
        kept = sorted((kept[number] for number in best), key=lambda pair: pair[0])
    rows = [[label, scores[label, index], *boxes[index]] for label, index in kept]
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def _suppress_class(boxes: np.ndarray, scores: np.ndarray, settings: NmsSettings) -> list[int]:
    """Returns the indices of the boxes of one class that are kept, best first."""
    candidates = np.flatnonzero(scores > np.float32(settings.score_threshold))
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    if settings.nms_top_k > -1:
        order = order[: settings.nms_top_k]
    if settings.nms_eta < 1:
        return _suppress_adaptively(boxes, order, settings)
    return _suppress_in_order(boxes, order, settings)


def _suppress_in_order(boxes: np.ndarray, order: np.ndarray, settings: NmsSettings) -> list[int]:
    kept, threshold = [], np.float32(settings.nms_threshold)
    while order.size:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        order = order[intersection_over_union(boxes[best], boxes[order], settings.normalized) <= threshold]
    return kept


def suppress_across_classes(rows: np.ndarray, settings: NmsSettings) -> np.ndarray:
    """Thins out the detections of one image, ``float32`` ``[n, 6]`` (class, score, x1, y1, x2, y2), whatever their
    classes: of two that overlap, the better one stays. Keeps the order."""
    kept = _suppress_in_order(rows[:, 2:], np.argsort(-rows[:, 1], kind="stable"), settings)
    return rows[np.sort(np.array(kept, np.int64))]


def _suppress_adaptively(boxes: np.ndarray, order: np.ndarray, settings: NmsSettings) -> list[int]:
    """Compares each candidate with all that are kept so far, under a threshold that falls with each of those."""
    threshold, eta = np.float32(settings.nms_threshold), np.float32(settings.nms_eta)
    kept: list[int] = []
    for index in order:
        if (intersection_over_union(boxes[index], boxes[kept], settings.normalized) <= threshold).all():
            kept.append(int(index))
            if threshold > LOWEST_ADAPTED:
                threshold *= eta
    return kept


@dataclass(frozen=True)
class TopkSettings:
    """How many candidates are kept of a network that gives each object one box (YOLOv10, arXiv 2405.14458).

    Attributes:
        keep: at most so many boxes of an image are kept, over all classes; fewer if there are fewer anchors.
    """

    keep: int = 300

    def select(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Takes the ``keep`` anchors whose best class scores highest, and of their classes the ``keep`` best.

        ``boxes`` and ``scores`` as of :func:`suppress`. Returns ``float32`` ``[min(keep, A), 6]``: class, score, x1,
        y1, x2, y2; the best first.
        """
        keep = min(self.keep, len(boxes))
        anchors = np.argsort(-scores.max(axis=0), kind="stable")[:keep]
        candidates = scores[:, anchors].T.reshape(-1)
        best = np.argsort(-candidates, kind="stable")[:keep]
        places, labels = np.divmod(best, len(scores))
        numbers = np.stack([labels, candidates[best]], axis=1)
        return np.concatenate([numbers, boxes[anchors[places]]], axis=1, dtype=np.float32)
