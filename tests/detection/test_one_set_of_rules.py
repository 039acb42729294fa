"""What counts as an image, a class and a box is the same in preparation, check, training and evaluation."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.annotations import Ledger
from detection.check.run import check_detection_data
from detection.coco import CocoSet, box_around_turned, open_coco, outline_box
from detection.configuration import check_annotations, load_config
from detection.evaluation import evaluate_detections
from detection.evaluator import Evaluator
from detection.loaders import evaluation_loader, training_loader
from detection.prepare.readers import read_voc
from detection.task import open_environment
from detection.toolkit import workspace
from tests.support.coco import annotation, write_coco
from tests.support.detectors import run_config
from tests.support.frames import HEIGHT, WIDTH, Frames
from tests.support.raw_data import Prepared, prepare

SQUARE = [10.0, 8.0, 30.0, 24.0]
POLYGON = [[10, 8, 40, 8, 40, 32, 10, 32]]
# Columns of the picture from left to right: how many pixels are outside, inside, outside, ...
MASK = {"size": [HEIGHT, WIDTH], "counts": [10 * HEIGHT + 8, *([24, HEIGHT - 24] * 29), 24, 56 * HEIGHT + 48]}


def read(tmp_path: Path, *annotations: dict[str, Any], **lists: Any) -> tuple[CocoSet, Ledger]:
    """Reads one image with these annotations, as training does."""
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "cube"}, {"id": 2, "name": "ball"}],
        # The first keeps the image in use, whatever becomes of the others.
        "annotations": [annotation(100, 1, 2, [50, 40, 28, 32]), *annotations],
        **lists,
    }
    ledger = Ledger()
    return open_coco(write_coco(tmp_path / "a.json", data), tmp_path, ledger), ledger


def kinds(ledger: Ledger) -> dict[str, int]:
    return {**ledger.kinds("repaired"), **ledger.kinds("rejected")}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"area": 0}, "area_from_box"),
        ({"image_id": "1"}, "ids_as_text"),
        ({"image_id": 1.0, "iscrowd": False}, None),
        ({"iscrowd": "perhaps"}, "crowd_unclear"),
        ({"id": 100}, "duplicate_annotation_id"),
        ({"difficult": 1, "attributes": {"occluded": True}}, None),
        ({"bbox": ["10", "8", "30", "24.0"]}, "numbers_as_text"),
        ({"bbox": [40, 32, -30, -24]}, "swapped_corners"),
        ({"bbox": None, "segmentation": POLYGON}, "box_of_outline"),
        ({"bbox": None, "segmentation": MASK}, "box_of_outline"),
        ({"bbox": [25, 20, 27.961524, 11.569219, 30]}, "box_of_turned"),
        ({"bbox": [13, 5, 24, 30], "attributes": {"rotation": 90.0}}, "box_of_turned"),
    ],
)
def test_boxes_that_are_read_or_mended(tmp_path: Path, change: dict[str, Any], kind: str | None) -> None:
    coco, ledger = read(tmp_path, {**annotation(1, 1, 1, SQUARE), **change})
    box = coco.frames[0].boxes[1]
    assert box.xywh == pytest.approx(SQUARE) and box.area == pytest.approx(720) and box.category == 0 and not box.crowd
    assert kinds(ledger) == ({} if kind is None else {kind: 1})


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"bbox": None, "segmentation": {"size": [8], "counts": "x"}}, "missing_coordinates"),
        ({"bbox": [1, 2, math.inf, 4]}, "not_a_number"),
        ({"bbox": [1, 2, 0.5, 1.5]}, "empty_box"),
        ({"bbox": [500, 2, 9, 4]}, "box_outside"),
        ({"category_id": 9}, "unknown_class"),
        ({"image_id": None}, "malformed_annotation"),
        ({"image_id": "b"}, "unknown_image"),
        ({"deleted": True}, "deleted_annotation"),
        ({"bbox": [50, 40, 28, 32], "category_id": 2}, "duplicate_box"),
    ],
)
def test_annotations_that_are_left_out(tmp_path: Path, change: dict[str, Any], kind: str) -> None:
    coco, ledger = read(tmp_path, {**annotation(1, 1, 1, SQUARE), **change})
    assert len(coco.frames[0].boxes) == 1
    assert ledger.kinds("rejected") == {kind: 1}
    assert ledger.boxes == {"input": 2, "kept": 1, "repaired": 0, "rejected": 1}


@pytest.mark.parametrize("flag", [{"iscrowd": "true"}, {"ignore": True}, {"attributes": {"isgroup": 1}}])
def test_crowds_by_any_flag(tmp_path: Path, flag: dict[str, Any]) -> None:
    entry = {key: value for key, value in annotation(1, 1, 1, SQUARE).items() if key != "iscrowd"}
    coco, ledger = read(tmp_path, {**entry, **flag})
    assert coco.frames[0].boxes[1].crowd
    assert kinds(ledger) == ({} if "iscrowd" in flag else {"crowd_by_flag": 1})


def test_ids_that_are_names(tmp_path: Path) -> None:
    """They are numbered behind the numbers, in the order of the file."""
    images = [
        {"id": name, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT} for name in ("dive-7", "5", 9, "x")
    ]
    categories = [{"id": "cube", "name": "cube"}, {"id": "3", "name": "ball"}, {"id": 4, "name": 12}]
    annotations = [annotation(1, "dive-7", "cube", SQUARE), annotation(2, 5, 3, SQUARE), annotation(3, "9", 4, SQUARE)]
    coco, _ = read(tmp_path, images=images, categories=categories, annotations=annotations)
    assert [(frame.image_id, [box.category for box in frame.boxes]) for frame in coco.frames] == [
        (10, [0]), (5, [1]), (9, [2]), (11, []),
    ]  # fmt: skip
    assert (coco.names, coco.category_ids) == (["cube", "ball", "12"], [5, 3, 4])


def test_outlines() -> None:
    assert outline_box([[1, 2, 5, 2, 5, 9], [0, 4, 3, 8, 1, 1]]) == (0, 1, 5, 9)
    mask = np.zeros((8, 10), np.uint8, order="F")
    mask[2:5, 3:9] = 1
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.reshape(-1, order="F"), [0]])))
    counts = np.diff(np.concatenate([[0], runs, [80]])).tolist()
    assert outline_box({"size": [8, 10], "counts": counts}) == (3, 2, 9, 5)
    from pycocotools import mask as masks

    assert outline_box({"size": [8, 10], "counts": masks.encode(mask)["counts"].decode("ascii")}) == (3, 2, 9, 5)
    for nothing in ({"size": [8, 10], "counts": [3]}, {"size": [8], "counts": "x"}, {}, [], None, [[]], "polygon"):
        assert outline_box(nothing) is None
    assert box_around_turned(10, 20, 8, 4, math.pi / 6) == pytest.approx((
        10 - 4 * math.cos(math.pi / 6) - 2 * 0.5, 20 - 4 * 0.5 - 2 * math.cos(math.pi / 6),
        10 + 4 * math.cos(math.pi / 6) + 2 * 0.5, 20 + 4 * 0.5 + 2 * math.cos(math.pi / 6),
    ))  # fmt: skip


VOC_PLACES = {
    "<polygon><x1>10</x1><y1>8</y1><x2>40</x2><y2>8</y2><x3>40</x3><y3>32</y3></polygon>": (10, 8, 40, 32),
    "<robndbox><cx>25</cx><cy>20</cy><w>24</w><h>30</h><angle>1.5707963267948966</angle></robndbox>": (10, 8, 40, 32),
    "<bndbox><xmin>13</xmin><ymin>5</ymin><xmax>37</xmax><ymax>35</ymax></bndbox><attributes><attribute>"
    "<name>rotation</name><value>90</value></attribute></attributes>": (10, 8, 40, 32),
    "<bndbox><xmin>10</xmin><ymin>8</ymin><xmax>40</xmax><ymax>32</ymax></bndbox><polygon><x1>1</x1><y1>1</y1>"
    "<x2>9</x2><y2>1</y2><x3>9</x3><y3>9</y3></polygon>": (10, 8, 40, 32),
}


@pytest.mark.parametrize("place", VOC_PLACES)
def test_places_in_xml(tmp_path: Path, place: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(f"<annotation><object><name>cube</name>{place}</object></annotation>", encoding="utf-8")
    (box,) = read_voc(file).boxes
    assert box.corners == pytest.approx(VOC_PLACES[place])


def test_flags_in_xml(tmp_path: Path) -> None:
    place = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    flags = ("<difficult>True</difficult>", "<ignore>1</ignore>", "<deleted>1</deleted>", "<deleted>0</deleted>")
    objects = "".join(f"<object><name>cube</name>{flag}{place}</object>" for flag in flags)
    (tmp_path / "a.xml").write_text(f"<annotation>{objects}</annotation>", encoding="utf-8")
    boxes = read_voc(tmp_path / "a.xml").boxes
    assert [box.extra for box in boxes] == [{"difficult": 1}, {"iscrowd": 1}, {}, {}]
    assert [box.problem[0] for box in boxes if box.corners is None] == ["deleted_annotation"]


def spoil(data: dict[str, Any]) -> None:
    """Makes a clean file of 18 images with 36 boxes one that nobody prepared: 11 boxes fewer, three images fewer."""
    entries = data["annotations"]
    for entry in entries[:8]:
        entry["area"] = 0
        entry["image_id"] = str(entry["image_id"])
    entries[8]["bbox"] = None
    entries[9] |= {"bbox": None, "segmentation": [[50, 40, 78, 40, 78, 72]]}
    entries[10]["iscrowd"] = True
    entries[11]["ignore"] = 1
    entries[12]["deleted"] = True
    entries[13].pop("iscrowd")
    entries[14]["category_id"] = 77
    entries[15]["bbox"] = [900, 8, 30, 24]
    entries[16]["bbox"] = [-5, 8, 30, 24]
    entries[18]["bbox"] = [float("nan"), 8, 30, 24]
    entries.append({**entries[20], "id": 900})
    entries.append(annotation(901, 555, 1, SQUARE))
    data["images"][16]["id"] = data["images"][17]["id"]
    data["images"][12].pop("width")


def test_preparation_check_training_and_evaluation_agree(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    frames = Frames(raw)
    spoil(frames.train)
    frames.val = frames.train
    frames.write()

    config = load_config(run_config(tmp_path, frames))
    check_annotations(config)
    with workspace(config), caplog.at_level(logging.INFO):
        training = training_loader(config, open_environment(config)).read_batch.dataset
        said = caplog.text
        evaluation = evaluation_loader(config, open_environment(config))[0].read_batch.dataset
    taught = {int(record["im_id"][0]): len(record["gt_bbox"]) for record in training.roidbs}
    assert all(box.dtype == np.float32 for box in (record["gt_bbox"] for record in training.roidbs))
    for line in (
        "TrainDataset: left out: {}: image id 18 is that of", "TrainDataset: left out: train_07.png: none of its",
        "TrainDataset: mended: {}: 8 ids are text", "TrainDataset: 2 boxes of crowds are not learnt from",
    ):  # fmt: skip
        assert line.format(frames.annotations("train")) in said, said

    checked = check_detection_data(frames.config())
    table = checked.tables["Train"]
    figures = evaluate_detections(frames.annotations("val"), [])
    (raw / "annotations" / "val.json").unlink()
    prepare("imagefolder", raw, "--classes", "cube,ball,tyre", "--output", tmp_path / "prepared", "--format", "coco",
            "--val-fraction", "0.3")  # fmt: skip
    prepared = Prepared(tmp_path / "prepared")
    written = [entry for part in prepared.parts.values() for entry in part["annotations"]]

    boxes = sum(not entry["iscrowd"] for entry in written)
    assert boxes == sum(taught.values()) == table["boxes"] == figures.counts["boxes"]
    assert len(written) - boxes == figures.counts["crowds"] == int(checked.sets["Train"].boxes.crowd.sum()) == 2
    images = sum(len(part["images"]) for part in prepared.parts.values())
    assert images == figures.counts["images"] == len(evaluation.roidbs)
    assert images == len(checked.sets["Train"].coco) - table["images_left_out"]
    # The one image that shows nothing but crowds is evaluated, but not taught.
    assert len(training.roidbs) == images - 1
    assert prepared.report["boxes"]["input"] == 38


def test_files_that_were_right_make_the_records_of_ppdet(tmp_path: Path) -> None:
    from ppdet.core.workspace import create

    frames = Frames(tmp_path / "data")
    frames.train["annotations"][3]["iscrowd"] = 1
    frames.train["annotations"][4]["bbox"] = [10.12345, 8.5, 30.98765, 24.0005]
    frames.train["annotations"] = frames.train["annotations"][:-4]
    frames.write()
    config = load_config(run_config(tmp_path, frames))
    with workspace(config):
        ours = training_loader(config, open_environment(config)).read_batch.dataset
        theirs = create("TrainDataset")()
        theirs.parse_dataset()
        assert Evaluator(config, open_environment(config)).class_names == ["cube", "ball", "tyre"]
    assert (ours.catid2clsid, ours.cname2cid) == (theirs.catid2clsid, theirs.cname2cid)
    assert len(ours.roidbs) == len(theirs.roidbs) == 18
    for one, other in zip(ours.roidbs, theirs.roidbs, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            np.testing.assert_array_equal(one[name], value)
            assert getattr(one[name], "dtype", None) == getattr(value, "dtype", None)


def test_the_size_that_a_picture_has_counts(tmp_path: Path) -> None:
    """One picture is larger than its entry says, another has no size there: training and check keep the same boxes."""
    frames = Frames(tmp_path)
    frames.train["images"][0] |= {"width": 30, "height": 20}
    frames.train["images"][1] |= {"width": None}
    frames.train["annotations"][2]["bbox"] = [80, 8, 30, 24]
    frames.write()
    opened = open_coco(frames.annotations("train"), frames.root / "images", Ledger())
    assert [box.xywh for frame in opened.frames[:2] for box in frame.boxes] == [
        (10, 8, 30, 24), (50, 40, 28, 32), (80, 8, 16, 24), (50, 40, 28, 32),
    ]  # fmt: skip
    checked = check_detection_data(frames.config())
    kept = [list(box.xywh) for frame in opened.frames[:2] for box in frame.boxes]
    assert checked.sets["Train"].boxes.boxes[:4].tolist() == kept


def test_a_picture_that_is_smaller_than_stated(tmp_path: Path) -> None:
    frames = Frames(tmp_path)
    frames.train["images"][0] |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    frames.train["annotations"][1]["bbox"] = [WIDTH + 10, HEIGHT + 10, 30, 24]
    frames.write()
    ledger = Ledger()
    opened = open_coco(frames.annotations("train"), frames.root / "images", ledger)
    assert [box.xywh for box in opened.frames[0].boxes] == [(10, 8, 30, 24)]
    assert (opened.frames[0].width, opened.frames[0].height) == (WIDTH, HEIGHT)
    assert ledger.kinds("rejected") == {"box_outside": 1}


def test_categories_that_are_listed_twice(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "cube"}, {"id": 1, "name": "cube"}, {"id": 2, "name": "ball"}, {"id": 5, "name": "Cube"},
        {"id": 6, "name": "tyre"}, {"id": 6, "name": "cone"}, {"id": 7},
    ]  # fmt: skip
    extra = annotation(1, 1, 5, SQUARE), annotation(2, 1, 6, [1, 1, 9, 9])
    coco, ledger = read(tmp_path, *extra, categories=categories)
    assert (coco.names, coco.category_ids) == (["cube", "ball"], [1, 2])
    assert [box.category for box in coco.frames[0].boxes] == [1, 0]
    assert kinds(ledger) == {
        "duplicate_category_name": 2, "duplicate_category_id": 1, "malformed_category": 1, "unknown_class": 1,
    }  # fmt: skip
