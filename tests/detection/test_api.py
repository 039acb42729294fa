"""Detectors trained, evaluated and exported from Python, several in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection import evaluate, export, train
from ppcls_ext.runtime import load
from tests.support.detectors import make_frames, run_config
from tests.support.runs import same_files

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


@pytest.mark.slow
def test_two_runs_in_one_process_do_not_know_of_each_other(tmp_path: Path) -> None:
    config = run_config(tmp_path, make_frames(tmp_path / "data"), epoch=1)
    reports = {
        name: train(config, {"seed": seed, "save_dir": tmp_path / name})
        for name, seed in (("first", 4), ("other", 5), ("again", 4))
    }
    first, other, again = (tmp_path / name / "run/checkpoints/best" for name in reports)
    assert same_files(first, again, ARRAYS) == []
    assert same_files(first, other, ARRAYS) == list(ARRAYS)
    weights = {"weights": first, "save_dir": tmp_path / "first"}
    figures = evaluate(config, weights, panels=0)
    assert figures["summary"]["AP"] == pytest.approx(reports["first"]["best"]["AP"], abs=1e-9)
    folder = export(config, weights).folder
    (found,) = load(folder)([np.zeros((80, 96, 3), np.uint8)])
    assert found.boxes.shape[1:] == (4,)
