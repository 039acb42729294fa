"""Images that a program holds: every form that is taken gives what its file gives, all others one clear error."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.preprocess import decode_image
from ppcls_ext.preprocess.decode import rgb_of
from ppcls_ext.preprocess.samples import to_bytes
from ppcls_ext.utils.errors import UserError
from tests.support.deep_files import colour_files, grey_files, twelve_bits
from tests.support.predictors import OPERATORS, made_classifier, made_detector

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (6, 8), np.uint8)
RGB = GENERATOR.integers(0, 256, (6, 8, 3), np.uint8)
RGBA = np.dstack([RGB, np.full([6, 8], 255, np.uint8)])
DEEP = GENERATOR.integers(0, 4096, (6, 8), np.uint16)
GREY_RGB, DEEP_RGB = np.dstack([GREY] * 3), np.dstack([to_bytes(DEEP, (0.0, 4096.0))] * 3)


class Mirror:
    """Keeps the pixels that it is given; finds nothing, and never lets two callers in at once."""

    def __init__(self):
        self.seen = []
        self.inside = 0

    def run(self, images):
        self.inside += 1
        assert self.inside == 1
        time.sleep(0.001)
        self.seen += [np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0) for image in images]
        self.inside -= 1
        return np.zeros([len(images), 2])

    def detect(self, images, scale_factors):
        self.run(images)
        return np.zeros([0, 6], np.float32), np.zeros([len(images)], np.int32)


def classifier():
    operators = [{"DecodeImage": {"bits": 12}}, {"NormalizeImage": {"order": "", "mean": [0] * 3, "std": [1] * 3}}]
    return made_classifier(Mirror(), operators)


def detector():
    return made_detector(Mirror(), [{"Decode": {"bits": 12}}, *OPERATORS[1:]])


KINDS = pytest.mark.parametrize("make", [classifier, detector])


@KINDS
@pytest.mark.parametrize(
    ("image", "expected", "options"),
    [
        (GREY[:, :, None], GREY_RGB, {"channels": "bgr"}),
        (RGB[:, :, ::-1], RGB, {"channels": "bgr"}),
        (RGBA, RGB, {}),
        (DEEP.astype(">u2"), DEEP_RGB, {}),
        (np.dstack([DEEP] * 3), DEEP_RGB, {"channels": "bgr"}),
        (Image.fromarray(RGB), RGB, {"channels": "bgr"}),
    ],
)
def test_every_form_of_an_image(make, image, expected, options):
    predictor = make()
    for given in (image, [image], iter([image])):
        (prediction,) = predictor(given, **options)
        assert (prediction.name, prediction.error) == ("image 0", None)
    assert len(predictor.backend.seen) == 3
    for seen in predictor.backend.seen:
        np.testing.assert_array_equal(seen, expected)


@KINDS
def test_a_program_gets_what_the_file_gives(make, tmp_path):
    clear = np.dstack([RGB, GREY])
    pictures = [Image.fromarray(clear), Image.fromarray(DEEP), Image.fromarray(GREY)]
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "3.png", exif=turned.getexif())
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    predictor = make()
    files = [tmp_path / f"{number}.png" for number in range(4)]
    predictor(files)
    predictor([*pictures, Image.open(files[3])])
    predictor([clear, DEEP, GREY])
    for number, image in enumerate(predictor.backend.seen[4:]):
        np.testing.assert_array_equal(image, predictor.backend.seen[number % 4])
    assert predictor.backend.seen[3].shape == (8, 6, 3)
    assert len(predictor(np.stack([RGB, RGB]))) == len(predictor((GREY, RGB))) == 2
    assert predictor([]) == predictor(np.zeros([0, 6, 8, 3], np.uint8)) == list(predictor(iter([]))) == []


@KINDS
def test_an_opened_file_of_more_than_8_bits_gives_what_the_file_gives(make):
    values = twelve_bits(3)
    for data in grey_files(values).values():
        predictor = make()
        predictor([data, Image.open(io.BytesIO(data))])
        np.testing.assert_array_equal(*predictor.backend.seen)
    for data in colour_files(np.dstack([values] * 3)).values():
        with pytest.raises(UserError, match="^image 0: has 16 bits a sample, of which a Pillow image keeps 8; give"):
            make()(Image.open(io.BytesIO(data)))
        # Without a range the upper byte counts, which Pillow keeps.
        np.testing.assert_array_equal(rgb_of(Image.open(io.BytesIO(data))), decode_image(data))


@KINDS
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 255, r"array of float64 and shape \[6, 8, 3\], but arrays must be uint8 .* by \(255 \* image\)"),

        (RGB.transpose(2, 0, 1), r"array of uint8 and shape \[3, 6, 8\], but .*channels last by image.transpose"),
        (np.stack([GREY] * 5), r"shape \[5, 6, 8\], but .*give several grey images as a list"),

        (None, r"no image but None \(did a camera or file give no frame\?\)"),
        ([[1, 2], [3, 4]], "no image but of type list"),
    ],
)
def test_everything_else_is_one_clear_error_and_never_skipped(make, image, message):
    predictor = make()
    given = [image] if isinstance(image, list) else image
    with pytest.raises(UserError, match=f"^image 0: is (an|no) .*{message.removeprefix('no ')}"):
        predictor(given)
    with pytest.raises(UserError, match="^image 1: "):
        predictor([RGB, image])


@KINDS
def test_an_iterator_is_read_one_by_one(make):
    taken = []

    def camera():
        while True:
            taken.append(len(taken))
            yield RGB

    predictions = make()(camera())
    assert [next(predictions).name, next(predictions).name] == ["image 0", "image 1"]
    assert taken == [0, 1]
    assert next(make()(camera(), batch_size=4)).name == "image 0"
    assert taken == [0, 1, 2, 3, 4, 5]


def test_unreadable_files_keep_their_place_in_a_stream(tmp_path):
    given = [RGB, tmp_path / "absent.png", GREY[:4], RGB]
    errors = [prediction.error for prediction in detector()(iter(given), batch_size=2)]
    assert errors == [None, "the file does not exist", None, None]


def test_a_frame_beyond_its_range_is_told(caplog):
    classifier()(DEEP * 16)
    assert "more than 8 bits a sample; the largest value is" in caplog.text
    assert "but the range is 0 to 4096: all that lies above becomes white" in caplog.text


@KINDS
def test_threads_share_a_predictor(make):
    predictor, found = make(), []

    def work():
        found.append(len(predictor([RGB] * 5, batch_size=1)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [5] * 4
    assert len(predictor.backend.seen) == 20
