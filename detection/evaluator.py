"""Evaluation of a detector on ``EvalDataset``: detections over one process or several, COCO metrics, charts, panels."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from detection.configuration import DetectionConfig, class_names_of
from detection.configuration.config import warn_of_other_contrast
from detection.evaluation import evaluate_detections, write_evaluation
from detection.evaluation.metrics import figure_text
from detection.loaders import BAD_IMAGES_KEY, evaluation_loader
from detection.toolkit import build_model, workspace
from detection.weights import load_detector_weights, weights_file
from ppcls_ext.engine.bad_images import BadImages
from ppcls_ext.engine.environment import Environment
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.sonar import enhancement_of
from ppcls_ext.runtime.coco_results import categories_of_classes
from ppcls_ext.utils.display import Display, clock
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from ppcls_ext.weights import class_names_of_weights

logger = logging.getLogger(__name__)


class Evaluator:
    """Evaluates as often as wanted; ppdet's workspace must be open when it is made.

    ``class_names`` are those of the model, by class number, where they are known; those of the annotation file are
    matched by name. Else the order of the annotation file numbers the classes.

    Attributes:
        class_names: of the model, by class number.
        category_ids: category id in the annotation file of each class number that it has.

    Raises:
        UserError: a part refuses its arguments, or the annotation file has a class that the model does not.
    """

    def __init__(
        self, config: DetectionConfig, environment: Environment, class_names: Sequence[str] | None = None
    ) -> None:
        self.environment = environment
        self.loader, self.coco = evaluation_loader(config, environment)
        self.bad_images = BadImages(self.loader.read_batch, config.run_keys.max_bad_images, BAD_IMAGES_KEY)
        self.image_ids: list[int] = []
        self.class_names = list(self.coco.names if class_names is None else class_names)
        if respelled := self.coco.spell_classes_as(self.class_names):
            logger.info("%s: classes that the model spells otherwise: %s", self.coco.path, ", ".join(respelled))
        self.category_ids = categories_of_classes(self.coco, self.class_names)
        if all(box.crowd for frame in self.coco.frames for box in frame.boxes):
            logger.warning("%s: no annotated box (crowds do not count), so AP is undefined", self.coco.path)

    @paddle.no_grad()
    def detect(self, model: paddle.nn.Layer) -> list[dict[str, Any]]:
        """Runs ``model`` in evaluation mode over all images.

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
            parts: list[tuple[list[dict[str, Any]], set[int]]] = []
            paddle.distributed.all_gather_object(parts, (detections, unreadable))
            detections = [each for part, _ in parts for each in part]
            unreadable = set().union(*(part for _, part in parts))
        self.bad_images.share(self.environment.world_size)
        images = self.loader.read_batch
        self.image_ids = sorted(images.image_id(index) for index in range(len(images)) if index not in unreadable)
        if not self.image_ids:
            raise UserError(f"{self.coco.path}: not a single image of the data set could be read")
        return sorted(detections, key=lambda detection: detection["image_id"])

    def evaluate(self, model: paddle.nn.Layer) -> dict[str, Any]:
        """Returns what a log keeps of an evaluation: COCO's twelve metrics, AP by class, and the seconds it took."""
        start = time.monotonic()
        detections = self.detect(model)
        figures = evaluate_detections(self.coco, detections, self.image_ids, class_names=self.class_names)
        seconds = time.monotonic() - start
        logger.info(
            "evaluation: AP %s  AP50 %s  (%d images in %s)", figure_text(figures.ap, 4), figure_text(figures.ap50, 4),
            len(figures.truth.frames), clock(seconds),
        )  # fmt: skip
        return {
            **figures.summary,
            "per_class": {row["name"]: row["AP"] for row in figures.classes},
            "detections": figures.counts["detections"],
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
    # ppdet marks an image without detections with a row of class -1; a class that the file lacks has no category.
    return [
        {"image_id": image, "category_id": category_ids[int(label)], "score": score,
         "bbox": [x, y, right - x, bottom - y]}
        for image, (label, score, x, y, right, bottom) in zip(owners, boxes[: len(owners)].tolist(), strict=True)
        if label in category_ids
    ]  # fmt: skip


def evaluate_config(
    config: DetectionConfig, environment: Environment, folder: Path, panels: int | None = None
) -> dict[str, Any] | None:
    """Evaluates the weights that the key ``weights`` names, and writes everything about it into ``folder``.

    Every process evaluates its share of the images; ``panels`` of them are shown, the worst first.

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
        evaluator = Evaluator(config, environment, class_names_of_weights(source) or class_names_of(config, ["Train"]))
    try:
        if len(evaluator.class_names) != config.num_classes:
            count = len(evaluator.class_names)
            raise UserError(
                f"{evaluator.coco.path}: has {count} categories, num_classes is {config.num_classes}; "
                f"neither {source} nor TrainDataset.anno_path says which classes the model has"
            )
        start = time.monotonic()
        detections = evaluator.detect(model)
        seconds = time.monotonic() - start
    finally:
        evaluator.close()
    if not environment.is_main:
        return None
    start = time.monotonic()
    names = evaluator.class_names
    figures = evaluate_detections(evaluator.coco, detections, evaluator.image_ids, class_names=names)
    as_json = figures.as_json()
    counting = time.monotonic() - start
    evaluated = {"file": str(source), "sha256": sha256_of(source)}
    written = write_evaluation(
        folder,
        figures,
        title=config.path.stem,
        weights=evaluated,
        enhance=enhancement_of((config.data.get("EvalReader") or {}).get("sample_transforms")),
        value_range=depth.range_of(depth.statement_in(config.data)),
        **({} if panels is None else {"panels": panels}),
    )
    logger.info("%s", figures.table())
    images, found = len(figures.truth.frames), figures.counts["detections"]
    logger.info(
        "%s: %d images in %.1f s (%.1f images/s), %d detections counted in %.2f s; wrote %s",
        source, images, seconds, images / max(seconds, 1e-9), found, counting, ", ".join(map(str, written)),
    )  # fmt: skip
    return {**as_json, "weights": evaluated, "seconds": {"detection": seconds, "counting": counting}}
