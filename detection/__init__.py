"""PaddleDetection plug-in: E-ConvNeXt backbones, sonar data, a thin engine. Importing it loads no toolkit."""

from detection.api import evaluate, export, train

__all__ = ["evaluate", "export", "train"]
