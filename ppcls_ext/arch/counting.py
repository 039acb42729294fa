"""Parameters and FLOPs of classifiers, counted as the published tables of the ConvNeXt line count them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppcls_ext.arch.registry import build_model
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from paddle import nn

# A network beyond them fits into no memory that the counting pass would need: a slip of the pen.
MOST_PARAMETERS = 2_000_000_000


@dataclass(frozen=True)
class Count:
    """Size of a network.

    Attributes:
        parameters: trainable ones.
        flops: multiply-adds of one image as ``paddle.flops`` counts them: convolutions and linear layers, batch norms
            as two for each number, average pools; nothing else, so no layer norms.
    """

    parameters: int
    flops: int


def count_parameters(model: nn.Layer) -> int:
    """Returns how many numbers are trained."""
    return sum(int(parameter.size) for parameter in model.parameters() if not parameter.stop_gradient)


def count_network(model: nn.Layer, image_size: int, channels: int = 3) -> Count:
    """Counts ``model`` for images ``[1, channels, image_size, image_size]``; the counting leaves marks in it."""
    import paddle

    with contextlib.redirect_stdout(io.StringIO()):  # paddle.flops prints a report.
        flops = int(paddle.flops(model, [1, channels, image_size, image_size]))
    return Count(count_parameters(model), flops)


def count_model(name: str, arguments: Mapping[str, Any], image_size: int) -> Count:
    """Builds a model by name and counts it.

    Raises:
        UserError: the name or an argument is wrong, the network is too large to be built, or it takes no such image.
    """
    import paddle

    # Names that Paddle generates for parameters go on counting only outside of the guard.
    with paddle.utils.unique_name.guard():
        try:
            with paddle.LazyGuard():  # Shapes without values.
                parameters = count_parameters(build_model(name, **arguments))
            if parameters > MOST_PARAMETERS:
                raise UserError(f"{name}: {parameters / 1e9:.1f} billion parameters are too many to be run")
            model = build_model(name, **arguments)
        except ValueError as error:
            raise UserError(str(error)) from error
        coarsest = getattr(model, "feature_strides", [1])[-1]
        if image_size < coarsest:
            raise UserError(f"{name}: images of {image_size} px leave its last stage no position; at least {coarsest}")
        channels = arguments.get("in_channels", 3)
        try:
            return count_network(model, image_size, channels)
        except (ValueError, RuntimeError) as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
            raise UserError(f"{name} takes no images of {image_size} x {image_size}: {reason.strip()}") from error
