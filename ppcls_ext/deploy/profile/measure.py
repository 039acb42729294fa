"""Profiles networks: one pass that looks at every layer, then timed passes of all networks by turns, in eager mode."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.deploy.profile.kinds import count_flops, is_attention, kind_of
from ppcls_ext.deploy.profile.result import BETWEEN, REST, LayerFigures, Profile
from ppcls_ext.deploy.profile.stages import assign_stages
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
WARM_UPS = 2
NETWORK = "(network)"


@dataclass(frozen=True)
class Subject:
    """A network to profile.

    Attributes:
        name: for the report.
        network: the layers that are looked at; put into evaluation mode while it is profiled.
        forward: runs it on images ``[N, C, H, W]``.
        image_shape: channels, height and width.
    """

    name: str
    network: nn.Layer
    forward: Callable[[paddle.Tensor], Any]
    image_shape: tuple[int, int, int]


@dataclass
class _Seen:
    """What the pass that looks saw of one layer."""

    layer: nn.Layer
    kind: str
    calls: int = 0
    flops: int = 0
    activation_bytes: int = 0
    output_shape: tuple[int, ...] = ()
    parameters: int = 0


@dataclass
class _Timing:
    """Timed passes of one network: seconds of each layer without its sublayers, and of whole unmeasured passes."""

    passes: list[dict[str, float]] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)


def profile_networks(subjects: Sequence[Subject], batch: int = 1, repeats: int = 10) -> list[Profile]:
    """Profiles networks on random images; leaves them as they were.

    Times are means over the faster half of the passes: what else the machine does makes passes slower, never faster.

    Args:
        subjects: the networks; their passes take turns, so that a slow minute of the machine hurts all alike.
        batch: images in a pass.
        repeats: timed passes of each network.

    Raises:
        UserError: a network does not take such images.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(paddle.no_grad())
        for subject in subjects:
            stack.enter_context(_evaluation_mode(subject.network))
        images = [paddle.to_tensor(_pixels(batch, *subject.image_shape)) for subject in subjects]
        seen = [_look(subject, image) for subject, image in zip(subjects, images, strict=True)]
        timings = [_Timing() for _ in subjects]
        for turn in range(WARM_UPS - 1 + repeats):
            logger.info("pass %d of %d", turn + 1, WARM_UPS - 1 + repeats)
            for subject, image, timing in zip(subjects, images, timings, strict=True):
                timing.passes.append(_time_layers(subject, image))
                start = _now()
                subject.forward(image)
                timing.plain.append(_now() - start)
    for timing in timings:
        del timing.passes[: WARM_UPS - 1], timing.plain[: WARM_UPS - 1]
    return [_profile(*each, batch) for each in zip(subjects, seen, timings, strict=True)]


def count_network(subject: Subject) -> Profile:
    """Counts parameters, multiply-adds and activations of one network by a single pass; all times are 0.

    Raises:
        UserError: the network does not take such images.
    """
    with paddle.no_grad(), _evaluation_mode(subject.network):
        image = paddle.to_tensor(_pixels(1, *subject.image_shape))
        return _profile(subject, _look(subject, image), _Timing([{}], [0.0]), 1)


@contextlib.contextmanager
def _evaluation_mode(network: nn.Layer) -> Iterator[None]:
    """Switches to evaluation and back: each layer to its own mode, since parts may be frozen."""
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


@contextlib.contextmanager
def _hooks(
    network: nn.Layer, before: Callable[[str, nn.Layer], None], after: Callable[[str, nn.Layer, Any, Any], None]
) -> Iterator[None]:
    """Calls ``before`` and ``after`` around every call of a sublayer; nothing of it stays behind."""
    handles = []

    def attach(name: str, layer: nn.Layer) -> None:
        handles.append(layer.register_forward_pre_hook(lambda layer, _: before(name, layer)))
        handles.append(layer.register_forward_post_hook(lambda layer, x, y: after(name, layer, x, y)))

    try:
        for name, layer in network.named_sublayers():
            attach(name, layer)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _look(subject: Subject, images: paddle.Tensor) -> dict[str, _Seen]:
    """Runs one pass; returns what there is to know of each layer but time, in the order of first calls."""
    layers = _layers_of(subject.network)
    called: dict[str, _Seen] = {}
    # Held until the end: of a freed tensor the identity would be given to another.
    known: dict[int, paddle.Tensor] = {id(images): images}

    def after(name: str, layer: nn.Layer, inputs: Any, output: Any) -> None:
        entry = called.setdefault(name, layers[name])
        entry.calls += 1
        if not any(True for _ in layer.children()):
            entry.flops += count_flops(layer, inputs, output)
        known.update((id(tensor), tensor) for tensor in _tensors(inputs))
        for tensor in _tensors(output):
            entry.output_shape = tuple(tensor.shape)
            if id(tensor) not in known:
                entry.activation_bytes += math.prod(tensor.shape) * tensor.element_size()
                known[id(tensor)] = tensor

    with _hooks(subject.network, lambda *_: None, after):
        try:
            subject.forward(images)
        except (AssertionError, TypeError, ValueError, RuntimeError, IndexError) as error:
            shape = " x ".join(map(str, subject.image_shape))
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
            raise UserError(f"{subject.name} does not take images of {shape}: {reason.strip()}") from error
    return called | {name: entry for name, entry in layers.items() if name not in called}


