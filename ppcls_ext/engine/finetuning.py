"""Parts of a network by depth: stages that are frozen for a while, and learning rates that rise with the depth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import paddle
from paddle import nn

from ppcls_ext.engine.shared_keys import SharedKeys
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
# So many blocks share a learning rate (ConvNeXt, arXiv 2201.03545, appendix A.2).
BLOCKS_OF_A_GROUP = 3
# A stage from its input to its output: the layers before its blocks, the blocks, the layers behind them.
Stage = tuple[list[nn.Layer], list[nn.Layer], list[nn.Layer]]


@dataclass(frozen=True)
class Trunk:
    """What a network is made of up to its last feature map, by depth."""

    stem: nn.Layer
    stages: list[Stage]

    def first(self, stages: int) -> list[nn.Layer]:
        """Returns the stem and the layers of the first stages."""
        return [self.stem, *(layer for stage in self.stages[:stages] for part in stage for layer in part)]

    def groups(self) -> list[tuple[str, list[nn.Layer]]]:
        """Returns names and layers by depth: the stem, then every three blocks; other layers go with their neighbours.

        As in ConvNeXt's fine-tuning: a tiny one (3, 3, 9, 3 blocks) has the stem and 1, 1, 3, 1 groups.
        """
        found = [("stem", [self.stem])]
        for number, (before, blocks, behind) in enumerate(self.stages, start=1):
            cuts = range(0, max(len(blocks), 1), BLOCKS_OF_A_GROUP)
            parts = [blocks[first : first + BLOCKS_OF_A_GROUP] for first in cuts]
            parts[0] = [*before, *parts[0]]
            parts[-1] = [*parts[-1], *behind]
            names = [f"stage {number}" + (f".{part}" if len(parts) > 1 else "") for part in range(1, len(parts) + 1)]
            found += zip(names, parts, strict=True)
        return found


def trunk_of(network: nn.Layer) -> Trunk | None:
    """Returns stem and stages of a network, from input to output, or ``None`` where they are not known."""
    stem, stages = getattr(network, "stem", None), getattr(network, "stages", None)
    if stem is None or stages is None or not all(hasattr(stage, "blocks") for stage in stages):
        return None
    found: list[Stage] = []
    for stage in stages:
        # In the order in which they were made, which is the one of the maps through them.
        layers = list(stage.children())
        place = next(index for index, layer in enumerate(layers) if layer is stage.blocks)
        found.append((layers[:place], list(stage.blocks), layers[place + 1 :]))
    return Trunk(stem, found)


def fine_tune(
    model: nn.Layer, trunk: Trunk | None, known: str, keys: SharedKeys, problem: Callable[[str, str], str],
    section: str = "",
) -> FrozenStages | None:  # fmt: skip
    """Scales the learning rates by depth and says how; returns what is to be frozen, if anything is.

    Of G groups (see :meth:`Trunk.groups`), group g from 0 gets the factor backbone_lr_mult * layer_decay^(G - g); what
    follows the trunk learns at the full rate. Every optimizer reads the factors from the parameters at each step.

    ``trunk`` is ``None`` where stem and stages are not known, which they are of the networks ``known``; ``problem``
    gives the line about a key, which ``section`` stands before.

    Raises:
        UserError: the stem and stages are not known, or not as many.
    """
    wanted = [name for name in ("freeze_stages", "backbone_lr_mult", "layer_decay") if getattr(keys, name) is not None]
    if not wanted:
        return None
    if trunk is None:
        raise UserError(problem(section + wanted[0], f"needs a network whose stem and stages are known: {known}"))
    if keys.freeze_stages is not None and keys.freeze_stages > len(trunk.stages):
        message = f"must be 0 (the stem alone) to {len(trunk.stages)}, got {keys.freeze_stages}"
        raise UserError(problem(f"{section}freeze_stages", message))
    groups, shown = trunk.groups(), []
    for number, (name, layers) in enumerate(groups):
        factor = (keys.backbone_lr_mult or 1.0) * (keys.layer_decay or 1.0) ** (len(groups) - number)
        for parameter in _parameters(layers):
            attributes = parameter.optimize_attr
            parameter.optimize_attr = {**attributes, "learning_rate": attributes["learning_rate"] * factor}
        shown.append(f"{name} {factor:.3g}")
    if wanted != ["freeze_stages"]:
        logger.info("learning-rate factors: %s, the rest 1", ", ".join(shown))
    return FrozenStages(model, trunk, keys) if keys.freeze_stages is not None else None


class FrozenStages:
    """A stem and first stages that do not learn until an epoch: no gradient, no decay, fixed batch norms, no drop path.

    ``keys`` has ``freeze_stages`` and ``freeze_epochs``.
    """

    def __init__(self, model: nn.Layer, trunk: Trunk, keys: SharedKeys) -> None:
        assert keys.freeze_stages is not None
        self.layers, self.epochs = trunk.first(keys.freeze_stages), keys.freeze_epochs
        stages = "stage 1" if keys.freeze_stages == 1 else f"stages 1 to {keys.freeze_stages}"
        self.what = f"stem and {stages}" if keys.freeze_stages else "stem"
        # Others stay frozen for ever by another key.
        self.learning = [parameter for parameter in _parameters(self.layers) if not parameter.stop_gradient]
        held = {id(parameter) for parameter in _parameters(self.layers)}
        self.names = [name for name, parameter in model.named_parameters() if id(parameter) in held]
        self._before: bool | None = None

    def warn_of_random_weights(self, key: str) -> None:
        """Warns that what is frozen was never trained, for want of ``key``."""
        logger.warning("freeze_stages without %s freezes random weights (%s): little will be learnt", key, self.what)

    def hold(self, epoch: int) -> list[str]:
        """Freezes or frees for an epoch, counted from 0, of a model in training mode.

        Returns:
            The names of the weights and running statistics that the epoch does not change.
        """
        frozen = self.epochs is None or epoch < self.epochs
        for parameter in self.learning:
            # Paddle records no gradient work where none of the inputs wants one.
            parameter.stop_gradient = frozen
        for layer in self.layers if frozen else ():
            layer.eval()
        if frozen != self._before:
            count = sum(parameter.size for parameter in self.learning)
            until = "" if self.epochs is None else f" to the end of epoch {self.epochs}"
            outcome = f"frozen{until}, batch norms included" if frozen else "learn from here on"
            logger.info("epoch %d: %s (%s parameters) %s", epoch + 1, self.what, f"{count:,}", outcome)
        self._before = frozen
        return self.names if frozen else []


def _parameters(layers: Iterable[nn.Layer]) -> list[paddle.Tensor]:
    """Returns the parameters of layers, with the running statistics of batch norms, which Paddle counts among them."""
    return [parameter for layer in layers for parameter in layer.parameters()]
