"""Detections of a model on a part of the data, as COCO results, over one process or several."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppcls_ext.engine.environment import Environment, barrier
from ppcls_ext.engine.loader import Loader
from ppcls_ext.utils.display import Display


@paddle.no_grad()
def collect_detections(
    model: paddle.nn.Layer,
    loader: Loader,
    category_ids: Mapping[int, int],
    environment: Environment,
    exchange: Path,
    title: str = "evaluation",
) -> list[dict[str, Any]]:
    """Runs ``model`` in evaluation mode over the loader's images.

    Args:
        model: a detector of ppdet; its outputs are ``bbox`` ``[M, 6]`` and ``bbox_num`` ``[N]``.
        loader: yields every image once over all processes.
        category_ids: id of the category in the annotations for each class of the model.
        environment: ranks.
        exchange: folder that all processes can reach; each leaves its detections there for the others.
        title: of the progress bar.

    Returns:
        COCO results, ``bbox`` as ``[x, y, width, height]`` in pixels of the original image, by image; the same on every
        process.
    """
    model.eval()
    detections: list[dict[str, Any]] = []
    loader.sampler.set_position(0)
    with Display(title, len(loader), every=0, active=environment.is_main) as display:
        for batch in loader:
            detections += as_coco_results(model(batch), batch["im_id"].numpy(), category_ids)
            display.advance()
    if environment.world_size > 1:
        detections = _share(detections, environment, exchange)
    return sorted(detections, key=lambda detection: detection["image_id"])


def as_coco_results(
    outputs: Mapping[str, paddle.Tensor], image_ids: np.ndarray, category_ids: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Turns ``bbox`` ``[M, 6]`` (class, score, x1, y1, x2, y2) and ``bbox_num`` ``[N]`` into COCO results."""
    boxes, counts = outputs["bbox"].numpy(), outputs["bbox_num"].numpy().reshape(-1)
    owners = np.repeat(image_ids.reshape(-1), counts)
    results = []
    for image_id, (label, score, left, top, right, bottom) in zip(owners, boxes[: len(owners)].tolist(), strict=True):
        # ppdet marks an image without detections with a row of class -1.
        if label >= 0:
            results.append(
                {
                    "image_id": int(image_id),
                    "category_id": category_ids[int(label)],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": score,
                }
            )
    return results


def _share(detections: list[dict[str, Any]], environment: Environment, exchange: Path) -> list[dict[str, Any]]:
    """Returns the detections of all processes; files, because they differ in length and gloo moves tensors only."""
    exchange.mkdir(parents=True, exist_ok=True)
    (exchange / f"detections_{environment.rank}.json").write_text(json.dumps(detections), encoding="utf-8")
    barrier(environment.world_size)
    everything = []
    for rank in range(environment.world_size):
        everything += json.loads((exchange / f"detections_{rank}.json").read_text(encoding="utf-8"))
    barrier(environment.world_size)
    if environment.is_main:
        shutil.rmtree(exchange, ignore_errors=True)
    return everything
