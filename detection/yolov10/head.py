"""YOLOv10's head and the whole detector (arXiv 2405.14458, section 3.1): two branches in training, no NMS afterwards.

:class:`DetectionBranch` predicts, :class:`YOLOv10Head` trains two of them and uses one, :func:`select` keeps the best
detections, :class:`YOLOv10` puts backbone, neck and head together (``architecture: YOLOv10`` in YAML).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional
from paddle.nn.initializer import Constant
from ppdet.core.workspace import create, register
from ppdet.modeling.architectures.meta_arch import BaseArch

from detection.yolov10.loss import (
    YOLOv10Assigner,
    anchor_points,
    box_losses,
    boxes_around,
    class_loss,
    expected_distances,
    normalisers,
    objects_of,
)
from detection.yolov10.network import ConvNorm, YOLOv10Backbone, YOLOv10Neck, depthwise, uniform_weights
from detection.yolov10.scales import STRIDES
from ppcls_ext.utils.errors import suggestion
from ppcls_ext.utils.signature import Limits

# The picture and the number of objects in it from which the classes' first scores are derived.
_USUAL_SIZE = 640
_USUAL_OBJECTS = 5
_BOX_BIAS = 1.0
# What each part of the loss counts, by the names that ppdet's heads use.
GAINS = {"class": 0.5, "iou": 7.5, "dfl": 1.5}
KEEP = 300


class DetectionBranch(nn.Layer):
    """Two small stacks of convolutions for each feature map: four box distributions, and a logit for each class.

    Boxes are distances from the anchor to left, top, right and bottom in units of the stride, each a distribution over
    0 ... ``reg_max`` - 1 (generalized focal loss, arXiv 2006.04388); the class stack is depthwise separable. Only the
    first biases depend on ``strides``, the pixels between two anchors of each map.
    """

    def __init__(
        self, in_channels: Sequence[int], class_num: int, reg_max: int = 16, strides: Sequence[int] = STRIDES
    ) -> None:
        super().__init__()
        if class_num < 1:
            raise ValueError(f"num_classes: must be a whole number of at least 1, got {class_num!r}")

        def prediction(width: int, outputs: int, bias: float) -> nn.Conv2D:
            bias_attr = paddle.ParamAttr(initializer=Constant(bias))
            return nn.Conv2D(width, outputs, 1, weight_attr=uniform_weights(), bias_attr=bias_attr)

        box_width = max(16, in_channels[0] // 4, 4 * reg_max)
        class_width = max(in_channels[0], min(class_num, 100))
        self.boxes = nn.LayerList(
            nn.Sequential(
                ConvNorm(channels, box_width, 3),
                ConvNorm(box_width, box_width, 3),
                prediction(box_width, 4 * reg_max, _BOX_BIAS),
            )
            for channels in in_channels
        )
        self.classes = nn.LayerList(
            nn.Sequential(
                depthwise(channels),
                ConvNorm(channels, class_width),
                depthwise(class_width),
                ConvNorm(class_width, class_width),
                # The logit of a class at one anchor if a picture holds a few objects, evenly over classes and anchors.
                prediction(class_width, class_num, math.log(_USUAL_OBJECTS / class_num / (_USUAL_SIZE / stride) ** 2)),
            )
            for channels, stride in zip(in_channels, strides, strict=True)
        )

    def forward(self, features: Sequence[paddle.Tensor]) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """Feature maps ``[N, C, H, W]`` -> box distributions ``[N, 4 * reg_max, H, W]`` (logits; the bins of left, then
        top, right and bottom) and class logits ``[N, class_num, H, W]``, one of each for every map."""
        # By index, because Paddle's conversion into a graph knows no strict zip.
        boxes = [layers(features[index]) for index, layers in enumerate(self.boxes)]
        classes = [layers(features[index]) for index, layers in enumerate(self.classes)]
        return boxes, classes


@register
class YOLOv10Head(nn.Layer):
    """Dual assignments: two equal branches, each with its own anchors for each box; the losses of both are added.

    The one-to-one branch begins as a copy of the other and sees features through which no gradient flows, so that the
    one-to-many branch alone teaches backbone and neck. Only the one-to-one branch is used after training.

    Args:
        in_channels, strides: of the feature maps, from fine to coarse; the neck tells.
        reg_max: bins of the distribution of each distance.
        assigner: chooses the anchors that learn a box.
        loss_weight: gains of the parts of the loss, ``class``, ``iou`` and ``dfl``.

    Attributes:
        class_weights: what an object of each class counts in the class loss, ``[num_classes]``, or ``None``.

    Raises:
        ValueError: a gain is negative or unknown; the message begins with its key.
    """

    __shared__ = ["num_classes"]
    __inject__ = ["assigner"]

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 512, 1024),
        strides: Sequence[int] = STRIDES,
        num_classes: int = 80,
        reg_max: Annotated[int, Limits(ge=2)] = 16,
        assigner: Any = "YOLOv10Assigner",
        loss_weight: dict[str, float] = GAINS,
    ) -> None:
        super().__init__()
        for name, value in loss_weight.items():
            if name not in GAINS:
                near = suggestion(str(name), GAINS)
                raise ValueError(f"YOLOv10Head.loss_weight: must hold {', '.join(GAINS)} only, got '{name}'{near}")
            if not value >= 0:
                raise ValueError(f"YOLOv10Head.loss_weight.{name}: must be a number of at least 0, got {value!r}")
        self.strides, self.num_classes, self.reg_max = list(strides), num_classes, reg_max
        self.assigner = YOLOv10Assigner() if isinstance(assigner, str) else assigner
        self.gains = {**GAINS, **loss_weight}
        self.class_weights: np.ndarray | None = None
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
            targets: in training, the batch (see ``detection.yolov10.loss.objects_of``).

        Returns:
            In training the scalars ``loss`` and, weighted so that they add up to it, its parts ``loss_class``,
            ``loss_iou`` and ``loss_dfl``, and once more by branch ``loss_one_to_many`` and ``loss_one_to_one``. In
            evaluation scores ``[N, A, num_classes]`` and corners ``[N, A, 4]`` in pixels of the input.
        """
        if self.training:
            assert targets is not None, "training needs the batch"
            return self._losses(features, targets)
        points, strides = anchor_points(features, self.strides)
        distributions, logits = _flat(self.one_to_one(features))
        boxes = boxes_around(points, expected_distances(distributions, self.reg_max) * strides)
        return functional.sigmoid(logits), boxes

    def _losses(self, features: Sequence[paddle.Tensor], targets: Mapping[str, Any]) -> dict[str, paddle.Tensor]:
        assert self.one_to_many is not None, "the branch for training was dropped by convert_to_deploy"
        detached = [feature.detach() for feature in features]
        raw = [_flat(self.one_to_many(features)), _flat(self.one_to_one(detached))]
        # Sums over thousands of anchors, powers and logarithms do not survive half precision.
        with paddle.amp.auto_cast(enable=False):
            predictions = [(boxes.astype("float32"), logits.astype("float32")) for boxes, logits in raw]
            points, strides = anchor_points(features, self.strides)
            objects = objects_of(targets)
            assignments = []
            limits = (self.assigner.one_to_many, self.assigner.one_to_one)
            for (distributions, logits), most in zip(predictions, limits, strict=True):
                with paddle.no_grad():
                    boxes = boxes_around(points, expected_distances(distributions, self.reg_max) * strides)
                    scores = functional.sigmoid(logits)
                    assignments.append(self.assigner.assign(scores, boxes, points, objects, most))
            scale = normalisers(assignments)
            branches = []
            for branch, (distributions, logits) in enumerate(predictions):
                iou, dfl = box_losses(distributions, points, strides, assignments[branch], self.reg_max)
                entropy = class_loss(logits, assignments[branch], self.class_weights)
                gains = [self.gains["class"] * entropy, self.gains["iou"] * iou, self.gains["dfl"] * dfl]
                branches.append(paddle.stack(gains) / scale[branch])
            both = branches[0] + branches[1]
            names = ("loss_class", "loss_iou", "loss_dfl", "loss_one_to_many", "loss_one_to_one")
            parts = (*both, *(branch.sum() for branch in branches))
            return {"loss": both.sum(), **dict(zip(names, parts, strict=True))}

    def convert_to_deploy(self) -> None:
        """Drops the branch that only training needs."""
        self.one_to_many = None


