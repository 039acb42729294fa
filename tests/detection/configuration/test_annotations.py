"""Annotation files against the configuration: counts, order, other data, missing and truncated files."""

from __future__ import annotations

import json

import pytest

from detection.configuration import check_annotations, load_config
from ppcls_ext.utils.errors import ConfigError
from tests.support.detection_configs import coco, line_of, write_config, write_data


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A configuration and its data set, seen from the folder that its paths start from."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return write_config(tmp_path), tmp_path / "data"


def problems_of(file, overrides=(), parts=("Train", "Eval")) -> list[str]:
    with pytest.raises(ConfigError) as error:
        check_annotations(load_config(file, overrides), parts)
    return error.value.problems


def test_a_class_count_that_differs(prepared):
    file, _ = prepared
    expected = "-o num_classes={}: num_classes: is {}, but data/{}.json has 2 categories (cube, ball)"
    # An evaluation may lack a class.
    assert problems_of(file, ["num_classes=3"]) == [expected.format(3, 3, "train")]
    assert problems_of(file, ["num_classes=1"]) == [expected.format(1, 1, part) for part in ("train", "val")]


def test_a_missing_file_says_what_to_do(prepared):
    file, data = prepared
    (data / "train.json").unlink()
    place = f"{file}:{line_of(file, 'anno_path: train.json')}"
    message = "TrainDataset.anno_path: data/train.json: no such file; prepare the data first: "
    message += "python tools/prepare_data.py import FOLDER --output data"
    assert problems_of(file) == [f"{place}: {message}"]
    check_annotations(load_config(file), ["Eval"])


def change(data, part, **lists):
    content = json.loads((data / f"{part}.json").read_text(encoding="utf-8"))
    (data / f"{part}.json").write_text(json.dumps({**content, **lists}), encoding="utf-8")


def test_training_data_without_anything_to_learn(prepared):
    """Single images without such boxes are fine: they teach what is background."""
    file, data = prepared
    annotations = json.loads((data / "train.json").read_text(encoding="utf-8"))["annotations"]
    nothing = [{**one, "iscrowd": 1} for one in annotations]
    change(data, "train", annotations=nothing)
    (message,) = problems_of(file)
    expected = "nothing to learn from: no annotation is a box with an area that is no crowd"
    assert message.endswith(f"TrainDataset.anno_path: data/train.json: {len(nothing)} annotations, {expected}")
    change(data, "train", annotations=[*nothing, annotations[0]])
    change(data, "val", annotations=nothing)
    check_annotations(load_config(file))


def test_annotations_of_another_data_set(prepared):
    file, data = prepared
    change(data, "val", images=coco("other", [])["images"])
    (message,) = problems_of(file)
    assert "EvalDataset.image_dir: data/val.json is of another data set: " in message
    assert message.endswith("none of its 2 images is in data/images, such as other_1.png")


@pytest.mark.parametrize("categories", [[(1, "ball"), (2, "cube")], [(1, "cube")], [(1, "Cube"), (2, "ball")]])
def test_the_evaluation_may_lack_classes_and_number_and_spell_them_otherwise(prepared, categories):
    file, data = prepared
    annotations = json.loads((data / "val.json").read_text(encoding="utf-8"))["annotations"]
    categories = [{"id": number, "name": name} for number, name in categories]
    known = [one for one in annotations if one["category_id"] in [category["id"] for category in categories]]
    change(data, "val", categories=categories, annotations=known)
    check_annotations(load_config(file))


def test_a_class_that_only_the_evaluation_has_is_refused(prepared):
    file, data = prepared
    change(data, "val", categories=[{"id": 1, "name": "cube"}, {"id": 2, "name": "balls"}])
    (found,) = problems_of(file)
    message = "data/val.json has categories that data/train.json has not: balls (did you mean 'ball'?)"
    assert found == f"{file}:{line_of(file, 'anno_path: val.json')}: EvalDataset.anno_path: {message}"


def test_data_sets_that_are_not_coco_are_left_alone(prepared):
    file, data = prepared
    (data / "train.json").unlink()
    check_annotations(load_config(file, ["TrainDataset={name: VOCDataSet, dataset_dir: data}"]))
