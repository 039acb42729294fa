"""One image of zeros through a new model, so that sizes that cannot work are told at once and in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle

from classification.config import Config
from classification.sections import ArchSettings
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.utils.errors import UserError

# What a forward pass raises for shapes that do not fit; no memory or a broken device is another matter.
SHAPE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Place:
    """A network of a configuration.

    Attributes:
        arch: its name and arguments.
        image_shape: ``[channels, height, width]`` of what it sees.
        key: dotted key of the section that describes it.
        shape_key: dotted key of its images' shape.
    """

    arch: ArchSettings
    image_shape: list[int]
    key: str = "Arch"
    shape_key: str = "Global.image_shape"


def model_of(config: Config) -> Place:
    """Returns the place of the network of ``Arch``."""
    return Place(config.arch, config.run.image_shape)


def check_image_shape(config: Config, model: paddle.nn.Layer, place: Place | None = None) -> None:
    """Runs one image through ``model``; weights, statistics and randomness stay as they are.

    Args:
        config: where mistakes are reported.
        model: the network.
        place: where it stands in the configuration; ``Arch`` and ``Global.image_shape`` unless given.

    Raises:
        UserError: the model cannot take it, or its logits are not ``[1, class_num]``.
    """
    place = place or model_of(config)
    shape, name, class_num = place.image_shape, place.arch.name, place.arch.class_num
    refusal = f"{name} cannot take images of shape {shape}"
    try:
        with _undisturbed(model), _watching_for_nothing(model) as empty, paddle.no_grad():
            outputs = list(logits_of(model(paddle.zeros([1, *shape], "float32"))).shape)
    except SHAPE_ERRORS as error:
        message = refusal + _reason(model, shape[0], error)
        raise UserError(config.document.problem(place.shape_key, message)) from error
    if empty:
        message = f"{refusal}: they are too small, {empty[0]} leaves nothing of them"
        raise UserError(config.document.problem(place.shape_key, message))
    if outputs != [1, class_num]:
        message = f"{name} gives outputs of shape {outputs} for one image, expected [1, {class_num}]"
        raise UserError(config.document.problem(f"{place.key}.class_num", message))


def stage_widths(model: paddle.nn.Layer, image_shape: list[int]) -> list[int]:
    """Returns the channels of each stage's output, by running one image of ``[channels, height, width]``."""
    with _undisturbed(model), paddle.no_grad():
        return [int(output.shape[1]) for output in model.forward_features(paddle.zeros([1, *image_shape], "float32"))]


def _reason(model: paddle.nn.Layer, channels: int, error: Exception) -> str:
    """Returns why the model failed, where that can be told in a few words: Paddle's own account is a page long."""
    first = next((layer for layer in model.sublayers() if isinstance(layer, paddle.nn.Conv2D)), None)
    # A convolution's weight is [outputs, inputs, height, width].
    if first is not None and first.weight.shape[1] != channels:
        return f": its first convolution takes {first.weight.shape[1]} channels, not {channels}"
    lines = str(error).strip().splitlines()
    return f": {lines[0]}" if len(lines) == 1 else ""


@contextlib.contextmanager
def _watching_for_nothing(model: paddle.nn.Layer) -> Iterator[list[str]]:
    """Gathers the names of layers whose result holds no number; Paddle computes on with it, to zeros or to NaN."""
    empty: list[str] = []
    hooks = []
    for name, layer in model.named_sublayers():

        def note(_: paddle.nn.Layer, __: Any, output: Any, name: str = name) -> None:
            if isinstance(output, paddle.Tensor) and 0 in output.shape:
                empty.append(name)

        hooks.append(layer.register_forward_post_hook(note))
    try:
        yield empty
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _undisturbed(model: paddle.nn.Layer) -> Iterator[None]:
    """Puts ``model`` into evaluation mode; afterwards each layer's mode and all random states are as before."""
    layers = model.sublayers(include_self=True)
    modes = [layer.training for layer in layers]
    states = random.getstate(), np.random.get_state(), paddle.get_rng_state()
    model.eval()
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode
        random.setstate(states[0])
        np.random.set_state(states[1])
        paddle.set_rng_state(states[2])
