"""Pruning of the channels between the two pointwise layers of residual blocks, in classifiers and detectors.

Nothing else sees these channels, so that any of them can go without a change elsewhere. The pruned network is built
through the constructor argument ``expansion_channels``: it is a model like any other.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import yaml
from paddle import nn

from ppcls_ext.deploy.quantize import interleaved_latency, runner
from ppcls_ext.engine.environment import Environment, derive_seed, seed_everything
from ppcls_ext.runtime import load
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, write_json, write_text
from ppcls_ext.utils.outputs import PRUNED as MARK
from ppcls_ext.utils.signature import parse_number
from ppcls_ext.weights import write_manifest, write_weights

BEFORE, PRUNED, FINE_TUNED = "before", "pruned", "fine-tuned"
REPORT = "report.json"
CRITERIA = ("taylor", "magnitude")
_PLACE = re.compile(r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)$")


@dataclass(frozen=True)
class PruningRequest:
    """One pruning.

    Attributes:
        output: folder that receives pruned weights, the configuration for their fine-tuning, and the report.
        ratio: share of the hidden channels to remove: one number, or one for each stage.
        criterion: ``taylor`` or ``magnitude``, the importance of a channel.
        multiple: widths are rounded to multiples of it.
        batches: batches of training data that are looked at.
        epochs: of the fine-tuning; ``None`` leaves those of the configuration.
        learning_rate: of the fine-tuning; ``None`` takes a tenth of the configuration's.
        fine_tune: train at once.
        threads: of the latency measurement.
    """

    output: Path
    ratio: tuple[float, ...]
    criterion: str = "taylor"
    multiple: int = 8
    batches: int = 16
    epochs: int | None = None
    learning_rate: float | None = None
    fine_tune: bool = False
    threads: int = 2

    def check(self) -> None:
        """Raises a UserError if a value is out of range."""
        for value in self.ratio:
            if not 0 <= value < 1:
                raise UserError(f"--ratio: must be at least 0 and below 1, got {value:g}")
        for name in ("multiple", "batches", "epochs", "threads"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise UserError(f"--{name}: must be at least 1, got {count}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"--learning-rate: must be positive, got {self.learning_rate:g}")

    @property
    def weights(self) -> Path:
        """The checkpoint folder with the pruned weights."""
        return self.output / "weights"

    @property
    def fine_tuning(self) -> Path:
        """The folder of the fine-tuning run."""
        return self.output / "fine_tuning"

    def tuned_rate(self, rate: float | str) -> float:
        """Returns the learning rate of the fine-tuning of a model that was trained with ``rate``."""
        if self.learning_rate is not None:
            return self.learning_rate
        return (parse_number(rate) if isinstance(rate, str) else rate) / 10


class Prunable:
    """A trained model as its task sees it, with data to train and to evaluate on; ``classification.compression`` and
    ``detection.compression`` define

    - ``training_batches()``: opens the loader of the training data, and puts the model into the mode that losses need;
    - ``loss(batch)``; ``accuracy()``, the metrics on the evaluation data;
    - ``cost()``: ``parameters`` and ``flops``, the multiply-adds of one image;
    - ``description()``: ``class_names`` and ``arch``, for the ``state.json`` beside the weights;
    - ``with_channels(channels, weights)``: the model as its configuration builds it with ``expansion_channels``;
    - ``tuning_data(request)``: the data of the configuration that fine-tunes this model;
    - ``fine_tuned(config)``: trains that configuration, as ``tools/train.py`` does, and returns its best network.

    Args:
        trained: ``classification.trained.Trained`` or ``detection.trained.TrainedDetector``.
        environment: device and seed.
    """

    def __init__(self, trained: Any, environment: Environment) -> None:
        self.trained, self.environment = trained, environment
        self.config, self.model = trained.config, trained.model

    def losses(self, batches: int) -> Generator[paddle.Tensor, None, None]:
        """Gives the losses of the first batches, scalars, in the order and with the operators of training.

        Running statistics stay as they are in deployment. Closes the data when it is closed.
        """
        seed_everything(derive_seed(self.environment.seed, "pruning"))
        loader = self.training_batches()
        try:
            loader.sampler.set_position(0, 0)
            for batch in itertools.islice(loader, batches):
                yield self.loss(batch)
        finally:
            loader.close()
            self.model.eval()


def prune_model(task: Prunable, request: PruningRequest) -> dict[str, Any]:
    """Prunes a model and writes ``request.output``, whole or not at all: weights, configuration, report.

    Returns:
        The report that also stands in ``report.json``: ``removed``, ``expansion_channels`` and, under ``figures``, by
        ``before``, ``pruned`` and ``fine-tuned``: metrics, ``parameters``, ``flops``, and ``median_ms`` and ``p90_ms``
        of one image in Paddle Inference.

    Raises:
        UserError: the model has nothing to prune, or data or weights are missing.
    """
    expansions = find_expansions(task.model)
    with contextlib.closing(task.losses(request.batches)) as losses:
        evidence = gather_evidence(task.model, expansions, losses)
    pruned = prune(task.model, evidence, request.criterion, request.ratio, request.multiple)
    small = task.with_channels(pruned.expansion_channels, pruned.weights)
    networks = {BEFORE: task, PRUNED: small}
    with tempfile.TemporaryDirectory(prefix="pruning-") as scratch:
        # Of the exports, for one image, a detector's NMS included.
        runners = {}
        for name, one in networks.items():
            one.trained.export(Path(scratch) / name)
            predictor = load(Path(scratch) / name, threads=request.threads)
            image = np.random.default_rng(0).normal(size=(1, *predictor.input_shape[1:])).astype(np.float32)
            runners[name] = runner(predictor, image)
        latencies = interleaved_latency(runners)
    figures = {name: {**one.accuracy(), **one.cost(), **latencies[name]} for name, one in networks.items()}
    origin = task.config.document.path
    config = request.output / f"{origin.stem}_pruned{origin.suffix}"
    report = {
        "criterion": request.criterion, "ratio": list(request.ratio), "multiple": request.multiple,
        "batches": evidence.batches, "removed": pruned.removed, "expansion_channels": pruned.expansion_channels,
        "config": str(config), "figures": figures,
    }  # fmt: skip
    comment = (
        f"# Fine-tunes a pruned network: {100 * pruned.removed:.1f} % of the channels inside its blocks were removed "
        f"(criterion {request.criterion}).\n#\n"
        f"# Command:   python tools/train.py -c {config}\n"
        "# Hardware:  that of the configuration it was made from.\n"
        f"# Expected:  see {REPORT} beside this file for the figures before fine-tuning.\n"
    )
    data = small.tuning_data(request)
    with atomic_folder(request.output) as temporary:
        folder = temporary / request.weights.name
        folder.mkdir()
        write_weights(folder / "model.pdparams", pruned.weights)
        write_json(folder / "state.json", {"evaluated_weights": "model", **small.description()})
        write_manifest(folder)
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None)
        write_text(temporary / config.name, comment + text)
        write_json(temporary / REPORT, report)
        write_text(temporary / MARK, "written by tools/prune_model.py\n")
    if request.fine_tune:
        # Only the weights change: what the network costs does not.
        figures[FINE_TUNED] = {**figures[PRUNED], **small.fine_tuned(config).accuracy()}
        write_json(request.output / REPORT, report)
    return report


# The blocks


class Expansion(NamedTuple):
    """The hidden channels of one block: its name in the network (``stages.2.blocks.4``), its stage from 0, and itself.

    ``expand`` makes the hidden channels, ``project`` reads them. Both are 1x1 convolutions with weights
    ``[out, in, 1, 1]``, or linear layers with ``[in, out]``.
    """

    name: str
    stage: int
    block: nn.Layer

    @property
    def width(self) -> int:
        """Number of hidden channels."""
        return int(self.block.expand.bias.shape[0])


def _outputs_first(weight: np.ndarray) -> np.ndarray:
    """Weights of a 1x1 convolution or a linear layer, or their gradient -> a matrix ``[out, in]``."""
    return weight[:, :, 0, 0] if weight.ndim == 4 else weight.T


def find_expansions(model: nn.Layer) -> list[Expansion]:
    """Returns all prunable blocks of a classifier or a detector, in the order of its layers.

    Those are the blocks of E-ConvNeXt and ConvNeXt V1; in V2 the response norm mixes the hidden channels.

    Raises:
        UserError: there is none.
    """
    found = [
        Expansion(name, int(place[1]), layer)
        for name, layer in model.named_sublayers()
        if (place := _PLACE.search(name)) and hasattr(layer, "expand") and hasattr(layer, "project")
        and getattr(layer, "response_norm", None) is None
    ]  # fmt: skip
    if not found:
        kind = type(model).__name__
        raise UserError(f"{kind} has no block that can be pruned: those of E-ConvNeXt and ConvNeXt can")
    return found


# Importance


def magnitude(expansion: Expansion) -> np.ndarray:
    """Returns the norm of what makes a channel (weights, bias) times the norm of what is made of it: ``[hidden]``.

    It is zero where either is: such a channel adds nothing. It is divided by its mean over the block, because the
    scales of weights differ between blocks for reasons other than importance (batch norms undo them).
    """
    expand, project = expansion.block.expand, expansion.block.project
    incoming = np.column_stack([_outputs_first(expand.weight.numpy()), expand.bias.numpy()])
    outgoing = _outputs_first(project.weight.numpy())
    products = np.linalg.norm(incoming, axis=1) * np.linalg.norm(outgoing, axis=0)
    mean = products.mean()
    return products / mean if mean > 0 else products


class Evidence(NamedTuple):
    """Of the hidden channels of each block, means over ``batches`` of real images: the first-order estimate of the
    squared change of the loss without the channel, and its value after the activation."""

    taylor: list[np.ndarray]
    activation: list[np.ndarray]
    batches: int


def gather_evidence(model: nn.Layer, expansions: Sequence[Expansion], losses: Iterable[paddle.Tensor]) -> Evidence:
    """Runs batches backward; weights and running statistics stay as they are.

    The estimate is that of Molchanov et al., "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771,
    equation 8, at a gate behind the activation): the squared sum over a channel of value times gradient. As the next
    layer is linear, that sum equals the one over its weights of weight times gradient, which costs no memory.

    ``losses`` runs the model on a batch whenever it is asked for the next loss, a scalar; the model's mode is the
    caller's.
    """
    taylor, activation = ([np.zeros(each.width) for each in expansions] for _ in range(2))
    batches = 0

    def add_mean(total: np.ndarray, layer: nn.Layer, inputs: tuple[paddle.Tensor, ...]) -> None:
        # What enters a convolution is [N, hidden, H, W], a linear layer [N, H, W, hidden].
        others = [0, 2, 3] if layer.weight.ndim == 4 else [0, 1, 2]
        np.add(total, inputs[0].detach().mean(others).numpy(), out=total)

    hooks = [
        each.block.project.register_forward_pre_hook(partial(add_mean, total))
        for each, total in zip(expansions, activation, strict=True)
    ]
    try:
        for loss in losses:
            loss.backward()
            batches += 1
            for expansion, total in zip(expansions, taylor, strict=True):
                weight = expansion.block.project.weight
                products = _outputs_first(weight.numpy()) * _outputs_first(weight.grad.numpy())
                total += products.sum(axis=0, dtype=np.float64) ** 2
            for parameter in model.parameters():
                parameter.clear_gradient(set_to_zero=False)
    finally:
        for hook in hooks:
            hook.remove()
    for total in (*taylor, *activation):
        total /= max(batches, 1)
    return Evidence(taylor, activation, batches)


# The cut


class Pruned(NamedTuple):
    """A pruned network: what the model or the backbone is built with, its weights by name, and the share of the hidden
    channels of all blocks that went."""

    expansion_channels: list[list[int]]
    weights: dict[str, np.ndarray]
    removed: float


def prune(
    model: nn.Layer, evidence: Evidence | None, criterion: str, ratio: Sequence[float], multiple: int = 8
) -> Pruned:
    """Chooses channels of all blocks of ``model`` and cuts them out of a copy of its weights.

    What a removed channel added on average (``evidence.activation`` times its outgoing weights) is added to the bias
    of the layer behind it, so that only the deviation from the mean is lost.

    Args:
        model: a trained network with blocks of E-ConvNeXt or ConvNeXt; stays as it is.
        evidence: from real batches; without it ``criterion`` must be ``magnitude``, and no bias is corrected.
        criterion: ``taylor`` or ``magnitude``.
        ratio, multiple: see ``choose_channels``.

    Raises:
        UserError: nothing can be pruned, another ``criterion``, or ``ratio`` does not fit the stages.
    """
    if criterion not in CRITERIA:
        raise UserError(f"criterion: must be one of {', '.join(CRITERIA)}, not {criterion!r}")
    expansions = find_expansions(model)
    importance = evidence.taylor if criterion == "taylor" else [magnitude(expansion) for expansion in expansions]
    kept = choose_channels(importance, [expansion.stage for expansion in expansions], ratio, multiple)
    weights = {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}
    widths: list[list[int]] = [[] for _ in range(1 + max(expansion.stage for expansion in expansions))]
    for number, (expansion, channels) in enumerate(zip(expansions, kept, strict=True)):
        expand, project = f"{expansion.name}.expand", f"{expansion.name}.project"
        incoming, outgoing = weights[f"{expand}.weight"], weights[f"{project}.weight"]
        if evidence is not None:
            removed = np.setdiff1d(np.arange(expansion.width), channels)
            bias = weights[f"{project}.bias"]
            shift = _outputs_first(outgoing)[:, removed] @ evidence.activation[number][removed]
            weights[f"{project}.bias"] = (bias + shift).astype(bias.dtype)
        output_axis = 0 if incoming.ndim == 4 else 1
        weights[f"{expand}.weight"] = incoming.take(channels, axis=output_axis)
        weights[f"{expand}.bias"] = weights[f"{expand}.bias"][channels]
        weights[f"{project}.weight"] = outgoing.take(channels, axis=1 - output_axis)
        widths[expansion.stage].append(len(channels))
    before = sum(expansion.width for expansion in expansions)
    return Pruned(widths, weights, 1 - sum(map(sum, widths)) / before)


def choose_channels(
    importance: Sequence[np.ndarray], stages: Sequence[int], ratio: Sequence[float], multiple: int = 8
) -> list[np.ndarray]:
    """Chooses the most important channels.

    Args:
        importance: of the channels of each block, comparable between the blocks that are ranked together.
        stages: the stage of each block.
        ratio: share of the channels to remove, 0 to 1. One number ranks the channels of all blocks together, so that
            some blocks lose more than others; one number for each stage ranks those of each stage.
        multiple: the width of a block that loses channels is rounded to the nearest multiple, at least one, as the
            kernels of processors work on so many at a time. A ratio of 0 leaves a block as it is.

    Returns:
        For each block the numbers of the channels that stay, rising.

    Raises:
        UserError: there are neither one ratio nor as many as stages.
    """
    count = 1 + max(stages)
    if len(ratio) not in (1, count):
        raise UserError(f"--ratio: must be one number, or {count}, one for each stage, got {len(ratio)}")
    groups = [range(len(stages))]
    if len(ratio) > 1:
        groups = [np.flatnonzero(np.equal(stages, stage)).tolist() for stage in range(count)]
    chosen: list[np.ndarray] = [np.empty(0, int)] * len(stages)
    for blocks, share in zip(groups, ratio, strict=True):
        if not blocks:
            continue
        # How many channels each block has among the least important share of its group.
        owners = np.repeat(blocks, [len(importance[block]) for block in blocks])
        order = np.argsort(np.concatenate([importance[block] for block in blocks]), kind="stable")
        lost = np.bincount(owners[order[: int(share * len(order))]], minlength=len(stages))
        for block in blocks:
            width = len(importance[block])
            if lost[block]:
                nearest = int((width - lost[block]) / multiple + 0.5) * multiple
                width = min(max(nearest, multiple), width)
            # Stable, so that equal channels are chosen alike on every machine.
            chosen[block] = np.sort(np.argsort(-importance[block], kind="stable")[:width])
    return chosen
