"""Pruned weights: the hidden channels that stay, cut out of the trained ones (arXiv 1906.10771 and many before it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paddle import nn

from ppcls_ext.deploy.compress.expansion import Expansion, find_expansions, outgoing_rows, output_axis, widths_by_stage
from ppcls_ext.deploy.compress.importance import Evidence, magnitude
from ppcls_ext.deploy.compress.selection import check_criterion, choose_channels


@dataclass(frozen=True)
class Pruned:
    """A pruned network, as weights and as a constructor argument.

    Attributes:
        expansion_channels: what the model or the backbone is built with.
        weights: arrays by name, for a model that was built so.
        removed: share of the hidden channels of all blocks that went.
    """

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
        criterion: one of ``CRITERIA``.
        ratio, multiple: see ``choose_channels``.

    Raises:
        UserError: the criterion is unknown, a number is out of range, or nothing can be pruned.
    """
    check_criterion(criterion)
    expansions = find_expansions(model)
    if criterion == "taylor":
        assert evidence is not None
        importance = evidence.taylor
    else:
        importance = [magnitude(expansion) for expansion in expansions]
    kept = choose_channels(importance, [expansion.stage for expansion in expansions], ratio, multiple)
    weights = {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}
    for number, (expansion, channels) in enumerate(zip(expansions, kept, strict=True)):
        _cut(weights, expansion, channels, evidence.activation[number] if evidence else None)
    before = sum(expansion.width for expansion in expansions)
    widths = [len(channels) for channels in kept]
    return Pruned(widths_by_stage(expansions, widths), weights, 1 - sum(widths) / before)


def _cut(weights: dict[str, np.ndarray], expansion: Expansion, kept: np.ndarray, activation: np.ndarray | None) -> None:
    """Cuts the channels ``kept`` of one block out of ``weights``, in place."""
    expand, project = f"{expansion.name}.expand", f"{expansion.name}.project"
    outgoing = weights[f"{project}.weight"]
    if activation is not None:
        removed = np.setdiff1d(np.arange(expansion.width), kept)
        shift = activation[removed] @ outgoing_rows(outgoing)[removed]
        bias = weights[f"{project}.bias"]
        weights[f"{project}.bias"] = (bias + shift).astype(bias.dtype)
    incoming = weights[f"{expand}.weight"]
    weights[f"{expand}.weight"] = incoming.take(kept, axis=output_axis(incoming.ndim))
    weights[f"{expand}.bias"] = weights[f"{expand}.bias"][kept]
    weights[f"{project}.weight"] = outgoing.take(kept, axis=1 - output_axis(outgoing.ndim))
