"""tools/train.py and tools/eval.py with a detection configuration, as a newcomer calls them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from ppcls_ext.utils.files import sha256_of
from tests.support.detectors import make_frames, run_config
from tests.support.runs import ROOT, refusal, run_tool, start_tool


def test_ctrl_c_saves_then_resume_auto_finishes_and_evaluation_draws(tmp_path: Path) -> None:
    config = run_config(tmp_path, make_frames(tmp_path / "data"), epoch=20, log_iter=1)
    run = tmp_path / "runs" / "run"
    process = start_tool("train.py", "-c", config)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "batch 2/4" in line:
            process.send_signal(signal.SIGINT)
            break
    output = "".join([*lines, *process.stdout])
    assert process.wait(timeout=120) == 130, output
    assert "continue with the same command and --resume auto" in output
    assert "Traceback" not in output
    assert "type promotion" not in output, "numbers of two types meet in the training step"
    assert (run / "checkpoints" / "latest").is_dir()

    result = run_tool("train.py", "-c", config, "-o", "epoch=1", "--resume", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming from" in result.stdout and "epoch 20 -> 1" in result.stdout
    weights = f"weights={run / 'checkpoints' / 'best'}"
    result = run_tool("eval.py", "-c", config, "-o", weights, "--json", tmp_path / "figures.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "AP50" in result.stdout
    names = {path.name for path in (run / "evaluation").iterdir()}
    assert {"figures.json", "detections.json", "precision_recall.png", "confusion.png", "panels.png"} <= names
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["counts"]["images"] == 6
    assert figures["weights"]["sha256"] == sha256_of(Path(figures["weights"]["file"]))


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("train.py", ("-o", "PPYOLOEHead.grid_cell_scal=4"), "did you mean 'grid_cell_scale'"),
        ("train.py", ("-o", "EvalDataset.anno_path=none.json"), "prepare the data first"),
        ("eval.py", (), "no weights are named"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, tool: str, arguments: tuple[str, ...], message: str) -> None:
    config = run_config(tmp_path, make_frames(tmp_path / "data"))
    assert message in refusal(ROOT, tool, "-c", config, *arguments)
