"""Evaluation of a detector on ``EvalDataset``: detections over one process or several, COCO metrics, charts, panels."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from detection.configuration import DetectionConfig
from detection.configuration.config import warn_of_other_contrast
from detection.evaluation import evaluate_detections, write_evaluation
from detection.loaders import BAD_IMAGES_KEY, evaluation_loader, max_bad_images
from detection.toolkit import build_model, workspace
from detection.weights import load_detector_weights, weights_file
from ppcls_ext.engine.bad_images import BadImages
from ppcls_ext.engine.environment import Environment, barrier
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.sonar import enhancement_of
from ppcls_ext.utils.display import Display, clock
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import class_names_of_weights

logger = logging.getLogger(__name__)

EXCHANGE = ".exchange"


class Evaluator:
    """Evaluates as often as wanted; ppdet's workspace must be open when it is made.

    Args:
        config: the configuration.
        environment: device and ranks.
    """

    def __init__(self, config: DetectionConfig, environment: Environment) -> None:
        self.environment = environment
        self.loader, self.coco = evaluation_loader(config, environment)
        # Category id in the annotations of each class of the model.
        dataset = self.loader.read_batch.dataset
        self.category_ids = {label: category for category, label in dataset.catid2clsid.items()}
        self.files = config.datasets["Eval"]
        self.bad_images = BadImages(self.loader.read_batch, max_bad_images(config), BAD_IMAGES_KEY)
        self.image_ids: list[int] = []
        # In the order of the model's classes.
        self.class_names = sorted(dataset.cname2cid, key=dataset.cname2cid.get)

    @paddle.no_grad()
    def detect(self, model: paddle.nn.Layer, folder: Path) -> list[dict[str, Any]]:
        """Runs ``model`` in evaluation mode over all images.

        Args:
            model: a detector of ppdet; its outputs are ``bbox`` ``[M, 6]`` and ``bbox_num`` ``[N]``.
            folder: one that all processes can reach; each leaves its detections there for the others.

        Returns:
            COCO results, ``bbox`` as ``[x, y, width, height]`` in pixels of the original image, by image; the same on
            every process. Afterwards ``image_ids`` has the images that could be read.

        Raises:
            UserError: more images than allowed cannot be read, or none can.
        """
        model.eval()
        detections: list[dict[str, Any]] = []
        unreadable: set[int] = set()
        self.loader.sampler.set_position(0)
        with Display("evaluation", len(self.loader), every=0, active=self.environment.is_main) as display:
            for batch in self.loader:
                unreadable.update(batch["bad"].tolist())
                self.bad_images.note(batch.pop("bad"), batch.pop("causes"))
                display.advance()
                if not len(batch["image"]):
                    continue
                detections += as_coco_results(model(batch), batch["im_id"].numpy(), self.category_ids)
        if self.environment.world_size > 1:
            # By files, because they differ in length and gloo moves tensors only.
            exchange = folder / EXCHANGE
            exchange.mkdir(parents=True, exist_ok=True)
            files = [exchange / f"detections_{rank}.json" for rank in range(self.environment.world_size)]
            own = {"detections": detections, "unreadable": sorted(unreadable)}
            files[self.environment.rank].write_text(json.dumps(own), encoding="utf-8")
            barrier(self.environment.world_size)
            parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
            detections = [each for part in parts for each in part["detections"]]
            unreadable.update(index for part in parts for index in part["unreadable"])
            barrier(self.environment.world_size)
            if self.environment.is_main:
                shutil.rmtree(exchange, ignore_errors=True)
        self.bad_images.share(self.environment.world_size)
        images = self.loader.read_batch
        self.image_ids = sorted(images.image_id(index) for index in range(len(images)) if index not in unreadable)
        if not self.image_ids:
            raise UserError(f"{self.files.annotations}: not a single image of the data set could be read")
        return sorted(detections, key=lambda detection: detection["image_id"])

    def evaluate(self, model: paddle.nn.Layer, folder: Path) -> dict[str, Any]:
        """Returns what a log keeps of an evaluation: COCO's twelve metrics, AP by class, and the seconds it took.

        Args:
            model, folder: see :meth:`detect`.
        """
        start = time.monotonic()
        detections = self.detect(model, folder)
        figures = evaluate_detections(self.coco, detections, self.image_ids)
        seconds = time.monotonic() - start
        logger.info(
            "evaluation: AP %.4f  AP50 %.4f  (%d images in %s)", figures.ap, figures.ap50, figures.images,
            clock(seconds),
        )  # fmt: skip
        return {
            **figures.summary,
            "AP": figures.ap,
            "AP50": figures.ap50,
            "per_class": {row.name: row.metrics["AP"] for row in figures.classes},
            "detections": figures.detections,
            "seconds": seconds,
        }

    def close(self) -> None:
        """Ends the worker processes."""
        self.loader.close()


def as_coco_results(
    outputs: Mapping[str, paddle.Tensor], image_ids: np.ndarray, category_ids: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Turns ``bbox`` ``[M, 6]`` (class, score, x1, y1, x2, y2) and ``bbox_num`` ``[N]`` into COCO results."""
    boxes, counts = outputs["bbox"].numpy(), outputs["bbox_num"].numpy().reshape(-1)
    owners = np.repeat(image_ids.reshape(-1), counts).tolist()
    # ppdet marks an image without detections with a row of class -1.
    return [
        {"image_id": image, "category_id": category_ids[int(label)], "score": score,
         "bbox": [x, y, right - x, bottom - y]}
        for image, (label, score, x, y, right, bottom) in zip(owners, boxes[: len(owners)].tolist(), strict=True)
        if label >= 0
    ]  # fmt: skip


