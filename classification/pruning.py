"""Pruning of a trained classifier: importance from training images, figures before and after, fine-tuning."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from classification.build import build_batches, build_dataset, build_network
from classification.config import Config, check_config
from classification.evaluation import evaluate_model
from classification.task import require_sections, train_config
from classification.trained import Trained, load_trained
from ppcls_ext.arch.flops import count_parameters
from ppcls_ext.arch.outputs import logits_of
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

logger = logging.getLogger(__name__)
BEFORE, PRUNED, FINE_TUNED = "before", "pruned", "fine-tuned"


def prune_classifier(config: Config, request: PruningRequest, environment: Environment) -> dict[str, Any]:
    """Prunes ``Global.pretrained_model`` and writes ``request.output``: weights, configuration, report.

    Args:
        config: a configuration with data to train and to evaluate on.
        request: how much, by which criterion, and where to.
        environment: device and seed.

    Returns:
        The report that also stands in ``report.json``: ``removed``, ``expansion_channels`` and, under ``figures``, by
        ``before``, ``pruned`` and ``fine-tuned``: accuracy, ``parameters``, ``flops`` (multiply-adds of one image),
        ``median_ms`` and ``p90_ms`` of one image in Paddle Inference.

    Raises:
        UserError: the model has nothing to prune, or data or weights are missing.
    """
    request.check()
    require_sections(config)
    if config.eval is None:
        raise UserError(f"{config.document.path}: pruning needs the section DataLoader.Eval: it reports the accuracy")
    trained = load_trained(config)
    find_expansions(trained.model)
    evidence = _evidence(config, trained.model, request.batches, environment)
    pruned = prune(trained.model, evidence, request.criterion, request.ratio, request.multiple)
    small_config, small = _rebuild(config, pruned)
    tuning = tuning_document(small_config, request)
    name = f"{config.document.path.stem}_pruned.yaml"
    state = {
        "class_names": trained.class_names,
        "arch": {"name": config.arch.name, "arguments": small_config.arch.arguments},
    }
    report: dict[str, Any] = {
        **summary(request, evidence, pruned),
        "config": str(request.output / name),
    }
    with pruned_folder(request, pruned.weights, state, name, config_text(tuning, request, name, pruned.removed)):
        networks = {
            BEFORE: trained,
            PRUNED: Trained(small_config, small, trained.class_names),
        }
        report["figures"] = figures_of(networks, environment, request.threads)
    write_report(request, report)
    if request.fine_tune:
        document = dataclasses.replace(config.document, data=tuning)
        tuned = fine_tune(check_config(document), environment)
        report["figures"][FINE_TUNED] = with_new_weights(report["figures"][PRUNED], accuracy_of(tuned, environment))
        write_report(request, report)
    return report


def _evidence(config: Config, model: paddle.nn.Layer, count: int, environment: Environment) -> Evidence:
    """Looks at the first ``count`` batches of the training data, in the order and with the operators of training."""
    assert config.train is not None and config.train_loss is not None
    dataset = build_dataset(config, config.train)
    batches = build_batches(config, config.train, dataset, environment, training=True)
    loss = config.train_loss
    # Running statistics as in deployment, and no dropped paths.
    model.eval()
    seed_everything(derive_seed(environment.seed, "pruning"))

    def loss_of(batch: Mapping[str, Any]) -> paddle.Tensor:
        logits = logits_of(model(batch["image"]))
        return loss(logits, batch["label"], batch["label_mixed"], float(batch["lam"]))

    try:
        batches.sampler.set_position(0, 0)
        return gather_evidence(model, find_expansions(model), itertools.islice(batches, count), loss_of)
    finally:
        batches.close()


def _rebuild(config: Config, pruned: Pruned) -> tuple[Config, paddle.nn.Layer]:
    """Builds the pruned network from its configuration, as every tool will, and gives it its weights."""
    data = copy.deepcopy(config.document.data)
    data["Arch"]["expansion_channels"] = pruned.expansion_channels
    small_config = check_config(dataclasses.replace(config.document, data=data))
    model = build_network(small_config)
    load_weights(model, pruned.weights)
    model.eval()
    return small_config, model


def tuning_document(config: Config, request: PruningRequest) -> dict[str, Any]:
    """Returns the data of the configuration that fine-tunes the pruned network of ``config``."""
    data = copy.deepcopy(config.document.data)
    run = data["Global"]
    run["pretrained_model"] = str(request.weights)
    run["output_dir"] = str(request.fine_tuning)
    run["save_inference_dir"] = str(request.output / "export")
    run["checkpoints"] = None
    if request.epochs is not None:
        run["epochs"] = request.epochs
    data["Arch"].pop("pretrained", None)
    optimizer = data["Optimizer"]
    if not isinstance(optimizer["lr"], dict):
        optimizer["lr"] = {"name": "ConstLR", "learning_rate": optimizer["lr"]}
    rate = optimizer["lr"].get("learning_rate")
    if request.learning_rate is not None:
        optimizer["lr"]["learning_rate"] = request.learning_rate
    elif rate is not None:
        optimizer["lr"]["learning_rate"] = (parse_number(rate) if isinstance(rate, str) else rate) / 10
    if request.epochs is not None and "warmup_epoch" in optimizer["lr"]:
        # What a short run leaves no room for.
        optimizer["lr"]["warmup_epoch"] = min(optimizer["lr"]["warmup_epoch"], request.epochs / 10)
    return data


def fine_tune(config: Config, environment: Environment) -> Trained:
    """Trains ``config``, as ``tools/train.py`` does, and returns its best network."""
    train_config(config, environment)
    data = copy.deepcopy(config.document.data)
    data["Global"]["pretrained_model"] = str(config.output_dir / "checkpoints" / "best")
    return load_trained(check_config(dataclasses.replace(config.document, data=data)))


def figures_of(
    networks: Mapping[str, Trained], environment: Environment, threads: int
) -> dict[str, dict[str, float]]:
    """Measures networks; latencies by turns, in Paddle Inference with so many threads, so that they can be compared."""
    latencies = _latencies(networks, threads)
    return {
        name: {
            **accuracy_of(trained, environment, name),
            "parameters": count_parameters(trained.model),
            "flops": count_flops(trained.config),
            **latencies[name],
        }
        for name, trained in networks.items()
    }


def accuracy_of(trained: Trained, environment: Environment, title: str = FINE_TUNED) -> dict[str, float]:
    """Returns loss and accuracies on ``DataLoader.Eval``."""
    figures = evaluate_model(trained.config, trained.model, environment, title)
    return {key: value for key, value in figures.items() if key != "images"}


def count_flops(config: Config) -> int:
    """Returns the multiply-adds of one image of ``Global.image_shape``, as ``paddle.flops`` counts them."""
    # In a network of its own, because the counting leaves marks in the layers.
    with paddle.utils.unique_name.guard(), contextlib.redirect_stdout(io.StringIO()):
        return int(paddle.flops(build_network(config), [1, *config.run.image_shape]))


def _latencies(networks: Mapping[str, Trained], threads: int) -> dict[str, dict[str, float]]:
    """Times the exports of the networks for one image."""
    with tempfile.TemporaryDirectory(prefix="pruning-") as name:
        runners: dict[str, Callable[[], object]] = {}
        for number, (key, trained) in enumerate(networks.items()):
            folder = Path(name) / str(number)
            trained.export(folder)
            backend = load(folder, threads=threads).backend
            image = np.random.default_rng(0).normal(size=(1, *trained.config.run.image_shape)).astype(np.float32)
            runners[key] = lambda backend=backend, image=image: backend.run(image)
        return latency_by_turns(runners)
