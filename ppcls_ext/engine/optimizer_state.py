"""Optimizer state under the model's own parameter names.

Paddle names accumulators after generated parameter names (``linear_1.w_0_moment1_0``), and these depend on what else
the process has built. Checkpoints therefore say ``head.weight/moment1_0``, which any process can read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from ppcls_ext.utils.errors import UserError

MASTER = "master_weight"


def export_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, named_parameters: list[tuple[str, paddle.Tensor]]
) -> dict[str, np.ndarray]:
    """Returns ``{"structured.name/accumulator": array}``."""
    structured = {parameter.name: name for name, parameter in named_parameters}
    # Longest first: `linear_1.w_0` is a prefix of nothing else, but `linear_1.w_0` and `linear_1.w_01` would clash.
    generated_names = sorted(structured, key=len, reverse=True)
    result: dict[str, np.ndarray] = {}
    for key, value in optimizer.state_dict().items():
        if key == "LR_Scheduler":
            continue
        if key == "master_weights":
            for generated, weight in value.items():
                result[f"{structured[generated]}/{MASTER}"] = weight.numpy()
            continue
        owner = next((name for name in generated_names if key.startswith(f"{name}_")), None)
        if owner is not None:
            result[f"{structured[owner]}/{_suffix_of(key, owner)}"] = value.numpy()
    return result


def _suffix_of(key: str, owner: str) -> str:
    """Returns ``moment1_0`` of ``linear_1.w_0_moment1_0``, also where AMP O2 puts ``fp32_master_0`` between."""
    return key[len(owner) + 1 :].split("fp32_master_0_")[-1]


def import_optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    named_parameters: list[tuple[str, paddle.Tensor]],
    state: dict[str, np.ndarray],
    where: str,
) -> None:
    """Puts a state that :func:`export_optimizer_state` returned into ``optimizer``.

    Raises:
        UserError: an entry belongs to no parameter of the model; continuing would silently change the run.
    """
    by_name = dict(named_parameters)
    restored: dict[str, Any] = {}
    masters: dict[str, Any] = {}
    for key, value in state.items():
        name, _, accumulator = key.rpartition("/")
        if name not in by_name:
            raise UserError(f"{where}: holds optimizer state for '{name}', which the model lacks")
        generated = by_name[name].name
        tensor = paddle.to_tensor(value)
        if accumulator == MASTER:
            tensor.name = f"{generated}_fp32_master_0"
            masters[generated] = tensor
        else:
            restored[f"{generated}_{accumulator}"] = tensor
    if masters:
        restored["master_weights"] = masters
        for generated in masters:
            for key in [key for key in restored if key.startswith(f"{generated}_")]:
                restored[f"{generated}_fp32_master_0_{key[len(generated) + 1 :]}"] = restored.pop(key)
    schedule = optimizer.state_dict().get("LR_Scheduler")
    if schedule is not None:
        # Paddle insists on it; where the learning rate stands is the caller's business.
        restored["LR_Scheduler"] = schedule
    optimizer.set_state_dict(restored)
