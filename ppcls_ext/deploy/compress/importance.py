"""How much a network would lose with each hidden channel of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.deploy.compress.expansion import Expansion, outgoing_rows


def magnitude(expansion: Expansion) -> np.ndarray:
    """Returns the norm of what makes a channel times the norm of what is made of it: ``[hidden]``.

    It is zero where either is: such a channel adds nothing. It is divided by its mean over the block, because the
    scales of weights differ between blocks for reasons other than importance (batch norms undo them).
    """
    products = np.linalg.norm(expansion.incoming(), axis=1) * np.linalg.norm(expansion.outgoing(), axis=1)
    mean = products.mean()
    return products / mean if mean > 0 else products


@dataclass
class Evidence:
    """What batches of real images tell about the hidden channels of each block.

    Attributes:
        taylor: first-order estimate of the squared change of the loss without the channel, mean over the batches.
        activation: mean of the channel's values after the activation.
        batches: how many batches were seen.
    """

    taylor: list[np.ndarray]
    activation: list[np.ndarray]
    batches: int = 0


def gather_evidence(
    model: nn.Layer,
    expansions: Sequence[Expansion],
    batches: Iterable[Any],
    loss_of: Callable[[Any], paddle.Tensor],
) -> Evidence:
    """Runs batches forward and backward; weights and running statistics stay as they are.

    The estimate is that of Molchanov et al., "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771,
    equation 8, at a gate behind the activation): the squared sum over a channel of value times gradient. As the next
    layer is linear, that sum equals the one over its weights of weight times gradient, which costs no memory.

    Args:
        model: the network; its mode decides how batch norms act, and is the caller's.
        expansions: its prunable blocks.
        batches: what ``loss_of`` takes.
        loss_of: runs the model on a batch; returns the loss, a scalar.
    """
    evidence = Evidence([np.zeros(each.width) for each in expansions], [np.zeros(each.width) for each in expansions])
    hooks = [_record_mean(expansion, total) for expansion, total in zip(expansions, evidence.activation, strict=True)]
    try:
        for batch in batches:
            loss_of(batch).backward()
            evidence.batches += 1
            for expansion, total in zip(expansions, evidence.taylor, strict=True):
                gradient = expansion.block.project.weight.grad
                assert gradient is not None
                total += (expansion.outgoing() * outgoing_rows(gradient.numpy())).sum(axis=1, dtype=np.float64) ** 2
            for parameter in model.parameters():
                parameter.clear_gradient(set_to_zero=False)
    finally:
        for hook in hooks:
            hook.remove()
    for total in (*evidence.taylor, *evidence.activation):
        total /= max(evidence.batches, 1)
    return evidence


def _record_mean(expansion: Expansion, total: np.ndarray) -> Any:
    """Adds to ``total``, at each pass, the mean of each channel that enters ``project``, a convolution ``[N, hidden, H,
    W]`` or a linear layer ``[N, H, W, hidden]``."""
    others = [0, 2, 3] if expansion.block.project.weight.ndim == 4 else [0, 1, 2]

    def note(_: nn.Layer, inputs: tuple[paddle.Tensor, ...]) -> None:
        np.add(total, inputs[0].detach().mean(others).numpy(), out=total)

    return expansion.block.project.register_forward_pre_hook(note)
