"""Benchmarks that need detection: what they measure, and what they say when there is nothing to measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection import benchmarks
from detection.configuration import load_config
from ppcls_ext.runtime import read_description
from tests.support.detectors import make_frames, run_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "detection"


@pytest.mark.slow
def test_a_detector_is_exported_with_random_weights_and_counted(tmp_path):
    config = CONFIGS / "yolov10" / "yolov10_n_sonar.yml"
    counts = benchmarks.export_detector(str(config), 96, "paddle", "fp32", tmp_path / "export")
    assert counts["parameters"] > 2e6 and counts["multiply_adds"] > 5e7
    assert read_description(tmp_path / "export").input_shape == [-1, 3, 96, 96]


def test_loading_with_each_number_of_workers(tmp_path, capfd):
    config = load_config(run_config(tmp_path, make_frames(tmp_path / "data")))
    result = benchmarks.measure_loading(config, rounds=2, images=100, workers=(0, 1))
    # Four batches of four, the last two of 18 images fill none; the first batch only starts the clock.
    assert (result["batch_size"], result["rounds"], result["images"]) == (4, 2, 12)
    assert set(result["images_per_second"]) == {0, 1}
    assert all(0 < row["median"] <= row["best"] for row in result["images_per_second"].values())
    assert "loading annotations" not in capfd.readouterr().out
