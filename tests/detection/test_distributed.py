"""Two processes train and validate one detector over gloo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detection.configuration import load_config
from detection.evaluator import evaluate_config
from detection.task import open_environment
from tests.support.detectors import STEPS, make_frames, run_config
from tests.support.runs import launch_tool


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch in two processes, two images each."""
    folder = tmp_path_factory.mktemp("two")
    config = run_config(folder, make_frames(folder / "data"), epoch=1, TrainReader__batch_size=2)
    result = launch_tool("train.py", "-c", config, log=folder / "log")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_two_processes_train_on_disjoint_halves_and_validate_their_shares(run: Path) -> None:
    report = json.loads((run / "runs" / "run" / "report.json").read_text(encoding="utf-8"))
    latest = run / "runs" / "run" / "checkpoints" / "latest"
    state = json.loads((latest / "state.json").read_text(encoding="utf-8"))
    assert report["processes"] == 2
    assert state["data_order"] == {"seed": 4, "images": 18, "images_per_step": 4, "steps": STEPS}
    assert state["average"]["step"] == STEPS
    config = load_config(run / "run.yml", [f"weights={latest}"])
    alone = evaluate_config(config, open_environment(config), run / "evaluation", panels=0)
    assert alone is not None
    assert report["last"]["eval"]["detections"] == alone["counts"]["detections"] > 0
    assert report["last"]["eval"]["AP"] == pytest.approx(alone["summary"]["AP"] or 0.0, abs=1e-6)


@pytest.mark.slow
def test_evaluation_in_two_processes_counts_what_one_counts(run: Path) -> None:
    weights = f"weights={run / 'runs' / 'run' / 'checkpoints' / 'latest'}"
    result = launch_tool(
        "eval.py", "-c", run / "run.yml", "-o", weights, "--output", run / "both", "--panels", "0", "--json",
        run / "both.json", log=run / "log_eval",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((run / "runs" / "run" / "report.json").read_text(encoding="utf-8"))
    both = json.loads((run / "both.json").read_text(encoding="utf-8"))
    assert both["counts"]["images"] == 6
    assert both["counts"]["detections"] == report["last"]["eval"]["detections"]
