"""Pictures out of a data set, as files in class folders: something to predict, to look at, or to train on elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from classification.config import Config
from classification.data.datasets import ImageDataset
from classification.opening import open_dataset
from ppcls_ext.preprocess.decode import decode_image
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder

# Only a folder with this file in it is ever replaced.
MARKER = ".samples"


def write_samples(config: Config, part: str, count: int, output: Path, seed: int = 0) -> int:
    """Writes ``count`` images of a data set, as even over the classes as it goes, to ``output/CLASS/INDEX.png``.

    Args:
        config: names the data set.
        part: ``Eval`` or ``Train``, the section of ``DataLoader``.
        count: how many images; 0 for all of them.
        output: the folder to write, whole or not at all.
        seed: chooses the images; not negative.

    Returns:
        The number of images written.

    Raises:
        UserError: the section or the data are missing, or ``output`` holds something else.
    """
    settings = config.eval if part == "Eval" else config.train
    if settings is None:
        raise UserError(f"{config.document.path}: has no section DataLoader.{part}")
    if output.exists() and any(output.iterdir()) and not (output / MARKER).is_file():
        raise UserError(f"{output}: holds something else than samples; choose another folder")
    dataset = open_dataset(config, settings)
    chosen = choose_evenly(dataset.labels, count or len(dataset), seed)
    with atomic_folder(output) as folder:
        for index in chosen:
            _write_one(dataset, int(index), folder)
        (folder / MARKER).write_text(f"{len(chosen)} samples of {settings.key} of {config.document.path}\n")
    return len(chosen)


def choose_evenly(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns up to ``count`` indices, taking one of each class in turn.

    Args:
        labels: ``[N]``, int64.
        count: how many at most.
        seed: chooses among the images of a class.

    Returns:
        ``[min(count, N)]``, int64, rising.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    # The how-manieth of its class each image is: all first ones come before all second ones.
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(shuffled):
        turn[shuffled == label] = np.arange((shuffled == label).sum())
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def _write_one(dataset: ImageDataset, index: int, folder: Path) -> None:
    image, label = dataset.load(index)
    if isinstance(image, bytes):
        image = decode_image(image, dataset.name_of(index))
    name = dataset.class_names[label] if dataset.class_names else str(label)
    # A class may be called "n/a"; a folder may not.
    target = folder / re.sub(r"[^\w .+-]", "_", name)
    target.mkdir(exist_ok=True)
    Image.fromarray(image).save(target / f"{index:06d}.png")
