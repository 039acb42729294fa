"""Evaluation of given weights on ``EvalDataset``: figures, charts and panels."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from detection.configuration import DetectionConfig
from detection.configuration.config import warn_of_other_contrast
from detection.engine.evaluator import Evaluator
from detection.toolkit import build_model, workspace
from detection.weights import load_detector_weights, weights_file
from ppcls_ext.engine.environment import Environment
from ppcls_ext.preprocess.sonar import enhancement_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import class_names_of_weights

logger = logging.getLogger(__name__)


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
    model = build_model(config, pretrained=False)
    load_detector_weights(config, model)
    with workspace(config):
        evaluator = Evaluator(config, environment)
    try:
        _check_same_classes(source, evaluator)
        start = time.monotonic()
        detections = evaluator.detect(model, folder)
        seconds = time.monotonic() - start
    finally:
        evaluator.close()
    if not environment.is_main:
        return None
    return _write(config, evaluator, detections, seconds, folder, panels, str(source))


def _check_same_classes(source: Path, evaluator: Evaluator) -> None:
    """Raises a UserError if the annotations number other classes than those that the weights were trained for."""
    trained, annotated = class_names_of_weights(source), evaluator.class_names
    if trained is None or trained == annotated:
        return
    raise UserError(
        f"{evaluator.files.annotations} numbers the classes {', '.join(annotated)}, but {source} was trained for "
        f"{', '.join(trained)}"
    )


def _write(
    config: DetectionConfig,
    evaluator: Evaluator,
    detections: list[dict[str, Any]],
    seconds: float,
    folder: Path,
    panels: int | None,
    source: str,
) -> dict[str, Any]:
    from detection.evaluation import evaluate_detections, write_evaluation

    start = time.monotonic()
    figures = evaluate_detections(evaluator.files.annotations, detections)
    counting = time.monotonic() - start
    options = {} if panels is None else {"panels": panels}
    written = write_evaluation(
        folder,
        evaluator.files.annotations,
        evaluator.files.image_dir,
        detections,
        figures,
        title=config.path.stem,
        enhance=enhancement_of((config.data.get("EvalReader") or {}).get("sample_transforms")),
        **options,
    )
    logger.info("%s", figures.table())
    logger.info(
        "%s: %d images in %.1f s (%.1f images/s), %d detections counted in %.2f s; wrote %s",
        source, figures.images, seconds, figures.images / max(seconds, 1e-9), figures.detections, counting,
        ", ".join(str(path) for path in written),
    )  # fmt: skip
    return {**figures.as_json(), "seconds": {"detection": seconds, "counting": counting}}
