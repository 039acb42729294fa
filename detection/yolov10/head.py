"""YOLOv10's head (arXiv 2405.14458, section 3.1): one branch to learn much from, and one that needs no suppression."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional
from ppdet.core.workspace import register

from detection.yolov10.assigner import Assignment, Objects, YOLOv10Assigner, objects_of
from detection.yolov10.boxes import anchor_points, boxes_around, expected_distances
from detection.yolov10.branch import STRIDES, DetectionBranch
from detection.yolov10.losses import box_losses, class_loss, normalisers
from ppcls_ext.utils.errors import suggestion

# What each part of the loss counts, by the names that ppdet's heads use.
GAINS = {"class": 0.5, "iou": 7.5, "dfl": 1.5}


@register
class YOLOv10Head(nn.Layer):
    """Dual assignments: two equal branches, each with its own anchors for each box; the losses of both are added.

    The one-to-one branch begins as a copy of the other and sees features through which no gradient flows, so that the
    one-to-many branch alone teaches backbone and neck. Only the one-to-one branch is used after training.

    Args:
        in_channels: channels of the feature maps, from fine to coarse; the neck tells.
        strides: of the feature maps; the neck tells.
        num_classes: number of classes.
        reg_max: bins of the distribution of each distance.
        assigner: chooses the anchors that learn a box.
        loss_weight: gains of the parts of the loss, ``class``, ``iou`` and ``dfl``.

    Raises:
        ValueError: an argument is out of range; the message begins with its key.
    """

    __shared__ = ["num_classes"]
    __inject__ = ["assigner"]

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 512, 1024),
        strides: Sequence[int] = STRIDES,
        num_classes: int = 80,
        reg_max: int = 16,
        assigner: Any = "YOLOv10Assigner",
        loss_weight: dict[str, float] = GAINS,
    ) -> None:
        super().__init__()
        if isinstance(reg_max, bool) or not isinstance(reg_max, int) or reg_max < 2:
            raise ValueError(f"YOLOv10Head.reg_max: must be a whole number of at least 2, got {reg_max!r}")
        self.strides, self.num_classes, self.reg_max = list(strides), num_classes, reg_max
        self.assigner = YOLOv10Assigner() if isinstance(assigner, str) else assigner
        self.gains = _checked_gains(loss_weight)
        self.one_to_many: DetectionBranch | None = DetectionBranch(in_channels, num_classes, reg_max, strides)
        self.one_to_one = copy.deepcopy(self.one_to_many)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], input_shape: Sequence[Any]) -> dict[str, Any]:
        """Takes channels and strides over from the neck's ``out_shape``."""
        return {
            "in_channels": [shape.channels for shape in input_shape],
            "strides": [shape.stride for shape in input_shape],
        }

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Prefixes of the weights whose shape follows the number of classes."""
        return ("one_to_many.classes.", "one_to_one.classes.")

    def forward(
        self, features: Sequence[paddle.Tensor], targets: Mapping[str, Any] | None = None
    ) -> dict[str, paddle.Tensor] | tuple[paddle.Tensor, paddle.Tensor]:
        """In training the losses, else the predictions of the one-to-one branch.

        Args:
            features: maps ``[N, C, H / stride, W / stride]``.
            targets: in training, the batch (see ``detection.yolov10.assigner.objects_of``).

        Returns:
            In training the scalars ``loss`` and, weighted so that they add up to it, its parts ``loss_class``,
            ``loss_iou`` and ``loss_dfl``, and once more by branch ``loss_one_to_many`` and ``loss_one_to_one``. In
            evaluation scores ``[N, A, num_classes]`` and corners ``[N, A, 4]`` in pixels of the input.
        """
        if self.training:
            assert targets is not None, "training needs the batch"
            return self._losses(features, targets)
        points, strides = anchor_points(features, self.strides)
        distributions, logits = _flat(*self.one_to_one(features))
        boxes = boxes_around(points, expected_distances(distributions, self.reg_max) * strides)
        return functional.sigmoid(logits), boxes

    def _losses(self, features: Sequence[paddle.Tensor], targets: Mapping[str, Any]) -> dict[str, paddle.Tensor]:
        assert self.one_to_many is not None, "the branch for training was dropped by convert_to_deploy"
        detached = [feature.detach() for feature in features]
        raw = [_flat(*self.one_to_many(features)), _flat(*self.one_to_one(detached))]
        # Sums over thousands of anchors, powers and logarithms do not survive half precision.
        with paddle.amp.auto_cast(enable=False):
            predictions = [(boxes.astype("float32"), logits.astype("float32")) for boxes, logits in raw]
            grid = anchor_points(features, self.strides)
            objects = objects_of(targets)
            most = (self.assigner.one_to_many, self.assigner.one_to_one)
            assignments = [
                self._assign(boxes, logits, grid, objects, most[branch])
                for branch, (boxes, logits) in enumerate(predictions)
            ]
            scale = normalisers(assignments)
            parts = []
            for branch, (boxes, logits) in enumerate(predictions):
                iou, dfl = box_losses(boxes, *grid, assignments[branch], self.reg_max)
                entropy = class_loss(logits, assignments[branch])
                gains = [self.gains["class"] * entropy, self.gains["iou"] * iou, self.gains["dfl"] * dfl]
                parts.append(paddle.stack(gains) / scale[branch])
            return _named(*parts)

    @paddle.no_grad()
    def _assign(
        self,
        distributions: paddle.Tensor,
        logits: paddle.Tensor,
        grid: tuple[paddle.Tensor, paddle.Tensor],
        objects: list[Objects],
        most: int,
    ) -> Assignment:
        """Distributions ``[N, A, 4 * reg_max]`` and logits ``[N, A, K]`` -> what the anchors have to learn."""
        points, strides = grid
        boxes = boxes_around(points, expected_distances(distributions, self.reg_max) * strides)
        return self.assigner.assign(functional.sigmoid(logits), boxes, points, objects, most)

    def convert_to_deploy(self) -> None:
        """Drops the branch that only training needs."""
        self.one_to_many = None


def _flat(boxes: list[paddle.Tensor], classes: list[paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Maps ``[N, C, H, W]`` -> ``[N, A, C]``, the anchors of all maps behind each other; of both lists."""
    return (
        paddle.concat([part.flatten(2) for part in boxes], axis=-1).transpose([0, 2, 1]),
        paddle.concat([part.flatten(2) for part in classes], axis=-1).transpose([0, 2, 1]),
    )


def _named(one_to_many: paddle.Tensor, one_to_one: paddle.Tensor) -> dict[str, paddle.Tensor]:
    """Names the parts (class, iou, dfl) of both branches, ``[3]`` each, and their sums."""
    both = one_to_many + one_to_one
    return {
        "loss": both.sum(),
        "loss_class": both[0],
        "loss_iou": both[1],
        "loss_dfl": both[2],
        "loss_one_to_many": one_to_many.sum(),
        "loss_one_to_one": one_to_one.sum(),
    }


def _checked_gains(loss_weight: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(loss_weight, Mapping):
        raise ValueError(f"YOLOv10Head.loss_weight: must be a mapping with {', '.join(GAINS)}, got {loss_weight!r}")
    for name, value in loss_weight.items():
        if name not in GAINS:
            near = suggestion(str(name), GAINS)
            raise ValueError(f"YOLOv10Head.loss_weight: must hold {', '.join(GAINS)} only, got '{name}'{near}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"YOLOv10Head.loss_weight.{name}: must be a number of at least 0, got {value!r}")
    return {**GAINS, **loss_weight}
