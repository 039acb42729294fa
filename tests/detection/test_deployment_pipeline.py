"""What a deployed detector sees is what ppdet's operators show it in training and evaluation, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from detection.toolkit import register
from ppcls_ext.preprocess.detection import build_detection_pipeline
from tests.support.image_files import image_files
from tests.support.pictures import smooth_picture

FILES = image_files()
NORMALIZE = {"NormalizeImage": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True}}


@pytest.fixture(autouse=True)
def registered():
    register()


def check_equal(operators: list[dict], data: bytes | np.ndarray) -> None:
    """Compares ours with ppdet's."""
    from ppdet.data.reader import Compose
    from ppdet.data.transform.operators import Decode

    # ppdet's own decoder, in whose place ours stands elsewhere.
    sample = Compose(operators)(Decode()({"image": data}))
    prepared = build_detection_pipeline([{"Decode": {}}, *operators])(data)
    expected = np.asarray(sample["image"])
    assert prepared.pixels.dtype == np.float32 and prepared.pixels.flags.c_contiguous
    assert prepared.pixels.shape == expected.shape
    assert np.array_equal(prepared.pixels, expected)
    for name in ("scale_factor", "im_shape"):
        ours = getattr(prepared, name)
        assert ours.dtype == np.float32
        assert np.array_equal(ours, np.asarray(sample[name])), name
    assert prepared.pad.dtype == np.float32
    assert np.array_equal(prepared.pad, np.asarray(sample.get("pad", [0, 0])))


def resize(size: int | list[int], keep_ratio: bool = False, interp: int = 2) -> dict:
    return {"Resize": {"target_size": size, "keep_ratio": keep_ratio, "interp": interp}}


# Colours of CMYK are our decoder's own, in training, too.
@pytest.mark.parametrize("kind", [kind for kind in FILES if "cmyk" not in kind])
def test_files_of_every_kind(kind):
    check_equal([resize([32, 64]), NORMALIZE, {"Permute": {}}], FILES[kind])


@pytest.mark.parametrize("interp", range(5))
@pytest.mark.parametrize("keep_ratio", [False, True])
def test_resizing(interp, keep_ratio):
    for target_size, size in ((64, (38, 53)), ([48, 96], (38, 53)), ([48, 96], (7, 200))):
        operators = [resize(target_size, keep_ratio, interp), NORMALIZE, {"Permute": {}}]
        check_equal(operators, smooth_picture(1, size[1], size[0]))


@pytest.mark.parametrize("interp", [0, 1, 2])
@pytest.mark.parametrize("upscale", [False, True])
def test_letterbox(interp, upscale):
    letterbox = {"LetterResize": {"target_size": [48, 96], "interp": interp, "upscale": upscale}}
    for size in ((38, 53), (100, 20), (7, 200), (64, 64), (1, 1)):
        check_equal([letterbox, NORMALIZE, {"Permute": {}}], smooth_picture(1, size[1], size[0]))


PLAIN = {"NormalizeImage": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "is_scale": False}}
BLACK = {"LetterResize": {"target_size": 48, "fill_value": [0, 0, 0]}}


@pytest.mark.parametrize(
    "operators",
    [
        [{"NormalizeImage": {}}],
        [resize(40), PLAIN],
        [resize(40), {"NormalizeImage": {"norm_type": "none"}}],
        [resize(48, keep_ratio=True), {"Pad": {"size": 96}}, NORMALIZE],
        [resize(48, keep_ratio=True), {"Pad": {"size": [64, 128], "fill_value": [1, 2, 3]}}],
        [NORMALIZE, resize(48)],
        [{"SonarEnhance": {"method": "equalize"}}, resize([31, 70]), BLACK, NORMALIZE],
    ],
)
def test_normalising_padding_and_other_orders(operators):
    check_equal([*operators, {"Permute": {}}], FILES["png"])


@pytest.mark.parametrize("method", ["none", "gamma", "log", "equalize", "clahe"])
def test_enhanced_sonar(method):
    operators = [{"SonarEnhance": {"method": method}}, resize([64, 64]), NORMALIZE, {"Permute": {}}]
    check_equal(operators, FILES["png of 16 bits"])
