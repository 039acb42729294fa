"""Keys of PaddleDetection's own trainer that this engine does not act on: said aloud, never passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IGNORED = (
    "ema_skip_names", "ema_start_iters", "output_eval", "print_flops", "print_params", "profiler_options",
    "save_prediction_only", "save_proposals", "slim", "slim_method", "ssod_method", "to_static", "unstructured_prune",
    "use_cot", "use_fused_allreduce_gradients", "use_mlu", "use_npu", "use_simple_ema", "use_wandb", "use_xpu",
    "vdl_log_dir",
)  # fmt: skip


def ignored_keys(data: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a configuration, switched on there, that change nothing here."""
    found = [name for name in IGNORED if data.get(name)]
    return [*found, "metric"] if data.get("metric", "COCO") != "COCO" else found
