"""FLOPs and trainable parameters, counted as the published tables of the ConvNeXt line count them.

Everything in this project that counts counts here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
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
        flops: multiply-adds of one image, see `count_flops`.
    """

    parameters: int
    flops: int


def count_parameters(model: nn.Layer) -> int:
    """Returns how many numbers are trained: running statistics and frozen weights are left out."""
    return sum(int(parameter.size) for parameter in model.parameters() if not parameter.stop_gradient)


def count_flops(model: nn.Layer, input_shape: Sequence[int]) -> int:
    """Returns the multiply-adds of one pass as ``paddle.flops`` counts them.

    Convolutions and linear layers count one for each multiply-add, batch norms two for each number, average pools one;
    nothing else counts, so no layer norms.

    Args:
        model: takes one tensor; the counting leaves marks in it.
        input_shape: of the tensor, such as ``[1, 3, 224, 224]``.
    """
    import paddle

    with contextlib.redirect_stdout(io.StringIO()):  # paddle.flops prints a report.
        return int(paddle.flops(model, list(input_shape)))


def count_network(model: nn.Layer, image_size: int, channels: int = 3) -> Count:
    """Counts ``model`` for images ``[1, channels, image_size, image_size]``; the counting leaves marks in it."""
    return Count(count_parameters(model), count_flops(model, [1, channels, image_size, image_size]))


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
        with told_if_refused(name, [channels, image_size, image_size]):
            return count_network(model, image_size, channels)


@contextlib.contextmanager
def told_if_refused(name: str, image_shape: Sequence[int]) -> Iterator[None]:
    """Runs a network inside; what it raises because it takes no such images becomes a `UserError` of one line."""
    try:
        yield
    except (AssertionError, TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
        shape = " x ".join(map(str, image_shape))
        raise UserError(f"{name} does not take images of {shape}: {reason.strip()}") from error
