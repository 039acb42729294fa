"""Parameters and GFLOPs of a detector, counted as the published tables count them."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple

from detection.toolkit import build_model
from ppcls_ext.arch.flops import count_flops, count_parameters
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    import paddle

    from detection.configuration import DetectionConfig

IMAGE_SIZE = 640
OFFICIAL_CLASSES = 80
_PARTS = ("backbone", "neck", "yolo_head")
_OUR_BACKBONES = ("EConvNeXt", "CSPConvNeXt")
# Counted as trained, whatever their backbone.
_OUR_ARCHITECTURES = ("YOLOv10",)
# GFLOPs that the E-ConvNeXt paper prints for its rows.
PUBLISHED_GFLOPS = {
    "ppyoloe_s_cspresnet_sonar": 17.4,
    "ppyoloe_s_econvnext_mini_sonar": 20.56,
    "ppyoloe_l_cspresnet_sonar": 110.7,
    "ppyoloe_l_econvnext_tiny_sonar": 82.6,
    "yolov10_l_sonar": 120.0,
    "yolov10_l_duo": 120.0,
    "yolov10_m_convnext_tiny_sonar": 94.3,
    "yolov10_m_econvnext_tiny_sonar": 69.9,
    "yolov10_l_econvnext_tiny_duo": 78.0,
}


# See :func:`count_gflops`.
Form = Literal["training", "official"]


class Parameters(NamedTuple):
    """Numbers of trainable parameters of a detector and of its parts."""

    backbone: int
    neck: int
    head: int
    total: int


def count_parts(model: paddle.nn.Layer) -> Parameters:
    """Counts what is trained in each part of a detector."""
    layers = [getattr(model, name, None) for name in _PARTS]
    parts = [0 if layer is None else count_parameters(layer) for layer in layers]
    return Parameters(*parts, count_parameters(model))


def published_form(config: DetectionConfig) -> Form:
    """Returns the form in which the published table counts this detector (see :func:`count_gflops`)."""
    backbone = config.data.get(config.architecture, {}).get("backbone")
    ours = backbone in _OUR_BACKBONES or config.architecture in _OUR_ARCHITECTURES
    return "training" if ours else "official"


def count_gflops(config: DetectionConfig, form: Form | None = None) -> float:
    """Counts twice the multiply-adds of one 640 x 640 image, from its pixels to scores and boxes before NMS.

    Args:
        config: the detector.
        form: ``training`` counts the network that is trained, with the classes of the configuration (of YOLOv10's two
            branches only the one that predicts): the rule of the E-ConvNeXt and YOLOv10 rows. ``official`` counts the
            network that is deployed (branches merged) with 80 classes, as PaddleDetection's own tables do: the rule of
            the CSPResNet rows. By default the one that the published table uses for the detector.
    """
    form = form or published_form(config)
    if form == "official":
        document = copy.deepcopy(config.document)
        document.data["num_classes"] = OFFICIAL_CLASSES
        config = dataclasses.replace(config, document=document)
    model = build_model(config, pretrained=False)
    model.eval()
    if form == "official":
        for layer in model.sublayers():
            if hasattr(layer, "convert_to_deploy"):
                layer.convert_to_deploy()
    return 2 * _operations(raw_network(model)) / 1e9


def _operations(network: paddle.nn.Layer) -> int:
    """Returns the multiply-adds for one picture of full size, mostly without computing it.

    Networks of convolutions need the same for each tile of 32 px, a position of the coarsest map, and a constant where
    they pool everything. A third small picture tells whether that is so.
    """
    low, middle, high = (count_flops(network, [1, 3, side, side]) for side in (64, 96, 128))
    # Of 4, 9 and 16 tiles; the picture of full size has 400.
    of_each, rest = divmod(middle - low, 9 - 4)
    if rest or high - low != of_each * (16 - 4):
        return count_flops(network, [1, 3, IMAGE_SIZE, IMAGE_SIZE])
    return low + of_each * (400 - 4)


def count_multiply_adds(model: paddle.nn.Layer, side: int) -> int:
    """Returns the multiply-adds of a detector as it is for one square image, up to scores and boxes of all anchors."""
    return count_flops(raw_network(model), [1, 3, side, side])


def raw_network(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """Returns a layer from images ``[N, 3, H, W]`` to the head's raw outputs, of the ``backbone``, ``neck`` and
    ``yolo_head`` of a detector (neither counts nor profiles can feed ppdet's dictionaries).

    Raises:
        UserError: the detector has other parts.
    """
    import paddle

    class RawNetwork(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.neck, self.yolo_head = (getattr(model, name) for name in _PARTS)

        def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
            return self.yolo_head(self.neck(self.backbone({"image": images})))

    missing = [name for name in _PARTS if getattr(model, name, None) is None]
    if missing:
        raise UserError(f"{type(model).__name__} has no {', '.join(missing)}: neither counted nor profiled")
    return RawNetwork()
