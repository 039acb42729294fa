"""What an int8 detector is calibrated and judged on, and the command line that makes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detection.configuration import DetectionConfig, load_config
from detection.quantization import calibration_images, evaluation_of, image_files
from ppcls_ext.runtime.predictor import DetectionPrediction
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, needs
from tests.support.detector_runs import make_frames
from tests.support.detectors import make_lively, tiny_config
from tests.support.frames import HEIGHT, NAMES, WIDTH, Frames
from tests.support.runs import run_tool


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    return make_frames(tmp_path / "data", empty=False)


@pytest.fixture
def config(tmp_path: Path, frames: Frames) -> DetectionConfig:
    files = {"name": "COCODataSet", "dataset_dir": str(frames.root), "image_dir": "images"}
    parts = {
        f"{part}Dataset": {**files, "anno_path": f"annotations/{name}.json"}
        for part, name in (("Train", "train"), ("Eval", "val"))
    }
    return load_config(tiny_config(tmp_path, **parts))


def test_calibration_images_are_spread_over_the_data_set(config: DetectionConfig) -> None:
    names = [Path(name).name for name, image in calibration_images(config, "train", 4)]
    assert names == ["train_00.png", "train_05.png", "train_11.png", "train_17.png"]
    assert len(list(calibration_images(config, "train", 1000))) == 18
    assert {Path(name).name[:3] for name, _ in calibration_images(config, "eval", 3)} == {"val"}


class Known:
    """A predictor of three classes that answers by a function.

    Args:
        predict: images -> predictions.
    """

    classes = None
    class_num = len(NAMES)

    def __init__(self, predict: Any) -> None:
        self.predict = predict

    def __call__(self, images: list[Path]) -> list[DetectionPrediction]:
        return self.predict(images)


def found_as(frames: Frames, shift: float) -> Any:
    """A predictor that knows the truth and moves every box by ``shift`` pixels to the right."""
    boxes = {image["file_name"]: [] for image in frames.val["images"]}
    names = {image["id"]: image["file_name"] for image in frames.val["images"]}
    for one in frames.val["annotations"]:
        boxes[names[one["image_id"]]].append(one)

    def predict(images: list[Path]) -> list[DetectionPrediction]:
        results = []
        for image in images:
            truth = boxes[image.name]
            corners = np.array([one["bbox"] for one in truth], float)
            corners[:, 2:] += corners[:, :2]
            corners[:, [0, 2]] += shift
            labels = np.array([one["category_id"] - 1 for one in truth])
            scores = np.full(len(truth), 0.9, np.float32)
            results.append(DetectionPrediction(str(image), corners.astype(np.float32), scores, labels, HEIGHT, WIDTH))
        return results

    return Known(predict)


def test_evaluation_gives_the_ap_of_what_is_found(config: DetectionConfig, frames: Frames) -> None:
    evaluation = evaluation_of(config)
    assert (evaluation.metric, evaluation.data, evaluation.images) == ("AP", "EvalDataset", 6)
    assert evaluation.score(found_as(frames, 0.0)) == pytest.approx(1.0)
    moved = evaluation.score(found_as(frames, 4.0))
    assert 0.0 < moved < 1.0, "boxes of about 30 px that are 4 px off reach some overlaps, not all"
    assert evaluation.score(found_as(frames, 60.0)) == pytest.approx(0.0)


def test_what_annotations_lack_is_told(config: DetectionConfig, tmp_path: Path) -> None:
    files, annotations = config.datasets["Eval"], config.datasets["Eval"].annotations
    annotations.write_text(json.dumps({"images": []}))
    with pytest.raises(UserError, match="val.json: lists no image"):
        image_files(files, annotations)
    annotations.write_text('{"images": [{"id": 1}]}')
    with pytest.raises(UserError, match=r"val.json: cannot be read as COCO annotations \('file_name'\)"):
        evaluation_of(config)
    annotations.unlink()
    with pytest.raises(UserError, match="tiny.yml: int8 needs EvalDataset: .*val.json does not exist"):
        evaluation_of(config)


def test_a_data_set_without_annotations_is_told_before_an_image_is_asked_for(tmp_path: Path) -> None:
    config = load_config(tiny_config(tmp_path, TrainDataset={"name": "COCODataSet", "image_dir": "images"}))
    with pytest.raises(UserError, match="tiny.yml: int8 needs TrainDataset with an annotation file"):
        calibration_images(config, "train", 3)


@NEEDS_ONNX
@NEEDS_OPENVINO
@needs("nncf")
def test_an_export_of_a_detector_gets_int8_by_the_command_line(config: DetectionConfig, tmp_path: Path) -> None:
    import paddle

    from detection.export import export_detector
    from detection.toolkit import build_model
    from ppcls_ext.runtime import load

    paddle.seed(0)
    model = build_model(config, pretrained=False)
    make_lively(model)
    export_detector(
        model, tmp_path / "export", model_name="tiny", class_num=len(NAMES), classes=NAMES,
        preprocess=config.data["TestReader"]["sample_transforms"], formats=["openvino"],
        images={"grey": np.full([40, 50, 3], 90, np.uint8)},
    )  # fmt: skip
    done = run_tool(
        "quantize_model.py", "--model", tmp_path / "export", "-c", config.path, "--count", "5", "--max-drop", "100",
        "--output", tmp_path / "smaller", "--threads", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "int8, calibrated on 5 images" in done.stdout and "AP, %" in done.stdout
    entries = yaml.safe_load((tmp_path / "smaller" / "inference.yml").read_text(encoding="utf-8"))["artefacts"]
    assert [entry["precision"] for entry in entries] == ["fp32", "int8"]
    measured = entries[1]["verification"]
    assert (measured["metric"], measured["images"], measured["max_drop_points"]) == ("AP", 6, 100)
    for name, digest in entries[1]["sha256"].items():
        assert sha256_of(tmp_path / "smaller" / name) == digest
    assert measured["bytes"]["int8"] < 0.6 * measured["bytes"]["fp32"]
    pictures = [image for _, image in calibration_images(config, "eval", 3)]
    exact, rounded = (load(tmp_path / "smaller", precision=name, threads=1)(pictures) for name in ("fp32", "int8"))
    for one, other in zip(rounded, exact, strict=True):
        # The weights are random, and yet the best box is found at about the same place.
        assert np.abs(np.sort(one.scores)[-1] - np.sort(other.scores)[-1]) < 0.2
    assert any(len(one.scores) != len(other.scores) or np.abs(np.subtract(one.scores, other.scores)).max() > 1e-4
               for one, other in zip(rounded, exact, strict=True)), "the float32 network was opened"  # fmt: skip
