"""The command line of the data check: statuses, lines and files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.frames import Frames
from tests.support.pictures import folder_config, write_class_folders
from tests.support.runs import ROOT, run_tool, tool_environment


def test_clean_data_leave_with_0(tmp_path: Path) -> None:
    train = write_class_folders(tmp_path / "train")
    config = folder_config(tmp_path, train, write_class_folders(tmp_path / "val", images=3, first_seed=500))
    command = [sys.executable, "tools/check_data.py", "-c", config, "--output", tmp_path / "out"]
    result = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=tool_environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "training: 24 images in 2 classes" in result.stdout
    assert "no errors, no warnings" in result.stdout
    assert (tmp_path / "out" / "overview.png").is_file()


def test_errors_leave_with_1_and_one_line_a_kind(tmp_path: Path) -> None:
    train = write_class_folders(tmp_path / "train")
    for number in range(5):
        (train / "class_0" / f"broken_{number}.png").write_bytes(b"")
    config = folder_config(tmp_path, train, write_class_folders(tmp_path / "val", images=3, first_seed=500))
    result = run_tool("check_data.py", "-c", config, "--output", tmp_path / "out", "--workers", "1")
    assert result.returncode == 1, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "5 training images that cannot be read" in lines[0]
    assert str(train / "class_0" / "broken_0.png") in lines[0]
    assert "and 2 more" in lines[0]
    assert json.loads((tmp_path / "out" / "check.json").read_text())["findings"][0]["count"] == 5


def test_mistakes_of_the_user_leave_with_2(tmp_path: Path) -> None:
    config = folder_config(tmp_path, tmp_path / "a", tmp_path / "b")
    result = run_tool("check_data.py", "-c", config, "-o", "Global.epoch=3")
    assert result.returncode == 2
    assert "epoch" in result.stderr
    assert run_tool("check_data.py", "-c", config, "--limit", "-1").returncode == 2
    (tmp_path / "detector.yml").write_text("architecture: PPYOLOE\nnum_clases: 3\n", encoding="utf-8")
    result = run_tool("check_data.py", "-c", tmp_path / "detector.yml")
    assert result.returncode == 2
    assert "num_clases" in result.stderr
    assert "Traceback" not in result.stderr


def test_clean_detection_data_leave_with_0(tmp_path: Path) -> None:
    config = Frames(tmp_path).write_config()
    command = [sys.executable, "tools/check_data.py", "-c", config, "--output", tmp_path / "out"]
    result = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=tool_environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert "training: 18 images with 36 boxes of 3 classes" in result.stdout
    assert "validation: 6 images with 12 boxes of 3 classes" in result.stdout
    assert "no errors, no warnings" in result.stdout
    assert (tmp_path / "out" / "overview.png").is_file()


def test_errors_in_detection_data_leave_with_1_and_one_line_a_kind(tmp_path: Path) -> None:
    frames = Frames(tmp_path)
    for number in range(5):
        frames.train["annotations"][number]["bbox"][2] = 0.0
    frames.image("val_00.png").unlink()
    result = run_tool("check_data.py", "-c", frames.write_config(), "--output", tmp_path / "out", "-o", "num_classes=4")
    assert result.returncode == 1, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("error")]
    assert len(lines) == 3
    assert "5 training boxes without area" in lines[1]
    assert "train_00.png (annotation 1, cube: bbox [10, 8, 0, 24])" in lines[1]
    assert "and 2 more" in lines[1]
    assert "num_classes is 4" in lines[0]
    assert "1 validation image whose file does not exist" in lines[2]
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert [finding["count"] for finding in report["findings"][:3]] == [2, 5, 1]


def test_detection_data_that_are_not_there_leave_with_1(tmp_path: Path) -> None:
    frames = Frames(tmp_path)
    config = frames.write_config()
    frames.annotations("val").unlink()
    result = run_tool("check_data.py", "-c", config, "--output", tmp_path / "out")
    assert result.returncode == 1
    assert f"{frames.annotations('val')}: the annotation file does not exist" in result.stdout
