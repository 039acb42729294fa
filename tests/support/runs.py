"""Small training runs for tests: a configuration of a few batches, and the tools as a newcomer calls them."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent

TINY = {
    "name": "EConvNeXt_mini", "class_num": 10, "drop_path_rate": 0.2, "depth_multiplier": 0.1,
    "width_multiplier": 0.0625,
}  # fmt: skip
NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "order": ""}}


def small_config(output: Path, **changes: Any) -> dict[str, Any]:
    """Returns a configuration that trains E-ConvNeXt-mini on a few dozen digits.

    Args:
        output: ``Global.output_dir``.
        **changes: values by dotted key with ``__`` for the dot, such as ``Global__epochs=1``.
    """
    dataset = {"name": "Digits", "size": 32, "seed": 0}
    config: dict[str, Any] = {
        "Global": {
            "output_dir": str(output),
            "device": "cpu",
            "epochs": 2,
            "print_batch_step": 2,
            "image_shape": [3, 32, 32],
            "seed": 5,
            "keep_checkpoints": 10,
        },
        "EMA": {"decay": 0.9},
        "Arch": {"name": "EConvNeXt_mini", "class_num": 10, "drop_path_rate": 0.2},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0, "epsilon": 0.1}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "AdamW",
            "weight_decay": 0.05,
            "one_dim_param_no_weight_decay": True,
            "lr": {"name": "Cosine", "learning_rate": "1e-3", "warmup_epoch": 1},
        },
        "DataLoader": {
            "Train": {
                "dataset": {
                    # 36 of the 1,797 digits: four batches of 8 and a rest.
                    **dataset,
                    "split": "val",
                    "holdout": 0.02,
                    "transform_ops": [
                        {"RandCropImage": {"size": 32, "scale": [0.6, 1.0]}},
                        {"TimmAutoAugment": {"config_str": "rand-m9-mstd0.5-inc1", "img_size": 32}},
                        copy.deepcopy(NORMALIZE),
                        {"RandomErasing": {"EPSILON": 0.5, "mode": "pixel"}},
                    ],
                    "batch_transform_ops": [
                        {"OpSampler": {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"prob": 0.4}}}
                    ],
                },
                "sampler": {"name": "DistributedBatchSampler", "batch_size": 8, "drop_last": True, "shuffle": True},
                "loader": {"num_workers": 0},
            },
            "Eval": {
                "dataset": {**dataset, "split": "val", "holdout": 0.01, "transform_ops": [copy.deepcopy(NORMALIZE)]},
                "sampler": {"name": "DistributedBatchSampler", "batch_size": 16},
                "loader": {"num_workers": 0},
            },
        },
        "Infer": {
            "transforms": [
                {"DecodeImage": {"to_rgb": True, "channel_first": False}},
                {"ResizeImage": {"size": 32}},
                copy.deepcopy(NORMALIZE),
                {"ToCHWImage": None},
            ],
            "PostProcess": {"name": "Topk", "topk": 3},
        },
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1, 5]}}]},
    }
    for key, value in changes.items():
        *path, name = key.split("__")
        section = config
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return config


def tiny_config(output: Path, **changes: Any) -> dict[str, Any]:
    """Returns :func:`small_config` with a network of one narrow block a stage, which trains in no time."""
    return small_config(output, **{"Arch": dict(TINY), **changes})


def write_config(folder: Path, config: dict[str, Any], name: str = "config.yaml") -> Path:
    """Writes a configuration; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def tool_environment() -> dict[str, str]:
    """Returns the environment in which tools run: two threads, plain output, no rank of a launcher around the tests."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PADDLE_", "FLAGS_"))}
    return {**environment, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}


def run_tool(
    name: str, *arguments: str | Path, timeout: int = 300, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Runs ``python tools/NAME ARGUMENTS`` in ``folder`` and returns what it printed."""
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=tool_environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    # Paddle's advice on OMP_NUM_THREADS, as it is imported, is for whoever sets that.
    advice = ("WARNING: OMP_NUM_THREADS", "PLEASE USE OMP_NUM_THREADS")
    done.stderr = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith(advice))
    return done


def output_of(name: str, *arguments: str | Path, folder: Path = ROOT) -> str:
    """Runs a tool, which must end well, and returns what it printed on standard output."""
    done = run_tool(name, *arguments, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_here(folder: Path, name: str, *arguments: str | Path) -> tuple[int, str]:
    """Runs a tool in this process, which saves its imports, as if started in ``folder``.

    Returns:
        Exit status and standard error, in which no traceback stands.
    """
    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        patch.setattr(sys, "path", sys.path[:])
        patch.setattr(sys, "stderr", errors)
        with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
            runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    assert "Traceback" not in errors.getvalue()
    return int(stop.value.code or 0), errors.getvalue()


def refusal(folder: Path, name: str, *arguments: str | Path) -> str:
    """Runs a tool with a user's mistake; see :func:`run_here`.

    Returns:
        The last line of its standard error; that the exit status is 2 is checked here.
    """
    status, errors = run_here(folder, name, *arguments)
    assert status == 2
    return errors.splitlines()[-1]


def start_tool(name: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Starts a tool without waiting, its output in one pipe."""
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    # Shells have Ctrl-C ignored in what they start in the background, and so, perhaps, in these tests.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, cwd=ROOT, env=tool_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=heed,
    )  # fmt: skip


def launch_tool(
    name: str, *arguments: str | Path, log: Path, processes: int = 2, timeout: int = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a tool in several processes under ``paddle.distributed.launch``."""
    command = [
        sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir", str(log),
        str(ROOT / "tools" / name), *map(str, arguments),
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=ROOT, env=tool_environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def write_run(folder: Path, figures: list[tuple[float, float]], cut: str = "") -> Path:
    """Writes the log of a detector's run with one evaluated epoch of 60 s for each (AP, AP50)."""
    folder.mkdir(parents=True)
    records = [
        {
            "kind": "epoch", "epoch": number, "lr": 1e-3,
            "train": {"loss": 4.0 - number, "seconds": 60.0, "images_per_second": 2.0},
            "eval": {"AP": ap, "AP50": ap50, "seconds": 1.0},
        }
        for number, (ap, ap50) in enumerate(figures, start=1)
    ]  # fmt: skip
    lines = [json.dumps({"kind": "step", "epoch": 1, "step": 5, "loss": 4.0}), *map(json.dumps, records)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n" + cut, encoding="utf-8")
    return folder


def same_files(one: Path, other: Path, names: tuple[str, ...]) -> list[str]:
    """Returns the names of the files that differ between two folders."""
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


def content_of(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same_arrays(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Tells whether two states hold the same names, types and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )
