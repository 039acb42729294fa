"""Image operators of evaluation and inference: NumPy, Pillow and OpenCV only."""

from __future__ import annotations

from ppcls_ext.preprocess.decode import ImageError, decode_image, read_image
from ppcls_ext.preprocess.operators import OPERATORS, Pipeline, build_operators, build_pipeline

__all__ = ["OPERATORS", "ImageError", "Pipeline", "build_operators", "build_pipeline", "decode_image", "read_image"]
