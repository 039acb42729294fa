"""tools/compare_runs.py: figures of runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tests.support.runs import run_tool


def write_run(folder: Path, figures: list[tuple[float, float]], cut: str = "") -> Path:
    """Writes the log of a run with one evaluated epoch of 60 s for each (AP, AP50)."""
    folder.mkdir(parents=True)
    records = [
        {
            "kind": "epoch", "epoch": number, "lr": 1e-3,
            "train": {"loss": 4.0 - number, "seconds": 60.0, "images_per_second": 2.0},
            "eval": {"AP": ap, "AP50": ap50, "seconds": 1.0},
        }
        for number, (ap, ap50) in enumerate(figures, start=1)
    ]  # fmt: skip
    lines = [json.dumps({"kind": "step", "epoch": 1, "step": 5, "loss": 4.0}), *map(json.dumps, records)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n" + cut, encoding="utf-8")
    return folder


def test_prints_every_epoch_and_draws(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [(0.1, 0.2), (0.25, 0.5)])
    other = write_run(tmp_path / "other", [(0.3, 0.6)], cut='{"kind": "epo')
    result = run_tool("compare_runs.py", one, other, "--output", tmp_path / "runs.png")
    assert result.returncode == 0, result.stderr
    assert "| 2 | 0.250 | 0.500 | 2.000 | 2.0 | 2.0 |" in result.stdout
    assert "| 1 | 0.300 | 0.600 |" in result.stdout
    assert Image.open(tmp_path / "runs.png").width > 600


def test_minutes_count_the_epochs_that_were_not_evaluated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", [(0.1, 0.2), (0.25, 0.5), (0.3, 0.6)])
    log = run / "log.jsonl"
    first, second, third = log.read_text(encoding="utf-8").splitlines()[1:]
    log.write_text("\n".join([first, second.replace('"eval"', '"other"'), third]), encoding="utf-8")
    result = run_tool("compare_runs.py", run)
    assert result.returncode == 0, result.stderr
    assert "| 3 | 0.300 | 0.600 | 1.000 | 3.0 | 2.0 |" in result.stdout
    assert "| 2 |" not in result.stdout


def test_what_is_no_run_or_was_not_evaluated_is_told(tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "not the folder of a run"),
                            (write_run(tmp_path / "none", []), "no epoch was evaluated yet")):  # fmt: skip
        result = run_tool("compare_runs.py", folder)
        assert result.returncode == 2 and message in result.stderr


def test_classifiers_are_compared_by_top1_but_not_with_detectors(tmp_path: Path) -> None:
    detector = write_run(tmp_path / "detector", [(0.1, 0.2)])
    classifier = write_run(tmp_path / "classifier", [(0.4, 0.9)])
    log = classifier / "log.jsonl"
    log.write_text(log.read_text().replace('"AP"', '"top1"').replace('"AP50"', '"top5"'), encoding="utf-8")
    result = run_tool("compare_runs.py", classifier, "--output", tmp_path / "runs.png")
    assert result.returncode == 0, result.stderr
    assert "| epoch | top1 | top5 | loss |" in result.stdout and "| 1 | 0.400 | 0.900 |" in result.stdout
    assert Image.open(tmp_path / "runs.png").width > 600
    result = run_tool("compare_runs.py", classifier, detector)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
