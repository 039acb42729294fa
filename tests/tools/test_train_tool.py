"""Training as a user calls it: what works, and the one line that each mistake gets."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classification.config import load_config
from classification.task import train_config
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.cifar import cifar_archive
from tests.support.detectors import make_frames, run_config
from tests.support.pictures import folder_config, write_class_folders
from tests.support.runs import ROOT, TINY, output_of, refusal, run_tool, start_tool, tiny_config, write_config


def use_dataset(config: dict[str, Any], train: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """Replaces both data sets, keeping their operators."""
    for part, dataset in (("Train", train), ("Eval", evaluation)):
        old = config["DataLoader"][part]["dataset"]
        config["DataLoader"][part]["dataset"] = {**dataset, "transform_ops": old["transform_ops"]}
    return config


def train_on_folders(folder: Path, root: Path, classes: int = 2, **changes: Any) -> dict[str, Any]:
    """Trains on class folders for one epoch; returns the report."""
    narrow = {f"Arch__{key}": TINY[key] for key in ("depth_multiplier", "width_multiplier")}
    return train_config(load_config(folder_config(folder, root, root, classes, Global__epochs=1, **narrow, **changes)))


def test_folder_of_images_trains_and_fine_tunes_with_other_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        report = train_on_folders(tmp_path, write_class_folders(tmp_path / "data", images=8))
    # Of two classes all images are among the five best: told in the report, where its key is, and on no screen.
    assert report["last"]["eval"]["top5"] == 1
    assert "evaluation: loss" in caplog.text and "top5" not in caplog.text
    best = tmp_path / "run/checkpoints/best"
    state = json.loads((best / "state.json").read_text())
    assert state["class_names"] == ["class_0", "class_1"]
    more = write_class_folders(tmp_path / "more", classes=3, images=8)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        train_on_folders(tmp_path / "tuned", more, 3, Global__pretrained_model=str(best))
    (line,) = [record.getMessage() for record in caplog.records if "head.weight" in record.getMessage()]
    assert "the rest starts fresh" in line


def test_evaluation_repeats_the_figures_of_the_report(tmp_path: Path) -> None:
    config = write_config(tmp_path, tiny_config(tmp_path / "run", Global__epochs=1))
    train_config(load_config(config))
    best = tmp_path / "run/checkpoints/best"
    output_of("eval.py", "-c", config, "-o", f"Global.pretrained_model={best}", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    report = json.loads((tmp_path / "run/report.json").read_text())
    which = {"ema": "ema", "model": "eval"}[json.loads((best / "state.json").read_text())["evaluated_weights"]]
    expected = report["last"][which]
    assert {key: figures[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert (tmp_path / "run/evaluation/predictions.csv").is_file()


def test_cifar_archive_trains_a_model_of_the_wheel(tmp_path: Path) -> None:
    """CIFAR-100's archive and PaddleClas's architectures are trained like our own."""
    archive = str(cifar_archive(tmp_path / "cifar-100-python.tar.gz"))
    config = tiny_config(tmp_path / "run", Global__epochs=1)
    config["Arch"] = {"name": "MobileNetV3_small_x0_35", "class_num": 3}
    parts = ({"name": "Cifar100", "data_file": archive, "mode": mode} for mode in ("train", "test"))
    train_config(load_config(write_config(tmp_path, use_dataset(config, *parts))))
    assert json.loads((tmp_path / "run/report.json").read_text())["class_names"] == ["apple", "bear", "cloud"]


@pytest.mark.slow
def test_compiled_training_equals_eager_training(tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        changes = {"Global__to_static": compiled, "Arch__drop_path_rate": 0.0, "Global__epochs": 1}
        path = write_config(tmp_path, tiny_config(tmp_path / f"run_{compiled}", **changes))
        losses.append(train_config(load_config(path))["last"]["train"]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def assert_refused(path: Path, *parts: str) -> None:
    """Training ends in one line with every one of ``parts`` in it; what the tool makes of it has a test of its own."""
    with pytest.raises(UserError) as error:
        train_config(load_config(path))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_mistake_is_one_line_with_exit_status_2_and_stands_in_the_log(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", Global__pretrained_model=str(tmp_path / "none.pdparams"))
    result = run_tool("train.py", "-c", write_config(tmp_path, config))
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "none.pdparams" in line
    assert "none.pdparams" in (tmp_path / "run" / "train.log").read_text()


def test_loss_that_is_not_finite_stops_at_once_and_saves_the_batch(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run")
    # A rate of 1e30 makes the second update's weights infinite.
    config["Optimizer"] = {"name": "SGD", "lr": {"name": "ConstLR", "learning_rate": "1e30"}}
    assert_refused(write_config(tmp_path, config), "the loss became nan at epoch 1, batch 2", "learning_rate")
    (saved,) = (tmp_path / "run").glob("bad_batch_*.npz")
    with np.load(saved, allow_pickle=False) as batch:
        assert batch["image"].shape == (8, 3, 32, 32)
        assert len(batch["names"]) == 8
    assert not list((tmp_path / "run").glob("checkpoints/epoch_*")), "a broken model was saved"


def test_few_unreadable_images_are_named_and_counted_and_many_stop_the_run(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "data", images=10)
    (root / "class_0" / "04.png").write_bytes(b"")
    report = train_on_folders(tmp_path / "one", root, Global__max_bad_images=0.5)
    assert report["epochs"] == 1
    assert [Path(name).name for name in report["bad_images"] + report["bad_eval_images"]] == ["04.png"] * 2
    for number in range(8):
        (root / "class_0" / f"{number:02d}.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="cannot be read.*class_0"):
        train_on_folders(tmp_path / "other", root)


def test_ctrl_c_saves_a_detector_then_resume_auto_finishes_and_evaluation_draws(tmp_path: Path) -> None:
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

    printed = output_of("train.py", "-c", config, "-o", "epoch=1", "--resume", "auto")
    assert "resuming from" in printed and "epoch 20 -> 1" in printed
    weights = f"weights={run / 'checkpoints' / 'best'}"
    assert "AP50" in output_of("eval.py", "-c", config, "-o", weights, "--json", tmp_path / "figures.json")
    names = {path.name for path in (run / "evaluation").iterdir()}
    assert {"figures.json", "detections.json", "precision_recall.png", "confusion.png", "panels.png"} <= names
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["counts"]["images"] == 6
    assert figures["weights"]["sha256"] == sha256_of(Path(figures["weights"]["file"]))


@pytest.mark.parametrize(("tool", "arguments", "message"), [
    ("train.py", ("-o", "PPYOLOEHead.grid_cell_scal=4"), "did you mean 'grid_cell_scale'"),
    ("eval.py", (), "no weights are named"),
])  # fmt: skip
def test_mistakes_about_a_detector_are_one_line(tmp_path: Path, tool: str, arguments: Any, message: str) -> None:
    config = run_config(tmp_path, make_frames(tmp_path / "data"))
    assert message in refusal(ROOT, tool, "-c", config, *arguments)
