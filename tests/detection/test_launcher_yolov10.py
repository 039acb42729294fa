"""YOLOv10 under ``python -m detection SCRIPT``, with the installed ppdet and, as test_launcher.py, with a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.detector_runs import STEPS, make_frames
from tests.support.frames import NAMES
from tests.support.launcher import (
    AS_FILE,
    AS_MODULE,
    LAUNCH,
    ROOT,
    WORK,
    check_exported,
    check_trained,
    final_weights,
    losses_of,
    real_tools,
    run,
    run_tool,
    write_script,
)
from tests.support.yolov10_detectors import LETTERBOX, PLAIN, make_yolov10_lively
from tests.support.yolov10_runs import write_run

SIZE = 64
LEARNED = "backbone.to_p3.0.norm"
PRECISION = "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all"
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


def check_drawn(image: Path, drawn: Path) -> None:
    with Image.open(image) as before, Image.open(drawn) as after:
        assert (np.asarray(before.convert("RGB")) != np.asarray(after)).any()


def test_the_trainer_of_the_installed_one(tmp_path: Path) -> None:
    config = small_run(tmp_path)
    done = run([*AS_MODULE, str(write_script(tmp_path, WORK)), "train", "-c", str(config)], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_trained(final_weights(tmp_path), done.stdout, 2 * STEPS, config, LEARNED)
    assert PRECISION in done.stdout


def test_evaluation_drawing_and_export_of_the_installed_one(tmp_path: Path) -> None:
    config = small_run(tmp_path)
    model = write_lively_weights(config, tmp_path / "lively.pdparams")
    image = tmp_path / "data" / "images" / "val_00.png"
    options = ["--image", str(image), "-o", f"weights={tmp_path / 'lively.pdparams'}"]
    done = run([*AS_MODULE, str(write_script(tmp_path, WORK)), "rest", "-c", str(config), *options], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert PRECISION in done.stdout
    check_drawn(image, tmp_path / "drawn" / "val_00.png")
    check_exported(tmp_path / "exported" / "run" / "model", model)


# --- The real PaddleDetection --------------------------------------------------------------------------------------


@pytest.fixture
def tools() -> Path:
    return real_tools()


def test_the_real_trainer_evaluation_drawing_and_export(tools: Path, tmp_path: Path) -> None:
    config = small_run(tmp_path)
    text = run_tool(tools, "train", config, "--eval")
    check_trained(final_weights(tmp_path), text, 2 * STEPS, config, LEARNED)
    model = write_lively_weights(config, tmp_path / "lively.pdparams")
    options = ["-o", f"weights={tmp_path / 'lively.pdparams'}"]
    assert PRECISION in run_tool(tools, "eval", config, *options)
    image = tmp_path / "data" / "images" / "val_00.png"
    drawing = ["--infer_img", str(image), "--output_dir", str(tmp_path / "drawn"), "--draw_threshold", "0.0"]
    run_tool(tools, "infer", config, *drawing, *options)
    check_drawn(image, tmp_path / "drawn" / "val_00.png")
    run_tool(tools, "export_model", config, "--output_dir", str(tmp_path / "exported"), *options)
    check_exported(tmp_path / "exported" / "run" / "model", model)


@pytest.mark.parametrize("name", ["yolov10_s", "yolov10_s_econvnext_mini"])
def test_the_real_trainer_takes_our_configurations(tools: Path, tmp_path: Path, name: str) -> None:
    frames = make_frames(tmp_path / "data", empty=False)
    options = ["use_gpu=false", "epoch=1", "log_iter=1", "worker_num=0", f"save_dir={tmp_path / 'runs'}"]
    options += [f"{part}Dataset.dataset_dir={frames.root}" for part in ("Train", "Eval", "Test")]
    options += ["num_classes=3", "TrainReader.batch_size=6", "EvalReader.batch_size=6"]
    config = ROOT / "configs" / "detection" / "marine_debris" / f"{name}.yml"
    done = run([*AS_MODULE, str(tools / "train.py"), "-c", str(config), "--eval", "-o", *options], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    losses = losses_of(done.stdout + done.stderr)
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def test_the_real_trainer_under_the_launcher(tools: Path, tmp_path: Path) -> None:
    config = small_run(tmp_path)
    command = [*LAUNCH, "--log_dir", str(tmp_path / "logs"), *AS_FILE, str(tools / "train.py"), "-c", str(config)]
    done = run([*command, "--eval"], tmp_path, python_path="")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    text = (tmp_path / "logs" / "workerlog.0").read_text()
    check_trained(final_weights(tmp_path), text, 2 * (STEPS // 2), config, LEARNED)
