"""What only a GPU can show of training: whole runs in mixed precision, synchronised batch norm. Skipped without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from tests.support.distillation import distilled, write_teacher
from tests.support.runs import run_tool, tiny_config, write_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not paddle.is_compiled_with_cuda(), reason="needs a GPU: training on one is not run"),
]


@pytest.mark.parametrize(("level", "dtype"), [("O1", "float16"), ("O2", "float16"), ("O2", "bfloat16")])
def test_a_run_in_mixed_precision_trains_evaluates_and_resumes(tmp_path: Path, level: str, dtype: str) -> None:
    """The second epoch done again from the first one's checkpoint loses the same, up to the noise of a GPU's sums."""
    run = tmp_path / "run"
    changes = {"Global__device": "gpu", "Global__amp_dtype": dtype, "AMP": {"level": level, "scale_loss": 1024.0}}
    config = write_config(tmp_path, tiny_config(run, **changes))
    losses = []
    for resumed in (False, True):
        if resumed:
            shutil.rmtree(run / "checkpoints" / "epoch_0002")
        result = run_tool("train.py", "-c", config, "--resume", "auto")
        assert result.returncode == 0, result.stdout + result.stderr
        assert ("resuming from" in result.stdout) is resumed
        report = json.loads((run / "report.json").read_text())
        assert report["last"]["ema"]["images"] > 0
        losses.append(report["last"]["train"]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_student_in_mixed_precision_learns_from_its_teacher(tmp_path: Path, level: str) -> None:
    weights = write_teacher(tmp_path / "teacher.pdparams")
    changes = {"Global__device": "gpu", "AMP": {"level": level, "scale_loss": 1024.0}}
    data = distilled(tmp_path / "run", weights, {"features": {"stages": [2, 4]}}, **changes)
    result = run_tool("train.py", "-c", write_config(tmp_path, data))
    assert result.returncode == 0, result.stdout + result.stderr
    means = json.loads((tmp_path / "run" / "report.json").read_text())["last"]["train"]
    assert all(np.isfinite(means[name]) for name in ("loss_label", "loss_distillation", "loss_features"))
