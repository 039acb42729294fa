"""What configurations of PaddleClas and PaddleDetection hold besides our own keys."""

from __future__ import annotations

import pytest

from classification.config import load_config
from ppcls_ext.utils.errors import ConfigError, UserError
from tests.support.runs import small_config, write_config

DETECTION = """# PP-YOLOE
_BASE_: ['../datasets/coco_detection.yml']
architecture: PPYOLOE
LearningRate:
  schedulers:
    - !CosineDecay
      max_epochs: 36
"""


@pytest.mark.parametrize("text", [DETECTION, "weights: x\narchitecture: YOLOv3\n", "_BASE_: []\n"])
def test_a_detection_configuration_is_told_in_one_line(tmp_path, text):
    path = tmp_path / "detector.yml"
    path.write_text(text)
    message = "this is a detection configuration; use a classification configuration (with Arch)"
    with pytest.raises(UserError) as told:
        load_config(path)
    assert str(told.value) == f"{path}: {message}"


def test_a_stray_key_does_not_make_a_detection_configuration(tmp_path):
    config = {**small_config(tmp_path / "run"), "architecture": "PPYOLOE"}
    with pytest.raises(ConfigError, match="unknown key 'architecture'"):
        load_config(write_config(tmp_path, config))


def test_training_metrics_are_checked_and_change_nothing(tmp_path):
    plain = load_config(write_config(tmp_path, small_config(tmp_path / "run")))
    metrics = [{"TopkAcc": {"topk": [1, 5]}}]
    config = load_config(write_config(tmp_path, small_config(tmp_path / "run", Metric__Train=metrics)))
    assert [metric.names for metric in config.metrics] == [metric.names for metric in plain.metrics]
    wrong = small_config(tmp_path / "run", Metric__Train=[{"TopkAcc": {"topk": 0}}])
    with pytest.raises(ConfigError, match=r"Metric\.Train\[0\]\.TopkAcc\.topk: "):
        load_config(write_config(tmp_path, wrong))


def test_rmsprop_cannot_keep_copies_in_full_precision(tmp_path):
    optimizer = {"name": "RMSProp", "lr": 0.01, "multi_precision": False}
    assert load_config(write_config(tmp_path, small_config(tmp_path / "run", Optimizer=optimizer))).optimizer
    wrong = small_config(tmp_path / "run", Optimizer={**optimizer, "multi_precision": True})
    with pytest.raises(ConfigError, match=r"Optimizer\.multi_precision: Paddle's RMSProp has no float32 copies"):
        load_config(write_config(tmp_path, wrong))
