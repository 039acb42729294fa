"""The optimizer step on a CPU: on each thread one kernel call for AdamW, and one for averages of weights.

A light network has hundreds of small parameters, and Paddle runs several operators for each. `fuse_update` exchanges
``step`` of the optimizer, as `ppcls_ext.engine.cpu.accelerate` does ``forward`` of layers: moments, names and saved
states stay Paddle's. The averages are the same bits as with Paddle's operators, AdamW rounds differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType

import numpy as np
import paddle

from ppcls_ext.engine import cpu


def fuse_update(optimizer: paddle.optimizer.Optimizer) -> bool:
    """Exchanges ``step`` of a plain `paddle.optimizer.AdamW`; returns whether it is one.

    Args:
        optimizer: any; others than AdamW on float32 parameters, and those with options that no recipe here has
            (groups of parameters, AMSGrad, beta2 of 0, other clipping), keep their own step.
    """
    parameters = optimizer._parameter_list
    plain = (
        type(optimizer) is paddle.optimizer.AdamW
        and not isinstance(parameters[0], dict)
        and not optimizer._amsgrad
        and all(isinstance(value, float) for value in (optimizer._beta1, optimizer._beta2, optimizer._weight_decay))
        # Its power counts the steps.
        and optimizer._beta2 > 0
        and (optimizer._grad_clip is None or type(optimizer._grad_clip) is paddle.nn.ClipGradByGlobalNorm)
        and all(_is_plain(parameter) and not _is_regularized(parameter) for parameter in parameters)
    )
    if plain:
        optimizer.step = MethodType(_step, optimizer)
        # Gradients are dropped in place of filled with zeros, to which the next ones would have to be added.
        optimizer.clear_grad = partial(type(optimizer).clear_grad, optimizer, set_to_zero=False)
    return plain


def _is_plain(tensor: paddle.Tensor) -> bool:
    return tensor.dtype == paddle.float32 and tensor.place.is_cpu_place() and tensor.is_contiguous()


def _is_regularized(parameter: paddle.Tensor) -> bool:
    return parameter.regularizer is not None and parameter.regularizer._coeff != 0


def _step(optimizer: paddle.optimizer.AdamW) -> None:
    """``AdamW.step`` (Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2)."""
    given = [(parameter, parameter._grad_ivar()) for parameter in optimizer._parameter_list]
    given = [(p, gradient) for p, gradient in given if gradient is not None and not p.stop_gradient]
    if not given or any(gradient.is_selected_rows() or not _is_plain(gradient) for _, gradient in given):
        type(optimizer).step(optimizer)
        return
    # Those that exist already, also those of a checkpoint, stay.
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), [p for p, _ in given])
    kinds = ("moment1", "moment2", "beta1_pow", "beta2_pow")
    moments = [optimizer._accumulators[getattr(optimizer, f"_{kind}_acc_str")] for kind in kinds]
    rows, sizes, rates, decays, clipped = [], [], [], [], []
    rate, decayed = optimizer.get_lr(), optimizer._apply_decay_param_fun
    for parameter, gradient in given:
        name = parameter.name
        tensors = parameter, gradient, *[moment[name] for moment in moments]
        rows.append([tensor.data_ptr() for tensor in tensors])
        sizes.append(gradient._numel())
        rates.append(rate * parameter.optimize_attr["learning_rate"])
        decays.append(optimizer._weight_decay if decayed is None or decayed(name) else 0.0)
        clipped.append(getattr(parameter, "need_clip", True))
        parameter._bump_inplace_version()
    addresses, counts, factors = np.array(rows), np.array(sizes), np.ones(len(rows))
    if optimizer._grad_clip is not None:
        largest, some = optimizer._grad_clip.clip_norm, np.array(clipped)
        norm = cpu.kernels.norm_of(addresses[some, 1], counts[some])
        factors[some] = largest / max(norm, largest)
    constants = optimizer._beta1, optimizer._beta2, optimizer._epsilon
    _share(cpu.kernels.adamw, addresses, counts, [np.array(rates), np.array(decays), factors], *constants)


def _share(
    kernel: Callable, addresses: np.ndarray, sizes: np.ndarray, others: Sequence[np.ndarray], *constants: float
) -> None:  # fmt: skip
    """Calls a kernel with rows of arrays, dealt out to the threads from the largest down."""
    threads, largest_first = cpu.kernels.threads, np.argsort(-sizes, kind="stable")
    parts = [[array[largest_first[i::threads]] for array in (addresses, sizes, *others)] for i in range(threads)]
    cpu.kernels.share(lambda begin, end: [kernel(*part, *constants) for part in parts[begin:end]], threads)


def move_averages(averages: Sequence[paddle.Tensor], values: Sequence[paddle.Tensor], decay: float) -> bool:
    """Does ``average = decay * average + (1 - decay) * value`` in place; returns whether the kernels could.

    Args:
        averages: float32 tensors on the CPU.
        values: as many tensors of the same shapes.
        decay: between 0 and 1.
    """
    if cpu.kernels is None or not all(map(_is_plain, (*averages, *values))):
        return False
    addresses = np.array([(a.data_ptr(), v.data_ptr()) for a, v in zip(averages, values, strict=True)])
    sizes = np.array([average._numel() for average in averages])
    _share(cpu.kernels.move_averages, addresses, sizes, [], np.float32(decay), np.float32(1 - decay))
    return True
