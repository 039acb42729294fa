"""Many askers of one predictor, and what is shown of frames that are enhanced."""

from __future__ import annotations

import base64
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.deploy.serve import Question, ServedModel
from ppcls_ext.deploy.serve.refusal import RefusalError
from ppcls_ext.preprocess import build_pipeline
from ppcls_ext.preprocess.detection import build_detection_pipeline
from ppcls_ext.runtime import DetectionPredictor, Predictor
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.utils.errors import UserError
from tests.support.serving import ask, picture, running

OPERATORS = [{"Decode": {}}, {"Resize": {"target_size": [32, 32], "keep_ratio": False, "interp": 1}}, {"Permute": {}}]


class Watched:
    """A classifier that notes in which threads it ran, and whether two ran at a time."""

    def __init__(self):
        self.threads = set()
        self.overlapped = False
        self._running = threading.Lock()

    def run(self, images):
        if not self._running.acquire(blocking=False):
            self.overlapped = True
            return np.zeros([len(images), 2], np.float32)
        self.threads.add(threading.current_thread().name)
        level = images.mean(axis=(1, 2, 3))
        self._running.release()
        return np.stack([-level, level], axis=1)


class Corner:
    """A detector that finds the upper left quarter of every picture."""

    computed_in = "float32"

    def detect(self, images, scale_factors):
        heights, widths = images.shape[2] / scale_factors[:, 0], images.shape[3] / scale_factors[:, 1]
        rows = [[0, 0.9, 0, 0, width / 2, height / 2] for height, width in zip(heights, widths, strict=True)]
        return np.array(rows, np.float32), np.ones(len(images), np.int32)


def classifier(shape=32):
    pipeline = build_pipeline([{"ResizeImage": {"size": shape}}, {"NormalizeImage": {"order": ""}}], "test")
    return Predictor(Watched(), pipeline, ["dark", "light"], 2, [-1, 3, 32, 32])


def detector(**changes):
    settings = {"classes": ["cube"], "class_num": 1, "input_shape": [-1, 3, 32, 32], "form": OutputForm(), **changes}
    return DetectionPredictor(Corner(), build_detection_pipeline(OPERATORS), **settings)


def test_the_network_runs_in_one_thread_for_one_asker_at_a_time():
    predictor = classifier()
    dark, light = picture((0, 0, 0)), picture((255, 255, 255))
    with ServedModel(predictor) as model, ThreadPoolExecutor(8) as askers:
        labels = list(askers.map(lambda data: model.answer(data)["predictions"][0]["label"], [dark, light] * 30))
    assert labels == ["dark", "light"] * 30
    assert not predictor.backend.overlapped
    assert len(predictor.backend.threads) == 1


def test_a_preprocessing_that_does_not_fit_is_told_at_the_start():
    with ServedModel(classifier(shape=16)) as model, pytest.raises(UserError, match="the model takes"):
        model.rehearse()


def test_a_model_that_does_not_fit_is_told_to_visitors_too():
    with ServedModel(classifier(shape=16)) as model, running(model) as server:
        answer = ask(server, "POST", "/predict", picture((0, 0, 0)))
    assert answer.status == 500
    assert answer.json["error"].startswith("the model cannot be used: ")


def test_enhanced_frames_are_shown_as_the_detector_sees_them():
    predictor = detector(enhance=lambda pixels: pixels * 8)
    with ServedModel(predictor) as model:
        assert model.describe()["enhances"]
        answer = model.answer(picture((10, 10, 10)), Question(preview=True))
    (found,) = answer["detections"]
    assert (found["class_id"], found["label"], found["score"]) == (0, "cube", pytest.approx(0.9))
    assert found["box"] == pytest.approx([0, 0, 20, 15], abs=1e-3)
    encoded = answer["preview"].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as preview:
        assert preview.getpixel((3, 3)) == (80, 80, 80)


def test_a_picture_turned_by_its_camera_has_its_upright_size():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(stream, "JPEG", exif=exif)
    with ServedModel(detector()) as model:
        answer = model.answer(stream.getvalue(), Question(preview=True))
    assert (answer["width"], answer["height"]) == (30, 40)
    assert answer["detections"][0]["box"] == pytest.approx([0, 0, 15, 20], abs=1e-3)
    encoded = answer["preview"].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as preview:
        assert preview.size == (30, 40)


def test_a_closed_model_answers_nobody():
    model = ServedModel(classifier())
    model.close()
    with pytest.raises(RefusalError, match="the server is stopping"):
        model.answer(picture((0, 0, 0)))
