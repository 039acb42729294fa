"""Boxes of images: the steps around a network whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.runtime.description import OutputForm, Thresholds
from ppcls_ext.runtime.nms import NmsSettings, TopkSettings
from ppcls_ext.utils.errors import UserError
from tests.support.predictors import OPERATORS, Known, made_detector

RESIZED = [OPERATORS[0], {"Resize": {"target_size": [32, 64], "keep_ratio": False, "interp": 1}}, *OPERATORS[1:]]


def brightness(image):
    """Finds the whole image, scored by its brightness, as class 0, and its upper left quarter, as class 1; nothing in
    dark images."""
    light = float(image.mean())
    return [[0, 0.5 * light, 0, 0, 64, 32], [1, light, 0, 0, 32, 16]] if light > 0.1 else []


def make_predictor(nms=None, final=True, **changes):
    form = OutputForm(nms, final, scaled=False)
    return made_detector(Known(brightness, final), RESIZED, **{"input_shape": [-1, 3, 32, 64], "form": form, **changes})


@pytest.fixture
def pictures(tmp_path):
    files = []
    for index, level in enumerate([255, 0, 204]):
        files.append(tmp_path / f"picture_{index}.png")
        Image.new("RGB", (40 + index, 30), (level,) * 3).save(files[-1])
    return files


@pytest.mark.parametrize("final", [True, False])
def test_boxes_scores_and_labels_of_each_image(pictures, final):
    nms = NmsSettings(score_threshold=0.1, nms_threshold=0.5)
    first, second, third = make_predictor(nms, final)(pictures)
    assert [first.name, second.name, third.name] == [str(file) for file in pictures]
    # The best first.
    assert first.labels.tolist() == third.labels.tolist() == [1, 0]
    np.testing.assert_allclose(first.scores, [1, 0.5], rtol=1e-5)
    np.testing.assert_allclose(third.scores, [0.8, 0.4], rtol=1e-5)
    np.testing.assert_allclose(first.boxes, [[0, 0, 20, 15], [0, 0, 40, 30]], rtol=1e-5)
    np.testing.assert_allclose(third.boxes, [[0, 0, 21, 15], [0, 0, 42, 30]], rtol=1e-5)
    assert (third.height, third.width) == (30, 42)
    # Nothing found is no error.
    assert second.error is None
    assert [part.shape for part in (second.boxes, second.scores, second.labels)] == [(0, 4), (0,), (0,)]
    assert (first.boxes.dtype, first.scores.dtype, first.labels.dtype) == (np.float32, np.float32, np.int64)


def test_thresholds(pictures):
    predictor = make_predictor()
    assert [prediction.labels.tolist() for prediction in predictor(pictures, threshold=0.45)] == [[1, 0], [], [1]]
    for wrong, message in (("recommended", "no recommended thresholds are known"), ("recomended", "must be a number")):
        with pytest.raises(UserError, match=message):
            predictor(pictures, threshold=wrong)
    # Of a class without one, that of all classes counts.
    predictor = make_predictor(thresholds=Thresholds(0.9, [0.45, None], images=3))
    predictions = predictor(pictures, threshold="recommended")
    assert [prediction.labels.tolist() for prediction in predictions] == [[1, 0], [], []]


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("by", ["the caller", "the configuration"])
def test_the_best_of_overlapping_boxes_stays_whatever_the_classes(pictures, final, by):
    """The quarter scores higher than the whole, whose overlap with it is 0.25."""
    for threshold, expected in ((0.2, [1]), (0.3, [1, 0])):
        nms = NmsSettings(score_threshold=0.1, nms_threshold=threshold, class_agnostic=by == "the configuration")
        predictions = make_predictor(nms, final)(pictures, class_agnostic=by == "the caller")
        assert [prediction.labels.tolist() for prediction in predictions] == [expected, [], expected]
    # A box that falls itself removes none: the quarter scores 0.8, the whole 0.4.
    predictor = make_predictor(NmsSettings(nms_threshold=0.2), thresholds=Thresholds(0.5, [0.3, 0.9], images=3))
    found = predictor(pictures[2], threshold="recommended", class_agnostic=True)
    assert found[0].labels.tolist() == [0]
    predictor = make_predictor(TopkSettings(), model_name="YOLOv10")
    with pytest.raises(UserError, match="class_agnostic: changes the NMS, and YOLOv10 has none"):
        predictor(pictures, class_agnostic=True)


class TopkDetector:
    """Gives the same rows for every image, in pixels of its input, as a network without NMS does."""

    def __init__(self, rows):
        self.rows = np.array(rows, np.float32)

    def detect(self, images, scale_factors):
        return [np.stack([self.rows] * len(images))]


def test_boxes_in_pixels_of_the_input_go_back_through_a_letterbox(pictures):
    # 40 x 30, 41 x 30 and 42 x 30 pixels become 43, 44 and 45 x 32 in the middle of 64 x 32.
    operators = [OPERATORS[0], {"LetterResize": {"target_size": [32, 64]}}, *OPERATORS[1:]]
    backend = TopkDetector([[1, 0.25, 10, 0, 53, 32], [0, 0.75, 10, 16, 31.5, 32]])
    predictor = made_detector(backend, operators, form=OutputForm(TopkSettings(2), scaled=False))
    first, *_ = predictor(pictures)
    assert first.labels.tolist() == [0, 1]
    np.testing.assert_allclose(first.boxes, [[0, 15, 20, 30], [0, 0, 40, 30]], atol=1e-4)
    # A network that divides by the scale factors itself knows nothing of the padding.
    backend.rows[:, 2:] /= np.array([43 / 40, 32 / 30, 43 / 40, 32 / 30], np.float32)
    predictor.form = OutputForm(TopkSettings(2))
    first, *_ = predictor(pictures)
    np.testing.assert_allclose(first.boxes, [[0, 15, 20, 30], [0, 0, 40, 30]], atol=1e-4)
