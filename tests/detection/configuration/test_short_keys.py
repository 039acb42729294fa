"""One key for several places, and the configuration of own data, which has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detection.configuration import check_annotations, load_config
from detection.task import WITHOUT_EFFECT
from detection.toolkit import build_model
from ppcls_ext.utils.config import changed_keys
from ppcls_ext.utils.errors import UserError
from tests.support.detection_configs import write_data
from tests.support.runs import ROOT

CONFIGS = ROOT / "configs" / "detection"
ROW = CONFIGS / "ppyoloe" / "ppyoloe_s_econvnext_mini_duo.yml"


def sizes(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the sizes of a reader's operators by reader, and of the input."""
    found = {}
    for part in ("Train", "Eval", "Test"):
        reader = data[f"{part}Reader"]
        for entry in [*reader["sample_transforms"], *reader.get("batch_transforms", [])]:
            for name, arguments in entry.items():
                if "target_size" in (arguments or {}):
                    found[f"{part}.{name}"] = arguments["target_size"]
    return {**found, "input": data["TestReader"]["inputs_def"]["image_shape"]}


def test_image_size_changes_all_readers() -> None:
    before, after = sizes(load_config(ROW).data), sizes(load_config(ROW, ["image_size=320"]).data)
    assert before["Train.BatchRandomResize"] == list(range(320, 769, 32))
    assert after == {
        "Train.BatchRandomResize": list(range(160, 385, 32)), "Eval.Resize": [320, 320], "Test.Resize": [320, 320],
        "input": [3, 320, 320],
    }  # fmt: skip
    assert sizes(load_config(ROW, ["image_size=640"]).data) == before
    small = sizes(load_config(ROW, ["image_size=128"]).data)
    assert small["Train.BatchRandomResize"] == [96, 128, 160]
    yolov10 = sizes(load_config(CONFIGS / "yolov10" / "yolov10_n_duo.yml", ["image_size=416"]).data)
    assert yolov10 == {
        "Train.MosaicPerspective": [416, 416], "Eval.LetterResize": [416, 416], "Test.LetterResize": [416, 416],
        "input": [3, 416, 416],
    }  # fmt: skip


def test_what_is_said_later_counts(tmp_path: Path) -> None:
    changes = ["image_size=320", "EvalReader.sample_transforms.1.Resize.target_size=[96, 64]"]
    later = sizes(load_config(ROW, changes).data)
    assert (later["Eval.Resize"], later["Test.Resize"]) == ([96, 64], [320, 320])
    base, file = tmp_path / "base.yml", tmp_path / "own.yml"
    base.write_text(f"_BASE_: [{ROW}]\nimage_size: 320\n", encoding="utf-8")
    file.write_text("_BASE_: [base.yml]\nTestReader:\n  inputs_def: {image_shape: [3, 64, 96]}\n", encoding="utf-8")
    assert sizes(load_config(file).data)["input"] == [3, 64, 96]
    assert sizes(load_config(file, ["image_size=192"]).data)["input"] == [3, 128, 192]


def test_a_resolved_configuration_loads_to_the_same_data(tmp_path: Path) -> None:
    changes = [
        "TrainDataset.dataset_dir=before", "dataset_dir=mine", "EvalDataset.dataset_dir=other", "image_size=320",
        "EvalReader.sample_transforms.1.Resize.target_size=[96, 64]", "num_classes=3",
    ]  # fmt: skip
    config = load_config(CONFIGS / "finetune.yml", changes)
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    again = load_config(tmp_path / "config.yaml").data
    assert again == config.data and sizes(again)["Eval.Resize"] == [96, 64]
    folders = [again[f"{part}Dataset"]["dataset_dir"] for part in ("Train", "Eval", "Test")]
    assert folders == ["mine", "other", "mine"]
    # Files of runs before stated both keys.
    assert changed_keys({**again, "dataset_dir": "mine", "image_size": 320}, again, WITHOUT_EFFECT) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["image_size=330"], r"image_size: must be a multiple of 32 from 96 on .*320, got 330"),
        (["image_size=.nan"], "image_size: must be a multiple of 32 .*got nan"),
        (["image_size=.inf"], "image_size: must be a multiple of 32 .*got inf"),
        (["TestReader.inputs_def=[3, 320]", "image_size=320"], r"TestReader.inputs_def: must be a mapping .*\[3, 320"),
        (["dataset_dir=null"], "dataset_dir: must be the path of a folder, got None"),
        (["num_classes=auto", "TrainDataset.dataset_dir=[a]"], r"num_classes: auto counts the classes of \[a\]/"),
    ],
)
def test_values_that_short_keys_do_not_take(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(ROW, changes)


def test_the_configuration_of_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CONFIGS / "finetune.yml"
    with pytest.raises(UserError) as caught:
        load_config(file, ["dataset_dir=dataset/none"])
    message = str(caught.value)
    assert "num_classes: auto counts the classes of dataset/none/annotations/train.json: no such file" in message
    assert "python tools/prepare_data.py import FOLDER --output dataset/none" in message
    assert "\n" not in message
    data = write_data(tmp_path)
    (data / "annotations").mkdir()
    for part in ("train", "val"):
        (data / f"{part}.json").rename(data / "annotations" / f"{part}.json")
    monkeypatch.chdir(tmp_path)
    config = load_config(file, [f"dataset_dir={data}", "epoch=2", "image_size=96"])
    assert (config.num_classes, config.epochs) == (2, 2)
    assert sizes(config.data)["input"] == [3, 96, 96]
    check_annotations(config)
    assert build_model(config).yolo_head.num_classes == 2
    assert load_config(file, ["dataset_dir=dataset/none", "num_classes=3"]).num_classes == 3


def test_another_size_than_that_of_the_training_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(ROW, ["image_size=320"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    caplog.clear()
    config.as_trained(tmp_path / "model.pdparams")
    assert not caplog.text
    load_config(ROW).as_trained(tmp_path / "model.pdparams")
    assert "inputs of 640 pixels, but" in caplog.text and "trained for 320: -o image_size=320" in caplog.text
