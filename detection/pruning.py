"""Pruning of the E-ConvNeXt backbone of a trained detector: figures before and after, and fine-tuning."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

from detection.configuration import DetectionConfig, load_config
from detection.counting import count_gflops, count_parts
from detection.evaluator import Evaluator
from detection.loaders import training_loader
from detection.task import train_config
from detection.toolkit import build_model, workspace
from detection.trained import TrainedDetector, load_trained
from ppcls_ext.deploy.compress.expansion import find_expansions
from ppcls_ext.deploy.compress.importance import Evidence, gather_evidence
from ppcls_ext.deploy.compress.pruning import Pruned, prune
from ppcls_ext.deploy.compress.request import (
    PruningRequest,
    config_text,
    pruned_folder,
    summary,
    with_new_weights,
    write_report,
)
from ppcls_ext.deploy.compress.timing import latency_by_turns
from ppcls_ext.engine.environment import Environment, derive_seed, seed_everything
from ppcls_ext.runtime import load
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.signature import parse_number
from ppcls_ext.weights import load_weights

BEFORE, PRUNED, FINE_TUNED = "before", "pruned", "fine-tuned"


def prune_detector(config: DetectionConfig, request: PruningRequest, environment: Environment) -> dict[str, Any]:
    """Prunes the backbone of the detector that ``weights`` names, and writes ``request.output``.

    Returns:
        As ``classification.pruning.prune_classifier``; the accuracy is ``AP`` and ``AP50`` on ``EvalDataset``, and
        ``flops`` counts the multiply-adds of one image of 640 px.

    Raises:
        UserError: the backbone has nothing to prune, or data or weights are missing.
    """
    request.check()
    for section in ("TrainDataset", "EvalDataset"):
        if section not in config.data:
            raise UserError(f"{config.path}: pruning needs the section {section}")
    trained = load_trained(config)
    find_expansions(trained.model)
    evidence = _evidence(config, trained.model, request.batches, environment)
    pruned = prune(trained.model, evidence, request.criterion, request.ratio, request.multiple)
    small_config = _pruned_config(config, pruned)
    small = build_model(small_config, pretrained=False)
    load_weights(small, pruned.weights)
    small.eval()
    tuning = tuning_data(small_config, request)
    name = f"{config.path.stem}_pruned.yml"
    report: dict[str, Any] = {
        **summary(request, evidence, pruned),
        "config": str(request.output / name),
    }
    state = {"class_names": trained.class_names, "arch": {"name": trained.name}}
    with pruned_folder(request, pruned.weights, state, name, config_text(tuning, request, name, pruned.removed)):
        networks = {BEFORE: trained, PRUNED: TrainedDetector(small_config, small, trained.class_names)}
        report["figures"] = figures_of(networks, environment, request)
    write_report(request, report)
    if request.fine_tune:
        tuned = _fine_tune(load_config(request.output / name))
        report["figures"][FINE_TUNED] = with_new_weights(report["figures"][PRUNED], accuracy_of(tuned, environment))
        write_report(request, report)
    return report


def _evidence(config: DetectionConfig, model: paddle.nn.Layer, count: int, environment: Environment) -> Evidence:
    """Looks at the first ``count`` batches of the training data, in the order and with the operators of training."""
    import ppdet.engine  # noqa: F401  (registers what the workspace may name)

    seed_everything(derive_seed(environment.seed, "pruning"))
    with workspace(config):
        batches = training_loader(config, environment)
    # Only in training mode do ppdet's detectors compute losses; running statistics stay as they are in deployment.
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.layer.norm._BatchNormBase):
            layer.eval()
    last_epoch = max(int(config.data.get("epoch", 1)) - 1, 0)
    try:
        batches.sampler.set_position(0, 0)
        return gather_evidence(
            model,
            find_expansions(model),
            itertools.islice(batches, count),
            lambda batch: model({**batch, "epoch_id": last_epoch})["loss"],
        )
    finally:
        batches.close()
        model.eval()


def _pruned_config(config: DetectionConfig, pruned: Pruned) -> DetectionConfig:
    data = copy.deepcopy(config.data)
    _backbone_section(data, config.architecture)["expansion_channels"] = pruned.expansion_channels
    return dataclasses.replace(config, document=dataclasses.replace(config.document, data=data))


def _backbone_section(data: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Returns the section of the backbone in the data of a configuration; makes it if all of it is by default."""
    backbone = data[architecture]["backbone"]
    if isinstance(backbone, dict):
        return backbone
    if data.get(backbone) is None:
        data[backbone] = {}
    return data[backbone]


def tuning_data(config: DetectionConfig, request: PruningRequest) -> dict[str, Any]:
    """Returns the data of the configuration that fine-tunes the pruned detector of ``config``."""
    data = copy.deepcopy(config.data)
    data["weights"] = str(request.weights)
    data["pretrain_weights"] = str(request.weights)
    data["save_dir"] = str(request.fine_tuning)
    _backbone_section(data, config.architecture)["pretrained"] = None
    rate = data["LearningRate"]["base_lr"]
    rate = parse_number(rate) if isinstance(rate, str) else rate
    data["LearningRate"]["base_lr"] = rate / 10 if request.learning_rate is None else request.learning_rate
    if request.epochs is not None:
        data["epoch"] = request.epochs
        for schedule in data["LearningRate"].get("schedulers") or []:
            if isinstance(schedule, dict) and "max_epochs" in schedule:
                schedule["max_epochs"] = request.epochs
    # Plain YAML: no tags, no bases.
    return yaml.safe_load(yaml.safe_dump(data))


def _fine_tune(config: DetectionConfig) -> TrainedDetector:
    """Trains ``config``, as ``tools/train.py`` does, and returns its best network."""
    train_config(config)
    data = copy.deepcopy(config.data)
    data["weights"] = str(config.output_dir / "checkpoints" / "best")
    return load_trained(dataclasses.replace(config, document=dataclasses.replace(config.document, data=data)))


def figures_of(
    networks: Mapping[str, TrainedDetector], environment: Environment, request: PruningRequest
) -> dict[str, dict[str, float]]:
    """Measures detectors; latencies by turns, so that they can be compared."""
    latencies = _latencies(networks, request.threads)
    return {
        name: {
            **accuracy_of(trained, environment),
            "parameters": count_parts(trained.model).total,
            "flops": 1e9 * count_gflops(trained.config, "training") / 2,
            **latencies[name],
        }
        for name, trained in networks.items()
    }


def accuracy_of(trained: TrainedDetector, environment: Environment) -> dict[str, float]:
    """Returns AP and AP50 on ``EvalDataset``."""
    with workspace(trained.config):
        evaluator = Evaluator(trained.config, environment)
    try:
        with tempfile.TemporaryDirectory(prefix="pruning-") as exchange:
            figures = evaluator.evaluate(trained.model, Path(exchange))
    finally:
        evaluator.close()
    return {name: figures[name] for name in ("AP", "AP50")}


def _latencies(networks: Mapping[str, TrainedDetector], threads: int) -> dict[str, dict[str, float]]:
    """Times the exports of the detectors, suppression included, for one image."""
    with tempfile.TemporaryDirectory(prefix="pruning-") as name:
        runners = {}
        for number, (key, trained) in enumerate(networks.items()):
            folder = Path(name) / str(number)
            shape = trained.export(folder).input_shape
            backend = load(folder, threads=threads).backend
            image = np.random.default_rng(0).normal(size=(1, *shape[1:])).astype(np.float32)
            factors = np.ones([1, 2], np.float32)
            runners[key] = lambda backend=backend, image=image, factors=factors: backend.detect(image, factors)
        return latency_by_turns(runners)
