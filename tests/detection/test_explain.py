"""What a detector's boxes rest on, and its features: PP-YOLOE and YOLOv10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from detection.configuration import load_config
from detection.explain import box_heats, feature_layers
from detection.exporting import Deployed
from detection.toolkit import build_model
from detection.trained import TrainedDetector
from ppcls_ext.deploy.inspection import Features
from ppcls_ext.runtime import DetectionPredictor
from tests.support.detectors import (
    CLASSES,
    SIZE,
    draw_frames,
    make_frames,
    make_lively,
    make_yolov10_lively,
    tiny_config,
    yolov10_config,
)


@pytest.fixture(scope="module", params=["PPYOLOE", "YOLOv10"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DetectionPredictor:
    folder = tmp_path_factory.mktemp(request.param)
    make_frames(folder / "data")
    write, enliven = {"PPYOLOE": (tiny_config, make_lively), "YOLOv10": (yolov10_config, make_yolov10_lively)}[
        request.param
    ]
    config = load_config(write(folder))
    paddle.seed(1)
    model = build_model(config)
    enliven(model)
    model.eval()
    return TrainedDetector(config, model, list(CLASSES)).predictor()


@pytest.fixture
def frame(tmp_path: Path) -> str:
    return str(draw_frames(tmp_path, [(96, 80)])[0])


def test_each_box_has_a_map_of_its_own(predictor: DetectionPredictor, frame: str) -> None:
    (found,) = predictor([frame])
    assert len(found.scores) > 1
    network = Deployed(predictor.backend.network.network, final=False, fused=False)
    heats = box_heats(network, predictor, found, np.array([0, 1]))
    # A letterbox of 64 x 64 holds a picture of 96 x 80 as 64 x 53.
    height = SIZE if predictor.form.scaled else 53
    assert [heat.shape for heat in heats] == [(height, SIZE)] * 2
    assert all(heat.min() >= 0 and heat.max() > 0 for heat in heats)
    assert not np.allclose(heats[0] / heats[0].max(), heats[1] / heats[1].max(), atol=0.02)
    again = box_heats(network, predictor, found, np.array([1]))
    np.testing.assert_array_equal(again[0], heats[1])
    # The model that predicts is as it was.
    np.testing.assert_array_equal(predictor([frame])[0].scores, found.scores)


def test_features_are_the_means_of_the_last_map(predictor: DetectionPredictor, frame: str) -> None:
    backbone, layers = feature_layers(predictor)
    features = Features(backbone, layers)
    predictor([frame, frame])
    (batch,) = features._batches
    with paddle.no_grad():
        maps = backbone({"image": paddle.to_tensor(predictor.prepare(frame, frame).pixels[np.newaxis])})
    np.testing.assert_allclose(batch[0], maps[-1].mean(axis=[2, 3])[0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch[0], batch[1], rtol=1e-5, atol=1e-6)
