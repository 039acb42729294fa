"""Of each odd file, checks, preparation, training, evaluation and prediction of both tasks say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification.data.datasets import ImageFolder
from classification.data.loader import SampleReader
from classification.data.operators import TRAIN_OPERATORS
from detection.annotations import Frame, Ledger
from detection.configuration import load_config
from detection.loaders import evaluation_loader, training_loader
from detection.prepare.commands import clean_frames
from detection.task import open_environment
from detection.toolkit import workspace
from ppcls_ext.check.images import examine
from ppcls_ext.engine.loader import SampleKey
from ppcls_ext.preprocess import ImageError, build_operators, build_pipeline
from ppcls_ext.preprocess.detection import build_detection_pipeline
from tests.support.detectors import make_frames, run_config
from tests.support.image_files import encoded_with_pillow
from tests.support.pictures import smooth_picture

PICTURE = Image.fromarray(smooth_picture(7, 90, 70))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
GOOD = {
    "gif.png": encoded_with_pillow(PICTURE, "GIF"),
    "tiff.jpg": encoded_with_pillow(PICTURE, "TIFF"),
    "ink.jpg": encoded_with_pillow(PICTURE.convert("CMYK"), "JPEG"),
    "wide.png": encoded_with_pillow(Image.new("RGB", (20000, 2)), "PNG"),
}
BAD = {
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "is no picture but an HTML page named .jpg"),
    "empty.png": (b"", "the file is empty (0 bytes)"),
    "cut.jpg": (encoded_with_pillow(NOISE, "JPEG")[:900], "is truncated: a JPEG picture that ends too early"),
    "phone.jpg": (b"\0\0\0\x20ftypheic" + bytes(90), "is a HEIC picture named .jpg, which is not read here: convert"),
}
FILES = {**GOOD, **{name: data for name, (data, _) in BAD.items()}}
SHORT, CROP = {"ResizeImage": {"resize_short": 36}}, {"CropImage": {"size": 32}}
FIXED = {"Resize": {"target_size": 32, "keep_ratio": False}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folder with the odd files."""
    root = tmp_path_factory.mktemp("odd") / "class"
    root.mkdir()
    for name, data in FILES.items():
        (root / name).write_bytes(data)
    return root


def expected(found: dict[str, str]) -> None:
    assert found.keys() == BAD.keys()
    for name, (_, cause) in BAD.items():
        assert found[name].startswith(cause), name


def test_checks_and_predictions(folder: Path) -> None:
    classify = build_pipeline([SHORT, CROP, {"ToCHWImage": {}}], "here")
    detect = build_detection_pipeline([FIXED, {"Permute": {}}])
    for use in (lambda path: examine(path.read_bytes(), str(path)), classify, detect):
        found = {}
        for name in FILES:
            try:
                use(folder / name)
            except ImageError as error:
                found[name] = error.cause
        expected(found)


@pytest.mark.parametrize("operators", [[SHORT, CROP], [{"RandCropImage": {"size": 32}}]])
def test_classifiers(folder: Path, operators: list[dict]) -> None:
    """Neither evaluation nor training shows a class a file that cannot be read."""
    dataset = ImageFolder(str(folder.parent))
    readers = [SampleReader(dataset, build_operators(operators, "t", TRAIN_OPERATORS), 0, way) for way in (True, False)]
    for reader in readers:
        samples = [reader.read(SampleKey(0, index, index)) for index in range(len(dataset))]
        expected({Path(dataset.name_of(sample.bad)).name: sample.cause for sample in samples if sample.bad >= 0})
    assert all(sample.image.shape == (3, 32, 32) for sample in samples if sample.bad < 0)


def test_detectors(folder: Path, tmp_path: Path) -> None:
    """Images without boxes here: the geometry of boxes is looked at before."""
    frames = make_frames(tmp_path / "data")
    for part in (frames.train, frames.val):
        part["annotations"] = part["annotations"][:2]
        for number, name in enumerate(FILES, start=100):
            frames.image(name).write_bytes(FILES[name])
            part["images"].append({"id": number, "file_name": name, "width": 90, "height": 70})
    frames.write()
    sight = {"sample_transforms": [{"Decode": {}}, FIXED, {"Permute": {}}], "batch_size": 1}
    learn = {**sight, "batch_transforms": [{"PadGT": {}}]}
    config = load_config(run_config(tmp_path, frames, TrainReader=learn, EvalReader=sight))
    with workspace(config):
        environment = open_environment(config)
        loaders = training_loader(config, environment), evaluation_loader(config, environment)[0]
    for loader in loaders:
        found = {}
        for batch in loader:
            for index, cause in zip(batch["bad"].tolist(), batch["causes"], strict=True):
                found[Path(loader.read_batch.name_of(index)).name] = cause
        expected(found)


def test_preparation(folder: Path) -> None:
    ledger = Ledger()
    kept = clean_frames([Frame(name, folder / name) for name in FILES], ["thing"], ledger)
    assert [frame.name for frame in kept] == list(GOOD)
    expected({entry["file"]: entry["reason"] for entry in ledger.entries if entry["kind"] == "undecodable_image"})
