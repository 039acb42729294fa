"""Numba kernels for training on a CPU: depthwise convolution, normalisation, activations, changes of layout.

Where two layouts are told apart, maps are a flat float32 array, and channel c of it has ``segments`` segments of
``length`` numbers that lie one after the other; segment n begins at ``c * strides[0] + n * strides[1]``. In CHWN,
images last, a channel is one segment: a 1x1 convolution is one matrix product over the whole batch, the neighbour of a
pixel is N numbers away for all images at once, and no loop is short because the maps are small. In NCHW each image is
a segment.

Threads share the channels, or blocks of PIXELS (layer norm) or COLUMNS (transposition) columns; how many there are is
the first argument of each kernel, and no bounds are checked. Each is worked on in one order: the same bits with any
number of threads. A loop that reduces an array to one number writes to no array: otherwise the compiler would choose
between two orders by where the arrays lie in memory. Inner loops count from 0: an index that might be negative keeps
them out of the vector registers.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

# Sums may be reordered so that they fill vector registers; NaN and infinity keep their meaning.
# A division by zero gives infinity: a check for it would keep loops out of vector registers, too.
FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}


# How many threads share the work, and those beside the one that calls.
threads, helpers = 1, None
SHARING = threading.Lock()


def use_threads(count: int) -> None:
    """Says how many threads share the work from now on."""
    global threads, helpers
    # They sleep between two tasks.
    threads, helpers = count, ThreadPoolExecutor(max(count - 1, 1), "cpu_kernels")


def _after_fork() -> None:
    """A forked process has none of the threads, and nobody who would release the lock."""
    global SHARING
    SHARING = threading.Lock()
    use_threads(threads)


os.register_at_fork(after_in_child=_after_fork)


def share(work: Callable[[int, int], None], count: int) -> None:
    """Calls ``work(begin, end)`` for parts of ``range(count)``, each on a thread of its own; returns when all are done.

    Inside such a part no other thread is to be had: a second `share` there calls its ``work`` once, for all of it.
    """
    parts = min(threads, count)
    if parts < 2 or not SHARING.acquire(blocking=False):
        work(0, count)
        return
    try:
        bounds = [count * i // parts for i in range(parts + 1)]
        others = [helpers.submit(work, *part) for part in itertools.pairwise(bounds[1:])]
        try:
            # The caller is one of the threads: one wake-up less.
            work(0, bounds[1])
        finally:
            # Also after an error nobody may write to the arrays any more when the caller goes on.
            errors = [other.exception() for other in others]
        for error in filter(None, errors):
            raise error
    finally:
        SHARING.release()


def kernel(threads_from: int) -> Callable[[Callable], Callable]:
    """Compiles a function whose first arguments are the begin and the end of a range; the compiled one takes its size.

    Args:
        threads_from: size of the first array from which on threads share the range: smaller ones are done before a
            second thread has woken up.
    """

    def compiled(function: Callable) -> Callable:
        run = njit(**FAST, cache=True)(function)

        @functools.wraps(function)
        def shared(count: int, first: np.ndarray, *rest: Any) -> None:
            if first.size < threads_from:
                run(0, count, first, *rest)
            else:
                share(lambda begin, end: run(begin, end, first, *rest), count)

        return shared

    return compiled


helper = njit(**FAST, cache=True)
inlined = njit(**FAST, inline="always")

# From so many numbers on threads gain, for functions with much and with little to do for each number.
SOME, MANY = 2**18, 2**20
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


# `_sum` and its like add so many numbers up in float32, and the sums of such parts in float64.
PART = 4096


@helper
def _sum(x):
    total = 0.0
    for low in range(0, x.shape[0], PART):
        part = x[low : low + PART]
        s = ZERO
        for i in range(part.shape[0]):
            s += part[i]
        total += s
    return total


@helper
def _sum_of_squares(x, m):
    """Sum of (x - m)^2."""
    total = 0.0
    for low in range(0, x.shape[0], PART):
        part = x[low : low + PART]
        s = ZERO
        for i in range(part.shape[0]):
            d = part[i] - m
            s += d * d
        total += s
    return total


@helper
def _sum_of_deviations(x, m, y):
    """Sum of (x - m) * y."""
    total = 0.0
    for low in range(0, x.shape[0], PART):
        one, other = x[low : low + PART], y[low : low + PART]
        s = ZERO
        for i in range(one.shape[0]):
            s += (one[i] - m) * other[i]
        total += s
    return total


@helper
def _linear(x, a, b, y):
    """y = a * x + b."""
    for i in range(x.shape[0]):
        y[i] = a * x[i] + b


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
def _pad_rows(x, width, margin, padded):
    """Copies rows of ``width`` numbers into rows that have ``margin`` more on both sides."""
    row = width + 2 * margin
    for r in range(x.shape[0] // width):
        source, target = x[r * width : (r + 1) * width], padded[r * row + margin : (r + 1) * row - margin]
        for i in range(source.shape[0]):
            target[i] = source[i]


@helper
def _add_row(source, weight, images, out):
    """out[i] += sum of weight[k] * source[i + k * images]."""
    length = out.shape[0]
    if weight.shape[0] == 7:
        w0, w1, w2, w3, w4, w5, w6 = weight[0], weight[1], weight[2], weight[3], weight[4], weight[5], weight[6]
        s0, s1 = source[:length], source[images : images + length]
        s2, s3 = source[2 * images : 2 * images + length], source[3 * images : 3 * images + length]
        s4, s5 = source[4 * images : 4 * images + length], source[5 * images : 5 * images + length]
        s6 = source[6 * images : 6 * images + length]
        for i in range(length):
            left = w0 * s0[i] + w1 * s1[i] + w2 * s2[i] + w3 * s3[i]
            out[i] += left + w4 * s4[i] + w5 * s5[i] + w6 * s6[i]
    else:
        for k in range(weight.shape[0]):
            s = source[k * images : k * images + length]
            w = weight[k]
            for i in range(length):
                out[i] += w * s[i]


@helper
def _add_correlation(grad, source, images, sums):
    """sums[k] += sum over i of grad[i] * source[i + k * images]."""
    length = grad.shape[0]
    if sums.shape[0] == 7:
        s0, s1 = source[:length], source[images : images + length]
        s2, s3 = source[2 * images : 2 * images + length], source[3 * images : 3 * images + length]
        s4, s5 = source[4 * images : 4 * images + length], source[5 * images : 5 * images + length]
        s6 = source[6 * images : 6 * images + length]
        a0 = a1 = a2 = a3 = a4 = a5 = a6 = ZERO
        for i in range(length):
            g = grad[i]
            a0 += g * s0[i]
            a1 += g * s1[i]
            a2 += g * s2[i]
            a3 += g * s3[i]
            a4 += g * s4[i]
            a5 += g * s5[i]
            a6 += g * s6[i]
        sums[0] += a0
        sums[1] += a1
        sums[2] += a2
        sums[3] += a3
        sums[4] += a4
        sums[5] += a5
        sums[6] += a6
    else:
        for k in range(sums.shape[0]):
            s = source[k * images : k * images + length]
            a = ZERO
            for i in range(length):
                a += grad[i] * s[i]
            sums[k] += a


@helper
def _copy(sums, weight):
    """Not ``weight[:] = sums``: for the text of what could go wrong there numba compiles for two seconds."""
    for ky in range(sums.shape[0]):
        for kx in range(sums.shape[1]):
            weight[ky, kx] = sums[ky, kx]


@helper
def _convolve(padded, weight, width, images, out):
    """Adds to out, flat [H, width], the convolution of padded, flat [H, width + (taps - 1) * images], with weight.

    A row is [W, N]: neighbours are ``images`` numbers apart, and ``width`` is W * N. weight [taps, taps].
    """
    taps, row = weight.shape[0], width + (weight.shape[0] - 1) * images
    height, radius = out.shape[0] // width, taps // 2
    for y in range(height):
        for ky in range(max(0, radius - y), min(taps, height + radius - y)):
            seen = (y + ky - radius) * row
            _add_row(padded[seen : seen + row], weight[ky], images, out[y * width : (y + 1) * width])


@helper
def _correlate(grad, padded, width, images, sums):
    """Adds to sums [taps, taps] the gradient of `_convolve` by its weight."""
    taps, row = sums.shape[0], width + (sums.shape[0] - 1) * images
    height, radius = grad.shape[0] // width, taps // 2
    for y in range(height):
        for ky in range(max(0, radius - y), min(taps, height + radius - y)):
            seen = (y + ky - radius) * row
            _add_correlation(grad[y * width : (y + 1) * width], padded[seen : seen + row], images, sums[ky])


@kernel(threads_from=SOME)
def depthwise_forward(begin, end, x, weight, bias, y, height, width):
    """y = depthwise convolution of x, flat [C, H, W, N]. weight [C, taps, taps], bias [C].

    The taps may be cut to what the map can see.
    """
    channels, taps = weight.shape[:2]
    length = x.shape[0] // channels
    images = length // (height * width)
    wide, margin = width * images, taps // 2 * images
    # The margins stay zero.
    padded = np.zeros(height * (wide + 2 * margin), np.float32)
    for c in range(begin, end):
        _pad_rows(x[c * length : (c + 1) * length], wide, margin, padded)
        out = y[c * length : (c + 1) * length]
        out[:] = bias[c]
        _convolve(padded, weight[c], wide, images, out)


@kernel(threads_from=SOME)
def depthwise_backward(begin, end, x, weight, dy, dx, dweight, dbias, height, width):
    """Gradients of `depthwise_forward` by x, weight and bias."""
    channels, taps = weight.shape[:2]
    length = x.shape[0] // channels
    images = length // (height * width)
    wide, margin = width * images, taps // 2 * images
    padded = np.zeros(height * (wide + 2 * margin), np.float32)
    for c in range(begin, end):
        grad, out = dy[c * length : (c + 1) * length], dx[c * length : (c + 1) * length]
        _pad_rows(x[c * length : (c + 1) * length], wide, margin, padded)
        sums = np.zeros((taps, taps))
        _correlate(grad, padded, wide, images, sums)
        _copy(sums, dweight[c])
        dbias[c] = _sum(grad)
        _pad_rows(grad, wide, margin, padded)
        out[:] = ZERO
        _convolve(padded, weight[c, ::-1, ::-1].copy(), wide, images, out)


@helper
def _crop_rows(padded, width, margin, x):
    """Undoes `_pad_rows`."""
    row = width + 2 * margin
    for r in range(x.shape[0] // width):
        source, target = padded[r * row + margin : (r + 1) * row - margin], x[r * width : (r + 1) * width]
        for i in range(target.shape[0]):
            target[i] = source[i]


@kernel(threads_from=SOME)
def depthwise_planes_forward(begin, end, x, weight, bias, y, height, width):
    """`depthwise_forward` of x, flat [N, C, H, W]: all rows of a map are one long row, with zeros between them."""
    channels, taps = weight.shape[:2]
    size, radius = height * width, taps // 2
    row = width + 2 * radius
    first, length = radius * row, height * row
    # All but the map stays zero.
    padded = np.zeros(length + 2 * first + 2 * radius, np.float32)
    out = np.empty(length, np.float32)
    for c in range(begin, end):
        for at in range(c * size, x.shape[0], channels * size):
            _pad_rows(x[at : at + size], width, radius, padded[first + radius : first + radius + length])
            out[:] = bias[c]
            for ky in range(taps):
                _add_row(padded[ky * row : ky * row + length + 2 * radius], weight[c, ky], 1, out)
            _crop_rows(out, width, radius, y[at : at + size])


@kernel(threads_from=SOME)
def depthwise_planes_backward(begin, end, x, weight, dy, dx, dweight, dbias, height, width):
    """Gradients of `depthwise_planes_forward` by x, weight and bias."""
    channels, taps = weight.shape[:2]
    size, radius = height * width, taps // 2
    row = width + 2 * radius
    first, length = radius * row, height * row
    inside = slice(first + radius, first + radius + length)
    padded, grads = np.zeros((2, length + 2 * first + 2 * radius), np.float32)
    out = np.empty(length, np.float32)
    for c in range(begin, end):
        flipped = weight[c, ::-1, ::-1].copy()
        sums = np.zeros((taps, taps))
        total = 0.0
        for at in range(c * size, x.shape[0], channels * size):
            _pad_rows(x[at : at + size], width, radius, padded[inside])
            _pad_rows(dy[at : at + size], width, radius, grads[inside])
            total += _sum(dy[at : at + size])
            out[:] = ZERO
            for ky in range(taps):
                seen = slice(ky * row, ky * row + length + 2 * radius)
                _add_correlation(grads[inside], padded[seen], 1, sums[ky])
                _add_row(grads[seen], flipped[ky], 1, out)
            _crop_rows(out, width, radius, dx[at : at + size])
        _copy(sums, dweight[c])
        dbias[c] = total


# ---- normalisation ----


@kernel(threads_from=MANY)
def batch_norm_forward(begin, end, x, weight, bias, epsilon, y, mean, variance, scale, segments, length, strides):
    """Batch norm with the statistics of the batch: mean, variance, scale (weight over standard deviation) [C]."""
    for c in range(begin, end):
        total = 0.0
        for n in range(segments):
            at = c * strides[0] + n * strides[1]
            total += _sum(x[at : at + length])
        m = np.float32(total / (segments * length))
        total = 0.0
        for n in range(segments):
            at = c * strides[0] + n * strides[1]
            total += _sum_of_squares(x[at : at + length], m)
        v = total / (segments * length)
        a = np.float32(weight[c] / math.sqrt(v + epsilon))
        b = bias[c]
        mean[c], variance[c], scale[c] = m, v, a
        for n in range(segments):
            at = c * strides[0] + n * strides[1]
            one, other = x[at : at + length], y[at : at + length]
            for i in range(length):
                other[i] = (one[i] - m) * a + b


@kernel(threads_from=MANY)
def batch_norm_backward(
    begin, end, x, mean, variance, scale, epsilon, dy, dx, dweight, dbias, segments, length, strides
):  # fmt: skip
    """Gradients of `batch_norm_forward` by x, weight and bias."""
    for c in range(begin, end):
        m, a = mean[c], scale[c]
        sum_dy, sum_dyx = 0.0, 0.0
        for n in range(segments):
            at = c * strides[0] + n * strides[1]
            sum_dy += _sum(dy[at : at + length])
            sum_dyx += _sum_of_deviations(x[at : at + length], m, dy[at : at + length])
        dbias[c] = sum_dy
        dweight[c] = sum_dyx / math.sqrt(variance[c] + epsilon)
        by_x = np.float32(a * sum_dyx / (variance[c] + epsilon) / (segments * length))
        shift = np.float32(a * sum_dy / (segments * length))
        for n in range(segments):
            at = c * strides[0] + n * strides[1]
            one, grad, other = x[at : at + length], dy[at : at + length], dx[at : at + length]
            for i in range(length):
                other[i] = a * grad[i] - shift - by_x * (one[i] - m)


@kernel(threads_from=MANY)
def affine(begin, end, x, scale, shift, y, segments, length, strides):
    """y = scale[c] * x + shift[c]: batch norm with stored statistics."""
    for c in range(begin, end):
        for n in range(segments):
            at = c * strides[0] + n * strides[1]
            _linear(x[at : at + length], scale[c], shift[c], y[at : at + length])


# So many numbers are worked on together: they stay in the first cache.
PIXELS = 256


@kernel(threads_from=MANY)
def layer_norm_forward(begin, end, x, weight, bias, epsilon, y, mean, inverse):
    """Layer norm over the channels of x [C, M], one column (pixel) at a time; mean and inverse deviation [M]."""
    channels, total = x.shape
    for block in range(begin, end):
        low, high = block * PIXELS, min((block + 1) * PIXELS, total)
        m, v = mean[low:high], inverse[low:high]
        m[:] = ZERO
        v[:] = ZERO
        for c in range(channels):
            part = x[c, low:high]
            for i in range(part.shape[0]):
                m[i] += part[i]
        for i in range(m.shape[0]):
            m[i] /= channels
        for c in range(channels):
            part = x[c, low:high]
            for i in range(part.shape[0]):
                d = part[i] - m[i]
                v[i] += d * d
        for i in range(v.shape[0]):
            v[i] = ONE / np.sqrt(v[i] / channels + epsilon)
        for c in range(channels):
            a, b = weight[c], bias[c]
            part, out = x[c, low:high], y[c, low:high]
            for i in range(part.shape[0]):
                out[i] = (part[i] - m[i]) * v[i] * a + b


@kernel(threads_from=MANY)
def layer_norm_backward(begin, end, x, weight, mean, inverse, dy, dx):
    """Gradient of `layer_norm_forward` by x."""
    channels, total = x.shape
    for block in range(begin, end):
        low, high = block * PIXELS, min((block + 1) * PIXELS, total)
        m, v = mean[low:high], inverse[low:high]
        s = np.zeros(high - low, np.float32)
        t = np.zeros(high - low, np.float32)
        for c in range(channels):
            a = weight[c]
            part, grad = x[c, low:high], dy[c, low:high]
            for i in range(part.shape[0]):
                g = a * grad[i]
                s[i] += g
                t[i] += g * (part[i] - m[i])
        for i in range(s.shape[0]):
            s[i] /= channels
            t[i] *= v[i] * v[i] / channels
        for c in range(channels):
            a = weight[c]
            part, grad, out = x[c, low:high], dy[c, low:high], dx[c, low:high]
            for i in range(part.shape[0]):
                out[i] = v[i] * (a * grad[i] - s[i] - (part[i] - m[i]) * t[i])


@helper
def _sum_of_normalised(x, mean, inverse, y):
    """Sum of (x - mean) * inverse * y."""
    s = ZERO
    for i in range(x.shape[0]):
        s += (x[i] - mean[i]) * inverse[i] * y[i]
    return s


@kernel(threads_from=MANY)
def layer_norm_backward_parameters(begin, end, x, mean, inverse, dy, dweight, dbias):
    """Gradients of `layer_norm_forward` by weight and bias."""
    for c in range(begin, end):
        total = 0.0
        for low in range(0, x.shape[1], PART):
            part, grad = x[c, low : low + PART], dy[c, low : low + PART]
            total += _sum_of_normalised(part, mean[low : low + PART], inverse[low : low + PART], grad)
        dweight[c] = total
        dbias[c] = _sum(dy[c])


# ---- activations ----


@kernel(threads_from=SOME)
def gelu_forward(begin, end, x, bias, y, slope):
    """y = GELU(x + bias[c]) of x [C, M], exact (erf) form; slope is its derivative there."""
    for c in range(begin, end):
        b = bias[c]
        for i in range(x.shape[1]):
            v = x[c, i] + b
            phi = _normal_distribution(v)
            y[c, i] = v * phi
            density = DENSITY_AT_ZERO * _exp_of_negative(min(HALF * v * v, LARGEST_EXPONENT))
            slope[c, i] = phi + v * density


@kernel(threads_from=SOME)
def silu_forward(begin, end, x, bias, y, slope):
    """y = v * sigmoid(v) with v = x + bias[c], of x [C, M]; slope is its derivative."""
    for c in range(begin, end):
        b = bias[c]
        for i in range(x.shape[1]):
            v = x[c, i] + b
            e = _exp_of_negative(min(abs(v), LARGEST_EXPONENT))
            small = e / (ONE + e)
            p = small if v < 0 else ONE - small
            y[c, i] = v * p
            slope[c, i] = p + v * p * (ONE - p)


@kernel(threads_from=MANY)
def multiply_and_sum(begin, end, dy, slope, dx, sums):
    """dx = dy * slope of [C, M]; sums[c] is the sum of a row of dx."""
    for c in range(begin, end):
        total = 0.0
        for low in range(0, dy.shape[1], PART):
            one, other, product = dy[c, low : low + PART], slope[c, low : low + PART], dx[c, low : low + PART]
            for i in range(one.shape[0]):
                product[i] = one[i] * other[i]
            total += _sum(product)
        sums[c] = total


# ---- gates, residual sums, layout: maps [C, size * N] in CHWN, factors [C, N] ----


@helper
def _repeated(factors):
    """The factors [N] of the images, so often one after the other that loops over them are long."""
    images = factors.shape[0]
    repeated = np.empty(images * max(1, PIXELS // images), np.float32)
    for first in range(0, repeated.shape[0], images):
        part = repeated[first : first + images]
        for n in range(images):
            part[n] = factors[n]
    return repeated


@kernel(threads_from=MANY)
def scale_planes(begin, end, x, gate, shift, y):
    """y = gate[c, n] * x + shift[c, n]."""
    for c in range(begin, end):
        g, b = _repeated(gate[c]), _repeated(shift[c])
        for low in range(0, x.shape[1], g.shape[0]):
            one, out = x[c, low : low + g.shape[0]], y[c, low : low + g.shape[0]]
            for i in range(one.shape[0]):
                out[i] = g[i] * one[i] + b[i]


@kernel(threads_from=MANY)
def add_scaled_planes(begin, end, residual, x, gate, y):
    """y = residual + gate[c, n] * x."""
    for c in range(begin, end):
        g = _repeated(gate[c])
        for low in range(0, x.shape[1], g.shape[0]):
            high = low + g.shape[0]
            one, other, out = residual[c, low:high], x[c, low:high], y[c, low:high]
            for i in range(one.shape[0]):
                out[i] = one[i] + g[i] * other[i]


@kernel(threads_from=MANY)
def plane_sums(begin, end, x, other, sums):
    """sums[c, n] = sum of x * other over a plane."""
    images = sums.shape[1]
    for c in range(begin, end):
        s = np.zeros(images * max(1, PIXELS // images), np.float32)
        for low in range(0, x.shape[1], s.shape[0]):
            high = low + s.shape[0]
            one, two = x[c, low:high], other[c, low:high]
            for i in range(one.shape[0]):
                s[i] += one[i] * two[i]
        total = sums[c]
        total[:] = ZERO
        for first in range(0, s.shape[0], images):
            part = s[first : first + images]
            for n in range(images):
                total[n] += part[n]


# A matrix is transposed in tiles of so many rows and columns, which fit into the first cache.
ROWS, COLUMNS = 32, 128


@kernel(threads_from=MANY)
def transpose(begin, end, x, y):
    """[A, B] -> [B, A]."""
    for block in range(begin, end):
        low, high = block * COLUMNS, min((block + 1) * COLUMNS, x.shape[1])
        tile = np.empty((ROWS, high - low), np.float32)
        for first in range(0, x.shape[0], ROWS):
            part = x[first : first + ROWS, low:high]
            for a in range(part.shape[0]):
                source, target = part[a], tile[a]
                for i in range(source.shape[0]):
                    target[i] = source[i]
            for i in range(tile.shape[1]):
                out = y[low + i, first : first + ROWS]
                for a in range(out.shape[0]):
                    out[a] = tile[a, i]


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
        total += _sum_of_squares(carray(_at(addresses[i]), sizes[i]), ZERO)
    return math.sqrt(total)


@helper
def adamw(addresses, sizes, rates, decays, factors, beta1, beta2, epsilon):
    """addresses [P, 6]: parameter, gradient, first and second moment, powers of beta1 and of beta2; the others [P]."""
    keep1, rest1, keep2, rest2 = np.float32(beta1), np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
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
            first = keep1 * m[j] + rest1 * d
            second = keep2 * v[j] + rest2 * d * d
            m[j], v[j] = first, second
            w[j] = w[j] - kept * w[j] - rate * first / (np.sqrt(second) + smallest)
        power1[0] *= keep1
        power2[0] *= keep2


# Each product and sum is rounded, as with one operator after the other.
@njit(cache=True, error_model="numpy", nogil=True)
def move_averages(addresses, sizes, decay, rest):
    """addresses [P, 2]: average and value; average = decay * average + rest * value."""
    for i in range(len(sizes)):
        average, value = carray(_at(addresses[i, 0]), sizes[i]), carray(_at(addresses[i, 1]), sizes[i])
        for j in range(sizes[i]):
            average[j] = decay * average[j] + rest * value[j]
