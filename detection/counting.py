"""Parameters and GFLOPs of a detector, counted as the published tables count them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from detection.toolkit import build_model
from ppcls_ext.arch.flops import count_flops, count_parameters

if TYPE_CHECKING:
    import paddle

    from detection.configuration import DetectionConfig

IMAGE_SIZE = 640
OFFICIAL_CLASSES = 80
FORMS = ("training", "official")
_PARTS = {"backbone": ("backbone",), "neck": ("neck",), "head": ("yolo_head", "head")}
_OUR_BACKBONES = ("EConvNeXt", "CSPConvNeXt")
# Counted as trained, whatever their backbone.
_OUR_ARCHITECTURES = ("YOLOv10",)
# Sides of the pictures from which the count at full size follows: networks of convolutions need for each tile (the
# pixels to one position of the coarsest map) the same, and where they pool everything, a constant. The third tells
# whether that is so.
_TILE = 32
_PROBES = (64, 128, 96)
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


class Parameters(NamedTuple):
    """Numbers of trainable parameters of a detector and of its parts."""

    backbone: int
    neck: int
    head: int
    total: int


def count_parts(model: paddle.nn.Layer) -> Parameters:
    """Counts what is trained in each part of a detector."""
    layers = (next((getattr(model, name) for name in names if hasattr(model, name)), None) for names in _PARTS.values())
    parts = [count_parameters(layer) if layer is not None else 0 for layer in layers]
    return Parameters(*parts, count_parameters(model))


def published_form(config: DetectionConfig) -> str:
    """Returns the form in which the published table counts this detector (see :func:`count_gflops`)."""
    backbone = config.data.get(config.architecture, {}).get("backbone")
    ours = backbone in _OUR_BACKBONES or config.architecture in _OUR_ARCHITECTURES
    return "training" if ours else "official"


def count_gflops(config: DetectionConfig, form: str | None = None) -> float:
    """Counts twice the multiply-adds of one 640 x 640 image, from its pixels to scores and boxes before NMS.

    Args:
        config: the detector.
        form: ``training`` counts the network that is trained, with the classes of the configuration (of YOLOv10's two
            branches only the one that predicts): the rule of the E-ConvNeXt and YOLOv10 rows. ``official`` counts the
            network that is deployed (branches merged) with 80 classes, as PaddleDetection's own tables do: the rule of
            the CSPResNet rows. By default the one that the published table uses for the detector.
    """
    form = form or published_form(config)
    if form not in FORMS:
        raise ValueError(f"form: must be one of {', '.join(FORMS)}, got '{form}'")
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
    return 2 * _operations(_raw_network(model)) / 1e9


def _operations(network: paddle.nn.Layer) -> int:
    """Returns the multiply-adds for one picture of full size, mostly without computing it."""
    counted = _fitted([count_flops(network, [1, 3, side, side]) for side in _PROBES])
    return count_flops(network, [1, 3, IMAGE_SIZE, IMAGE_SIZE]) if counted is None else counted


def count_multiply_adds(model: paddle.nn.Layer, side: int) -> int:
    """Returns the multiply-adds of a detector as it is for one square image, up to scores and boxes of all anchors."""
    return count_flops(_raw_network(model), [1, 3, side, side])


def _fitted(counts: Sequence[int]) -> int | None:
    """Returns the count at full size that follows from those of the probes, or ``None`` if they follow no rule."""
    low, high, check = counts
    tiles_low, tiles_high, tiles_check = ((side // _TILE) ** 2 for side in _PROBES)
    of_each, rest = divmod(high - low, tiles_high - tiles_low)
    if rest or check - low != of_each * (tiles_check - tiles_low):
        return None
    return low + of_each * ((IMAGE_SIZE // _TILE) ** 2 - tiles_low)


@dataclasses.dataclass(frozen=True)
class Row:
    """One detector of the table.

    Attributes:
        name: its configuration, without folder and ending.
        parameters: trainable, with the classes of the configuration.
        gflops: for one 640 x 640 image, by the rule of ``form``.
        form: see :func:`count_gflops`.
        published: GFLOPs that the paper prints, or ``None``.
    """

    name: str
    parameters: Parameters
    gflops: float
    form: str
    published: float | None


def count(config: DetectionConfig) -> Row:
    """Counts one detector by the rule that the published table uses for its backbone."""
    name = config.path.stem
    parameters = count_parts(build_model(config, pretrained=False))
    return Row(name, parameters, count_gflops(config), published_form(config), PUBLISHED_GFLOPS.get(name))


def _raw_network(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """Returns a layer from a tensor to the head's raw outputs: ``paddle.flops`` cannot feed ppdet's dictionaries."""
    import paddle

    class Predictor(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: paddle.Tensor) -> list[paddle.Tensor]:
            return self.model.yolo_head(self.model.neck(self.model.backbone({"image": image})))

    return Predictor()
