"""Images to calibrate an int8 classifier with, and its accuracy, as a configuration names the data. Loads no Paddle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from classification.config import Config
from classification.data.datasets import ImageDataset
from classification.opening import open_dataset
from ppcls_ext.deploy.compress.quantization import Evaluation
from ppcls_ext.preprocess import ImageError
from ppcls_ext.runtime import Predictor
from ppcls_ext.runtime.predictor import ImageSource
from ppcls_ext.utils.errors import UserError

BATCH = 32
Part = Literal["train", "eval"]


def calibration_images(config: Config, part: Part, count: int) -> Iterator[tuple[str, ImageSource]]:
    """Gives up to ``count`` images of ``DataLoader.Train`` or ``.Eval`` with their names, spread over the data set.

    Files that cannot be read are left out.

    Raises:
        UserError: the configuration does not name that data set, or it cannot be opened.
    """
    dataset = _opened(config, part)
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    # Images are read one by one; what is wrong with the data set itself was told above, before any work.
    return ((dataset.name_of(index), sample[0]) for index in chosen if (sample := _loaded(dataset, index)) is not None)


def evaluation_of(config: Config) -> Evaluation:
    """Returns the top-1 accuracy over ``DataLoader.Eval``.

    Raises:
        UserError: the configuration does not name that data set, or it cannot be opened.
    """
    dataset = _opened(config, "eval")

    def score(predictor: Predictor) -> float:
        hits = images = 0
        for start in range(0, len(dataset), BATCH):
            samples = [_loaded(dataset, index) for index in range(start, min(start + BATCH, len(dataset)))]
            batch = [sample for sample in samples if sample is not None]
            predictions = predictor([image for image, _ in batch], batch_size=BATCH, topk=1)
            readable = [(one, label) for one, (_, label) in zip(predictions, batch, strict=True) if one.error is None]
            hits += sum(one.class_ids[0] == label for one, label in readable)
            images += len(readable)
        if not images:
            raise UserError(f"{config.document.path}: not a single image of DataLoader.Eval could be read")
        return hits / images

    return Evaluation("top1", score, "DataLoader.Eval", len(dataset))


def _loaded(dataset: ImageDataset, index: int) -> tuple[ImageSource, int] | None:
    """Returns an image and its label, None where the file cannot be read: evaluation and data checks name it."""
    try:
        return dataset.load(index)
    except ImageError:
        return None


def _opened(config: Config, part: Part) -> ImageDataset:
    settings = config.train if part == "train" else config.eval
    if settings is None:
        raise UserError(f"{config.document.path}: int8 needs the section DataLoader.{part.capitalize()}")
    return open_dataset(config, settings)
