"""A detector as a subject of `ppcls_ext.deploy.profile`: backbone, neck and head, from pixels to scores and boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detection.toolkit import build_model
from ppcls_ext.deploy.profile import Subject
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    import paddle

    from detection.configuration import DetectionConfig

IMAGE_SIZE = 640
PARTS = ("backbone", "neck", "yolo_head")


def detector_subject(config: DetectionConfig, size: tuple[int, int] | None = None) -> Subject:
    """Builds the detector of a configuration as it is trained (random weights, branches not merged), to be profiled.

    Args:
        config: the detector.
        size: height and width of the images; 640 x 640 by default.

    Raises:
        UserError: the detector cannot be built, or has other parts than a backbone, a neck and a YOLO head.
    """
    model = build_model(config, pretrained=False)
    missing = [part for part in PARTS if getattr(model, part, None) is None]
    if missing:
        raise UserError(f"{config.path}: {config.architecture} has no {', '.join(missing)}; it cannot be profiled")

    def forward(images: paddle.Tensor) -> Any:
        return model.yolo_head(model.neck(model.backbone({"image": images})))

    return Subject(config.path.stem, model, forward, (3, *(size or (IMAGE_SIZE, IMAGE_SIZE))))
