"""``tools/prepare_data.py synthetic`` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.runs import run_tool


def test_writes_what_it_says(tmp_path: Path) -> None:
    options = ("synthetic", "--output", tmp_path / "set", "--train", "5", "--val", "2", "--size", "96", "--seed", "3")
    result = run_tool("prepare_data.py", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    for part, count in (("train", 5), ("val", 2)):
        assert f"{part}: {count} frames" in result.stdout
        coco = json.loads((tmp_path / "set" / "annotations" / f"{part}.json").read_text())
        assert len(coco["images"]) == count
        assert all((tmp_path / "set" / "images" / image["file_name"]).is_file() for image in coco["images"])
    again = run_tool("prepare_data.py", *options)
    assert again.returncode == 2
    assert "give --overwrite to replace it" in again.stderr


def test_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    result = run_tool("prepare_data.py", "synthetic", "--output", tmp_path / "set", "--size", "10")
    assert result.returncode == 2
    assert result.stderr == "error: --size must be at least 64, got 10\n"
    assert list(tmp_path.iterdir()) == []
