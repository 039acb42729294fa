"""Large pictures in tiles: where they lie, and one list of boxes from all of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import NmsSettings, TopkSettings
from ppcls_ext.runtime.tiles import Window, merge, windows
from ppcls_ext.utils.errors import UserError
from tests.support.predictors import Known, made_detector


@pytest.mark.parametrize("size", [(1000, 700), (641, 640), (3000, 100)])
@pytest.mark.parametrize("overlap", [0.0, 0.2])
def test_windows_cover_a_picture_and_share_what_is_asked(size, overlap):
    covered = np.zeros(size[::-1], int)
    places = windows(*size, 640, overlap)
    for x, y, width, height in places:
        assert (width, height) == (min(640, size[0]), min(640, size[1]))
        assert x >= 0 and y >= 0 and x + width <= size[0] and y + height <= size[1]
        covered[y : y + height, x : x + width] += 1
    assert covered.min() == 1
    for axis in (0, 1):
        starts = sorted({place[axis] for place in places})
        assert all(640 - step >= 640 * overlap - 1 for step in np.diff(starts))


# Two tiles of 100 x 100 with 40 in common, of a picture of 160 x 100.
PLACES = [Window(0, 0, 100, 100), Window(60, 0, 100, 100)]


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 6)


def merged(left, right):
    return merge([boxes(*left), boxes(*right)], PLACES, 160, 100).tolist()


def test_of_an_object_in_two_tiles_the_better_box_stays():
    seen_twice = merged([[0, 0.5, 65, 10, 95, 30]], [[0, 0.75, 5, 10, 36, 30]])
    assert seen_twice == [[0, 0.75, 65, 10, 96, 30]]
    # Of another class, apart, or both in one tile: two objects.
    assert len(merged([[0, 0.5, 65, 10, 95, 30]], [[1, 0.75, 5, 10, 36, 30]])) == 2
    assert len(merged([[0, 0.5, 65, 10, 95, 30]], [[0, 0.75, 25, 10, 56, 30]])) == 2
    assert len(merged([[0, 0.5, 65, 10, 95, 30], [0, 0.75, 65, 10, 95, 30]], [])) == 2


def test_the_whole_box_wins_over_the_part_that_ends_at_a_seam():
    # The left tile sees the first third of an object, and is surer of it.
    part, whole = [0, 0.75, 85, 10, 100, 30], [0, 0.5, 25, 10, 70, 30]
    assert merged([part], [whole]) == [[0, 0.5, 85, 10, 130, 30]]
    # Not so where hardly anything speaks for the whole one.
    assert merged([part], [[0, 0.25, 25, 10, 70, 30]])[0] == part
    # A part that nothing covers stays, and an edge of the picture is no seam.
    assert merged([part], []) == [part]
    inside = [0, 0.75, 85, 10, 95, 30]
    assert len(merged([inside], [whole])) == 2, "a small thing before a large one ends at no seam"
    at_the_edge = [0, 0.5, 60, 0, 100, 40]
    assert len(merged([[0, 0.25, 62, 50, 90, 80]], [at_the_edge])) == 2


def squares(image):
    """Finds what is bright: class 0, or 1 where it is less so."""
    _, labels, facts, _ = cv2.connectedComponentsWithStats((image[0] > 50).astype(np.uint8))
    return [[0 if image[0][labels == number].max() > 200 else 1, 0.9 - number / 1000, x, y, x + w, y + h]
            for number, (x, y, w, h, _) in enumerate(facts[1:], start=1)]  # fmt: skip


FORMS = {"NMS inside": OutputForm(), "NMS outside": OutputForm(NmsSettings(0.1), final=False),
         "without NMS": OutputForm(TopkSettings(20), final=False)}  # fmt: skip


def predictor_of(form):
    operators = [{"Decode": {}}, {"NormalizeImage": {"is_scale": False, "norm_type": "none"}}, {"Permute": {}}]
    return made_detector(Known(squares, form.final), operators, form=form)


@pytest.fixture(scope="module")
def picture():
    """Grey, 300 x 250: squares at edges, in the middle, and on the seams of tiles of 100 pixels."""
    pixels = np.zeros([250, 300], np.uint8)
    expected = []
    for label, x, y in ((0, 0, 0), (1, 285, 235), (0, 90, 60), (1, 150, 90), (0, 95, 160), (1, 20, 95), (0, 140, 30)):
        pixels[y : y + 15, x : x + 15] = 100 if label else 250
        expected.append([label, x, y, x + 15, y + 15])
    return pixels, sorted(expected)


def shown(prediction):
    rows = np.column_stack([prediction.labels, prediction.boxes])
    return sorted(rows[prediction.scores > 0.5].tolist())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_all_objects_of_a_large_picture_are_found_once(form, picture, tmp_path):
    pixels, expected = picture
    predictor = predictor_of(form)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    images = [pixels, str(tmp_path / "deep.png"), np.stack([pixels] * 3, axis=2)]
    for prediction in predictor(images, batch_size=5, tile=100, overlap=0.3):
        assert shown(prediction) == expected
        assert (prediction.width, prediction.height) == (300, 250)
    # 4 x 4 tiles of each.
    assert predictor.backend.batches == [5, 5, 5, 1] * 3
    with pytest.raises(UserError, match="tile: must be at least 32"):
        predictor(pixels, tile=10)
    # Nothing changes for a picture that is no larger than a tile; frames of a stream come one by one.
    plain, tiled = predictor(pixels)[0], predictor(pixels, tile=300)[0]
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(tiled, name))
    assert [shown(one) for one in predictor(iter([pixels] * 2), tile=100, overlap=0.3)] == [expected] * 2


def test_the_class_agnostic_nms_of_a_configuration_goes_across_tiles():
    """The two tiles call one object by two classes: the left one sees its darker half alone."""
    pixels = np.zeros([100, 160], np.uint8)
    pixels[40:60, 70:105] = 100
    pixels[40:60, 100:105] = 250
    for is_agnostic, count in ((False, 2), (True, 1)):
        form = OutputForm(NmsSettings(class_agnostic=is_agnostic))
        (found,) = predictor_of(form)(pixels, tile=100, overlap=0.4)
        assert len(found.labels) == count


def test_a_picture_whose_tiles_do_not_fit_is_left_out_alone(picture, tmp_path):
    keep = {"Resize": {"target_size": 64, "keep_ratio": True}}
    predictor = made_detector(Known(squares), [{"Decode": {}}, keep, {"NormalizeImage": {}}, {"Permute": {}}])
    Image.new("L", (900, 3)).save(tmp_path / "thin.png")
    thin, other = predictor([tmp_path / "thin.png", picture[0]], tile=640)
    assert "of which resizing by 0.1 leaves none" in thin.error and other.error is None
