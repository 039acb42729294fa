"""Samples of more than 8 bits: the same bytes from every kind of file, by one range that is stated or found."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_ext.preprocess import ImageError, build_pipeline, decode_image, depth
from ppcls_ext.preprocess.samples import to_bytes
from ppcls_ext.utils.errors import UserError
from tests.support.deep_files import colour_files, grey_files, plain_tiff, twelve_bits
from tests.support.image_files import encoded_with_pillow

VALUES = twelve_bits(3)
COLOURS = np.dstack([VALUES, VALUES[:, ::-1], VALUES // 2])
GREY, COLOUR = grey_files(VALUES), colour_files(COLOURS)
TWELVE = (0.0, 4096.0)


def loading(*files: bytes) -> tuple[Callable[[int], bytes], int]:
    return lambda index: files[index], len(files)


def train(*decoders: dict) -> dict:
    """Returns the data of a configuration with these arguments of ``DecodeImage`` for training and inference."""
    lists = [[{"DecodeImage": dict(arguments)}, {"ResizeImage": {"size": 32}}] for arguments in decoders]
    return {"DataLoader": {"Train": {"dataset": {"transform_ops": lists[0]}}}, "Infer": {"transforms": lists[1]}}


def test_a_range_is_cut_into_256_equal_steps() -> None:
    values = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_bytes(values, (0, 65536)), values >> 8)
    assert np.array_equal(to_bytes(values[:4096], TWELVE), values[:4096] >> 4)
    assert set(to_bytes(values[4096:], TWELVE).tolist()) == {255}
    edges = np.array([-3.0, 10.0, 10.0 + 1 / 256, 10.5, 11.0, 99.0], dtype=np.float32)
    assert to_bytes(edges, (10, 11)).tolist() == [0, 0, 1, 128, 255, 255]
    assert np.array_equal(to_bytes(values[:300].astype(np.int32), (40, 200)), to_bytes(values[:300], (40, 200)))


@pytest.mark.parametrize("kind", [*GREY, *(f"{kind} in colour" for kind in COLOUR)])
def test_files_of_every_kind_become_the_same_bytes(kind: str) -> None:
    name, is_colour, _ = kind.partition(" in colour")
    data, values = (COLOUR[name], COLOURS) if is_colour else (GREY[name], np.dstack([VALUES] * 3))
    assert np.array_equal(decode_image(data, value_range=TWELVE), (values >> 4).astype(np.uint8))
    assert depth.survey(*loading(data), most=9)[:4] == (1, 1, 0, 4095)
    # A look at one file alone needs no statement.
    assert int(np.ptp(decode_image(data, value_range=depth.own_range(data)))) >= 250
    if is_colour:
        # Without a statement the upper byte remains, as ever; Pillow rounds PPM.
        difference = decode_image(data).astype(int) - (values >> 8)
        assert difference.min() == 0 and difference.max() == (name == "ppm")


def test_a_picture_held_sideways_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = encoded_with_pillow(Image.fromarray(VALUES), "PNG", exif=exif)
    assert np.array_equal(decode_image(grey, value_range=TWELVE)[:, :, 0], np.rot90(VALUES >> 4, -1))
    # Behind the 33 bytes of signature and header, as Pillow writes it.
    start = grey.index(b"eXIf") - 4
    chunk = grey[start : start + 12 + int.from_bytes(grey[start : start + 4], "big")]
    colours = COLOUR["png"][:33] + chunk + COLOUR["png"][33:]
    expected = np.rot90((COLOURS >> 4).astype(np.uint8), -1)
    assert np.array_equal(decode_image(colours, value_range=TWELVE), expected)


def test_eight_bits_are_left_as_they_are() -> None:
    picture = Image.fromarray((VALUES >> 4).astype(np.uint8))
    for mode in ("L", "1", "P", "LA", "RGB"):
        data = encoded_with_pillow(picture.convert(mode), "PNG")
        assert np.array_equal(decode_image(data, value_range=(0.0, 1.0)), decode_image(data))
        assert depth.survey(*loading(data), most=9)[:2] == (1, 0)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (VALUES.astype(np.float32), "floating-point samples have no agreed range"),
        (VALUES.astype(np.int32) * 100, "samples from 0 to 409500 are no numbers of 16 bits"),
    ],
)
def test_samples_without_a_range_of_their_own_need_a_statement(values: np.ndarray, cause: str) -> None:
    data = encoded_with_pillow(Image.fromarray(values), "TIFF")
    with pytest.raises(ImageError, match=f"{cause}.*value_range.*bits: auto"):
        decode_image(data, "a.tif")
    with pytest.raises(UserError, match="have no agreed range"):
        depth.resolve_auto_range(train({}, {}), *loading(data))
    low, high = float(values.min()), float(values.max())
    assert int(decode_image(data, value_range=(low, high)).max()) == 255
    found = depth.resolve_auto_range(train({"bits": "auto"}, {}), *loading(data))
    assert found == ({"bits": 19} if high == 409500 else {"value_range": [low, high]})


def test_what_would_be_misread_is_read_right_or_refused() -> None:
    values = VALUES.astype(np.float32)
    values[3, 4] = np.nan
    with pytest.raises(ImageError, match=r"a.tif: .*1 of 1,920 samples are NaN or infinite"):
        decode_image(encoded_with_pillow(Image.fromarray(values), "TIFF"), "a.tif", TWELVE)
    large = plain_tiff((VALUES.astype("<u4") << 20).tobytes(), *VALUES.shape, bits=32)
    assert np.array_equal(decode_image(large, value_range=(0.0, 2.0**32))[:, :, 0], VALUES >> 4), "no sign"
    double = plain_tiff(VALUES.astype("<f8").tobytes(), *VALUES.shape, bits=64, form=3)
    with pytest.raises(ImageError, match="floating-point ones of 64 bits"):
        decode_image(double, value_range=TWELVE)
    pipeline = build_pipeline([{"DecodeImage": {"bits": "auto"}}], "here")
    with pytest.raises(ImageError, match="^a: bits: auto is a number only after it was found on a training set"):
        pipeline(GREY["png"], "a")


def test_one_statement_holds_for_all_lists_of_a_configuration() -> None:
    data = train({"to_rgb": True, "bits": 12}, {})
    data["DataLoader"]["Eval"] = {"dataset": {"transform_ops": [{"ResizeImage": {"size": 32}}]}}
    assert depth.unify_ranges(data) == []
    assert list(depth.statements_in(data).values()) == [{"bits": 12}] * 3
    assert data["DataLoader"]["Train"]["dataset"]["transform_ops"][0] == {"DecodeImage": {"to_rgb": True, "bits": 12}}
    assert data["DataLoader"]["Eval"]["dataset"]["transform_ops"][0] == {"DecodeImage": {"bits": 12}}
    detector = {"TrainReader": {"sample_transforms": [{"Decode": {}}]},
                "TestReader": {"sample_transforms": [{"Decode": {"value_range": [5, 900]}}]}}  # fmt: skip
    assert depth.unify_ranges(detector) == []
    assert detector["TrainReader"]["sample_transforms"] == [{"Decode": {"value_range": [5, 900]}}]


def test_wrong_statements_are_refused_and_none_changes_nothing() -> None:
    ((key, message),) = depth.unify_ranges(train({"bits": 12}, {"bits": 16}))
    assert key == "Infer.transforms[0].DecodeImage.bits"
    assert "bits: 16" in message and "bits: 12" in message
    plain = train({}, {"to_rgb": True})
    before = copy.deepcopy(plain)
    assert depth.unify_ranges(plain) == [] and plain == before
    for arguments, message in (
        ({"bits": 7}, "bits: must be from 8 to 32"),
        ({"value_range": [9, 9]}, "value_range: must be .* with low below high"),
        ({"bits": 12, "value_range": [0, 9]}, "value_range: .* only one"),
    ):
        with pytest.raises(UserError, match=rf"here\[0\].DecodeImage(\.|: ){message}"):
            build_pipeline([{"DecodeImage": arguments}], "here")
    # Of a detector it is told at its key.
    ((key, message),) = depth.unify_ranges({"TrainReader": {"sample_transforms": [{"Decode": {"bits": 40}}]}})
    assert key == "TrainReader.sample_transforms[0].Decode.bits" and message.startswith("must be from 8 to 32")


def test_the_range_is_found_on_the_set_and_not_by_file(caplog: pytest.LogCaptureFixture) -> None:
    dark = encoded_with_pillow(Image.fromarray(VALUES // 8), "PNG")
    with caplog.at_level(logging.INFO):
        assert depth.resolve_auto_range(train({"bits": "auto"}, {}), *loading(dark, GREY["png"])) == {"bits": 12}
    (line,) = caplog.messages
    assert "bits: auto is bits: 12" in line and "0 to 4095" in line and "2 of 2 images" in line
    eight = encoded_with_pillow(Image.fromarray((VALUES >> 4).astype(np.uint8)), "PNG")
    assert depth.resolve_auto_range(train({"bits": "auto"}, {}), *loading(eight)) == {"bits": 16}


def test_a_range_that_is_mostly_empty_or_too_small_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert depth.resolve_auto_range(train({}, {}), *loading(GREY["png"])) == {}
    assert "4095" in caplog.text and "65535" in caplog.text and "state bits: 12" in caplog.text
    caplog.clear()
    depth.resolve_auto_range(train({"bits": 10}, {}), *loading(GREY["png"]))
    assert "becomes white" in caplog.text
    caplog.clear()
    depth.resolve_auto_range(train({"bits": 12}, {}), *loading(GREY["png"]))
    # A file that says itself that it holds 12 bits needs no statement.
    depth.resolve_auto_range(train({}, {}), *loading(GREY["tiff of 12 bits, packed"]))
    assert not caplog.messages


def test_inference_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = build_pipeline([{"DecodeImage": {}}], "here")
    for _ in range(3):
        pipeline(GREY["png"])
    assert len(caplog.messages) == 1 and "state bits: 12" in caplog.text
    caplog.clear()
    # What was stated may meet a dark picture, but nothing beyond it.
    pipeline = build_pipeline([{"DecodeImage": {"bits": 12}}], "here")
    pipeline(encoded_with_pillow(Image.fromarray(VALUES // 8), "PNG"))
    assert not caplog.messages
    fractions = build_pipeline([{"DecodeImage": {"bits": 12}}], "here")
    fractions(encoded_with_pillow(Image.fromarray((VALUES / 4096).astype(np.float32)), "TIFF"))
    assert "nearly black" in caplog.text, "that is another unit"
    caplog.clear()
    deep = cv2.imencode(".png", VALUES * 16)[1].tobytes()
    pipeline(deep)
    pipeline(deep)
    assert len(caplog.messages) == 1 and "becomes white" in caplog.text
