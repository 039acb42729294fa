"""The parts of our networks that can be pruned: the channels between the two pointwise layers of a residual block.

Nothing else sees these channels, so that any of them can go without a change elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paddle import nn

from ppcls_ext.arch.ablation import AblatedBlock
from ppcls_ext.arch.convnext import BlockV1
from ppcls_ext.arch.econvnext import Block
from ppcls_ext.utils.errors import UserError

# Blocks whose layers `expand` and `project` enclose channels that nothing mixes. Not those of ConvNeXt V2: its response
# norm divides each channel by the mean over all of them.
PRUNABLE_BLOCKS: tuple[type[nn.Layer], ...] = (Block, BlockV1, AblatedBlock)
_PLACE = re.compile(r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)$")


@dataclass(frozen=True)
class Expansion:
    """The hidden channels of one block.

    Attributes:
        name: of the block in the network, such as ``stages.2.blocks.4``.
        stage: number of its stage, from 0.
        block: the block; ``expand`` makes the hidden channels, ``project`` reads them.
    """

    name: str
    stage: int
    block: nn.Layer

    @property
    def width(self) -> int:
        """Number of hidden channels."""
        return int(self.block.expand.bias.shape[0])

    def incoming(self) -> np.ndarray:
        """Returns what makes each hidden channel, weights and bias: ``[hidden, C + 1]``."""
        layer = self.block.expand
        weight = np.moveaxis(layer.weight.numpy(), output_axis(layer.weight.ndim), 0)
        return np.concatenate([weight.reshape(len(weight), -1), layer.bias.numpy()[:, np.newaxis]], axis=1)

    def outgoing(self) -> np.ndarray:
        """Returns what is made of each hidden channel: ``[hidden, C]``."""
        return outgoing_rows(self.block.project.weight.numpy())


def output_axis(dimensions: int) -> int:
    """Returns the axis of output channels in the weights of a pointwise layer: the other of the first two is that of
    its inputs.

    Args:
        dimensions: of the weights: 4 for a 1x1 convolution ``[out, in, 1, 1]``, 2 for a linear layer ``[in, out]``.
    """
    return 0 if dimensions == 4 else 1


def outgoing_rows(weight: np.ndarray) -> np.ndarray:
    """Turns the weights of ``project`` (or their gradient), ``[C, hidden, 1, 1]`` or ``[hidden, C]``, into ``[hidden,
    C]``."""
    return weight[:, :, 0, 0].T if weight.ndim == 4 else weight


def find_expansions(model: nn.Layer) -> list[Expansion]:
    """Returns all prunable blocks of a classifier or a detector, in the order of its layers.

    Raises:
        UserError: there is none.
    """
    found = []
    for name, layer in model.named_sublayers():
        place = _PLACE.search(name)
        if place is not None and isinstance(layer, PRUNABLE_BLOCKS):
            found.append(Expansion(name, int(place[1]), layer))
    if not found:
        kind = type(model).__name__
        raise UserError(f"{kind} has no block that can be pruned: those of E-ConvNeXt and ConvNeXt can")
    return found


def widths_by_stage(expansions: Sequence[Expansion], widths: Sequence[int]) -> list[list[int]]:
    """Groups the widths of all blocks as the constructor argument ``expansion_channels`` wants them."""
    stages: list[list[int]] = [[] for _ in range(1 + max(expansion.stage for expansion in expansions))]
    for expansion, width in zip(expansions, widths, strict=True):
        stages[expansion.stage].append(int(width))
    return stages
