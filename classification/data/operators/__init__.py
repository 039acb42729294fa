"""Training operators by the names that configurations use; those with ``random = True`` are called with a generator."""

from __future__ import annotations

from typing import Any

from classification.data.operators.colour import ColorJitter, RandomGrayscale
from classification.data.operators.crop import Pad, RandCropImage, RandomCropImage
from classification.data.operators.erasing import RandomErasing
from classification.data.operators.geometric import RandFlipImage, RandomRotation
from classification.data.operators.rand_augment import TimmAutoAugment
from ppcls_ext.preprocess.operators import OPERATORS

TRAIN_OPERATORS: dict[str, type[Any]] = {
    **OPERATORS,
    **{
        operator.__name__: operator
        for operator in (
            RandCropImage,
            RandomCropImage,
            Pad,
            RandFlipImage,
            RandomRotation,
            TimmAutoAugment,
            RandomErasing,
            ColorJitter,
            RandomGrayscale,
        )
    },
}
