"""Published accuracies, each with its source. Nothing here was measured by this project, and nothing is estimated."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "E-ConvNeXt paper, arXiv 2508.20955"
PADDLECLAS = "PaddleClas, docs/zh_CN/models/ImageNet1k"


@dataclass(frozen=True)
class Published:
    """The accuracy of a model as its source states it.

    Attributes:
        top1: percent of the validation images of ImageNet-1k.
        size: side in pixels of the images that it was measured on.
        source: where it is written.
    """

    top1: float
    size: int
    source: str


# A model whose accuracy could not be looked up in its paper or in PaddleClas's documentation is not in this table.
PUBLISHED: dict[str, Published] = {
    "EConvNeXt_mini": Published(78.3, 224, PAPER),
    "EConvNeXt_tiny": Published(80.6, 224, PAPER),
    "EConvNeXt_small": Published(81.9, 224, PAPER),
    "ConvNeXt_tiny": Published(82.03, 224, f"{PADDLECLAS}/ConvNeXt.md"),
    "ConvNeXtV1_tiny": Published(82.03, 224, f"{PADDLECLAS}/ConvNeXt.md, as ConvNeXt_tiny"),
    "MobileNetV4_conv_medium": Published(
        79.9, 320, f"{PADDLECLAS}/MobileNetV4.md; 320 px as in its configuration's evaluation"
    ),
    "EfficientNetV2_S": Published(
        83.9, 384, "google/automl, efficientnetv2/README.md; 384 px as in PaddleClas's configuration"
    ),
    "PPHGNetV2_B0": Published(77.77, 224, f"{PADDLECLAS}/PP-HGNetV2.md; distilled (SSLD)"),
    "ResNet50": Published(76.5, 224, f"{PADDLECLAS}/ResNet.md"),
    "SwinTransformer_tiny_patch4_window7_224": Published(
        81.10, 224, f"{PADDLECLAS}/SwinTransformer.md; the list in README.md there still says 80.69"
    ),
}
