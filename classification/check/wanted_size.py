"""The size of images that the operators of a configuration ask for."""

from __future__ import annotations

from collections.abc import Sequence

from classification.data.geometry import Pad, RandCropImage, RandomCropImage
from ppcls_ext.check.images import WantedSize
from ppcls_ext.preprocess.operators import CropImage, ResizeImage


def wanted_size(operators: Sequence[object], image_shape: Sequence[int]) -> WantedSize:
    """Returns the size that the operators of a section lead to.

    Args:
        operators: ``transform_ops``, built.
        image_shape: ``[channels, height, width]``, which holds where no operator changes the size.
    """
    width, height, strict, may_have_grown = image_shape[2], image_shape[1], False, False
    for operator in operators:
        if isinstance(operator, CropImage | RandomCropImage):
            width, height = operator.width, operator.height
            strict = strict or not may_have_grown
        elif isinstance(operator, RandCropImage):
            width, height = operator.width, operator.height
        elif isinstance(operator, ResizeImage) and operator.size is not None:
            width, height = operator.size
        may_have_grown = may_have_grown or isinstance(operator, RandCropImage | ResizeImage | Pad)
    return WantedSize(width, height, strict)
