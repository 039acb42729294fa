"""The command line of the weight converter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from ppcls_ext.weights import write_weights

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_weights.py"


def _run(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_reports_what_was_converted(tmp_path):
    import paddle

    from ppcls_ext import build_model

    paddle.seed(0)
    model = build_model("EConvNeXt_mini", class_num=5)
    write_weights(tmp_path / "ours.pdparams", model.state_dict())
    done = _run(tmp_path, "ours.pdparams", "out.safetensors", "--model", "EConvNeXt_mini", "--from", "ours")
    assert done.returncode == 0, done.stderr
    assert f"out.safetensors: {len(model.state_dict())} weights" in done.stdout
    assert (tmp_path / "out.safetensors").is_file()


def test_a_wrong_file_is_one_line_on_stderr(tmp_path):
    write_weights(tmp_path / "other.pdparams", {"fc.weight": np.ones((2, 2), dtype=np.float32)})
    done = _run(tmp_path, "other.pdparams", "o.pdparams", "--model", "EConvNeXt_mini", "--from", "reference")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "not a checkpoint of the paper's repository" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.pdparams").exists()
