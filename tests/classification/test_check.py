"""Every kind of fault in classification data is found, and clean data give no error and no warning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification.check import ClassificationCheck, check_config_data, draw_overview
from classification.config import load_config
from ppcls_ext.check.report import write_check
from tests.support.checks import finding, kinds, names, notes
from tests.support.cifar import cifar_archive
from tests.support.image_files import encoded_with_pillow
from tests.support.pictures import (
    folder_config,
    lines_of,
    list_config,
    smooth_picture,
    write_class_folders,
    write_picture,
)
from tests.support.runs import small_config, write_config


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "train")


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "val", images=3, first_seed=500)


def check(config: Path, *changes: str, limit: int = 0, threads: int = 1) -> ClassificationCheck:
    return check_config_data(load_config(config, changes), limit, threads)


def test_clean_data_give_nothing(tmp_path: Path, train: Path, evaluation: Path) -> None:
    for options in ({}, {"limit": 4}):
        result = check(folder_config(tmp_path, train, evaluation), **options)
        assert kinds(result) == {} and not result.has_errors
    assert [len(result.scan.readable(part)) for part in ("Train", "Eval")] == [4, 4]


USUAL = {"class_0": 0, "class_1": 1}


def test_faults_of_list_files(tmp_path: Path, train: Path, evaluation: Path) -> None:
    lines = lines_of(train, tmp_path, USUAL)
    faulty = [*lines, "train/class_0/gone.png 0", "train/class_1/99.png 7", "train/class_1/98.png -1"]
    write_picture(train / "class_1" / "99.png", smooth_picture(99))
    write_picture(train / "class_1" / "98.png", smooth_picture(98))
    # As ImageNet's validation images lie: all in one folder, which tells no names.
    for number in range(4):
        write_picture(tmp_path / "flat" / f"{number}.png", smooth_picture(600 + number))
    flat = [f"flat/{number}.png {1 - number % 2}" for number in range(4)]
    result = check(list_config(tmp_path, faulty, flat, 2))
    assert kinds(result) == {"missing_image": "error", "label_outside": "error"}
    assert names(result, "missing_image") == [("class_0/gone.png",)]
    assert names(result, "label_outside") == [("class_1/99.png",), ("class_1/98.png",)]
    assert notes(result, "label_outside") == ["label 7", "label -1"]
    swapped = lines_of(evaluation, tmp_path, {"class_0": 1, "class_1": 0})
    result = check(list_config(tmp_path, lines, swapped, 2))
    assert kinds(result) == {"class_names": "error"}
    assert notes(result, "class_names")[0] == "class 0 is 'class_0' in training and 'class_1' in validation"


def test_classes_that_one_set_lacks(tmp_path: Path, train: Path) -> None:
    evaluation = write_class_folders(tmp_path / "val", classes=3, images=3, first_seed=500)
    # As in training, where validation may lack classes, and training may not.
    result = check(folder_config(tmp_path, train, evaluation, class_num=5))
    assert kinds(result) == {"unopened_validation": "error", "class_empty": "warning"}
    assert "class_2 is a class that the training data do not have" in notes(result, "unopened_validation")[0]
    assert notes(result, "class_empty") == ["2", "3", "4"]
    write_picture(train / "class_2" / "only.png", smooth_picture(88))
    write_picture(train / "class_3" / "only.png", smooth_picture(89))
    result = check(folder_config(tmp_path, train, evaluation, class_num=4))
    assert notes(result, "class_small") == ["2 (class_2): 1 image", "3 (class_3): 1 image"]
    assert notes(result, "class_not_validated") == ["3 (class_3)"]
    lines = lines_of(evaluation, tmp_path, {**USUAL, "class_2": 2})
    result = check(list_config(tmp_path, lines[:6], lines, 3))
    assert notes(result, "class_not_trained") == ["2 (class_2): 3 validation images"]


def test_sets_that_cannot_be_opened(tmp_path: Path, train: Path, evaluation: Path) -> None:
    (train / "empty").mkdir()
    result = check(folder_config(tmp_path, train, evaluation, class_num=3))
    assert "empty holds no images" in notes(result, "unopened_training")[0]
    # The validation set is examined nevertheless.
    assert list(result.scan.datasets) == ["Eval"]
    result = check(folder_config(tmp_path, tmp_path / "nowhere", tmp_path / "nowhere"))
    assert "DataLoader.Train.dataset.image_root" in notes(result, "unopened_training")[0]
    assert result.has_errors and not result.scan.datasets


def test_the_same_pixels_twice_in_any_file(tmp_path: Path, train: Path, evaluation: Path) -> None:
    pixels = np.asarray(Image.open(train / "class_0" / "03.png"))
    write_picture(train / "class_0" / "copy.bmp", pixels)
    write_picture(evaluation / "class_0" / "leak.png", pixels, compress_level=1)
    write_picture(train / "class_1" / "other.png", np.asarray(Image.open(train / "class_0" / "04.png")))
    result = check(folder_config(tmp_path, train, evaluation))
    assert kinds(result) == {"label_conflict": "error", "duplicate_across": "warning", "duplicate_training": "warning"}
    copies = [("class_0/copy.bmp", "class_0/03.png"), ("class_1/other.png", "class_0/04.png")]
    assert names(result, "duplicate_training") == copies
    assert names(result, "duplicate_across") == [("class_0/leak.png", "class_0/03.png")]
    assert names(result, "label_conflict") == [("class_0/04.png", "class_1/other.png")]
    assert notes(result, "label_conflict") == ["0 (class_0) / 1 (class_1)"]


def test_recompressed_and_resized_copies_are_nearly_the_same(tmp_path: Path, train: Path, evaluation: Path) -> None:
    original = Image.open(train / "class_0" / "05.png")
    write_picture(train / "class_0" / "jpeg.jpg", np.asarray(original), quality=80)
    write_picture(evaluation / "class_1" / "large.png", np.asarray(original.resize((96, 80), Image.Resampling.BICUBIC)))
    result = check(folder_config(tmp_path, train, evaluation), threads=2)
    assert kinds(result) == {"near_duplicate_across": "warning", "near_duplicate_training": "information"}
    assert names(result, "near_duplicate_training")[0] == ("class_0/jpeg.jpg", "class_0/05.png")
    (pair,) = names(result, "near_duplicate_across")
    assert pair[0] == "class_1/large.png"
    assert notes(result, "near_duplicate_across") == ["labels differ: 1 (class_1) / 0 (class_0)"]


def test_faults_of_images(tmp_path: Path, train: Path, evaluation: Path) -> None:
    """One of each is found and named, and nothing else."""
    folder = train / "class_0"
    (folder / "empty.png").write_bytes(b"")
    (train / "class_1" / "text.jpg").write_bytes(b"this is no picture")
    whole = write_picture(evaluation / "class_0" / "cut.jpg", smooth_picture(77, 200, 200)).read_bytes()
    (evaluation / "class_0" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    # Black frames with two labels are no conflict: they are useless, and said to be. A faint spot is something.
    for name in ("class_0", "class_1"):
        write_picture(train / name / "black.png", np.full((40, 40, 3), 4, dtype=np.uint8))
    spot = np.zeros((200, 200, 3), dtype=np.uint8)
    spot[90:96, 90:96] = 40
    write_picture(folder / "spot.png", spot)
    write_picture(evaluation / "class_1" / "red.jpg", np.full((40, 40, 3), (200, 30, 30), dtype=np.uint8))
    write_picture(folder / "tiny.png", smooth_picture(901, 10, 20))
    write_picture(folder / "low.png", smooth_picture(902, 40, 30))
    write_picture(evaluation / "class_0" / "strip.png", smooth_picture(903, 300, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth_picture(910)).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(smooth_picture(911)).convert("CMYK").save(folder / "print.jpg")
    (folder / "named.png").write_bytes(encoded_with_pillow(Image.fromarray(smooth_picture(915)), "BMP"))
    Image.fromarray(smooth_picture(912)).quantize(64).save(folder / "few_colours.png")
    Image.fromarray(smooth_picture(913)[:, :, 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.dstack([smooth_picture(914), np.full((40, 48), 128, np.uint8)])).save(folder / "glass.png")
    result = check(folder_config(tmp_path, train, evaluation), threads=2)
    expected = {
        "corrupt_image": ("error", ["class_0/empty.png", "class_1/text.jpg", "class_0/cut.jpg"]),
        "black_image": ("warning", ["class_0/black.png", "class_1/black.png"]),
        "constant_image": ("warning", ["class_1/red.jpg"]),
        "small_image_training": ("warning", ["class_0/tiny.png"]),
        "extreme_aspect": ("warning", ["class_0/strip.png"]),
        "exif_rotated": ("information", ["class_0/turned.jpg"]),
        "misnamed": ("information", ["class_0/named.png"]),
        "cmyk": ("information", ["class_0/print.jpg"]),
        "sixteen_bit": ("information", ["class_0/deep.png"]),
        "palette": ("information", ["class_0/few_colours.png"]),
        "transparent": ("information", ["class_0/glass.png"]),
    }
    assert kinds(result) == {kind: severity for kind, (severity, _) in expected.items()}
    for kind, (_, files) in expected.items():
        assert names(result, kind) == [(file,) for file in files]
    assert "empty" in notes(result, "corrupt_image")[0]
    assert finding(result, "corrupt_image").summary.startswith("2 training and 1 validation images")
    assert notes(result, "small_image_training") == ["10x20, enlarged to 32x32"]
    assert notes(result, "extreme_aspect") == ["300x40"] and notes(result, "misnamed") == ["a BMP picture named .png"]


def test_images_too_small_for_a_crop(tmp_path: Path, train: Path, evaluation: Path) -> None:
    """Where nothing enlarges them first, training would stop at them."""
    write_picture(train / "class_0" / "tiny.png", smooth_picture(901, 10, 20))
    config, key = folder_config(tmp_path, train, evaluation), "DataLoader.Train.dataset.transform_ops"
    for name in ("CropImage", "RandomCropImage"):
        result = check(config, f"{key}=[{{DecodeImage: {{}}}}, {{{name}: {{size: 32}}}}]")
        assert kinds(result) == {"smaller_than_crop": "error"}
        assert names(result, "smaller_than_crop") == [("class_0/tiny.png",)]
        assert notes(result, "smaller_than_crop") == ["10x20, cropped to 32x32"]
        assert finding(result, "smaller_than_crop").summary.startswith("1 training image too small for the crop: ")
    for first in ("Pad: {padding: 11}", "ResizeImage: {resize_short: 32}"):
        result = check(config, f"{key}=[{{DecodeImage: {{}}}}, {{{first}}}, {{CropImage: {{size: 32}}}}]")
        assert kinds(result) == {"small_image_training": "warning"}


def test_pictures_of_an_archive_are_called_by_their_place(tmp_path: Path) -> None:
    archive = str(cifar_archive(tmp_path / "cifar.tar.gz"))
    dataset = {"name": "Cifar100", "data_file": archive, "mode": "train"}
    sets = {f"DataLoader__{part}__dataset": dataset for part in ("Train", "Eval")}
    result = check(write_config(tmp_path, small_config(tmp_path / "run", Arch__class_num=3, **sets)), threads=2)
    assert kinds(result) == {"duplicate_across": "warning"}
    place = f"{tmp_path.name}/cifar.tar.gz#0"
    assert names(result, "duplicate_across")[0] == (place, place)


def test_report_and_overview(tmp_path: Path, evaluation: Path) -> None:
    """Of many classes, one with a name that matplotlib would take for a formula, odd shapes, and unreadable images."""
    train = write_class_folders(tmp_path / "train", classes=45, images=2)
    write_picture(train / "class_2" / "00.png", smooth_picture(1, 1, 3000))
    (train / "class_1").rename(train / "US$ and a very long name of a class $")
    for number in range(6):
        (train / "class_0" / f"broken_{number}.png").write_bytes(b"")
    write_picture(train / "class_3" / "copy.png", np.asarray(Image.open(train / "class_0" / "00.png")))
    result = check(folder_config(tmp_path, train, evaluation, class_num=46))
    write_check(result, tmp_path / "out", draw_overview)
    report = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    by_kind = {entry["kind"]: entry for entry in report["findings"]}
    severities = [entry["severity"] for entry in report["findings"]]
    assert severities == sorted(severities) and report["errors"] == severities.count("error")
    corrupt = by_kind["corrupt_image"]
    assert corrupt["count"] == corrupt["listed"] == len(corrupt["instances"]) == 6
    assert corrupt["instances"][0]["images"][0]["name"] == str(train / "class_0" / "broken_0.png")
    assert [image["class"] for image in by_kind["label_conflict"]["instances"][0]["images"]] == ["class_0", "class_3"]
    assert report["sets"]["Train"]["images_by_class"]["class_0"] == 8
    assert report["sets"]["Train"]["most_common_sizes"][0] == {"width": 48, "height": 40, "images": 90}
    for path in train.rglob("*.png"):
        path.write_bytes(b"")
    for folder, each in (("out", result), ("empty", check(folder_config(tmp_path, train, train, class_num=45)))):
        write_check(each, tmp_path / folder, draw_overview)
        with Image.open(tmp_path / folder / "overview.png") as picture:
            assert (picture.mode, picture.width) == ("RGB", 1600)
