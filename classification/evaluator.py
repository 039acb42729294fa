"""Accuracy and loss over a data set, exact over any number of processes."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import paddle

from classification.bad_input import BadImages
from classification.losses import WeightedSum
from classification.metrics import TopkAcc
from classification.precision import Precision
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.engine.environment import Environment, sum_over_ranks
from ppcls_ext.engine.loader import Loader
from ppcls_ext.utils.display import Display, clock
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)


@paddle.no_grad()
def evaluate(
    model: paddle.nn.Layer,
    batches: Loader,
    metrics: list[TopkAcc],
    loss: WeightedSum | None,
    precision: Precision,
    environment: Environment,
    title: str,
    bad_images: BadImages,
) -> dict[str, float]:
    """Evaluates ``model``, which is in evaluation mode afterwards as well.

    Args:
        model: images ``[N, 3, H, W]`` -> logits ``[N, class_num]``.
        batches: this process's share of the data; shares of all processes are disjoint.
        metrics: what to count.
        loss: mean loss to report, or ``None``.
        precision: how the forward pass computes.
        environment: rank and number of processes, whose sums are added.
        title: what the display calls it.
        bad_images: gathers unreadable images, which are left out.

    Returns:
        ``{"loss": mean, "top1": share, ..., "images": number}``.

    Raises:
        UserError: too many images could not be read.
    """
    model.eval()
    start = time.monotonic()
    names = [name for metric in metrics for name in metric.names]
    sums = np.zeros(len(names) + 2)
    batches.sampler.set_position(0, 0)
    with Display(title, len(batches), every=0, active=environment.is_main) as display:
        for batch in batches:
            bad_images.note(batch["bad"].numpy())
            if len(batch["label"]):
                sums += _sums_of(model, batch, metrics, loss, precision)
            display.advance()
    bad_images.share(environment.world_size)
    sums = sum_over_ranks(sums, environment.world_size)
    images = int(sums[-1])
    if images == 0:
        raise UserError(f"{title}: not a single image of the data set could be read")
    result = dict(zip(names, (sums[: len(names)] / images).tolist(), strict=True))
    if loss is not None:
        result = {"loss": float(sums[-2] / images), **result}
    shown = "  ".join(f"{name} {value:.4f}" for name, value in result.items())
    logger.info("%s: %s  (%d images in %s)", title, shown, images, clock(time.monotonic() - start))
    return {**result, "images": images}


def _sums_of(
    model: paddle.nn.Layer,
    batch: dict[str, Any],
    metrics: list[TopkAcc],
    loss: WeightedSum | None,
    precision: Precision,
) -> np.ndarray:
    """Returns the hits of each metric, the sum of losses and the number of images of one batch."""
    with precision.autocast(training=False):
        logits = logits_of(model(batch["image"]))
    images = len(batch["label"])
    total = float(loss(logits, batch["label"])) * images if loss is not None else 0.0
    return np.concatenate([*(metric.hits(logits, batch["label"]) for metric in metrics), [total, images]])
