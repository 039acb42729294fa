"""How long a command line takes to answer when there is nothing to compute."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.utils.errors import UserError

# A configuration with a misspelt key: the answer must come without loading Paddle.
BROKEN_CONFIG = "Arch:\n  name: EConvNeXt_mini\n  clas_num: 10\n"


def run_startup_benchmark(tool: Path, repeats: int = 5) -> dict[str, Any]:
    """Measures ``TOOL --help`` and ``TOOL -c CONFIG`` with a mistake in the configuration, as fresh processes.

    Args:
        tool: a script that takes ``-c``, usually ``tools/train.py``.
        repeats: how often each is started.

    Returns:
        ``seconds`` by command: ``median`` and ``slowest``; ``repeats``.

    Raises:
        UserError: a command does not answer as it should.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        config = Path(name) / "broken.yaml"
        config.write_text(BROKEN_CONFIG, encoding="utf-8")
        commands: Mapping[str, tuple[Sequence[str], int]] = {
            f"{tool.name} --help": (["--help"], 0),
            f"{tool.name}, error in the configuration": (["-c", str(config)], 2),
        }
        seconds = {
            label: [_time(tool, arguments, status) for _ in range(repeats)]
            for label, (arguments, status) in commands.items()
        }
    return {
        "repeats": repeats,
        "seconds": {
            label: {"median": float(np.median(values)), "slowest": max(values)} for label, values in seconds.items()
        },
    }


def _time(tool: Path, arguments: Sequence[str], expected_status: int) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, str(tool), *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != expected_status:
        raise UserError(
            f"benchmark: {tool.name} {' '.join(arguments)} left with status {done.returncode}: {done.stderr}"
        )
    return seconds


def markdown_rows(result: dict[str, Any]) -> list[list[str]]:
    """Returns the results as rows of a table, its head first."""
    rows = [["command", "median, s", "slowest, s"]]
    for label, row in result["seconds"].items():
        rows.append([label, f"{row['median']:.2f}", f"{row['slowest']:.2f}"])
    return rows