def evaluate_config(
    config: DetectionConfig, environment: Environment, folder: Path, panels: int | None = None
) -> dict[str, Any] | None:
    """Evaluates the weights that the key ``weights`` names, and writes everything about it into ``folder``.

    Args:
        config: the configuration.
        environment: device and ranks; every process evaluates its share of the images.
        folder: receives ``figures.json``, ``detections.json``, the charts and ``panels.png``.
        panels: how many images to show, the worst first; 0 for none.

    Returns:
        The figures as they stand in ``figures.json``, with the seconds of detection and of counting; ``None`` on every
        rank but the first.

    Raises:
        UserError: no weights or no data are named, or they do not fit.
    """
    if "EvalDataset" not in config.data:
        raise UserError(f"{config.path}: evaluation needs the section EvalDataset")
    warn_of_other_contrast(config, "Eval")
    source = weights_file(config)
    config = config.as_trained(source)
    model = build_model(config, pretrained=False)
    load_detector_weights(config, model)
    with workspace(config):
        evaluator = Evaluator(config, environment)
    annotations = evaluator.files.annotations
    try:
        trained, annotated = class_names_of_weights(source), evaluator.class_names
        if trained is not None and trained != annotated:
            raise UserError(
                f"{annotations} numbers the classes {', '.join(annotated)}, but {source} was trained for "
                f"{', '.join(trained)}"
            )
        start = time.monotonic()
        detections = evaluator.detect(model, folder)
        seconds = time.monotonic() - start
    finally:
        evaluator.close()
    if not environment.is_main:
        return None
    start = time.monotonic()
    figures = evaluate_detections(evaluator.coco, detections, evaluator.image_ids)
    counting = time.monotonic() - start
    written = write_evaluation(
        folder,
        evaluator.coco,
        evaluator.files.image_dir,
        detections,
        figures,
        title=config.path.stem,
        enhance=enhancement_of((config.data.get("EvalReader") or {}).get("sample_transforms")),
        value_range=depth.range_of(depth.statement_in(config.data)),
        **({} if panels is None else {"panels": panels}),
    )
    logger.info("%s", figures.table())
    logger.info(
        "%s: %d images in %.1f s (%.1f images/s), %d detections counted in %.2f s; wrote %s",
        source, figures.images, seconds, figures.images / max(seconds, 1e-9), figures.detections, counting,
        ", ".join(str(path) for path in written),
    )  # fmt: skip
    return {**figures.as_json(), "seconds": {"detection": seconds, "counting": counting}}
