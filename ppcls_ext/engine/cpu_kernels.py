"""Numba kernels for training on a CPU: depthwise convolution, normalisation, activations, changes of layout.

A map is a flat float32 array of planes of ``size = H * W`` numbers; plane (channel c, image n) begins at
``c * strides[0] + n * strides[1]``. So each kernel takes both layouts: NCHW (``strides = (size, C * size)``) and CNHW
(``strides = (N * size, size)``), in which a 1x1 convolution is one matrix product over the whole batch.

Threads share the channels, and within a channel sums run in one order: the same bits with any number of threads. A
loop that reduces an array to one number writes to no array: otherwise the compiler would choose between two orders by
where the arrays lie in memory.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import carray, njit, prange, types
from numba.extending import intrinsic

# numba's threads take one task at a time and end the process when two Python threads come at once.
ONE_AT_A_TIME = threading.Lock()
# Sums may be reordered so that they fill vector registers; NaN and infinity keep their meaning.
# A division by zero gives infinity: a check for it would keep loops out of vector registers, too.
FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}


def kernel(threads_from: int) -> Callable[[Callable], Callable]:
    """Compiles a function for one thread and for several; the size of its first argument decides which form runs.

    Small maps are done before a second thread has woken up. The number of threads does not decide, because the two
    forms may round differently.

    Args:
        threads_from: size of the first array from which on threads share the work.
    """

    def compiled(function: Callable) -> Callable:
        # Under a name of its own, because numba's cache tells functions apart by their names, not by `parallel`.
        twin = FunctionType(function.__code__, function.__globals__, function.__name__ + "_threads")
        twin.__qualname__ = twin.__name__
        twin.__module__ = function.__module__
        alone, shared = njit(**FAST, cache=True)(function), njit(**FAST, cache=True, parallel=True)(twin)

        @functools.wraps(function)
        def run(first: np.ndarray, *rest: Any) -> None:
            if first.size < threads_from:
                alone(first, *rest)
            else:
                with ONE_AT_A_TIME:
                    shared(first, *rest)

        return run

    return compiled


helper = njit(**FAST, cache=True)
inlined = njit(**FAST, inline="always")

# From so many numbers on threads gain, for functions with much and with little to do for each number.
SOME, MANY = 2**17, 2**19
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
SQRT_HALF = np.float32(math.sqrt(0.5))
DENSITY_AT_ZERO = np.float32(1 / math.sqrt(2 * math.pi))
LOG2_E, LN2 = np.float32(math.log2(math.e)), math.log(2)
# ln 2 in two parts, so that n * ln 2 is exact in its larger one.
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(LN2 - 0.693359375)
E2, E3, E4, E5, E6 = (np.float32(1 / math.factorial(k)) for k in range(2, 7))
# erf(z) / z as a quotient of polynomials in z * z, fitted in float64 on |z| <= 4; the error is 4e-7 in float32.
P0, P1, P2 = np.float32(1.1283791065216064), np.float32(0.19313566386699677), np.float32(0.05304524302482605)
P3, P4, P5 = np.float32(0.003865367267280817), np.float32(0.0002840945962816477), np.float32(1.9889241684722947e-06)
Q1, Q2, Q3 = np.float32(0.5044946670532227), np.float32(0.11517871171236038), np.float32(0.015171007253229618)
Q4, Q5 = np.float32(0.0011811043368652463), np.float32(3.7417965359054506e-05)
LARGEST_ERF, LARGEST_EXPONENT = np.float32(4), np.float32(80)


@helper
def _sum(x):
    s = ZERO
    for i in range(x.shape[0]):
        s += x[i]
    return s


@inlined
def _exp_of_negative(x):
    """e^-x for 0 <= x <= 80: 2^n by the bits of the exponent, the rest by a polynomial."""
    n = np.int32(x * LOG2_E + HALF)
    r = np.float32(n) * LN2_HIGH - x + np.float32(n) * LN2_LOW
    p = ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * E6)))))
    return p * np.int32((np.int32(127) - n) << np.int32(23)).view(np.float32)


@inlined
def _normal_distribution(x):
    z = min(max(x * SQRT_HALF, -LARGEST_ERF), LARGEST_ERF)
    t = z * z
    p = P0 + t * (P1 + t * (P2 + t * (P3 + t * (P4 + t * P5))))
    q = ONE + t * (Q1 + t * (Q2 + t * (Q3 + t * (Q4 + t * Q5))))
    return HALF + HALF * z * p / q


# ---- depthwise convolution, stride 1, padding taps // 2, square kernels with an odd side ----


@helper
def _add_shifted(source, weight, row, out, length):
    """out[i] += sum of weight[ky, kx] * source[i + ky * row + kx]; one long loop over all rows of a padded plane."""
    taps = weight.shape[0]
    for ky in range(taps):
        if taps == 7:
            s = source[ky * row : ky * row + length + 6]
            w0, w1, w2, w3 = weight[ky, 0], weight[ky, 1], weight[ky, 2], weight[ky, 3]
            w4, w5, w6 = weight[ky, 4], weight[ky, 5], weight[ky, 6]
            for i in range(length):
                left = w0 * s[i] + w1 * s[i + 1] + w2 * s[i + 2] + w3 * s[i + 3]
                out[i] += left + w4 * s[i + 4] + w5 * s[i + 5] + w6 * s[i + 6]
        else:
            for kx in range(taps):
                s = source[ky * row + kx : ky * row + kx + length]
                w = weight[ky, kx]
                for i in range(length):
                    out[i] += w * s[i]


@helper
def _add_correlation(grad, source, row, length, out):
    """out[ky, kx] += sum over i of grad[i] * source[i + ky * row + kx]."""
    taps = out.shape[0]
    for ky in range(taps):
        if taps == 7:
            s = source[ky * row : ky * row + length + 6]
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = ZERO
            for i in range(length):
                g = grad[i]
                a0 += g * s[i]
                a1 += g * s[i + 1]
                a2 += g * s[i + 2]
                a3 += g * s[i + 3]
                a4 += g * s[i + 4]
                a5 += g * s[i + 5]
                a6 += g * s[i + 6]
            out[ky, 0] += a0
            out[ky, 1] += a1
            out[ky, 2] += a2
            out[ky, 3] += a3
            out[ky, 4] += a4
            out[ky, 5] += a5
            out[ky, 6] += a6
        else:
            for kx in range(taps):
                s = source[ky * row + kx : ky * row + kx + length]
                a = ZERO
                for i in range(length):
                    a += grad[i] * s[i]
                out[ky, kx] += a


@kernel(threads_from=SOME)
def depthwise_forward(x, weight, bias, y, images, height, width, strides):
    """y = depthwise convolution of x. weight [C, taps, taps], bias [C]; taps may be cut to what the map can see."""
    taps = weight.shape[1]
    radius = taps // 2
    row = width + 2 * radius
    first, length = radius * row + radius, height * row - 2 * radius
    for c in prange(weight.shape[0]):
        padded = np.zeros((height + 2 * radius) * row, np.float32)
        out = np.empty(length, np.float32)
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            for r in range(height):
                for i in range(width):
                    padded[first + r * row + i] = x[at + r * width + i]
            for i in range(length):
                out[i] = bias[c]
            _add_shifted(padded, weight[c], row, out, length)
            for r in range(height):
                for i in range(width):
                    y[at + r * width + i] = out[r * row + i]


@kernel(threads_from=SOME)
def depthwise_backward(x, weight, dy, dx, dweight, dbias, images, height, width, strides):
    """Gradients of `depthwise_forward` by x, weight and bias."""
    taps = weight.shape[1]
    radius = taps // 2
    row = width + 2 * radius
    first, length = radius * row + radius, height * row - 2 * radius
    for c in prange(weight.shape[0]):
        padded = np.zeros((height + 2 * radius) * row, np.float32)
        grads = np.zeros((height + 2 * radius) * row, np.float32)
        out = np.empty(length, np.float32)
        flipped = weight[c, ::-1, ::-1].copy()
        sums = np.zeros((taps, taps), np.float32)
        total = np.float64(0)
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            for r in range(height):
                for i in range(width):
                    padded[first + r * row + i] = x[at + r * width + i]
                    grads[first + r * row + i] = dy[at + r * width + i]
            total += _sum(dy[at : at + height * width])
            _add_correlation(grads[first : first + length], padded, row, length, sums)
            for i in range(length):
                out[i] = ZERO
            _add_shifted(grads, flipped, row, out, length)
            for r in range(height):
                for i in range(width):
                    dx[at + r * width + i] = out[r * row + i]
        dweight[c] = sums
        dbias[c] = total


# ---- normalisation ----


@kernel(threads_from=MANY)
def batch_norm_forward(x, weight, bias, epsilon, y, pooled, mean, variance, scale, images, size, strides):
    """Batch norm with the statistics of the batch.

    mean, variance and scale (weight over standard deviation) [C] and pooled [C, N] (mean of each plane of y) are
    written.
    """
    for c in prange(weight.shape[0]):
        total = np.float64(0)
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            s = ZERO
            for i in range(at, at + size):
                s += x[i]
            pooled[c, n] = s / size
            total += s
        m = np.float32(total / (images * size))
        total = np.float64(0)
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            s = ZERO
            for i in range(at, at + size):
                d = x[i] - m
                s += d * d
            total += s
        v = total / (images * size)
        a = np.float32(weight[c] / math.sqrt(v + epsilon))
        b = bias[c]
        mean[c], variance[c], scale[c] = m, v, a
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            pooled[c, n] = (pooled[c, n] - m) * a + b
            for i in range(at, at + size):
                y[i] = (x[i] - m) * a + b


@kernel(threads_from=MANY)
def batch_norm_backward(x, mean, variance, scale, epsilon, dy, dpooled, dx, dweight, dbias, images, size, strides):
    """Gradients of `batch_norm_forward`, by way of y (dy) and of the means of its planes (dpooled)."""
    for c in prange(scale.shape[0]):
        m, a = mean[c], scale[c]
        sum_dy, sum_dyx = np.float64(0), np.float64(0)
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            extra = np.float32(dpooled[c, n] / size)
            s = ZERO
            t = ZERO
            for i in range(at, at + size):
                g = dy[i] + extra
                s += g
                t += g * (x[i] - m)
            sum_dy += s
            sum_dyx += t
        dbias[c] = sum_dy
        dweight[c] = sum_dyx / math.sqrt(variance[c] + epsilon)
        by_x = np.float32(a * sum_dyx / (variance[c] + epsilon) / (images * size))
        shift = np.float32(a * sum_dy / (images * size))
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            extra = np.float32(a * dpooled[c, n] / size) - shift
            for i in range(at, at + size):
                dx[i] = a * dy[i] + extra - by_x * (x[i] - m)


@kernel(threads_from=MANY)
def affine(x, scale, shift, y, images, size, strides):
    """y = scale[c] * x + shift[c]: batch norm with stored statistics."""
    for c in prange(scale.shape[0]):
        a, b = scale[c], shift[c]
        for n in range(images):
            at = c * strides[0] + n * strides[1]
            for i in range(at, at + size):
                y[i] = a * x[i] + b


COLUMNS = 256


@kernel(threads_from=MANY)
def layer_norm_forward(x, weight, bias, epsilon, y, mean, inverse):
    """Layer norm over the channels of x [C, M], one column (pixel) at a time; mean and inverse deviation [M]."""
    channels, total = x.shape
    for block in prange((total + COLUMNS - 1) // COLUMNS):
        low, high = block * COLUMNS, min((block + 1) * COLUMNS, total)
        m = np.zeros(high - low, np.float32)
        v = np.zeros(high - low, np.float32)
        for c in range(channels):
            for i in range(high - low):
                m[i] += x[c, low + i]
        for i in range(high - low):
            m[i] /= channels
        for c in range(channels):
            for i in range(high - low):
                d = x[c, low + i] - m[i]
                v[i] += d * d
        for i in range(high - low):
            v[i] = ONE / np.sqrt(v[i] / channels + epsilon)
            mean[low + i] = m[i]
            inverse[low + i] = v[i]
        for c in range(channels):
            a, b = weight[c], bias[c]
            for i in range(high - low):
                y[c, low + i] = (x[c, low + i] - m[i]) * v[i] * a + b


@kernel(threads_from=MANY)
def layer_norm_backward(x, weight, mean, inverse, dy, dx):
    """Gradient of `layer_norm_forward` by x."""
    channels, total = x.shape
    for block in prange((total + COLUMNS - 1) // COLUMNS):
        low, high = block * COLUMNS, min((block + 1) * COLUMNS, total)
        s = np.zeros(high - low, np.float32)
        t = np.zeros(high - low, np.float32)
        for c in range(channels):
            a = weight[c]
            for i in range(high - low):
                g = a * dy[c, low + i]
                s[i] += g
                t[i] += g * (x[c, low + i] - mean[low + i])
        for i in range(high - low):
            s[i] /= channels
            t[i] *= inverse[low + i] * inverse[low + i] / channels
        for c in range(channels):
            a = weight[c]
            for i in range(high - low):
                d = x[c, low + i] - mean[low + i]
                dx[c, low + i] = inverse[low + i] * (a * dy[c, low + i] - s[i] - d * t[i])


@kernel(threads_from=MANY)
def layer_norm_parameters(x, mean, inverse, dy, dweight, dbias):
    """Gradients of `layer_norm_forward` by weight and bias."""
    for c in prange(x.shape[0]):
        sum_dy, sum_dyx = np.float64(0), np.float64(0)
        for low in range(0, x.shape[1], COLUMNS):
            s = ZERO
            t = ZERO
            for i in range(low, min(low + COLUMNS, x.shape[1])):
                s += dy[c, i]
                t += dy[c, i] * (x[c, i] - mean[i]) * inverse[i]
            sum_dy += s
            sum_dyx += t
        dweight[c] = sum_dyx
        dbias[c] = sum_dy


# ---- activations ----


@kernel(threads_from=SOME)
def gelu_forward(x, bias, y, slope):
    """y = GELU(x + bias[c]) of x [C, M], exact (erf) form; slope is its derivative there."""
    for c in prange(x.shape[0]):
        b = bias[c]
        for i in range(x.shape[1]):
            v = x[c, i] + b
            phi = _normal_distribution(v)
            y[c, i] = v * phi
            density = DENSITY_AT_ZERO * _exp_of_negative(min(HALF * v * v, LARGEST_EXPONENT))
            slope[c, i] = phi + v * density


@kernel(threads_from=SOME)
def silu_forward(x, bias, y, slope):
    """y = v * sigmoid(v) with v = x + bias[c], of x [C, M]; slope is its derivative."""
    for c in prange(x.shape[0]):
        b = bias[c]
        for i in range(x.shape[1]):
            v = x[c, i] + b
            e = _exp_of_negative(min(abs(v), LARGEST_EXPONENT))
            small = e / (ONE + e)
            p = small if v < 0 else ONE - small
            y[c, i] = v * p
            slope[c, i] = p + v * p * (ONE - p)


@kernel(threads_from=MANY)
def multiply_and_sum(dy, slope, dx, sums):
    """dx = dy * slope of [C, M]; sums[c] is the sum of a row of dx."""
    for c in prange(dy.shape[0]):
        total = np.float64(0)
        for low in range(0, dy.shape[1], COLUMNS):
            high = min(low + COLUMNS, dy.shape[1])
            for i in range(low, high):
                dx[c, i] = dy[c, i] * slope[c, i]
            total += _sum(dx[c, low:high])
        sums[c] = total


# ---- gates, residual sums, layout ----


@kernel(threads_from=MANY)
def scale_planes(x, gate, y):
    """y = gate[c, n] * x of x [C, N, size]."""
    for c in prange(x.shape[0]):
        for n in range(x.shape[1]):
            g = gate[c, n]
            for i in range(x.shape[2]):
                y[c, n, i] = g * x[c, n, i]


@kernel(threads_from=MANY)
def add_scaled_planes(residual, x, gate, y):
    """y = residual + gate[c, n] * x of [C, N, size]."""
    for c in prange(x.shape[0]):
        for n in range(x.shape[1]):
            g = gate[c, n]
            for i in range(x.shape[2]):
                y[c, n, i] = residual[c, n, i] + g * x[c, n, i]


@kernel(threads_from=MANY)
def scale_planes_backward(x, gate, dy, dx, dgate):
    """Gradients of `scale_planes` by x and gate."""
    for c in prange(x.shape[0]):
        for n in range(x.shape[1]):
            g = gate[c, n]
            s = ZERO
            for i in range(x.shape[2]):
                s += dy[c, n, i] * x[c, n, i]
            dgate[c, n] = s
            for i in range(x.shape[2]):
                dx[c, n, i] = g * dy[c, n, i]


@kernel(threads_from=MANY)
def add_to_planes(x, plane, y):
    """y = x + plane[c, n] of x [C, N, size]."""
    for c in prange(x.shape[0]):
        for n in range(x.shape[1]):
            p = plane[c, n]
            for i in range(x.shape[2]):
                y[c, n, i] = x[c, n, i] + p


@kernel(threads_from=MANY)
def plane_sums(x, other, sums):
    """sums[c, n] = sum of x * other over a plane of [C, N, size]."""
    for c in prange(x.shape[0]):
        for n in range(x.shape[1]):
            s = ZERO
            for i in range(x.shape[2]):
                s += x[c, n, i] * other[c, n, i]
            sums[c, n] = s


@kernel(threads_from=MANY)
def swap_axes(x, y):
    """[A, B, size] -> [B, A, size]."""
    for b in prange(y.shape[0]):
        for a in range(y.shape[1]):
            for i in range(y.shape[2]):
                y[b, a, i] = x[a, b, i]


# ---- the update of parameters, which lie where Paddle has put them ----


@intrinsic
def _at(_, address):
    """The float32 numbers at an address."""

    def pointer(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(address), pointer


@helper
def norm_of(addresses, sizes):
    """Norm of the numbers in the arrays at addresses [P], of sizes [P]."""
    total = 0.0
    for i in range(len(sizes)):
        x = carray(_at(addresses[i]), sizes[i])
        squares = ZERO
        for j in range(sizes[i]):
            squares += x[j] * x[j]
        total += squares
    return math.sqrt(total)


@helper
def adamw(addresses, sizes, rates, decays, factors, beta1, beta2, epsilon):
    """addresses [P, 6]: parameter, gradient, first and second moment, powers of beta1 and of beta2; the others [P]."""
    keep1, share1, keep2, share2 = np.float32(beta1), np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
    for i in range(len(sizes)):
        w, g = carray(_at(addresses[i, 0]), sizes[i]), carray(_at(addresses[i, 1]), sizes[i])
        m, v = carray(_at(addresses[i, 2]), sizes[i]), carray(_at(addresses[i, 3]), sizes[i])
        power1, power2 = carray(_at(addresses[i, 4]), 1), carray(_at(addresses[i, 5]), 1)
        # In float32 the power of beta2 leaves few digits of 1 - power; it is exact enough to count the steps.
        steps = np.rint(math.log(power2[0]) / math.log(beta2))
        root = math.sqrt(1 - beta2**steps)
        rate, smallest = np.float32(rates[i] * root / (1 - beta1**steps)), np.float32(epsilon * root)
        kept, factor = np.float32(rates[i] * decays[i]), np.float32(factors[i])
        for j in range(sizes[i]):
            d = factor * g[j]
            first = keep1 * m[j] + share1 * d
            second = keep2 * v[j] + share2 * d * d
            m[j], v[j] = first, second
            w[j] = w[j] - kept * w[j] - rate * first / (np.sqrt(second) + smallest)
        power1[0] *= keep1
        power2[0] *= keep2


# Each product and sum is rounded, as with one operator after the other.
@njit(cache=True, error_model="numpy", nogil=True)
def move_averages(addresses, sizes, decay, share):
    """addresses [P, 2]: average and value."""
    for i in range(len(sizes)):
        average, value = carray(_at(addresses[i, 0]), sizes[i]), carray(_at(addresses[i, 1]), sizes[i])
        for j in range(sizes[i]):
            average[j] = decay * average[j] + share * value[j]
