"""YOLOv10 under ``python -m detection SCRIPT``, with the installed ppdet and, as test_launcher.py, with a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.detector_runs import STEPS, make_frames
from tests.support.frames import NAMES
from tests.support.launcher import (
    AS_MODULE,
    PRECISION,
    WORK,
    check_real_training_of_ours,
    check_real_training_under_the_launcher,
    check_rest_of_the_installed_one,
    check_rest_of_the_real_one,
    check_trained,
    final_weights,
    real_tools,
    run,
    run_tool,
    write_script,
)
from tests.support.yolov10_detectors import LETTERBOX, PLAIN, make_yolov10_lively
from tests.support.yolov10_runs import write_run

SIZE = 64
LEARNED = "backbone.to_p3.0.norm"
MOSAIC = {"MosaicPerspective": {"target_size": [SIZE, SIZE], "translate": 0.1, "scale": 0.5}}


def small_run(folder: Path) -> Path:
    """Two epochs, the first with mosaics, the second with letterboxes as in the evaluation."""
    frames = make_frames(folder / "data", empty=False)
    test = {"name": "ImageFolder", "dataset_dir": str(frames.root), "anno_path": "annotations/val.json"}
    training = {
        "sample_transforms": [{"Decode": {}}, MOSAIC, {"RandomHSV": {}}],
        "batch_transforms": [PLAIN, {"Permute": {}}, {"PadGT": {}}, {"LabelsToInt64": {}}],
        "batch_size": 4, "shuffle": True, "drop_last": True, "mosaic_epoch": 1,
    }  # fmt: skip
    return write_run(
        folder, frames.root, len(NAMES), SIZE, log_iter=1, TestDataset=test, TrainReader=training,
        EvalReader__sample_transforms=LETTERBOX, TestReader__sample_transforms=LETTERBOX,
    )  # fmt: skip


def write_lively_weights(config: Path, file: Path) -> Any:
    """Writes weights of a detector that finds something, and returns the detector."""
    from detection.configuration import load_config
    from detection.toolkit import build_model
    from ppcls_ext.weights import write_weights

    model = build_model(load_config(config))
    make_yolov10_lively(model)
    write_weights(file, model.state_dict())
    model.eval()
    return model


def test_the_trainer_of_the_installed_one(tmp_path: Path) -> None:
    config = small_run(tmp_path)
    done = run([*AS_MODULE, str(write_script(tmp_path, WORK)), "train", "-c", str(config)], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_trained(final_weights(tmp_path), done.stdout, 2 * STEPS, config, LEARNED)
    assert PRECISION in done.stdout


def test_evaluation_drawing_and_export_of_the_installed_one(tmp_path: Path) -> None:
    config = small_run(tmp_path)
    weights = tmp_path / "lively.pdparams"
    check_rest_of_the_installed_one(config, weights, write_lively_weights(config, weights), letterboxed=True)


# --- The real PaddleDetection --------------------------------------------------------------------------------------


@pytest.fixture
def tools() -> Path:
    return real_tools()


def test_the_real_trainer_evaluation_drawing_and_export(tools: Path, tmp_path: Path) -> None:
    config = small_run(tmp_path)
    text = run_tool(tools, "train", config, "--eval")
    check_trained(final_weights(tmp_path), text, 2 * STEPS, config, LEARNED)
    weights = tmp_path / "lively.pdparams"
    check_rest_of_the_real_one(tools, config, weights, write_lively_weights(config, weights), letterboxed=True)


@pytest.mark.parametrize("name", ["yolov10_s", "yolov10_s_econvnext_mini"])
def test_the_real_trainer_takes_our_configurations(tools: Path, tmp_path: Path, name: str) -> None:
    check_real_training_of_ours(tools, tmp_path, name)


def test_the_real_trainer_under_the_launcher(tools: Path, tmp_path: Path) -> None:
    check_real_training_under_the_launcher(tools, small_run(tmp_path), 2 * (STEPS // 2), LEARNED)
