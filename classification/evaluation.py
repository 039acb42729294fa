"""Evaluation of given weights on the data set of ``DataLoader.Eval``."""

from __future__ import annotations

import logging

from classification.bad_input import BadImages
from classification.build import build_batches, build_dataset, build_network, load_pretrained
from classification.config import Config
from classification.evaluator import evaluate
from classification.opening import check_same_classes
from classification.precision import Precision
from ppcls_ext.engine.environment import Environment
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import class_names_of_weights, find_weights

logger = logging.getLogger(__name__)


def evaluate_config(config: Config, environment: Environment) -> dict[str, float]:
    """Evaluates ``Global.pretrained_model`` of ``config``.

    Returns:
        ``{"loss": mean, "top1": share, ..., "images": number}``.

    Raises:
        UserError: no weights or no data are named, or they do not fit the model.
    """
    if config.eval is None:
        raise UserError(f"{config.document.path}: evaluation needs the section DataLoader.Eval")
    if config.run.pretrained_model is None:
        raise UserError("evaluation needs weights: -o Global.pretrained_model=RUN/checkpoints/best")
    dataset = build_dataset(config, config.eval)
    weights = find_weights(config.run.pretrained_model)
    check_same_classes(class_names_of_weights(weights), str(weights), dataset.class_names, f"{config.eval.key}.dataset")
    batches = build_batches(config, config.eval, dataset, environment, training=False)
    model = build_network(config)
    load_pretrained(config, model, fine_tune=False)
    precision = Precision(config.amp, config.run.amp_dtype, environment.on_gpu)
    bad_images = BadImages([], dataset, config.run.max_bad_images)
    try:
        return evaluate(
            model, batches, config.metrics, config.eval_loss, precision, environment, config.arch.name, bad_images
        )
    finally:
        batches.close()
