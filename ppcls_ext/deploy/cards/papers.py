"""The paper that each family of models comes from, as a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """Where a family of models was published.

    Attributes:
        family: name of the family, for people.
        title: of the paper.
        arxiv: its number at arXiv.
    """

    family: str
    title: str
    arxiv: str

    @property
    def link(self) -> str:
        """The paper as a Markdown link."""
        return f"[{self.title}](https://arxiv.org/abs/{self.arxiv}) (arXiv {self.arxiv})"


CONVNEXT = Paper("ConvNeXt", "A ConvNet for the 2020s", "2201.03545")
# By the beginning of a model's name; where two fit, the longer one counts.
PAPERS: dict[str, Paper] = {
    "EConvNeXt": Paper(
        "E-ConvNeXt",
        "E-ConvNeXt: A Lightweight and Efficient ConvNeXt Variant with Cross-Stage Partial Connections",
        "2508.20955",
    ),
    "ConvNeXt": CONVNEXT,
    "ConvNeXtV1": CONVNEXT,
    "ConvNeXtV2": Paper(
        "ConvNeXt V2", "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", "2301.00808"
    ),
    "ResNet": Paper("ResNet", "Deep Residual Learning for Image Recognition", "1512.03385"),
    "ViT": Paper(
        "Vision Transformer", "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", "2010.11929"
    ),
    "SwinTransformer": Paper(
        "Swin Transformer", "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", "2103.14030"
    ),
    "MobileNetV4": Paper("MobileNetV4", "MobileNetV4: Universal Models for the Mobile Ecosystem", "2404.10518"),
    "EfficientNetV2": Paper("EfficientNetV2", "EfficientNetV2: Smaller Models and Faster Training", "2104.00298"),
    "PPYOLOE": Paper("PP-YOLOE", "PP-YOLOE: An evolved version of YOLO", "2203.16250"),
    "YOLOv10": Paper("YOLOv10", "YOLOv10: Real-Time End-to-End Object Detection", "2405.14458"),
}


def paper_of(name: str) -> Paper | None:
    """Returns the paper of a model or an architecture by its name; ``None`` where the table has none."""
    fitting = [start for start in PAPERS if name.startswith(start)]
    return PAPERS[max(fitting, key=len)] if fitting else None
