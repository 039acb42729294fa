"""The command line of the weight converter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from ppcls_ext.weights import read_weights
from tests.support.foreign_convnext import ForeignConvNeXt
from tests.support.torch_files import Call, write_archive

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_weights.py"


def _run(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_checkpoint_of_facebook_becomes_ours_and_then_timms(tmp_path):
    foreign = ForeignConvNeXt("facebook", 2, dims=(40, 80, 160, 320), depths=(2, 2, 6, 2))
    write_archive(tmp_path / "atto.pt", {"model": foreign.weights, "model_ema": foreign.weights})
    ours = ("atto.pt", "ours.safetensors", "--model", "ConvNeXtV2_atto", "--from", "facebook")
    done = _run(tmp_path, *ours)
    assert done.returncode == 2
    assert "error: atto.pt: holds several sets of weights (model, model_ema): say which with --entry" in done.stderr
    done = _run(tmp_path, *ours, "--entry", "model_ema", "--drop-head")
    assert done.returncode == 0, done.stderr
    assert "ours.safetensors: 138 weights, 3,387,400 numbers, fit ConvNeXtV2_atto" in done.stdout
    assert "dropped 2 weights that the model does not use:\n    1 x head.weight" in done.stdout
    export = ("ours.safetensors", "timm.safetensors", "--model", "ConvNeXtV2_atto", "--from", "ours", "--to", "timm")
    done = _run(tmp_path, *export, "--drop-head")
    assert done.returncode == 0, done.stderr
    assert "fit ConvNeXtV2_atto, in the form of timm" in done.stdout
    assert "head.norm.weight" in read_weights(tmp_path / "timm.safetensors")


def test_a_hostile_checkpoint_is_refused_in_one_line_and_nothing_runs(tmp_path):
    hostile = {"model": {"w": np.ones(1, np.float32)}, "args": Call("os", "system", ("touch witness",))}
    write_archive(tmp_path / "hostile.pth", hostile)
    done = _run(tmp_path, "hostile.pth", "o.pdparams", "--model", "ConvNeXtV1_tiny", "--from", "facebook")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: hostile.pth: refused, nothing in it was executed: it asks for 'os.system'")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.pth"]
