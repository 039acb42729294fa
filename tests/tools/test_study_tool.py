"""tools/study.py from one end to the other, on tiny networks and a few pictures."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from tests.support.cifar import cifar_archive
from tests.support.runs import ROOT, refusal, run_tool, start_tool
from tests.support.studies import row_config, small_study, study_data, write_study


def wait_for(process: subprocess.Popen[str], path: Path, text: str, seconds: float = 300) -> None:
    """Waits until a file holds a text that a process is to write there."""
    until = time.monotonic() + seconds
    while not (path.is_file() and text in path.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"{path} never held {text}"
        time.sleep(0.05)


def with_a_row_that_fails(data: dict[str, Any]) -> dict[str, Any]:
    """Replaces the second row by one whose data are not there, and gives the ablation a longer run."""
    missing = {f"DataLoader.{part}.dataset.data_file": "none.tar.gz" for part in ("Train", "Eval")}
    data["rows"][1]["overrides"] = missing
    data["ablations"][0]["overrides"]["Global.epochs"] = 4
    del data["rows"][0]["seeds"]
    return data


@pytest.mark.slow
def test_a_study_is_interrupted_continued_and_compared(tmp_path: Path) -> None:
    config = row_config(tmp_path, cifar_archive(tmp_path / "archive.tar.gz", images=24))
    study = write_study(tmp_path, with_a_row_that_fails(study_data(tmp_path, config)))
    out = tmp_path / "out"

    process = start_tool("study.py", study, "--no-latency", "--rows", "relu", "plain")
    wait_for(process, out / "relu/seed_0/log.jsonl", '"kind": "step"')
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopped; what was under way is saved; continue with the same command" in output
    assert "plain, seed 0: finished" in output
    report = (out / "plain/seed_0/report.json").stat()
    assert not (out / "relu/seed_0/report.json").exists()
    assert not (out / "wide").exists(), "it was not asked for"

    result = run_tool("study.py", study, "--no-latency")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 of 3 runs are finished, 2 to train" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: wide, seed 0: ")
    assert "none.tar.gz does not exist" in error
    assert (out / "plain/seed_0/report.json").stat() == report, "a finished run was trained again"
    assert "resuming from" in (out / "relu/seed_0/console.log").read_text()

    rows = pandas.read_csv(out / "comparison.csv", index_col="row")
    assert rows["n"].to_dict() == {"plain": 1, "wide": 0, "relu": 1}
    assert pandas.read_csv(out / "runs.csv", index_col="row").loc["wide", "state"] == "not begun"
    last = json.loads((out / "plain/seed_0/report.json").read_text())["last"]["eval"]
    for name in ("top1", "top5"):
        assert rows.loc["plain", name] == pytest.approx(last[name])
    page = (out / "comparison.md").read_text()
    assert "- Failed: wide, seed 0: " in page
    for picture in ("curves.png", "accuracy_cost.png"):
        with Image.open(out / picture) as image:
            assert image.width > 900, picture
        assert f"({picture})" in page


def test_what_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    line = refusal(ROOT, "study.py", small_study(tmp_path).path, "--rows", "plane")
    assert "no row 'plane' (did you mean 'plain'?)" in line
    assert not (tmp_path / "out").exists()