def _flat(maps: tuple[list[paddle.Tensor], list[paddle.Tensor]]) -> list[paddle.Tensor]:
    """Maps ``[N, C, H, W]`` -> ``[N, A, C]``, the anchors of all maps behind each other; of boxes and of classes."""
    return [paddle.concat([part.flatten(2) for part in parts], axis=-1).transpose([0, 2, 1]) for parts in maps]


# Its default is a number because Paddle's conversion into a graph cannot see a module's names there.
def select(scores: paddle.Tensor, boxes: paddle.Tensor, keep: int = 300) -> paddle.Tensor:
    """Picks the anchors with the best top class, then the best pairs of anchor and class among them.

    An anchor may so be kept for several classes. Made of plain operators, so that every exporter knows them.
    Scores ``[N, A, K]`` after the sigmoid, corners ``[N, A, 4]`` -> ``[N, min(keep, A), 6]``: class, score, left, top,
    right, bottom; by falling score.
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
    """Moves detections ``[N, k, 6]`` of :func:`select` from the network's input to the original picture.

    ``scale_factor`` ``[N, 2]`` is the size of the scaled picture by that of the original (y, x); ``pad`` ``[N, 2]`` the
    pixels of the input above and left of it.
    """
    corners = detections[:, :, 2:]
    if pad is not None:
        left_top = paddle.concat([pad[:, 1:], pad[:, :1]], axis=-1).astype(corners.dtype)
        corners = corners - paddle.concat([left_top, left_top], axis=-1).unsqueeze(1)
    x_y = paddle.concat([scale_factor[:, 1:], scale_factor[:, :1]], axis=-1).astype(corners.dtype)
    corners = corners / paddle.concat([x_y, x_y], axis=-1).unsqueeze(1)
    return paddle.concat([detections[:, :, :2], corners], axis=-1)


@register
class YOLOv10(BaseArch):
    """Backbone, neck and head, which train with losses and detect without NMS, at most ``keep`` objects of an image.

    Raises:
        ValueError: ``yolo_head`` is another head.
    """

    __category__ = "architecture"

    def __init__(
        self,
        backbone: str | nn.Layer = "YOLOv10Backbone",
        neck: str | nn.Layer = "YOLOv10Neck",
        yolo_head: str | nn.Layer = "YOLOv10Head",
        keep: Annotated[int, Limits(ge=1)] = KEEP,
    ) -> None:
        super().__init__()
        if not isinstance(yolo_head, str | YOLOv10Head):
            kind = type(yolo_head).__name__
            raise ValueError(f"YOLOv10.yolo_head: must be YOLOv10Head or made from it, got {kind}")
        self.backbone, self.neck, self.yolo_head = backbone, neck, yolo_head
        self.keep = keep
        self._letterboxed = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *arguments: Any, **options: Any) -> dict[str, nn.Layer]:
        """Builds the three parts; each is told what the one before it gives.

        Raises:
            ValueError: backbone and neck are of different scales.
        """
        backbone = create(config["backbone"])
        neck = create(config["neck"], input_shape=backbone.out_shape)
        # B and L are equally wide: their channels alone would fit.
        both_scaled = isinstance(backbone, YOLOv10Backbone) and isinstance(neck, YOLOv10Neck)
        if both_scaled and neck.scale not in (None, backbone.scale):
            raise ValueError(f"YOLOv10Neck.scale: is {neck.scale}, but that of the backbone is {backbone.scale}")
        head = create(config["yolo_head"], input_shape=neck.out_shape)
        return {"backbone": backbone, "neck": neck, "yolo_head": head}

    def load_meanstd(self, cfg_transform: Sequence[Mapping[str, Any]]) -> None:
        """ppdet's trainer calls this with the operators of ``TestReader``, which tell whether its inputs are padded."""
        super().load_meanstd(cfg_transform)
        self._letterboxed = any("LetterResize" in entry for entry in cfg_transform)

    def get_loss(self) -> dict[str, paddle.Tensor]:
        """``self.inputs``, a batch with ``image`` ``[N, 3, H, W]`` and boxes -> scalars by name, ``loss`` their sum."""
        return self.yolo_head(self.neck(self.backbone(self.inputs)), self.inputs)

    def get_pred(self) -> dict[str, paddle.Tensor]:
        """``self.inputs``, a batch with ``image``, ``scale_factor`` ``[N, 2]`` and perhaps ``pad`` -> detections.

        Where ``pad`` is missing although inputs are letterboxed, ``im_shape`` ``[N, 2]`` tells it.

        Returns:
            ``bbox`` ``[N * k, 6]``: class, score and corners in pixels of the original picture, k of each image by
            falling score; ``bbox_num`` ``int32`` ``[N]``: k.
        """
        detections = self.detect(self.inputs["image"])
        pad = self.inputs.get("pad")
        if pad is None and self._letterboxed:
            # PaddleDetection's exporter has no input for the padding, but one for the size that it surrounds.
            size = paddle.shape(self.inputs["image"])[2:].astype(self.inputs["im_shape"].dtype)
            pad = paddle.floor((size - self.inputs["im_shape"]) / 2)
        detections = to_picture(detections, self.inputs["scale_factor"], pad)
        counts = paddle.full_like(detections[:, 0, 0], detections.shape[1], dtype="int32")
        return {"bbox": detections.reshape([-1, 6]), "bbox_num": counts}

    def detect(self, image: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3, H, W]`` -> ``[N, k, 6]``: class, score, corners in pixels of the input; k is ``keep`` or less."""
        return select(*self.candidates(image), self.keep)

    def candidates(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """``[N, 3, H, W]`` -> scores ``[N, A, C]``, corners ``[N, A, 4]`` in pixels of the input, of all anchors."""
        return self.yolo_head(self.neck(self.backbone({"image": image})))
