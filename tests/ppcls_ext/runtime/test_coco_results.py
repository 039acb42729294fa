"""Detections as COCO results: ids from an annotation file or counted, and the report of detections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.preprocess.sonar import SonarEnhance
from ppcls_ext.runtime import DetectionPrediction, DetectionPredictor
from ppcls_ext.runtime.coco_results import coco_results, numbering_of
from ppcls_ext.runtime.detection_report import above, as_records, as_table, save_pictures, summary
from ppcls_ext.runtime.outputs import OutputForm
from ppcls_ext.utils.errors import UserError

CLASSES = ["cube", "ball"]


@pytest.fixture
def predictor():
    return DetectionPredictor(None, None, CLASSES, 2, [-1, 3, 32, 32], OutputForm(), model_name="small")


@pytest.fixture
def predictions(tmp_path):
    """Two objects in the first image, none in the second, and a file that is no image."""
    folder = tmp_path / "images" / "dive"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40), (30, 30, 30)).save(folder / name)
    found = DetectionPrediction(
        str(folder / "a.png"),
        np.array([[5, 6, 25, 36], [30, 2, 50, 12]], np.float32),
        np.array([0.9, 0.25], np.float32),
        np.array([1, 0]),
        height=40,
        width=60,
    )
    return [
        found,
        DetectionPrediction(str(folder / "b.png"), height=40, width=60),
        DetectionPrediction(str(folder / "c.txt"), error="is not an image"),
    ]


def write_annotations(file, names=("dive/b.png", "dive/a.png"), categories=((7, "cube"), (3, "ball"))):
    content = {
        "images": [{"id": 10 * number, "file_name": name} for number, name in enumerate(names, start=1)],
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": [],
    }
    file.write_text(json.dumps(content))
    return file


def test_ids_of_an_annotation_file(predictor, predictions, tmp_path):
    file = write_annotations(tmp_path / "val.json")
    numbering = numbering_of(file, [Path(one.name) for one in predictions[:2]], predictor)
    results = coco_results(predictions, predictor, numbering)
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in results] == [
        (20, 3, [5.0, 6.0, 20.0, 30.0]),
        (20, 7, [30.0, 2.0, 20.0, 10.0]),
    ]
    assert [one["score"] for one in results] == pytest.approx([0.9, 0.25])


def test_the_longest_path_decides_between_equal_names(predictor, predictions, tmp_path):
    images = [Path(predictions[0].name)]
    file = write_annotations(tmp_path / "val.json", names=("other/a.png", "a.png", "dive/a.png"))
    assert numbering_of(file, images, predictor).image_ids == {predictions[0].name: 30}
    # Two records of one file are no number.
    file = write_annotations(tmp_path / "val.json", names=("dive/a.png", "dive/a.png"))
    with pytest.raises(UserError, match="none of the 1 images is in it"):
        numbering_of(file, images, predictor)


def test_images_without_a_number_are_named(predictor, predictions, tmp_path, caplog):
    file = write_annotations(tmp_path / "val.json", names=("dive/b.png",))
    with caplog.at_level("WARNING"):
        numbering = numbering_of(file, [Path(one.name) for one in predictions[:2]], predictor)
    assert "1 images are not in" in caplog.text
    assert "a.png" in caplog.text
    assert coco_results(predictions, predictor, numbering) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "cannot be read as COCO annotations"),
        ('{"images": []}', "'categories' must list id, name"),
        ('{"images": [{"id": 1}], "categories": []}', "'images' must list file_name, id"),
    ],
)
def test_files_that_are_no_annotations(predictor, tmp_path, content, message):
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(UserError, match=message):
        numbering_of(tmp_path / "val.json", [Path("a.png")], predictor)


def test_annotations_of_other_classes(predictor, predictions, tmp_path):
    images = [Path(predictions[0].name)]
    with pytest.raises(UserError, match=r"its classes \(ball, cube\) are not those of the model \(cube, ball\)"):
        numbering_of(write_annotations(tmp_path / "x.json", categories=((1, "ball"), (2, "cube"))), images, predictor)
    with pytest.raises(UserError, match="the file does not exist"):
        numbering_of(tmp_path / "absent.json", images, predictor)


def test_counted_ids_come_with_a_table_of_images(predictor, predictions):
    results = coco_results(predictions, predictor, None)
    assert [(one["id"], Path(one["file_name"]).name, one["width"], one["height"]) for one in results["images"]] == [
        (1, "a.png", 60, 40),
        (2, "b.png", 60, 40),
    ]
    assert results["categories"] == [{"id": 1, "name": "cube"}, {"id": 2, "name": "ball"}]
    assert [(one["image_id"], one["category_id"]) for one in results["annotations"]] == [(1, 2), (1, 1)]


def test_table_summary_and_records(predictor, predictions):
    table = as_table(predictions, predictor).splitlines()
    assert table[2].endswith("2        ball (1, 90 %), cube (1, 25 %)")
    assert table[3].endswith("0        -")
    assert summary(predictions) == "2 objects in 2 images, 1 without any, 1 unreadable and skipped"
    assert summary(above(predictions, 0.3)) == "1 object in 2 images, 1 without any, 1 unreadable and skipped"
    first, second, third = as_records(predictions, predictor)
    assert first["detections"][0] == {
        "class_id": 1, "label": "ball", "score": pytest.approx(0.9), "box": [5.0, 6.0, 25.0, 36.0],
    }  # fmt: skip
    assert (second["detections"], second["error"]) == ([], None)
    assert third["error"] == "is not an image"
    json.dumps([first, second, third])


def test_dark_sonar_frames_are_drawn_as_the_detector_sees_them(predictions, tmp_path):
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[:, :30, 0] = 4  # an echo in one channel of three, hardly above black
    Image.fromarray(frame).save(predictions[1].name)
    enhance = SonarEnhance("equalize")
    enhanced = DetectionPredictor(None, None, CLASSES, 2, [-1, 3, 32, 32], OutputForm(), enhance=enhance)
    (file,) = save_pictures(predictions[1:2], enhanced, tmp_path / "drawn", "title")
    drawn = np.asarray(Image.open(file).convert("RGB"))
    assert drawn[drawn.shape[0] // 2, 10].tolist() == [255, 255, 255]
    assert drawn[drawn.shape[0] // 2, -10].tolist() == [0, 0, 0]


def test_pictures(predictor, predictions, tmp_path):
    written = save_pictures(predictions, predictor, tmp_path / "drawn", "title")
    assert sorted(file.name for file in written) == ["a.png", "b.png"]
    drawn, plain = (np.asarray(Image.open(file)) for file in written)
    assert (drawn != plain).any()
    assert (plain == 30).all()
    (sheet,) = save_pictures(predictions, predictor, tmp_path / "sheet.png", "title")
    assert Image.open(sheet).width > 800
    (single,) = save_pictures(predictions[:1], predictor, tmp_path / "single.jpg", "title")
    assert Image.open(single).size == Image.open(written[0]).size
    with pytest.raises(UserError, match=r"unknown picture format '\.xyz'"):
        save_pictures(predictions, predictor, tmp_path / "sheet.xyz", "title")
    with pytest.raises(UserError, match="nothing to draw"):
        save_pictures(predictions[2:], predictor, tmp_path / "sheet.png", "title")
