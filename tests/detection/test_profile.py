"""Detectors as subjects of the profiler."""

from __future__ import annotations

import contextlib
import io

import paddle
import pytest
from paddle import nn

from detection.configuration import load_config
from detection.counting import count_parts
from detection.profile import detector_subject
from ppcls_ext.deploy.profile import Profile, Subject, profile_networks
from tests.support.detection_configs import write_config
from tests.support.detectors import yolov10_config

SIZE = 64


@pytest.fixture(scope="module", params=[write_config, yolov10_config], ids=["PP-YOLOE", "YOLOv10"])
def subject(request, tmp_path_factory) -> Subject:
    return detector_subject(load_config(request.param(tmp_path_factory.mktemp("config"))), (SIZE, SIZE))


@pytest.fixture(scope="module")
def profile(subject) -> Profile:
    return profile_networks([subject], repeats=1)[0]


class Whole(nn.Layer):
    """What ``paddle.flops`` can feed."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.network, self.run = subject.network, subject.forward

    def forward(self, images: paddle.Tensor):
        return self.run(images)


def test_totals_are_those_of_paddle(subject, profile):
    with contextlib.redirect_stdout(io.StringIO()):
        flops = int(paddle.flops(Whole(subject), [1, 3, SIZE, SIZE]))
    assert profile.total.flops == flops
    assert profile.total.parameters == count_parts(subject.network).total


def test_parts_are_stages_neck_and_head(subject, profile):
    by_stage = profile.by("stage").parameters
    assert list(by_stage.index) == ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "neck", "head", "rest"]
    parameters = count_parts(subject.network)
    assert by_stage["neck"] == parameters.neck
    assert by_stage["head"] == parameters.head
    assert by_stage[:5].sum() == parameters.backbone
    assert by_stage["rest"] == 0
