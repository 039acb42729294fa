"""A YAML-driven trainer for image classification whose configurations have the schema of PaddleClas."""

from classification.api import evaluate, export, train

__all__ = ["evaluate", "export", "train"]
