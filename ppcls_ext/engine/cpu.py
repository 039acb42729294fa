"""Training on a CPU faster than with Paddle's own kernels, with equally exact numbers.

`accelerate` exchanges the ``forward`` of layers for which Paddle's CPU kernels are slow: convolutions, linear layers,
batch norm, GELU and SiLU one by one in their NCHW layout; the stages of ConvNeXt and E-ConvNeXt as a whole in CHWN,
where a 1x1 convolution is one matrix product over the whole batch. Matrix products are NumPy's (OpenBLAS), what goes
over whole maps is in `cpu_kernels` (numba). Parameters, their names, buffers and hooks stay what they are. What is not
eager float32 on a CPU goes on to the layer's own ``forward``.

Each function below computes on arrays and returns its result with a function for the gradients; `_Fused` ties them into
Paddle's autograd. Gradients of gradients, and `paddle.grad` by some of the inputs, need Paddle's kernels (`restore`).
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, cast

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer

from ppcls_ext.arch.ablation import AblatedStage
from ppcls_ext.arch.convnext import (
    NORM_EPSILON,
    SMALLEST_ENERGY,
    BlockV1,
    BlockV2,
    ChannelNorm,
    GlobalResponseNorm,
    LayerScale,
    Stage,
)
from ppcls_ext.arch.econvnext import Block, ConvBNAct, CSPStage, EffectiveSE
from ppcls_ext.arch.layers import DropPath, GlobalAveragePool
from ppcls_ext.arch.masked import LayOut, Pile, Piles
from ppcls_ext.utils.machine import available_cores

logger = logging.getLogger(__name__)
kernels: Any = None  # The module of numba kernels, once `accelerate` has loaded it.
# Where an exchanged layer keeps the list of the layers inside it.
INNER = "_layers_inside"
CPU = paddle.CPUPlace()
# NumPy's OpenBLAS; None where NumPy has another library, which keeps threads of its own.
blas: Any = None
# From so many FLOPs on, two threads are faster than one.
LARGE_PRODUCT = 2e7
# Up to so many columns of its right side, a product of a transposed matrix is faster the other way round.
FEW_COLUMNS = 64
# So many numbers of a map the cache holds beside a few others as large; but fewer columns make slow products.
CACHED, NARROWEST = 2**18, 1024
# Convolutions go over a batch in so many parts at most.
MOST_PARTS = 16
# From so many positions in a map on, a product for each image is as fast as one over the batch.
LARGE_MAP = 256


class _Memory:
    """Offers the memory of a tensor to NumPy (array interface) and keeps the tensor alive."""

    def __init__(self, tensor: paddle.Tensor) -> None:
        self.tensor = tensor
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False), "shape": tuple(tensor.shape), "typestr": "<f4", "version": 3
        }  # fmt: skip


def array_of(tensor: paddle.Tensor) -> np.ndarray:
    """Returns the memory of a float32 CPU tensor as an array; a copy, if the tensor is not contiguous.

    Raises:
        TypeError: the tensor is of another type, such as a parameter that was cast.
    """
    if tensor.dtype != paddle.float32:
        raise TypeError(f"the fast CPU kernels compute in float32, got {tensor.dtype}")
    return np.asarray(_Memory(tensor if tensor.is_contiguous() else tensor.contiguous()))


def tensor_of(array: np.ndarray) -> paddle.Tensor:
    """Returns a tensor over the memory of an array."""
    tensor = paddle.Tensor.__new__(paddle.Tensor)
    # What `paddle.Tensor(...)` does after looking at its arguments for a while; 400 gradients a step are many.
    paddle.original_init(tensor, np.ascontiguousarray(array), CPU, False, True, "", True)
    return tensor


def _on_one_blas_thread(compute: Callable, arrays: Sequence[np.ndarray]) -> Any:
    """Returns ``compute(*arrays)``, in which NumPy multiplies matrices on the thread that asks.

    Threads of its own would wait for work on the processors that `cpu_kernels.share` gives to others.
    """
    before = blas.get_num_threads() if blas else 1
    if before == 1:
        return compute(*arrays)
    try:
        blas.set_num_threads(1)
        return compute(*arrays)
    finally:
        blas.set_num_threads(before)


class _Fused(PyLayer):
    """Ties a function on arrays into autograd."""

    @staticmethod
    def forward(ctx: Any, compute: Callable, *tensors: paddle.Tensor) -> paddle.Tensor:
        """``compute(*arrays)`` gives an array and a function from its gradient to those of the arrays."""
        result, ctx.gradients = _on_one_blas_thread(compute, [array_of(tensor) for tensor in tensors])
        ctx.frozen = [tensor.stop_gradient for tensor in tensors]
        ctx.versions = [(tensor, tensor.inplace_version) for tensor in tensors]
        return tensor_of(result)

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor) -> Any:
        if any(tensor.inplace_version != version for tensor, version in ctx.versions):
            raise RuntimeError("a tensor that the gradient needs was changed in place after the forward pass")
        gradients = _on_one_blas_thread(ctx.gradients, [array_of(grad)])
        answers = [None if fixed else tensor_of(g) for fixed, g in zip(ctx.frozen, gradients, strict=True)]
        return answers[0] if len(answers) == 1 else tuple(answers)


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product ``a @ b``."""
    if b.shape[1] <= FEW_COLUMNS and not a.flags.c_contiguous and a.flags.f_contiguous:
        return np.ascontiguousarray(_product_of(b.T, a.T).T)
    return _product_of(a, b)


def _product_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product ``a @ b``; threads share the rows or the columns of a large one."""
    if blas is None or 2 * a.shape[0] * a.shape[1] * b.shape[1] < LARGE_PRODUCT:
        return a @ b
    y = np.empty((a.shape[0], b.shape[1]), np.float32)
    if a.shape[0] >= b.shape[1]:
        kernels.share(lambda begin, end: np.matmul(a[begin:end], b, out=y[begin:end]), len(a))
    else:
        kernels.share(lambda begin, end: np.matmul(a, b[:, begin:end], out=y[:, begin:end]), b.shape[1])
    return y


def _for_parts(work: Callable[[int], None], count: int) -> None:
    """Calls ``work(i)`` for i in range(count): threads share the parts, or what is inside them where parts are few."""
    if count < kernels.threads:
        for i in range(count):
            work(i)
    else:
        kernels.share(lambda begin, end: [work(i) for i in range(begin, end)], count)


def _sum_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Adds arrays up in their order, in the memory of the first."""
    total = arrays[0]
    for array in arrays[1:]:
        total += array
    return total


