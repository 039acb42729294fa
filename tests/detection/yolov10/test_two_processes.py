"""Two processes with half a batch each do what one does with all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT, tool_environment

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "tests" / "support" / "yolov10_step.py"
LOSSES = ("loss", "loss_class", "loss_iou", "loss_dfl", "loss_one_to_many", "loss_one_to_one")


def step(folder: Path, *launcher: str) -> None:
    command = [sys.executable, *launcher, str(SCRIPT), str(folder)]
    result = subprocess.run(
        command, cwd=ROOT, env=tool_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """What one process found, and what each of two did: the first has 3 boxes, in one image, the other 3 in two."""
    folder = tmp_path_factory.mktemp("steps")
    step(folder)
    step(folder, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(folder / "log"))
    files = [folder / "step_0_of_1.npz", *(folder / f"step_{rank}_of_2.npz" for rank in range(2))]
    alone, *both = [dict(np.load(file)) for file in files]
    return alone, both


def test_the_mean_of_their_losses_is_that_of_one_process(steps: tuple) -> None:
    alone, both = steps
    for name in LOSSES:
        assert np.mean([float(part[name]) for part in both]) == pytest.approx(float(alone[name]), rel=1e-5)
    # The halves differ, so that only a normaliser of all together gives these means.
    assert float(both[0]["loss_iou"]) != pytest.approx(float(both[1]["loss_iou"]), rel=0.1)


def test_their_gradients_are_those_of_one_process(steps: tuple) -> None:
    alone, both = steps
    compared = 0
    for name, expected in alone.items():
        if not name.startswith("gradient/"):
            continue
        scale = np.abs(expected).max()
        compared += scale > 1e-3
        for part in both:
            np.testing.assert_allclose(part[name], expected, rtol=0, atol=1e-5 * scale + 1e-7, err_msg=name)
    assert compared > 100
