"""Accuracy and loss over a data set, exact over any number of processes; unreadable images are named and counted."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from classification.build import (
    build_batches,
    build_evaluation_dataset,
    build_network,
    load_pretrained,
    read_class_names,
)
from classification.config import Config
from classification.data.datasets import ImageDataset
from classification.losses import WeightedSum
from classification.metrics import TopkAcc
from classification.report import MISTAKES, Predictions, write_report
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.engine.bad_images import BadImages
from ppcls_ext.engine.environment import Environment, sum_over_ranks
from ppcls_ext.engine.loader import Loader
from ppcls_ext.engine.precision import Precision
from ppcls_ext.utils.display import Display, clock
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import class_names_of_weights, find_weights

logger = logging.getLogger(__name__)

BAD_IMAGES_KEY = "Global.max_bad_images"


@paddle.no_grad()
def evaluate(
    model: paddle.nn.Layer, batches: Loader, metrics: list[TopkAcc], loss: WeightedSum | None, precision: Precision,
    environment: Environment, title: str, bad_images: BadImages, predictions: Predictions | None = None,
) -> dict[str, float]:  # fmt: skip
    """Evaluates ``model``, which is in evaluation mode afterwards as well.

    Args:
        model: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``.
        batches: this process's share of the data; shares of all processes are disjoint.
        metrics, loss: what to measure.
        precision, environment: how the forward pass computes, and the processes, whose sums are added.
        title: what the display calls it.
        bad_images: gathers unreadable images, which are left out.
        predictions: gathers what the model says of each image, where that is wanted.

    Returns:
        ``{"loss": mean, "top1": share, ..., "images": number}``.

    Raises:
        UserError: too many images could not be read.
    """
    model.eval()
    start = time.monotonic()
    names = [name for metric in metrics for name in metric.names]
    # Of each metric the images that are right; then the sum of losses, and the number of images.
    sums = np.zeros(len(names) + 2)
    trivial: set[str] = set()
    batches.sampler.set_position(0, 0)
    with Display(title, len(batches), every=0, active=environment.is_main) as display:
        for batch in batches:
            bad_images.note(batch["bad"].numpy(), batch["causes"])
            images = len(batch["label"])
            if images:
                with precision.autocast(training=False):
                    logits = logits_of(model(batch["image"]))
                trivial = {f"top{k}" for metric in metrics for k in metric.topk if k > 1 and k >= logits.shape[1]}
                total = float(loss(logits, batch["label"])) * images if loss is not None else 0.0
                sums += np.concatenate([*(metric.hits(logits, batch["label"]) for metric in metrics), [total, images]])
                if predictions is not None:
                    indices, labels = batch["index"].numpy(), batch["label"].numpy()
                    predictions.note(indices, labels, logits.astype("float32").numpy())
            display.advance()
    bad_images.share(environment.world_size)
    if predictions is not None:
        predictions.share(environment.world_size)
    sums = sum_over_ranks(sums, environment.world_size)
    images = int(sums[-1])
    if images == 0:
        raise UserError(f"{title}: not a single image of the data set could be read")
    result = dict(zip(names, (sums[: len(names)] / images).tolist(), strict=True))
    if loss is not None:
        result = {"loss": float(sums[-2] / images), **result}
    # With no more classes than k, every image counts as right: true, and not worth saying.
    shown = "  ".join(f"{name} {value:.4f}" for name, value in result.items() if name not in trivial)
    logger.info("%s: %s  (%d images in %s)", title, shown, images, clock(time.monotonic() - start))
    return {**result, "images": images}


def evaluate_model(
    config: Config,
    model: paddle.nn.Layer,
    environment: Environment,
    title: str,
    dataset: ImageDataset | None = None,
    predictions: Predictions | None = None,
) -> dict[str, float]:
    """Evaluates ``model`` on ``DataLoader.Eval``, which may be open already; see :func:`evaluate`."""
    assert config.eval is not None
    if dataset is None:
        weights = config.run.pretrained_model
        dataset = build_evaluation_dataset(config, weights=find_weights(weights) if weights else None)
    batches = build_batches(config, config.eval, dataset, environment, training=False)
    precision = Precision(config.amp, config.run.amp_dtype, environment.on_gpu)
    bad_images = BadImages(dataset, config.run.max_bad_images, BAD_IMAGES_KEY)
    try:
        return evaluate(
            model, batches, config.metrics, config.eval_loss, precision, environment, title, bad_images, predictions
        )
    finally:
        batches.close()


def evaluate_config(
    config: Config, environment: Environment, folder: Path | None = None, mistakes: int = MISTAKES
) -> dict[str, Any]:
    """Evaluates ``Global.pretrained_model`` of ``config``; every process evaluates its share of the images.

    The first one writes a report into ``folder``, with so many ``mistakes``; see `report.write_report`.

    Returns:
        ``{"loss": mean, "top1": share, ..., "images": number}``; of the process that wrote a report also its figures.

    Raises:
        UserError: no weights or no data are named, or they do not fit the model.
    """
    if config.eval is None:
        raise UserError(f"{config.document.path}: evaluation needs the section DataLoader.Eval")
    if config.run.pretrained_model is None:
        raise UserError("evaluation needs weights: -o Global.pretrained_model=RUN/checkpoints/best")
    weights = find_weights(config.run.pretrained_model)
    config = config.as_trained(weights)
    dataset = build_evaluation_dataset(config, weights=weights)
    model = build_network(config)
    load_pretrained(config, model, fine_tune=False)
    predictions = Predictions(len(dataset), config.topk) if folder is not None else None
    figures = evaluate_model(config, model, environment, config.arch.name, dataset, predictions)
    if predictions is None or folder is None or not environment.is_main:
        return figures
    names = class_names_of_weights(weights) or read_class_names(config, dataset) or []
    if len(names) != config.arch.class_num:
        names = [str(number) for number in range(config.arch.class_num)]
    return write_report(folder, dataset, predictions.table(dataset), names, figures, config.arch.name, mistakes)