def _layers_of(network: nn.Layer) -> dict[str, _Seen]:
    """Returns each layer, the network itself last; each parameter is counted where it stands first."""
    entries: dict[str, _Seen] = {}
    attention: set[str] = set()
    counted: set[int] = set()
    for name, layer in network.named_sublayers():
        # The layers around come before those inside.
        if is_attention(layer) or any(name.startswith(f"{outer}.") for outer in attention):
            attention.add(name)
        entries[name] = _Seen(layer, kind_of(layer, name in attention))
    entries[NETWORK] = _Seen(network, BETWEEN)
    for entry in entries.values():
        for parameter in entry.layer.parameters(include_sublayers=False):
            if id(parameter) not in counted and not parameter.stop_gradient:
                counted.add(id(parameter))
                entry.parameters += int(parameter.size)
    return entries


def _tensors(value: Any) -> Iterator[paddle.Tensor]:
    if isinstance(value, paddle.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _time_layers(subject: Subject, images: paddle.Tensor) -> dict[str, float]:
    """Runs one pass; returns the seconds of each layer less those of the layers inside it."""
    seconds: dict[str, float] = {}
    # One entry for each open call: when it began, and what the calls inside it took.
    open_calls: list[list[float]] = [[0.0, 0.0]]

    def before(_: str, __: nn.Layer) -> None:
        open_calls.append([_now(), 0.0])

    def after(name: str, *_: Any) -> None:
        end = _now()
        start, inside = open_calls.pop()
        open_calls[-1][1] += end - start
        seconds[name] = seconds.get(name, 0.0) + end - start - inside

    with _hooks(subject.network, before, after):
        start = _now()
        subject.forward(images)
        seconds[NETWORK] = _now() - start - open_calls[0][1]
    return seconds


def _now() -> float:
    """Returns the time in seconds when all that was given to the device is done."""
    if not paddle.get_device().startswith("cpu"):
        paddle.device.synchronize()
    return time.perf_counter()


def _profile(subject: Subject, seen: dict[str, _Seen], timing: _Timing, batch: int) -> Profile:
    half = (len(timing.passes) + 1) // 2
    passes = sorted(timing.passes, key=lambda each: sum(each.values()))[:half]
    plain = sorted(timing.plain)[:half]
    names = [name for name in seen if name != NETWORK]
    stages = assign_stages({name: seen[name].output_shape for name in names}, subject.image_shape[1:])
    rows = []
    for name, entry in seen.items():
        seconds = sum(each.get(name, 0.0) for each in passes) / half
        if not entry.calls and not entry.parameters and name != NETWORK:
            continue  # A list of layers, or one that only training uses.
        rows.append(
            LayerFigures(
                name=name,
                type_name=type(entry.layer).__name__,
                kind=entry.kind,
                stage=stages.get(name, REST),
                calls=1 if name == NETWORK else entry.calls,
                output_shape=entry.output_shape,
                parameters=entry.parameters,
                flops=entry.flops // batch,
                activation_bytes=entry.activation_bytes,
                milliseconds=seconds * 1e3,
            )
        )
    return Profile(subject.name, subject.image_shape, batch, tuple(rows), sum(plain) / half * 1e3)


def _pixels(*shape: int) -> np.ndarray:
    """Returns pictures of noise in [-1, 1), float32."""
    return np.random.default_rng(0).random(shape, dtype=np.float32) * 2 - 1
