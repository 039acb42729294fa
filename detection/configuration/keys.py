"""Top-level keys with a single value: what they take, and which must be there."""

from __future__ import annotations

from typing import Any, Literal

from ppcls_ext.utils.config import Problems
from ppcls_ext.utils.signature import convert

Texts = list[str]
Limit = tuple[float, float]
_POSITIVE: Limit = (1, float("inf"))
_COUNT: Limit = (0, float("inf"))

KEYS: dict[str, tuple[Any, Limit | None]] = {
    "architecture": (str, None),
    "metric": (str, None),
    "num_classes": (int, _POSITIVE),
    "epoch": (int, _POSITIVE),
    "snapshot_epoch": (int, _POSITIVE),
    "eval_interval": (int, _POSITIVE),
    "save_steps": (int, _COUNT),
    "keep_checkpoints": (int, _POSITIVE),
    "log_iter": (int, _POSITIVE),
    "worker_num": (int, _COUNT),
    "seed": (int | None, _COUNT),
    "save_dir": (str, None),
    "weights": (str | None, None),
    "pretrain_weights": (str | None, None),
    "use_gpu": (bool, None),
    "use_xpu": (bool, None),
    "use_npu": (bool, None),
    "use_mlu": (bool, None),
    "use_ema": (bool, None),
    "ema_decay": (float, (0, 1)),
    "ema_decay_type": (Literal["threshold", "normal", "exponential"], None),
    "ema_black_list": (Texts | None, None),
    "ema_filter_no_grad": (bool, None),
    "cycle_epoch": (int, None),
    "norm_type": (Literal["bn", "sync_bn", "gn", "ln", "none"] | None, None),
    "depth_mult": (float, (0.01, 100)),
    "width_mult": (float, (0.01, 100)),
    "amp": (bool, None),
    "amp_level": (Literal["O1", "O2"], None),
    "find_unused_parameters": (bool, None),
    "print_flops": (bool, None),
    "print_params": (bool, None),
    "use_vdl": (bool, None),
    "classwise": (bool, None),
    "export": (dict, None),
    "output_eval": (str | None, None),
}
REQUIRED_KEYS = ("architecture", "num_classes", "epoch")
REQUIRED_SECTIONS = (
    "LearningRate", "OptimizerBuilder", "TrainDataset", "EvalDataset", "TrainReader", "EvalReader", "TestReader",
)  # fmt: skip


def check_keys(data: dict[str, Any], problems: Problems) -> None:
    """Notes values of the wrong type or out of range, and what is missing."""
    for name, (annotation, limit) in KEYS.items():
        if name in data:
            _check_value(name, data[name], annotation, limit, problems)
    for name in (*REQUIRED_KEYS, *REQUIRED_SECTIONS):
        if name not in data:
            problems.add("", f"missing {'section' if name in REQUIRED_SECTIONS else 'key'} '{name}'")


def _check_value(name: str, value: Any, annotation: Any, limit: Limit | None, problems: Problems) -> None:
    try:
        value = convert(value, annotation)
    except ValueError as error:
        problems.add(name, str(error))
        return
    if limit is not None and value is not None and not limit[0] <= value <= limit[1]:
        bound = f"at least {limit[0]:g}" if limit[1] == float("inf") else f"from {limit[0]:g} to {limit[1]:g}"
        problems.add(name, f"must be {bound}, got {value}")
