"""A detector with random weights is exported for the benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.benchmark_worker import export_model
from ppcls_ext.runtime import read_description

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "detection"


@pytest.mark.slow
def test_a_detector_is_exported_with_random_weights_and_counted(tmp_path):
    config = CONFIGS / "yolov10" / "yolov10_n_sonar.yml"
    answer = export_model(str(config), 96, "paddle", ["fp32"], tmp_path / "export")
    assert answer["reasons"] == {"fp32": None}
    assert answer["parameters"] > 2e6 and answer["flops"] > 5e7
    description = read_description(tmp_path / "export")
    assert description.input_shape == [-1, 3, 96, 96]


def test_what_is_wrong_with_a_configuration_is_the_reason(tmp_path):
    config = tmp_path / "wrong.yml"
    config.write_text("architecture: YOLOv10\n")
    answer = export_model(str(config), 96, "paddle", ["fp32", "bf16"], tmp_path / "export")
    assert set(answer["reasons"]) == {"fp32", "bf16"} and answer["flops"] is None
    assert "wrong.yml: missing key 'num_classes'" in answer["reasons"]["fp32"] and not (tmp_path / "export").exists()
