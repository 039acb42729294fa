"""COCO files that nobody prepared: training, evaluation and the check refuse boxes that do not fit, or read them as the
keys of the data set say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.check.run import check_detection_data
from detection.configuration import check_annotations, load_config
from detection.evaluation import evaluate_detections
from detection.evaluator import Evaluator
from detection.loaders import training_loader
from detection.task import open_environment
from detection.toolkit import workspace
from ppcls_ext.utils.config import ConfigError
from tests.support.checks import kinds
from tests.support.coco import detection
from tests.support.detectors import make_frames, run_config
from tests.support.frames import BOXES, HEIGHT, WIDTH, Frames

LEFT, RIGHT = (np.array(box) for box in BOXES)
CORNERS = [[x, y, x + w, y + h] for x, y, w, h in BOXES]


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    return make_frames(tmp_path / "data")


def write_boxes(frames: Frames, part: str, boxes: list[list[float]]) -> None:
    """Writes the two boxes of each image otherwise."""
    for number, entry in enumerate(getattr(frames, part)["annotations"]):
        entry["bbox"] = boxes[number % 2]
        del entry["area"]
    frames.write()


def kinds_of(config: Path, *changes: str) -> dict[str, str]:
    """Returns severity of each kind that the check finds."""
    return kinds(check_detection_data(load_config(config, changes)))


def test_training_stops_until_the_keys_say_what_boxes_are(frames: Frames, tmp_path: Path) -> None:
    fractions = [[x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT] for x, y, w, h in BOXES]
    write_boxes(frames, "train", fractions)
    file = run_config(tmp_path, frames)
    with pytest.raises(ConfigError, match=r"TrainDataset.anno_path: .*train.json: .*TrainDataset.normalised: true"):
        check_annotations(load_config(file))
    assert kinds_of(file)["box_geometry"] == "error"
    config = load_config(file, change := ["TrainDataset.normalised=true"])
    check_annotations(config)
    with workspace(config):
        dataset = training_loader(config, open_environment(config)).read_batch.dataset
    assert sum(len(record["gt_bbox"]) for record in dataset.roidbs) == 34
    for record in dataset.roidbs:
        np.testing.assert_allclose(record["gt_bbox"], np.array(CORNERS)[: len(record["gt_bbox"])], atol=1e-3)
        assert (record["w"], record["h"]) == (WIDTH, HEIGHT)
    found = kinds_of(file, *change)
    assert found["box_reading"] == "information"
    assert not {"box_geometry", "box_outside", "box_partly_outside"} & found.keys()


def test_evaluation_measures_the_boxes_as_they_are_meant(frames: Frames, tmp_path: Path) -> None:
    write_boxes(frames, "val", CORNERS)
    for entry in frames.val["annotations"]:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    frames.write()
    file = run_config(tmp_path, frames)
    with pytest.raises(ConfigError, match="EvalDataset.anno_path: .* 5 of 10 boxes .*EvalDataset.boxes: xyxy"):
        check_annotations(load_config(file), ["Eval"])
    config = load_config(file, ["EvalDataset.boxes=xyxy"])
    with workspace(config):
        evaluator = Evaluator(config, open_environment(config))
    evaluator.close()
    perfect = [
        detection(entry["image_id"], entry["category_id"], BOXES[number % 2], 0.9)
        for number, entry in enumerate(frames.val["annotations"])
    ]
    figures = evaluate_detections(evaluator.coco, perfect)
    # The area is that of the box as it is meant: all are small.
    assert (figures.ap, figures.summary["AP_small"]) == (pytest.approx(1), pytest.approx(1))


def test_photos_that_exif_turns(frames: Frames, tmp_path: Path) -> None:
    """Sizes and boxes are those of the stored pictures."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (frames.root / "images").iterdir():
        with Image.open(file) as image:
            image.save(file, exif=exif)
    file = run_config(tmp_path, frames)
    for part in ("Train", "Eval"):
        with pytest.raises(ConfigError, match=f"EXIF data turn .* pictures by a quarter.*{part}Dataset.turn_boxes: tr"):
            check_annotations(load_config(file), [part])
    found = kinds_of(file)
    assert found["box_geometry"] == found["wrong_size"] == "error"
    changes = ["TrainDataset.turn_boxes=true", "EvalDataset.turn_boxes=true"]
    config = load_config(file, changes)
    check_annotations(config)
    with workspace(config):
        dataset = training_loader(config, open_environment(config)).read_batch.dataset
    x, y, w, h = BOXES[0]
    for record in dataset.roidbs:
        assert record["gt_bbox"].tolist()[:1] in ([], [[HEIGHT - y - h, x, HEIGHT - y, x + w]])
    assert not {"box_geometry", "wrong_size"} & kinds_of(file, *changes).keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("TrainDataset.boxes=xxyy", "TrainDataset.boxes: must be one of xyxy, xywh, .*got 'xxyy'"),
        ("TrainDataset={scale_by: 0.5, scale_boxes: true, name: COCODataSet}", "scale_boxes and scale_by exclude"),
    ],
)
def test_values_of_the_keys_are_checked(frames: Frames, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(run_config(tmp_path, frames), [change])
