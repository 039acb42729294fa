"""How many images a second the training data of a detector come in, augmented and collated, without a model."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from detection.configuration import DetectionConfig
from detection.data.loader import build_loader
from detection.toolkit import workspace
from ppcls_ext.engine.loader import Loader
from ppcls_ext.utils.errors import UserError

WORKERS = (0, 1, 2)
# Images of one pass, as far as the data set has that many.
IMAGES = 256


def run_loading_benchmark(
    config: DetectionConfig, rounds: int = 5, images: int = IMAGES, workers: Sequence[int] = WORKERS
) -> dict[str, Any]:
    """Times passes over the first images of an epoch, by turns with each number of worker processes.

    The batches are those of training: read, decoded, augmented, collated, copied into tensors. Each pass sees the same
    samples; the clock starts when the first batch of a pass has come, so that workers are awake.

    Args:
        config: a detection configuration with ``TrainDataset`` and ``TrainReader``.
        rounds: passes with each number of workers.
        images: images of a pass, rounded up to whole batches.
        workers: numbers of worker processes; 0 loads in a thread.

    Returns:
        ``config``, ``data`` (annotation file), ``batch_size``, ``images`` of a pass that were timed, ``rounds``, and
        ``images_per_second`` by number of workers: ``median`` and ``best``.

    Raises:
        UserError: the data are missing, or too few for two batches.
    """
    files = config.datasets.get("Train")
    if files is None or files.annotations is None:
        raise UserError(f"{config.path}: TrainDataset names no annotation file (anno_path)")
    if not files.annotations.is_file():
        raise UserError(f"{config.path}: TrainDataset.anno_path: {files.annotations} does not exist")
    rates: dict[int, list[float]] = {number: [] for number in workers}
    with workspace(config):
        loaders = {number: _training_loader(config, number) for number in workers}
        try:
            sampler = loaders[workers[0]].sampler
            batches = min(len(sampler), -(-images // sampler.batch_size) + 1)
            if batches < 2:
                raise UserError(f"{files.annotations}: too few images for two batches of {sampler.batch_size}")
            for turn in range(rounds):
                for number, loader in loaders.items():
                    rates[number].append(_rate(loader, batches, epoch=turn))
        finally:
            for loader in loaders.values():
                loader.close()
    return {
        "config": str(config.path),
        "data": str(files.annotations),
        "batch_size": sampler.batch_size,
        "images": min(batches * sampler.batch_size, sampler.used) - sampler.batch_size,
        "rounds": rounds,
        "images_per_second": {
            number: {"median": float(np.median(values)), "best": max(values)} for number, values in rates.items()
        },
    }


def _training_loader(config: DetectionConfig, workers: int) -> Loader:
    """Builds the loader of the training data; the workspace must be open."""
    from ppdet.core.workspace import create

    from detection.loaders import largest_side
    from detection.toolkit import quiet_toolkit

    quiet_toolkit()
    dataset = create("TrainDataset")()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        dataset.parse_dataset()
    return build_loader(
        dataset,
        create("TrainReader"),
        seed=config.data.get("seed", 0),
        training=True,
        num_workers=workers,
        largest_side=largest_side(config.data.get("TrainReader")),
    )


def _rate(loader: Loader, batches: int, epoch: int) -> float:
    """Returns images per second of the second to the last of ``batches`` batches of an epoch."""
    loader.sampler.set_position(epoch)
    images, start = 0, 0.0
    for number, batch in enumerate(loader, start=1):
        if number == 1:
            start = time.perf_counter()
        else:
            images += len(batch["image"])
        if number == batches:
            break
    return images / (time.perf_counter() - start)


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns the results as rows of a table, its head first."""
    rows = [["worker processes", "images/s, median", "images/s, best"]]
    for number, row in result["images_per_second"].items():
        name = f"{number} (a thread)" if number == 0 else str(number)
        rows.append([name, f"{row['median']:.0f}", f"{row['best']:.0f}"])
    return rows
