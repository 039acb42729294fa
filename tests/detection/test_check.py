"""Each kind of fault in detection data is found, alone and with the names that a person needs; clean data give none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.check.overview import draw_overview
from detection.check.run import DetectionCheck, check_detection_data, scales
from ppcls_ext.check.report import write_check
from ppcls_ext.utils.errors import UserError
from tests.support.checks import finding, kinds, names, notes
from tests.support.coco import annotation
from tests.support.frames import HEIGHT, WIDTH, Frames


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    return Frames(tmp_path)


def check(frames: Frames, *changes: str, threads: int = 1) -> DetectionCheck:
    return check_detection_data(frames.config(*changes), 0, threads)


def test_clean_data_give_nothing(frames: Frames) -> None:
    result = check(frames, threads=2)
    assert kinds(result) == {}
    assert not result.has_errors
    assert [result.sets[part].of_class.tolist() for part in ("Train", "Eval")] == [[12, 12, 12], [4, 4, 4]]


def set_box(frames: Frames, number: int, box: list[float], **fields: Any) -> None:
    """Gives training annotation ``number`` (from 0) another box, with the area that belongs to it."""
    frames.train["annotations"][number].update({"bbox": box, "area": box[2] * box[3], **fields})


def test_faults_of_a_set(frames: Frames) -> None:
    """One of each, all of different images: nothing else is found, and each with what a person needs."""
    images, annotations = frames.train["images"], frames.train["annotations"]
    set_box(frames, 0, [10, 8, 0, 24], area=24.0)
    set_box(frames, 3, [80, 60, 30, 24])
    set_box(frames, 4, [10, 8, 3, 3])
    set_box(frames, 7, [10, 8, 30, 24])
    annotations[8]["area"] = 0
    images[5] |= {"width": 80, "height": 96}
    for entry in annotations[12:14]:
        entry["iscrowd"] = 1
    annotations[14]["bbox"] = [1, 2, 3]
    images.append("x")
    frames.image("train_08.png").unlink()
    frames.image("train_09.png").write_bytes(b"<html>")
    result = check(frames)
    words = {
        "zero_area_box": ("error", "annotation 1 (cube): corners 10 8 10 32"),
        "malformed_annotation": ("error", "is not a list of four"),
        "malformed_image": ("error", "images[18]"),
        "wrong_size": ("error", "(turned by a quarter?)"),
        "missing_image": ("error", ""),
        "corrupt_image": ("error", "an HTML page"),
        "box_partly_outside": ("warning", "annotation 4 (cube)"),
        "tiny_box": ("warning", "3 x 3 px when evaluated"),
        "box_with_two_classes": ("warning", "as annotation 7 (cube)"),
        "area_from_box": ("warning", "area 0"),
        "all_crowd": ("warning", ""),
    }
    assert kinds(result) == {kind: severity for kind, (severity, _) in words.items()}
    for kind, (_, note) in words.items():
        assert finding(result, kind).count == 1 and note in notes(result, kind)[0], kind
    assert result.has_errors


def test_tiny_is_measured_at_the_size_of_the_evaluation(frames: Frames) -> None:
    set_box(frames, 0, [10, 8, 8, 8])
    assert kinds(check(frames)) == {}
    size = f"target_size: [{HEIGHT // 2}, {WIDTH // 4}]"
    resize = "EvalReader.sample_transforms=[{{Resize: {{" + size + ", keep_ratio: {}}}}}]"
    assert notes(check(frames, resize.format("false")), "tiny_box")[0].endswith("2 x 4 px when evaluated")
    assert notes(check(frames, resize.format("true")), "tiny_box")[0].endswith("2.4 x 2.4 px when evaluated")
    letterbox = {"EvalReader": {"sample_transforms": [{"LetterResize": {"target_size": [HEIGHT // 2, WIDTH // 4]}}]}}
    assert scales(np.array([[WIDTH, HEIGHT], [0, 0]]), letterbox).tolist() == [[0.25, 0.25], [1, 1]]


def test_images_that_share_an_id_or_a_file(frames: Frames) -> None:
    frames.train["images"][1]["id"] = 1
    frames.val["images"][1]["file_name"] = "val_00.png"
    result = check(frames)
    (note,) = notes(result, "duplicate_image_id")
    assert note.startswith("image id 1 is that of train_00.png, train_01.png: their boxes cannot be told apart")
    assert kinds(result)["duplicate_image_id"] == "error"
    assert notes(result, "duplicate_file_name")[0].startswith("image 2 is the same file as an image before it")
    assert notes(result, "unknown_image") == ["2 annotations belong to image 2, which it does not list"]


@pytest.mark.parametrize(("ids", "expected"), [([1, 2, 4], True), ([0, 1, 2], False)])
def test_category_ids_that_are_not_contiguous(frames: Frames, ids: list[int], expected: bool) -> None:
    for data in (frames.train, frames.val):
        for category, identity in zip(data["categories"], ids, strict=True):
            category["id"] = identity
        for entry in data["annotations"]:
            entry["category_id"] = ids[entry["category_id"] - 1]
    result = check(frames)
    assert kinds(result) == ({"category_ids": "warning"} if expected else {})
    assert not expected or ", ".join(map(str, ids)) in notes(result, "category_ids")[0]


def test_sets_that_disagree_about_the_classes(frames: Frames) -> None:
    first, second, third = frames.val["categories"]
    more = {"id": 4, "name": "human body"}
    frames.val["categories"] = [{"id": 1, "name": second["name"]}, {"id": 2, "name": first["name"]}, third, more]
    frames.val["annotations"].append(annotation(90, 1, 4, [30, 50, 10, 10]))
    result = check(frames)
    assert notes(result, "class_unknown") == ["'human body'"]
    assert notes(result, "category_ids_differ") == ["'ball' is 2 and 1", "'cube' is 1 and 2"]
    assert notes(result, "class_not_trained") == ["human body: 1 validation box"]
    assert "has 4 categories: ball, cube, tyre, human body" in notes(result, "class_count")[0]
    # A validation set may lack classes, a training set may not.
    assert finding(check(frames, "num_classes=80"), "class_count").summary.startswith("1 training annotation file")


def test_classes_with_few_or_no_boxes(frames: Frames) -> None:
    for data, category in ((frames.train, 1), (frames.val, 2)):
        data["annotations"] = [entry for entry in data["annotations"] if entry["category_id"] != category]
    of_tyres = [entry for entry in frames.train["annotations"] if entry["category_id"] == 3]
    for entry in of_tyres[4:]:
        frames.train["annotations"].remove(entry)
    for data in (frames.train, frames.val):
        data["categories"].append({"id": 4, "name": "nowhere"})
    result = check(frames, "num_classes=4")
    assert notes(result, "class_not_trained") == ["cube: 4 validation boxes"]
    assert notes(result, "class_not_validated") == ["ball"]
    assert notes(result, "class_empty") == ["nowhere"]
    assert notes(result, "class_small") == ["tyre: 4 boxes"]
    assert "image_without_boxes" in kinds(result)


COPIES = (("train_00.png", "train_01.png"), ("train_02.png", "val_00.png"), ("val_02.png", "val_03.png"))


def test_copies_within_and_across_the_sets(frames: Frames) -> None:
    for source, copy in COPIES:
        Image.open(frames.image(source)).save(frames.image(copy), compress_level=1)
    # The same boxes, whatever the ids.
    for first, second in ((0, 2), (1, 3)):
        frames.train["annotations"][second]["category_id"] = frames.train["annotations"][first]["category_id"]
    result = check(frames)
    for (source, copy), kind in zip(COPIES, ("training", "across", "validation"), strict=True):
        assert names(result, f"duplicate_{kind}") == [(f"images/{copy}", f"images/{source}")]
    assert [tuple(Path(name).name for name in pair) for pair in names(result, "copies_annotated_differently")] == [
        (copy, source) for source, copy in COPIES[1:]
    ]


def test_annotation_files_that_cannot_be_used(frames: Frames, tmp_path: Path) -> None:
    config = frames.config()
    for part in ("train", "val"):
        frames.annotations(part).write_text("{'images': []}", encoding="utf-8")
    result = check_detection_data(config)
    assert kinds(result) == {"unopened_training": "error", "unopened_validation": "error"}
    (note,) = notes(result, "unopened_training")
    assert str(frames.annotations("train")) in note and "is not valid JSON (line 1, column 2" in note
    write_check(result, tmp_path / "out", draw_overview)
    assert json.loads((tmp_path / "out" / "check.json").read_text())["errors"] == 2
    assert not (tmp_path / "out" / "overview.png").exists()


def test_annotations_are_examined_and_drawn_without_images_and_boxes(frames: Frames, tmp_path: Path) -> None:
    many = [{"id": number, "name": f"class $_{number}"} for number in range(1, 61)]
    frames.val |= {"categories": many, "annotations": []}
    set_box(frames, 0, [10, 8, 0, 24], area=24.0)
    nowhere = ("TrainDataset.image_dir=nowhere", "EvalDataset.image_dir=nowhere")
    result = check(frames, *nowhere)
    assert {"image_folder_missing", "zero_area_box", "class_empty", "image_without_boxes"} <= kinds(result).keys()
    write_check(result, tmp_path / "out", draw_overview)
    assert draw_overview(check(frames, *nowhere, "TrainDataset.anno_path=null")).width == 1600
    elsewhere = check(frames, "EvalDataset.image_dir=annotations")
    assert notes(elsewhere, "other_data")[0].endswith(f"none is in {frames.root / 'annotations'}")
    assert finding(elsewhere, "unlisted_image").count == 6
    with pytest.raises(UserError, match=r"TrainDataset\.anno_path nor EvalDataset\.anno_path: nothing to check"):
        check(frames, "TrainDataset.anno_path=null", "EvalDataset.anno_path=null")


def test_report_lists_every_instance_and_the_overview_is_a_picture(frames: Frames, tmp_path: Path) -> None:
    for number in range(0, 10, 2):
        set_box(frames, number, [10, 8, 0, 24], area=24.0)
    set_box(frames, 11, [float("nan"), 8, 10, 24], area=10.0)
    set_box(frames, 13, [300, 200, 10, 24])
    set_box(frames, 15, [-5000, 200, 10, 24])
    frames.image("train_03.png").write_bytes(b"")
    result = check(frames)
    write_check(result, tmp_path / "out", draw_overview)
    report = json.loads(
        (tmp_path / "out" / "check.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON")
    )
    assert report["task"] == "detection"
    assert report["errors"] == 4
    assert report["sets"]["Train"]["images"] == 18
    assert report["sets"]["Eval"]["by_class"]["ball"] == {"boxes": 4, "images": 4}
    by_kind = {each["kind"]: each for each in report["findings"]}
    zero = by_kind["zero_area_box"]
    assert zero["count"] == zero["listed"] == len(zero["instances"]) == 5
    assert zero["instances"][1]["annotation_id"] == 3
    assert zero["instances"][1]["bbox"] == [10, 8, 0, 24]
    assert zero["instances"][1]["images"][0]["image_id"] == 2
    assert by_kind["non_finite_box"]["instances"][0]["bbox"] == ["nan", 8.0, 10.0, 24.0]
    assert by_kind["corrupt_image"]["count"] == 1
    with Image.open(tmp_path / "out" / "overview.png") as overview:
        assert overview.width == 1600
        assert len(np.unique(np.asarray(overview).reshape(-1, 3)[::7], axis=0)) > 500


def test_a_training_set_that_teaches_nothing_is_an_error(frames: Frames) -> None:
    """As training says; a validation set of that kind is no error."""
    frames.train["annotations"] = [{**one, "iscrowd": 1} for one in frames.train["annotations"]]
    result = check(frames)
    assert kinds(result)["nothing_to_learn"] == "error"
    assert notes(result, "nothing_to_learn")[0].endswith("train.json: 36 annotations, nothing to learn from")
    frames.val["annotations"] = [{**one, "iscrowd": 1} for one in frames.val["annotations"]]
    assert finding(check(frames), "nothing_to_learn").count == 1
