"""Detectors as subjects of the profiler."""

from __future__ import annotations

import pytest

from detection.configuration import load_config
from detection.counting import count_multiply_adds, count_parts, raw_network
from detection.toolkit import build_model
from ppcls_ext.deploy.profile import Subject, count_network
from tests.support.detection_configs import write_config
from tests.support.detectors import yolov10_config

SIZE = 64


@pytest.mark.parametrize("write", [write_config, yolov10_config], ids=["PP-YOLOE", "YOLOv10"])
def test_parts_are_stages_neck_and_head(write, tmp_path):
    model = build_model(load_config(write(tmp_path)), pretrained=False)
    profile = count_network(Subject("small", raw_network(model), (3, SIZE, SIZE)))
    by_stage, parameters = profile.by("stage").parameters, count_parts(model)
    assert list(by_stage.index) == ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "neck", "head", "rest"]
    assert by_stage["neck"] == parameters.neck
    assert by_stage["head"] == parameters.head
    assert by_stage[:5].sum() == parameters.backbone
    assert by_stage["rest"] == 0
    assert profile.total.parameters == parameters.total
    assert profile.total.flops == count_multiply_adds(model, SIZE)