def _check_channels(channels: int, weight: np.ndarray) -> None:
    """Refuses input of other channels than a layer has: the kernels, which check no bounds, would read beyond them."""
    if channels != len(weight):
        raise ValueError(f"expected {len(weight)} channels, got {channels}")


# ---- the parts, on arrays [C, H, W, N] ----


def _segments(x: np.ndarray, images_first: bool) -> tuple:
    """Returns how many segments of how many numbers a channel of maps has, and the distances of both.

    Args:
        x: [C, H, W, N] or, with ``images_first``, [N, C, H, W].
    """
    if not images_first:
        return 1, x[0].size, (x[0].size, 0)
    size = x[0, 0].size
    return len(x), size, (size, x.shape[1] * size)


def _depthwise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, images_first: bool = False) -> tuple:
    """Stride 1, "same" padding. x [C, H, W, N] or, with ``images_first``, [N, C, H, W]; weight [C, 1, k, k]."""
    channels, height, width = x.shape[1:] if images_first else x.shape[:3]
    _check_channels(channels, weight)
    forward = kernels.depthwise_planes_forward if images_first else kernels.depthwise_forward
    backward = kernels.depthwise_planes_backward if images_first else kernels.depthwise_backward
    # A map of 4x4 sees 7x7 of a kernel, one of 1x1 only its middle.
    taps = weight.shape[2]
    cut = max(taps // 2 - max(height, width) + 1, 0)
    visible = np.ascontiguousarray(weight[:, 0, cut : taps - cut, cut : taps - cut])
    y = np.empty_like(x)
    forward(channels, x.reshape(-1), visible, bias, y.reshape(-1), height, width)

    def gradients(dy: np.ndarray) -> tuple:
        dx, dvisible, dbias = np.empty_like(x), np.empty_like(visible), np.empty_like(bias)
        backward(channels, x.reshape(-1), visible, dy.reshape(-1), dx.reshape(-1), dvisible, dbias, height, width)
        dweight = np.zeros_like(weight)
        dweight[:, 0, cut : taps - cut, cut : taps - cut] = dvisible
        return dx, dweight, dbias

    return y, gradients


def _batch_norm(
    x: np.ndarray, norm: nn.Layer, weight: np.ndarray, bias: np.ndarray, shift: np.ndarray | None = None,
    images_first: bool = False,
) -> tuple:  # fmt: skip
    """Batch norm of ``x + shift``, x [C, H, W, N] or, with ``images_first``, [N, C, H, W].

    The gradients are by x, weight, bias and shift. In training no shift changes the output: its gradient is zero.
    """
    channels = x.shape[1] if images_first else len(x)
    _check_channels(channels, weight)
    segments = _segments(x, images_first)
    mean, variance, scale = np.empty((3, channels), np.float32)
    running_mean, running_variance = array_of(norm._mean), array_of(norm._variance)
    y = np.empty_like(x)
    epsilon = norm._epsilon
    training = norm.training if norm._use_global_stats is None else not norm._use_global_stats
    if training:
        kernels.batch_norm_forward(
            channels, x.reshape(-1), weight, bias, epsilon, y.reshape(-1), mean, variance, scale, *segments
        )
        momentum = np.float32(norm._momentum)
        running_mean *= momentum
        running_mean += (1 - momentum) * (mean if shift is None else mean + shift)
        running_variance *= momentum
        running_variance += (1 - momentum) * variance
    else:
        inverse = 1 / np.sqrt(running_variance + np.float32(epsilon))
        center = running_mean if shift is None else running_mean - shift
        scale = weight * inverse
        kernels.affine(channels, x.reshape(-1), scale, bias - center * scale, y.reshape(-1), *segments)
        # The statistics are copied: training may go on before the gradients are asked for.
        center = center.copy()

    def gradients(dy: np.ndarray) -> tuple:
        dx, (dweight, dbias) = np.empty_like(x), np.empty((2, channels), np.float32)
        kernels.batch_norm_backward(
            channels, x.reshape(-1), mean, variance, scale, epsilon, dy.reshape(-1), dx.reshape(-1), dweight, dbias,
            *segments,
        )  # fmt: skip
        return dx, dweight, dbias, np.zeros_like(dbias)

    def gradients_with_stored_statistics(dy: np.ndarray) -> tuple:
        dx = np.empty_like(x)
        kernels.affine(channels, dy.reshape(-1), scale, np.zeros_like(scale), dx.reshape(-1), *segments)
        others = (0, 2, 3) if images_first else (1, 2, 3)
        dbias, by_x = dy.sum(axis=others), (dy * x).sum(axis=others)
        return dx, (by_x - dbias * center) * inverse, dbias, dbias * scale

    return y, gradients if training else gradients_with_stored_statistics


def _activation(kernel: Callable, x: np.ndarray, bias: np.ndarray) -> tuple:
    """GELU or SiLU of ``x + bias``, x [C, M], bias [C]."""
    y, slope = np.empty_like(x), np.empty_like(x)
    kernel(len(x), x, bias, y, slope)

    def gradients(dy: np.ndarray) -> tuple:
        dx, dbias = np.empty_like(slope), np.empty(len(slope), np.float32)
        kernels.multiply_and_sum(len(dy), dy, slope, dx, dbias)
        return dx, dbias

    return y, gradients


def _means(x: np.ndarray) -> np.ndarray:
    """Means of the planes of x [C, H, W, N] -> [C, N]; rows first, because sums over long rows are fast."""
    channels, height, width, images = x.shape
    columns = x.reshape(channels, height, -1).sum(axis=1).reshape(channels, width, images)
    return columns.sum(axis=1) / np.float32(height * width)


def _gate(pooled: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple:
    """Effective squeeze-and-excitation from the means of planes [C, N]: hard sigmoid of a linear layer."""
    matrix = weight.reshape(weight.shape[:2])
    before = _times(matrix, pooled) + bias[:, None]
    gate = np.clip(before / np.float32(6) + np.float32(0.5), 0, 1)

    def gradients(dgate: np.ndarray) -> tuple:
        dbefore = np.where(np.abs(before) < 3, dgate / np.float32(6), np.float32(0))
        return _times(matrix.T, dbefore), _times(dbefore, pooled.T).reshape(weight.shape), dbefore.sum(axis=1)

    return gate, gradients


def _product(x: np.ndarray, weight: np.ndarray) -> tuple:
    """weight [C_out, C_in] times x [C_in, M]."""

    def gradients(dy: np.ndarray) -> tuple:
        return _times(weight.T, dy), _weight_gradient(weight, x, dy)

    return _times(weight, x), gradients


def _weight_gradient(weight: np.ndarray, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Gradient of ``weight @ x`` by the weight, in the memory order of the weight."""
    return _times(dy, x.T) if weight.flags.c_contiguous else _times(x, dy.T).T


def _mlp(x: np.ndarray, expand: np.ndarray, bias: np.ndarray, project: np.ndarray) -> tuple:
    """project [C', hidden] times GELU(expand [hidden, C] times x [C, M] + bias [hidden]).

    Goes over so many columns at a time that what has ``hidden`` rows stays in the cache. Of that only the input of the
    GELU is kept; the rest is cheaper to compute again for the gradients than to fetch. The gradients are by x, expand,
    bias and project.
    """
    # The same parts with any number of threads; an even number of them for two.
    count = -(-x.shape[1] // max(CACHED // len(expand), NARROWEST))
    count += count % 2 if count > 1 else 0
    width = -(-x.shape[1] // count)
    parts = [slice(first, first + width) for first in range(0, x.shape[1], width)]
    inputs: list[Any] = [None] * len(parts)
    y = np.empty((len(project), x.shape[1]), np.float32)

    def forward_part(i: int) -> None:
        inputs[i] = _times(expand, x[:, parts[i]])
        value, _ = _gelu_and_slope(inputs[i], bias)
        y[:, parts[i]] = _times(project, value)

    _for_parts(forward_part, len(parts))

    def gradients(dy: np.ndarray) -> tuple:
        dx = np.empty_like(x)
        sums: list[Any] = [None] * len(parts)

        def backward_part(i: int) -> None:
            d, dbias = dy[:, parts[i]], np.empty_like(bias)
            value, slope = _gelu_and_slope(inputs[i], bias)
            dproject = _weight_gradient(project, value, d)
            d = _times(project.T, d)
            # Not into d: where a loop writes to what it reads, the compiler takes its slow form.
            kernels.multiply_and_sum(len(d), d, slope, value, dbias)
            dx[:, parts[i]] = _times(expand.T, value)
            sums[i] = _weight_gradient(expand, x[:, parts[i]], value), dbias, dproject

        _for_parts(backward_part, len(parts))
        return dx, *map(_sum_of, zip(*sums, strict=True))

    return y, gradients


def _gelu_and_slope(x: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value, slope = np.empty_like(x), np.empty_like(x)
    kernels.gelu_forward(len(x), x, bias, value, slope)
    return value, slope


# ---- blocks and stages in CHWN ----


def _block(
    layer: Block, kept: np.ndarray | None, x: np.ndarray, depthwise_w: np.ndarray, depthwise_b: np.ndarray,
    norm_w: np.ndarray, norm_b: np.ndarray, expand_w: np.ndarray, expand_b: np.ndarray, project_w: np.ndarray,
    project_b: np.ndarray, project_norm_w: np.ndarray, project_norm_b: np.ndarray, gate_w: np.ndarray,
    gate_b: np.ndarray,
) -> tuple:  # fmt: skip
    """Block of E-ConvNeXt, x [C, H, W, N]; ``kept`` [N] scales the branch of each image (drop path)."""
    channels, height, width, _ = x.shape
    y, depthwise_back = _depthwise(x, depthwise_w, depthwise_b)
    y, norm_back = _batch_norm(y, layer.norm, norm_w, norm_b)
    matrices = expand_w.reshape(expand_w.shape[:2]), expand_b, project_w.reshape(project_w.shape[:2])
    y, mlp_back = _mlp(y.reshape(channels, -1), *matrices)
    y = y.reshape(x.shape)
    y, project_norm_back = _batch_norm(y, layer.project_norm, project_norm_w, project_norm_b, project_b)
    branch = y.reshape(channels, -1)
    gate, gate_back = _gate(_means(y), gate_w, gate_b)
    factor = gate if kept is None else gate * kept
    result = np.empty_like(branch)
    kernels.add_scaled_planes(len(x), x.reshape(branch.shape), branch, factor, result)

    def gradients(dy: np.ndarray) -> tuple:
        d, dfactor = np.empty_like(branch), np.empty_like(factor)
        kernels.plane_sums(len(dy), dy.reshape(branch.shape), branch, dfactor)
        dpooled, *gate_gradients = gate_back(dfactor if kept is None else dfactor * kept)
        kernels.scale_planes(len(dy), dy.reshape(branch.shape), factor, dpooled / np.float32(height * width), d)
        d, *project_norm_gradients, dproject_b = project_norm_back(d.reshape(x.shape))
        d, dexpand_w, dexpand_b, dproject_w = mlp_back(d.reshape(channels, -1))
        d, *norm_gradients, _ = norm_back(d.reshape(x.shape))
        d, *depthwise_gradients = depthwise_back(d)
        d += dy
        return (
            d, *depthwise_gradients, *norm_gradients, dexpand_w.reshape(expand_w.shape), dexpand_b,
            dproject_w.reshape(project_w.shape), dproject_b, *project_norm_gradients, *gate_gradients,
        )  # fmt: skip

    return result.reshape(x.shape), gradients


def _conv_norm_act(layer: ConvBNAct, x: np.ndarray, conv_w: np.ndarray, conv_b: np.ndarray, norm_w: np.ndarray,
                   norm_b: np.ndarray) -> tuple:  # fmt: skip
    """ConvBNAct whose kernel is as large as its stride, x [C, H, W, N]."""
    channels, height, width, images = x.shape
    side = conv_w.shape[2]
    height, width = height // side, width // side
    if min(height, width) < 1:
        raise ValueError(f"a map of {x.shape[1]} x {x.shape[2]} is smaller than the kernel of {side} x {side}")
    columns = x
    if side > 1:
        parts = x[:, : height * side, : width * side].reshape(channels, height, side, width, side, images)
        columns = parts.transpose(0, 2, 4, 1, 3, 5)
    columns = columns.reshape(channels * side * side, -1)
    y, product_back = _product(columns, conv_w.reshape(len(conv_w), -1))
    y, norm_back = _batch_norm(y.reshape(-1, height, width, images), layer.norm, norm_w, norm_b, conv_b)
    shape = y.shape
    y, gelu_back = _activation(kernels.gelu_forward, y.reshape(len(y), -1), np.zeros_like(conv_b))
    rows = y.shape

    def gradients(dy: np.ndarray) -> tuple:
        d, _ = gelu_back(dy.reshape(rows))
        d, *norm_gradients, dconv_b = norm_back(d.reshape(shape))
        d, dweight = product_back(d.reshape(rows))
        if side > 1:
            dx = np.zeros_like(x)
            d = d.reshape(channels, side, side, height, width, images).transpose(0, 3, 1, 4, 2, 5)
            dx[:, : height * side, : width * side] = d.reshape(channels, height * side, width * side, images)
        else:
            dx = d.reshape(x.shape)
        return dx, dweight.reshape(conv_w.shape), dconv_b, *norm_gradients

    return y.reshape(shape), gradients


def _attention(x: np.ndarray, gate_w: np.ndarray, gate_b: np.ndarray) -> tuple:
    """EffectiveSE of x [C, H, W, N]."""
    channels, height, width, _ = x.shape
    planes = x.reshape(channels, -1)
    gate, gate_back = _gate(_means(x), gate_w, gate_b)
    y = np.empty_like(planes)
    kernels.scale_planes(channels, planes, gate, np.zeros_like(gate), y)

    def gradients(dy: np.ndarray) -> tuple:
        d, dgate = np.empty_like(planes), np.empty_like(gate)
        kernels.plane_sums(len(dy), dy.reshape(planes.shape), planes, dgate)
        dpooled, *gate_gradients = gate_back(dgate)
        kernels.scale_planes(len(dy), dy.reshape(planes.shape), gate, dpooled / np.float32(height * width), d)
        return d.reshape(x.shape), *gate_gradients

    return y.reshape(x.shape), gradients


def _transposed(x: np.ndarray, rows: int, shape: Sequence[int]) -> np.ndarray:
    """Returns x as the transposed matrix of ``rows`` rows, in another shape."""
    matrix = x.reshape(rows, -1)
    y = np.empty(matrix.shape[::-1], np.float32)
    kernels.transpose(-(-len(y) // kernels.COLUMNS), matrix, y)
    return y.reshape(shape)


def _images_last(x: np.ndarray) -> tuple:
    """[N, C, H, W] -> [C, H, W, N]."""
    return _transposed(x, len(x), (*x.shape[1:], len(x))), lambda dy: (_transposed(dy, dy[..., 0].size, x.shape),)


def _images_first(x: np.ndarray) -> tuple:
    """[C, H, W, N] -> [N, C, H, W]."""
    images = x.shape[3]
    return _transposed(x, x[..., 0].size, (images, *x.shape[:3])), lambda dy: (_transposed(dy, images, x.shape),)


def _kept(drop_path: nn.Layer, images: int) -> np.ndarray | None:
    """Draws the factor [N] of each image's branch, as the layer itself does."""
    if not drop_path.training or drop_path.rate == 0:
        return None
    return drop_path(paddle.ones([images, 1, 1, 1])).numpy().reshape(-1)


def _parameters(*layers: nn.Layer) -> list[paddle.Tensor]:
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def _run_conv_norm_act(layer: ConvBNAct, x: paddle.Tensor) -> paddle.Tensor:
    return _Fused.apply(partial(_conv_norm_act, layer), x, *_parameters(layer.conv, layer.norm))


def _run_blocks(blocks: nn.Sequential, x: paddle.Tensor) -> paddle.Tensor:
    """Blocks of E-ConvNeXt one after the other, ``[C, H, W, N]`` -> ``[C, H, W, N]``."""
    for block in blocks:
        x = _Fused.apply(
            partial(_block, block, _kept(block.drop_path, x.shape[3])), x,
            *_parameters(block.depthwise, block.norm, block.expand, block.project, block.project_norm),
            *_parameters(block.attention.conv),
        )  # fmt: skip
    return x


def _econvnext_stage(layer: CSPStage, x: paddle.Tensor) -> paddle.Tensor:
    """`CSPStage.forward` in CHWN: ``[N, C, H, W]`` -> ``[N, C', H', W']``."""
    x = _Fused.apply(_images_last, x)
    if isinstance(layer.downsample, ConvBNAct):
        x = _run_conv_norm_act(layer.downsample, x)
    a, b = _run_conv_norm_act(layer.shortcut, x), _run_conv_norm_act(layer.entry, x)
    x = paddle.concat([a, _run_blocks(layer.blocks, b)], axis=0)
    x = _Fused.apply(_attention, x, *_parameters(layer.attention.conv))
    x = _run_conv_norm_act(layer.merge, x)
    return _Fused.apply(_images_first, x)


def _plain_stage(layer: AblatedStage, x: paddle.Tensor) -> paddle.Tensor:
    """`AblatedStage.forward` without ``csp``, blocks of E-ConvNeXt in CHWN: ``[N, C, H, W]`` -> ``[N, C', H', W']``."""
    x = _Fused.apply(_images_last, layer.downsample(x))
    return _Fused.apply(_images_first, _run_blocks(layer.blocks, x))


def _convnext_block(
    layer: BlockV1 | BlockV2, kept: np.ndarray | None, x: np.ndarray, depthwise_w: np.ndarray,
    depthwise_b: np.ndarray, norm_w: np.ndarray, norm_b: np.ndarray, expand_w: np.ndarray, expand_b: np.ndarray,
    project_w: np.ndarray, project_b: np.ndarray, *rest: np.ndarray,
) -> tuple:  # fmt: skip
    """Block of ConvNeXt, x [C, H, W, N]. ``rest`` is the layer scale of V1, those of V2's response norm."""
    channels, images = len(x), x.shape[3]
    response_norm = len(rest) == 2
    y, depthwise_back = _depthwise(x, depthwise_w, depthwise_b)
    y, norm_back = _layer_norm(y.reshape(channels, -1), norm_w, norm_b, layer.norm._epsilon)
    if response_norm:
        branch, mlp_back = _mlp_with_response_norm(y, images, expand_w.T, expand_b, *rest, project_w.T)
    else:
        branch, mlp_back = _mlp(y, expand_w.T, expand_b, project_w.T)
    branch += project_b[:, None]
    factor = np.ones((channels, images), np.float32) if kept is None else np.tile(kept, (channels, 1))
    if len(rest) == 1:
        factor *= rest[0][:, None]
    result = np.empty_like(branch)
    kernels.add_scaled_planes(len(x), x.reshape(branch.shape), branch, factor, result)

    def gradients(dy: np.ndarray) -> tuple:
        d, dfactor = np.empty_like(branch), np.empty_like(factor)
        kernels.plane_sums(len(dy), dy.reshape(branch.shape), branch, dfactor)
        kernels.scale_planes(len(dy), dy.reshape(branch.shape), factor, np.zeros_like(factor), d)
        dproject_b = d.sum(axis=1)
        d, dexpand, dexpand_b, *drest, dproject = mlp_back(d)
        if len(rest) == 1:
            drest = [(dfactor if kept is None else dfactor * kept).sum(axis=1)]
        d, *norm_gradients = norm_back(d)
        d, *depthwise_gradients = depthwise_back(d.reshape(x.shape))
        d += dy
        return d, *depthwise_gradients, *norm_gradients, dexpand.T, dexpand_b, dproject.T, dproject_b, *drest

    return result.reshape(x.shape), gradients


def _mlp_with_response_norm(
    x: np.ndarray, images: int, expand: np.ndarray, bias: np.ndarray, norm_w: np.ndarray, norm_b: np.ndarray,
    project: np.ndarray,
) -> tuple:  # fmt: skip
    """`_mlp` with a global response norm behind the GELU, which needs all columns at once."""
    y, expand_back = _product(x, expand)
    y, gelu_back = _activation(kernels.gelu_forward, y, bias)
    y, norm_back = _response_norm(y, images, norm_w, norm_b)
    y, project_back = _product(y, project)

    def gradients(dy: np.ndarray) -> tuple:
        d, dproject = project_back(dy)
        d, *norm_gradients = norm_back(d)
        d, dbias = gelu_back(d)
        d, dexpand = expand_back(d)
        return d, dexpand, dbias, *norm_gradients, dproject

    return y, gradients


def _layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> tuple:
    """Layer norm over the channels of x [C, M]."""
    y, (mean, inverse) = np.empty_like(x), np.empty((2, x.shape[1]), np.float32)
    blocks = -(-x.shape[1] // kernels.PIXELS)
    kernels.layer_norm_forward(blocks, x, weight, bias, np.float32(epsilon), y, mean, inverse)

    def gradients(dy: np.ndarray) -> tuple:
        dx, (dweight, dbias) = np.empty_like(x), np.empty((2, len(x)), np.float32)
        kernels.layer_norm_backward(blocks, x, weight, mean, inverse, dy, dx)
        kernels.layer_norm_backward_parameters(len(x), x, mean, inverse, dy, dweight, dbias)
        return dx, dweight, dbias

    return y, gradients


def _response_norm(x: np.ndarray, images: int, weight: np.ndarray, bias: np.ndarray) -> tuple:
    """Global response norm of ConvNeXt V2, x [C, size * N]: ``x * (weight * r + 1) + bias``, r [C, N]."""
    squares = np.empty((len(x), images), np.float32)
    kernels.plane_sums(len(x), x, x, squares)
    energy = np.sqrt(np.maximum(squares, SMALLEST_ENERGY))
    level = energy.mean(axis=0) + np.float32(NORM_EPSILON)
    response = energy / level
    factor = weight[:, None] * response + 1
    y = np.empty_like(x)
    kernels.scale_planes(len(x), x, factor, np.repeat(bias[:, None], images, axis=1), y)

    def gradients(dy: np.ndarray) -> tuple:
        dx, dfactor = np.empty_like(x), np.empty_like(factor)
        kernels.plane_sums(len(dy), dy, x, dfactor)
        kernels.scale_planes(len(dy), dy, factor, np.zeros_like(factor), dx)
        dresponse = dfactor * weight[:, None]
        denergy = dresponse / level - (dresponse * energy).sum(axis=0) / (level * level * len(x))
        by_x = np.where(squares > SMALLEST_ENERGY, denergy / energy, np.float32(0))
        through = np.empty_like(x)
        kernels.add_scaled_planes(len(x), dx, x, by_x, through)
        return through, (dfactor * response).sum(axis=1), dy.sum(axis=1)

    return y, gradients


def _convnext_stage(layer: Stage, x: paddle.Tensor) -> paddle.Tensor:
    """`Stage.forward` with the blocks in CHWN: ``[N, C, H, W]`` -> ``[N, C', H', W']``."""
    x = _Fused.apply(_images_last, layer.downsample(x))
    for block in layer.blocks:
        parameters = _parameters(block.depthwise, block.norm, block.expand, block.project)
        if isinstance(block, BlockV2):
            parameters += _parameters(block.response_norm)
        elif not isinstance(block.layer_scale, nn.Identity):
            parameters.append(block.layer_scale.weight)
        x = _Fused.apply(partial(_convnext_block, block, _kept(block.drop_path, x.shape[3])), x, *parameters)
    return _Fused.apply(_images_first, x)


# ---- single layers in NCHW ----


def _single(compute: Callable) -> Callable:
    """Makes of ``compute(layer, x, weight, bias)``, on arrays and without what the layer has not, the function that
    runs the layer."""

    def run(layer: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
        parameters = (getattr(layer, name, None) for name in ("weight", "bias"))
        return _Fused.apply(partial(compute, layer), x, *(each for each in parameters if each is not None))

    return run


def _run_convolution(layer: nn.Conv2D, x: paddle.Tensor) -> paddle.Tensor:
    parameters = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return _Fused.apply(partial(_convolution, layer, not x.stop_gradient), x, *parameters)


def _convolution(layer: nn.Conv2D, inner: bool, x: np.ndarray, weight: np.ndarray, *bias: np.ndarray) -> tuple:
    """Dense convolution, x [N, C, H, W], weight [C', C, k, k]; only an ``inner`` one, no stem, has a gradient by x."""
    images, channels = x.shape[:2]
    taps, stride, padding = weight.shape[2], layer._stride[0], _padding_of(layer)
    out_height, out_width = ((side + 2 * padding - taps) // stride + 1 for side in x.shape[2:])
    if min(out_height, out_width) < 1:
        raise ValueError(f"a map of {x.shape[2]} x {x.shape[3]} is smaller than the kernel of {taps} x {taps}")
    positions = out_height * out_width
    # So many images at a time that the product is large, and the patches stay in the cache.
    group = images if positions < LARGE_MAP and taps == 1 else max(1, min(images, LARGE_MAP // positions))
    # The gradient of each part by the weight is kept until they are added up.
    group = max(group, -(-images // MOST_PARTS))
    parts = [slice(first, first + group) for first in range(0, images, group)]
    matrix = weight.reshape(len(weight), -1)
    y = np.empty((images, len(weight), out_height, out_width), np.float32)

    def forward_part(i: int) -> None:
        _to_images(_times(matrix, _patches(x[parts[i]], taps, stride, padding)), y[parts[i]])

    _for_parts(forward_part, len(parts))
    if bias:
        y += bias[0][:, None, None]

    def gradients(dy: np.ndarray) -> tuple:
        dx, by_taps = np.empty_like(x), cast(list[np.ndarray], [None] * len(parts))
        # At stride 1 the gradient of x is the convolution of dy with the kernels turned by 180 degrees.
        simple = stride == 1 and 2 * padding == taps - 1
        turned = np.ascontiguousarray(weight[:, :, ::-1, ::-1].swapaxes(0, 1)).reshape(channels, -1) if simple else None

        def simple_part(i: int) -> None:
            patches = _patches(dy[parts[i]], taps, 1, padding)
            if inner:
                _to_images(_times(turned, patches), dx[parts[i]])
            by_taps[i] = _times(_patches(x[parts[i]], 1, 1, 0), patches.T)

        def strided_part(i: int) -> None:
            d, part = _patches(dy[parts[i]], 1, 1, 0), x[parts[i]]
            by_taps[i] = _times(d, _patches(part, taps, stride, padding).T)
            if not inner:
                return
            dpatches = _times(matrix.T, d).reshape(channels, taps, taps, -1, out_height, out_width)
            height, width = part.shape[2:]
            padded = np.zeros((len(part), channels, height + 2 * padding, width + 2 * padding), np.float32)
            for ky, kx in np.ndindex(taps, taps):
                rows, columns = (
                    slice(first, first + stride * (count - 1) + 1, stride)
                    for first, count in ((ky, out_height), (kx, out_width))
                )
                padded[:, :, rows, columns] += dpatches[:, ky, kx].swapaxes(0, 1)
            dx[parts[i]] = padded[:, :, padding : padding + height, padding : padding + width]

        _for_parts(simple_part if simple else strided_part, len(parts))
        dweight = _sum_of(by_taps)
        if simple:
            dweight = dweight.reshape(channels, len(weight), taps, taps)[:, :, ::-1, ::-1].swapaxes(0, 1)
        dbias = [dy.sum(axis=(0, 2, 3))] if bias else []
        return dx if inner else None, dweight.reshape(weight.shape), *dbias

    return y, gradients


def _patches(x: np.ndarray, taps: int, stride: int, padding: int) -> np.ndarray:
    """What each position of the result sees: x [n, C, H, W] -> [C * taps * taps, n * H' * W']."""
    if padding:
        padded = np.zeros((*x.shape[:2], *(side + 2 * padding for side in x.shape[2:])), np.float32)
        padded[:, :, padding:-padding, padding:-padding] = x
        x = padded
    images, channels, height, width = x.shape
    shape = (channels, taps, taps, images, (height - taps) // stride + 1, (width - taps) // stride + 1)
    image, channel, row, column = x.strides
    seen = np.lib.stride_tricks.as_strided(x, shape, (channel, row, column, image, row * stride, column * stride))
    return np.ascontiguousarray(seen).reshape(channels * taps * taps, -1)


def _to_images(product: np.ndarray, images: np.ndarray) -> None:
    """Writes [C, n * H * W] into images [n, C, H, W]."""
    images[:] = product.reshape(images.shape[1], images.shape[0], *images.shape[2:]).swapaxes(0, 1)


@_single
def _depthwise_layer(layer: nn.Conv2D, x: np.ndarray, weight: np.ndarray, *bias: np.ndarray) -> tuple:
    """Depthwise convolution, x [N, C, H, W]; with a stride, the positions that it leaves out are thrown away."""
    stride = layer._stride[0]
    y, back = _depthwise(x, weight, bias[0] if bias else np.zeros(len(weight), np.float32), images_first=True)
    if stride == 1:
        return y, lambda dy: back(dy)[: 2 + len(bias)]

    def gradients(dy: np.ndarray) -> tuple:
        everywhere = np.zeros_like(y)
        everywhere[:, :, ::stride, ::stride] = dy
        return back(everywhere)[: 2 + len(bias)]

    return y[:, :, ::stride, ::stride], gradients


@_single
def _batch_norm_layer(layer: nn.BatchNorm2D, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple:
    y, back = _batch_norm(x, layer, weight, bias, images_first=True)
    return y, lambda dy: back(dy)[:3]


@_single
def _linear_layer(layer: nn.Linear, x: np.ndarray, weight: np.ndarray, *bias: np.ndarray) -> tuple:
    """Linear layer, x [..., C_in], weight [C_in, C_out]."""
    _check_channels(x.shape[-1], weight)
    rows = x.reshape(-1, len(weight))
    y = _times(rows, weight)
    if bias:
        y += bias[0]

    def gradients(dy: np.ndarray) -> tuple:
        d = dy.reshape(y.shape)
        dbias = [d.sum(axis=0)] if bias else []
        return _times(d, weight.T).reshape(x.shape), _times(rows.T, d), *dbias

    return y.reshape(*x.shape[:-1], -1), gradients


@_single
def _gelu(layer: nn.GELU, x: np.ndarray) -> tuple:
    return _activation_layer(kernels.gelu_forward, x)


@_single
def _silu(layer: nn.Layer, x: np.ndarray) -> tuple:
    return _activation_layer(kernels.silu_forward, x)


def _activation_layer(kernel: Callable, x: np.ndarray) -> tuple:
    """An activation of x [N, C, H, W]."""
    shape = x.shape
    rows = x.reshape(shape[0] * shape[1], -1)
    y, back = _activation(kernel, rows, np.zeros(len(rows), np.float32))
    return y.reshape(shape), lambda dy: (back(dy.reshape(len(dy) * dy.shape[1], -1))[0].reshape(shape),)


def _run_pile(layer: Pile, x: paddle.Tensor) -> paddle.Tensor:
    return x if layer.piles is None else _Fused.apply(partial(_moved, layer.piles, _piled, _laid_out), x)


def _run_lay_out(layer: LayOut, x: paddle.Tensor) -> paddle.Tensor:
    return x if layer.piles is None else _Fused.apply(partial(_moved, layer.piles, _laid_out, _piled), x)


def _moved(piles: Piles, move: Callable, back: Callable, x: np.ndarray) -> tuple:
    return move(piles, x), lambda dy: (back(piles, dy),)


def _piled(piles: Piles, x: np.ndarray) -> np.ndarray:
    """See `Pile`."""
    images, channels, height, width = x.shape
    rows, columns = height // piles.rows, width // piles.columns
    patches = x.reshape(images, channels, piles.rows, rows, piles.columns, columns).transpose(0, 2, 4, 1, 3, 5)
    visible = patches[piles.images, piles.row, piles.column].reshape(images, -1, channels, rows, columns)
    return np.ascontiguousarray(visible.transpose(0, 2, 1, 3, 4)).reshape(images, channels, -1, columns)


def _laid_out(piles: Piles, x: np.ndarray) -> np.ndarray:
    """See `LayOut`."""
    images, channels, _, side = x.shape
    y = np.zeros((images, channels, piles.rows, side, piles.columns, side), np.float32)
    patches = x.reshape(images, channels, -1, side, side).transpose(0, 2, 1, 3, 4)
    places = piles.images, piles.row, piles.column
    y.transpose(0, 2, 4, 1, 3, 5)[places] = patches.reshape(-1, channels, side, side)
    return y.reshape(images, channels, piles.rows * side, piles.columns * side)


def _padding_of(layer: nn.Conv2D) -> int | None:
    """Returns the padding, if it is one number for all four sides."""
    padding = layer._padding
    sides = set(padding) if isinstance(padding, list | tuple) else {padding}
    only = next(iter(sides)) if len(sides) == 1 else None
    return only if isinstance(only, int) else None


# ---- what is exchanged ----


def _convolution_for(layer: nn.Conv2D) -> Callable | None:
    """Returns the function for a convolution, None where only Paddle's own will do."""
    sides, strides, dilations = set(layer._kernel_size), set(layer._stride), set(np.ravel(layer._dilation).tolist())
    plain = layer._data_format == "NCHW" and layer._padding_mode == "zeros" and dilations == {1}
    if not plain or len(sides) > 1 or len(strides) > 1 or _padding_of(layer) is None:
        return None
    side = layer._kernel_size[0]
    if layer._groups == 1:
        return _run_convolution
    if layer._groups == layer._in_channels == layer._out_channels and side % 2 and _padding_of(layer) == side // 2:
        return _depthwise_layer
    return None


def _batch_norm_for(layer: nn.BatchNorm2D) -> Callable | None:
    learnt = layer.weight is not None and layer.bias is not None
    return _batch_norm_layer if learnt and layer._data_format == "NCHW" else None


# The layers that the functions for whole stages know; with any other inside, a stage is left as it is.
STAGE_PARTS = (
    Block, BlockV1, BlockV2, ConvBNAct, EffectiveSE, ChannelNorm, LayerScale, GlobalResponseNorm, GlobalAveragePool,
    DropPath, nn.BatchNorm2D, nn.Conv2D, nn.GELU, nn.Hardsigmoid, nn.Identity, nn.LayerNorm, nn.Linear, nn.Sequential,
)  # fmt: skip


def _stage_for(run: Callable, layer: nn.Layer) -> Callable | None:
    known = all(type(part) in STAGE_PARTS for part in layer.sublayers())
    exact = not any(isinstance(part, nn.GELU) and part._approximate for part in layer.sublayers())
    gated = all(type(block.attention) is EffectiveSE for block in layer.blocks if type(block) is Block)
    return run if known and exact and gated else None


# The layers of a `Block`, in their order.
BLOCK_PARTS = [nn.Conv2D, nn.BatchNorm2D, nn.Conv2D, nn.GELU, nn.Conv2D, nn.BatchNorm2D, EffectiveSE, DropPath]


def _ablated_stage_for(layer: AblatedStage) -> Callable | None:
    """Returns the function for a stage without ``csp`` whose blocks compute what `Block` does; None for any other."""

    def is_known(block: nn.Layer) -> bool:
        kinds = [type(part) for part in block.children() if type(part) is not nn.Identity]
        depthwise = block.depthwise._groups == block.depthwise._in_channels
        return kinds == BLOCK_PARTS and depthwise and all(type(part) in STAGE_PARTS for part in block.sublayers())

    return _plain_stage if not layer.csp and all(map(is_known, layer.blocks)) else None


# Layer -> the function that runs it, or None for Paddle's own kernels.
CHOICES: dict[type[nn.Layer], Callable[[Any], Callable | None]] = {
    CSPStage: partial(_stage_for, _econvnext_stage),
    Stage: partial(_stage_for, _convnext_stage),
    AblatedStage: _ablated_stage_for,
    Pile: lambda layer: _run_pile,
    LayOut: lambda layer: _run_lay_out,
    nn.Conv2D: _convolution_for,
    nn.BatchNorm2D: _batch_norm_for,
    nn.Linear: lambda layer: _linear_layer,
    nn.GELU: lambda layer: None if layer._approximate else _gelu,
    nn.Silu: lambda layer: _silu,
    nn.Swish: lambda layer: _silu,
}


def use_fast_kernels(models: Sequence[nn.Layer], choice: str = "auto", key: str = "cpu_kernels") -> str:
    """Accelerates networks that train on a CPU, and says so in one line of the log.

    Args:
        models: any networks.
        choice: ``auto``, or ``paddle`` for Paddle's own kernels.
        key: the configuration's key for it, for the message.

    Returns:
        ``fast``, or ``paddle`` where ours are not wanted or not to be had.
    """
    if choice == "paddle":
        return "paddle"
    try:
        start = time.monotonic()
        count = sum(accelerate(model) for model in models)
        _check_kernels()
    except Exception as error:  # noqa: BLE001 - whatever a compiler meets on this machine, training goes on
        for model in models:
            restore(model)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        logger.warning("training with Paddle's CPU kernels, which are slow: %s", reason)
        return "paddle"
    # A loss that is not finite is the training loop's to tell of, in its own words.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=__name__)
    seconds = time.monotonic() - start
    logger.info("fast CPU kernels for %d layers (ready in %.1f s; %s: paddle for Paddle's)", count, seconds, key)
    return "fast"


def accelerate(model: nn.Layer) -> int:
    """Exchanges the slow layers of a model; returns how many.

    Args:
        model: any network; its parameters, buffers and hooks stay as they are.

    Raises:
        ImportError, RuntimeError: numba is missing, or cannot be set up here.
    """
    load_kernels()
    count = 0
    for layer in model.sublayers(include_self=True):
        choose = CHOICES.get(type(layer))
        run = choose(layer) if choose else None
        # An own ``forward`` of the layer is somebody else's wrapper.
        if run is not None and "forward" not in vars(layer):
            layer.forward = MethodType(_exchanged(run), layer)
            # As an attribute, so that a copy of the layer looks at its own.
            vars(layer)[INNER] = layer.sublayers()
            count += 1
    return count


def restore(model: nn.Layer) -> None:
    """Undoes `accelerate`."""
    for layer in model.sublayers(include_self=True):
        if vars(layer).pop(INNER, None) is not None:
            del vars(layer)["forward"]


def _exchanged(run: Callable) -> Callable:
    """Returns a ``forward`` that calls ``run`` where it can."""

    def forward(self: nn.Layer, *inputs: Any, **options: Any) -> paddle.Tensor:
        x = inputs[0] if len(inputs) == 1 and not options else None
        usable = (
            paddle.in_dynamic_mode() and isinstance(x, paddle.Tensor)
            and x.dtype == paddle.float32 and x.place.is_cpu_place() and 0 not in x.shape
            and (x.ndim == 4 or (x.ndim > 1 and type(self) is nn.Linear))
        )  # fmt: skip
        # A hook on an inner layer wants to see it called.
        hooked = any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in vars(self)[INNER])
        if not usable or hooked:
            return type(self).forward(self, *inputs, **options)
        return run(self, x)

    return forward


def load_kernels() -> None:
    """Loads numba and the kernels, which are compiled when they are first called and then kept in numba's cache.

    Raises:
        ImportError, RuntimeError: numba is missing, or cannot be set up here.
    """
    global kernels, blas
    if kernels is not None:
        return
    import numba
    from threadpoolctl import ThreadpoolController

    try:
        from ppcls_ext.engine import cpu_kernels
    except RuntimeError:
        # Neither the folder of the code nor that of the user's caches can be written: compile anew in each process.
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="econvnext_kernels_")
        atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)
        from ppcls_ext.engine import cpu_kernels
    # The first number of a list is that of the outermost level.
    wanted = (os.environ.get("OMP_NUM_THREADS") or "").split(",")[0]
    cpu_kernels.use_threads(max(1, int(wanted or available_cores())))
    libraries = ThreadpoolController().lib_controllers
    found = [library for library in libraries if library.internal_api == "openblas"]
    # SciPy brings one of its own; NumPy's lies beside it, or is the only one of the system.
    blas = min(found, key=lambda library: not Path(library.filepath).parent.name.startswith("numpy"), default=None)
    for library in libraries:
        if library.prefix == "libiomp":
            # After each operator of Paddle its second thread waits 0.2 s for the next one and keeps a core busy.
            library.dynlib.kmp_set_blocktime(0)
    kernels = cpu_kernels


def _check_kernels() -> None:
    """Compares values and gradients of one stage with those of Paddle's kernels.

    Raises:
        RuntimeError: they differ.
    """
    generator = paddle.get_rng_state()
    try:
        with paddle.utils.unique_name.guard("kernel_check_"):
            stage = CSPStage(4, 6, 8, 2, [0.0], [None])
            results = []
            for _ in range(2):
                image = paddle.linspace(-2, 2, 2 * 4 * 64).reshape([2, 4, 8, 8])
                image.stop_gradient = False
                found = stage(image)
                (found * found).sum().backward()
                # Running statistics do not matter: both passes have their own batch's.
                results.append([found.numpy(), image.grad.numpy(), stage.merge.conv.weight.grad.numpy()])
                stage.clear_gradients()
                accelerate(stage)
    finally:
        paddle.set_rng_state(generator)
    for expected, found in zip(*results, strict=True):
        error, scale = abs(found - expected).max(), abs(expected).max()
        if not error <= 1e-3 * scale:
            raise RuntimeError(f"the fast CPU kernels compute something else here (off by {error:.1e} of {scale:.1e})")
