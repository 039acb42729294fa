"""Published accuracies, each with its source. Nothing here was measured by this project, and nothing is estimated."""

from __future__ import annotations

from typing import NamedTuple

PAPER = "E-ConvNeXt paper, arXiv 2508.20955"
PADDLECLAS = "PaddleClas, docs/zh_CN/models/ImageNet1k"
CONVNEXT_V2 = (
    "facebookresearch/ConvNeXt-V2, README.md, ImageNet-1K fine-tuned models (pre-trained as masked autoencoders, FCMAE)"
)


class Published(NamedTuple):
    """The accuracy of a model as its source states it.

    Attributes:
        top1: percent of the validation images of ImageNet-1k, or of another data set where the table says so.
        size: side in pixels of the images that it was measured on; None where the source does not say.
        source: where it is written.
        parameters: number of parameters in the source, in millions; None where it was not needed.
    """

    top1: float
    size: int | None
    source: str
    parameters: float | None = None


# A model whose accuracy could not be looked up in its paper or in PaddleClas's documentation is not in this table.
PUBLISHED: dict[str, Published] = {
    "EConvNeXt_mini": Published(78.3, 224, PAPER),
    "EConvNeXt_tiny": Published(80.6, 224, PAPER),
    "EConvNeXt_small": Published(81.9, 224, PAPER),
    "ConvNeXt_tiny": Published(82.03, 224, f"{PADDLECLAS}/ConvNeXt.md"),
    "ConvNeXtV1_tiny": Published(82.03, 224, f"{PADDLECLAS}/ConvNeXt.md, as ConvNeXt_tiny"),
    "ConvNeXtV1_small": Published(83.13, 224, f"{PADDLECLAS}/ConvNeXt.md, as ConvNeXt_small"),
    "ConvNeXtV1_base": Published(83.84, 224, f"{PADDLECLAS}/ConvNeXt.md, as ConvNeXt_base_224"),
    "ConvNeXtV1_large": Published(84.26, 224, f"{PADDLECLAS}/ConvNeXt.md, as ConvNeXt_large_224"),
    "ConvNeXtV2_atto": Published(76.7, 224, CONVNEXT_V2),
    "ConvNeXtV2_femto": Published(78.5, 224, CONVNEXT_V2),
    "ConvNeXtV2_pico": Published(80.3, 224, CONVNEXT_V2),
    "ConvNeXtV2_nano": Published(81.9, 224, CONVNEXT_V2),
    "ConvNeXtV2_tiny": Published(83.0, 224, CONVNEXT_V2),
    "ConvNeXtV2_base": Published(84.9, 224, CONVNEXT_V2),
    "ConvNeXtV2_large": Published(85.8, 224, CONVNEXT_V2),
    "MobileNetV4_conv_medium": Published(79.9, 320, f"{PADDLECLAS}/MobileNetV4.md; 320 px as in its configuration's "
                                         "evaluation"),
    "EfficientNetV2_S": Published(83.9, 384, "google/automl, efficientnetv2/README.md; 384 px as in PaddleClas's "
                                  "configuration"),
    "PPHGNetV2_B0": Published(77.77, 224, f"{PADDLECLAS}/PP-HGNetV2.md; distilled (SSLD)"),
    "ResNet50": Published(76.5, 224, f"{PADDLECLAS}/ResNet.md"),
    "SwinTransformer_tiny_patch4_window7_224": Published(
        81.10, 224, f"{PADDLECLAS}/SwinTransformer.md; the list in README.md there still says 80.69"
    ),
}  # fmt: skip

CIFAR100_STUDY = "the published CIFAR-100 study of ConvNeXt, ViT and ResNet, as quoted in this project's issue 6"
# Top-1 on the test images of CIFAR-100. "ResNet" in the source; 44.5 M parameters are those of ResNet-101.
PUBLISHED_ON_CIFAR100: dict[str, Published] = {
    "convnext_tiny": Published(82.35, None, CIFAR100_STUDY, 28.6),
    "vit_base": Published(78.27, None, CIFAR100_STUDY, 85.8),
    "resnet101": Published(77.3, None, CIFAR100_STUDY, 44.5),
}
