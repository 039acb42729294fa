"""tools/train.py and tools/eval.py with a detection configuration, as a newcomer calls them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.detectors import make_frames, run_config
from tests.support.runs import run_tool, start_tool


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """Folder, output and exit status of a run that Ctrl-C stopped after its first batches."""
    folder = tmp_path_factory.mktemp("interrupted")
    config = run_config(folder, make_frames(folder / "data"), epoch=6, log_iter=1)
    process = start_tool("train.py", "-c", config)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "batch 2/4" in line:
            process.send_signal(signal.SIGINT)
            break
    lines += list(process.stdout)
    return folder, "".join(lines), process.wait(timeout=120)


def test_ctrl_c_saves_and_says_how_to_go_on(interrupted: tuple[Path, str, int]) -> None:
    folder, output, status = interrupted
    assert status == 130, output
    assert "continue with the same command and --resume auto" in output
    assert "Traceback" not in output
    assert (folder / "runs" / "run" / "checkpoints" / "latest").is_dir()


def test_resume_auto_finishes_then_evaluation_draws(interrupted: tuple[Path, str, int]) -> None:
    folder = interrupted[0]
    result = run_tool("train.py", "-c", folder / "run.yml", "-o", "epoch=1", "--resume", "auto")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming from" in result.stdout
    assert "epoch 6 -> 1" in result.stdout
    best = folder / "runs" / "run" / "checkpoints" / "best"
    result = run_tool("eval.py", "-c", folder / "run.yml", "-o", f"weights={best}", "--json", folder / "figures.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "AP50" in result.stdout
    names = {path.name for path in (folder / "runs" / "run" / "evaluation").iterdir()}
    assert {"figures.json", "detections.json", "precision_recall.png", "confusion.png", "panels.png"} <= names
    assert json.loads((folder / "figures.json").read_text(encoding="utf-8"))["counts"]["images"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "PPYOLOEHead.grid_cell_scal=4"), "did you mean 'grid_cell_scale'"),
        (("-o", "num_classes=7"), "num_classes"),
        (("--resume", "weights.pdparams"), "--resume wants a checkpoint folder"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, arguments: tuple[str, str], message: str) -> None:
    (tmp_path / "weights.pdparams").write_bytes(b"")
    arguments = tuple(str(tmp_path / text) if text.endswith(".pdparams") else text for text in arguments)
    result = run_tool("train.py", "-c", run_config(tmp_path, make_frames(tmp_path / "data")), *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_options_of_detectors_are_refused_for_classifiers() -> None:
    result = run_tool("eval.py", "-c", "configs/quickstart.yaml", "--panels", "3")
    assert result.returncode == 2
    assert "--output and --panels go with a detection configuration" in result.stderr


def test_evaluation_without_weights_is_told(tmp_path: Path) -> None:
    result = run_tool("eval.py", "-c", run_config(tmp_path, make_frames(tmp_path / "data")))
    assert result.returncode == 2
    assert "no weights are named" in result.stderr
