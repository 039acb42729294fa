"""Data sets by the names that configurations use."""

from __future__ import annotations

from classification.data.datasets.base import ImageDataset, check_labels
from classification.data.datasets.cifar import Cifar10, Cifar100
from classification.data.datasets.digits import Digits
from classification.data.datasets.folder import ImageFolder
from classification.data.datasets.listed import ImageNetDataset

DATASETS: dict[str, type[ImageDataset]] = {
    dataset.__name__: dataset for dataset in (ImageNetDataset, ImageFolder, Cifar10, Cifar100, Digits)
}

__all__ = [
    "DATASETS",
    "Cifar10",
    "Cifar100",
    "Digits",
    "ImageDataset",
    "ImageFolder",
    "ImageNetDataset",
    "check_labels",
]
