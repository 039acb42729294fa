"""YOLOv10 (arXiv 2405.14458) as an architecture of PaddleDetection: ``architecture: YOLOv10`` in YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn
from ppdet.core.workspace import create, register
from ppdet.modeling.architectures.meta_arch import BaseArch

from detection.yolov10.head import YOLOv10Head
from detection.yolov10.selection import KEEP, centred, select, to_picture


@register
class YOLOv10(BaseArch):
    """Backbone, neck and head, which train with losses and detect without suppression.

    Args:
        backbone: makes three feature maps of a batch.
        neck: mixes them.
        yolo_head: makes losses, or scores and boxes of all anchors.
        keep: at most so many detections of an image are given.

    Raises:
        ValueError: an argument is out of range; the message begins with its key.
    """

    __category__ = "architecture"

    def __init__(
        self,
        backbone: str | nn.Layer = "YOLOv10Backbone",
        neck: str | nn.Layer = "YOLOv10Neck",
        yolo_head: str | nn.Layer = "YOLOv10Head",
        keep: int = KEEP,
    ) -> None:
        super().__init__()
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"YOLOv10.keep: must be a whole number of at least 1, got {keep!r}")
        if not isinstance(yolo_head, str | YOLOv10Head):
            kind = type(yolo_head).__name__
            raise ValueError(f"YOLOv10.yolo_head: must be YOLOv10Head or made from it, got {kind}")
        self.backbone, self.neck, self.yolo_head = backbone, neck, yolo_head
        self.keep = keep
        self._letterboxed = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *arguments: Any, **options: Any) -> dict[str, nn.Layer]:
        """Builds the three parts; each is told what the one before it gives."""
        backbone = create(config["backbone"])
        neck = create(config["neck"], input_shape=backbone.out_shape)
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
            pad = centred(self.inputs["im_shape"], self.inputs["image"])
        detections = to_picture(detections, self.inputs["scale_factor"], pad)
        counts = paddle.full_like(detections[:, 0, 0], detections.shape[1], dtype="int32")
        return {"bbox": detections.reshape([-1, 6]), "bbox_num": counts}

    def detect(self, image: paddle.Tensor) -> paddle.Tensor:
        """``[N, 3, H, W]`` -> ``[N, k, 6]``: class, score, corners in pixels of the input; k is ``keep`` or less."""
        return select(*self.candidates(image), self.keep)

    def candidates(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """``[N, 3, H, W]`` -> scores ``[N, A, C]``, corners ``[N, A, 4]`` in pixels of the input, of all anchors."""
        return self.yolo_head(self.neck(self.backbone({"image": image})))
