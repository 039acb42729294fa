"""The figures of a profile, and their sums by stage and by kind of operation. Loads no Paddle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# Kinds of operations, in the order of tables and charts.
DEPTHWISE = "depthwise convolution"
POINTWISE = "1x1 convolution, linear"
CONVOLUTION = "other convolution"
NORM = "normalisation"
ACTIVATION = "activation"
ATTENTION = "attention"
POOLING = "pooling"
OTHER = "other layers"
BETWEEN = "between layers"
KINDS = (DEPTHWISE, POINTWISE, CONVOLUTION, NORM, ACTIVATION, ATTENTION, POOLING, OTHER, BETWEEN)
# Parts of a network, in the order of the data; "rest" is what belongs to none, such as handing on between stages.
STEM = "stem"
NECK = "neck"
HEAD = "head"
REST = "rest"
STAGES = (STEM, "stage 1", "stage 2", "stage 3", "stage 4", NECK, HEAD, REST)


@dataclass(frozen=True)
class LayerFigures:
    """What one layer costs.

    Attributes:
        name: its place in the network, such as ``stages.2.blocks.0.depthwise``.
        type_name: its class.
        kind: one of ``KINDS``. What a layer with sublayers does itself (adding, joining, changing the layout) is
            ``BETWEEN``.
        stage: one of ``STAGES``.
        calls: how often one forward pass calls it.
        output_shape: of its last call; empty if it gives no tensor.
        parameters: trainable numbers that it holds itself.
        flops: multiply-adds for one image, counted as ``paddle.flops`` counts them.
        activation_bytes: size of the new tensors that it gives, for the whole batch.
        milliseconds: time for the whole batch, without that of its sublayers.
    """

    name: str
    type_name: str
    kind: str
    stage: str
    calls: int
    output_shape: tuple[int, ...]
    parameters: int
    flops: int
    activation_bytes: int
    milliseconds: float


@dataclass(frozen=True)
class Sums:
    """Sums over layers; units as in `LayerFigures`."""

    parameters: int
    flops: int
    activation_bytes: int
    milliseconds: float


@dataclass(frozen=True)
class Profile:
    """The profile of one network.

    Attributes:
        name: of the network.
        image_shape: channels, height and width.
        batch: images in a forward pass.
        layers: in the order of their first call; those never called last.
        forward_milliseconds: of a whole forward pass without any measuring inside.
    """

    name: str
    image_shape: tuple[int, int, int]
    batch: int
    layers: tuple[LayerFigures, ...]
    forward_milliseconds: float

    @property
    def total(self) -> Sums:
        """Sums over all layers; the time is that of the measured passes, a little more than of unmeasured ones."""
        return _sums(self.layers)

    def by_stage(self) -> dict[str, Sums]:
        """Sums of each stage that the network has, in the order of ``STAGES``."""
        return self._grouped(STAGES, lambda layer: layer.stage)

    def by_kind(self) -> dict[str, Sums]:
        """Sums of each kind of operation that the network has, in the order of ``KINDS``."""
        return self._grouped(KINDS, lambda layer: layer.kind)

    def _grouped(self, labels: Sequence[str], label_of: Callable[[LayerFigures], str]) -> dict[str, Sums]:
        groups = {label: [layer for layer in self.layers if label_of(layer) == label] for label in labels}
        return {label: _sums(layers) for label, layers in groups.items() if layers}


def _sums(layers: Iterable[LayerFigures]) -> Sums:
    rows = list(layers)
    return Sums(
        sum(row.parameters for row in rows),
        sum(row.flops for row in rows),
        sum(row.activation_bytes for row in rows),
        sum(row.milliseconds for row in rows),
    )
