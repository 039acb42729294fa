"""Pruned detectors are detectors like any other; int8 ones are calibrated and judged on the configured data."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from detection import trained
from detection.compression import PrunableDetector, calibration_images, evaluation_of, prune_detector
from detection.configuration import DetectionConfig, load_config
from detection.toolkit import build_model
from detection.trained import load_trained
from ppcls_ext.deploy import prune
from ppcls_ext.deploy.prune import BEFORE, FINE_TUNED, PRUNED, PruningRequest
from ppcls_ext.deploy.quantize import interleaved_latency
from ppcls_ext.engine.environment import Environment
from ppcls_ext.runtime.predictor import DetectionPrediction
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, needs
from tests.support.detectors import make_frames, make_lively, run_config, tiny_config
from tests.support.frames import HEIGHT, NAMES, Frames
from tests.support.frames import WIDTH as FRAME_WIDTH
from tests.support.runs import run_tool

WIDTH = 16
DEPTHS = (2, 2, 4, 2)
ALONE = Environment("cpu", 0, 1, 4)


class Case(NamedTuple):
    """What one pruning took and left."""

    config: DetectionConfig
    folder: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A narrow detector, pruned by half and fine-tuned for one short epoch."""
    folder = tmp_path_factory.mktemp("pruning")
    frames = make_frames(folder / "data")
    file = run_config(
        folder, frames, EConvNeXt__depth_multiplier=0.34, weights=str(folder / "trained.pdparams"),
        EConvNeXt__expansion_channels=[[WIDTH] * depth for depth in DEPTHS],
        EConvNeXt__pretrained=str(folder / "classifier_that_is_gone.pdparams"),
    )  # fmt: skip
    config = load_config(file)
    model = build_model(config, pretrained=False)
    make_lively(model)
    write_weights(folder / "trained.pdparams", model.state_dict())
    request = PruningRequest(folder / "pruned", (0.5,), batches=2, epochs=1, fine_tune=True, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        # That latencies are measured is tested here, not how exactly; nor are exports, which many images prove equal.
        patch.setattr(trained, "example_images", lambda: {"grey": np.full([40, 50, 3], 90, np.uint8)})
        patch.setattr(trained, "COMPARED_IMAGES", 1)
        patch.setattr(prune, "interleaved_latency", functools.partial(interleaved_latency, rounds=1, runs=3))
        report = prune_detector(config, request, ALONE)
    return Case(config, request.output, report)


def test_report_tells_the_figures_of_all_three(case: Case) -> None:
    assert json.loads((case.folder / "report.json").read_text()) == case.report
    before, pruned, tuned = (case.report["figures"][name] for name in (BEFORE, PRUNED, FINE_TUNED))
    for row in (before, pruned, tuned):
        assert {"AP", "AP50", "parameters", "flops", "median_ms", "p90_ms"} <= set(row)
    for key in ("parameters", "flops"):
        assert pruned[key] == tuned[key] < before[key]
    assert [len(stage) for stage in case.report["expansion_channels"]] == list(DEPTHS)
    widths = sum(case.report["expansion_channels"], [])
    assert set(widths) == {8, WIDTH}, "one ratio for the whole network ranks all of its blocks together"
    assert case.report["removed"] == pytest.approx(1 - sum(widths) / (WIDTH * sum(DEPTHS)))


def test_configuration_and_weights_rebuild_the_pruned_detector_and_fine_tune_it_as_asked(case: Case) -> None:
    config = load_config(case.folder / "run_pruned.yml")
    data = config.data
    assert data["EConvNeXt"]["expansion_channels"] == case.report["expansion_channels"]
    detector = load_trained(config)
    assert detector.class_names == ["cube", "ball", "tyre"]
    accuracy = PrunableDetector(detector, ALONE).accuracy()
    assert accuracy == pytest.approx({name: case.report["figures"][PRUNED][name] for name in accuracy}, abs=1e-6)
    assert (data["epoch"], data["LearningRate"]["schedulers"][0]["max_epochs"]) == (1, 1)
    assert data["LearningRate"]["base_lr"] == pytest.approx(1e-4)
    assert case.config.data["LearningRate"]["base_lr"] == 1e-3, "the configuration that was pruned is changed"
    best = next((case.folder / "fine_tuning").rglob("checkpoints/best"))
    assert (best / "model.pdparams").is_file()


def test_a_rate_that_is_left_to_paddledetection_is_lowered_too(case: Case) -> None:
    config = load_config(case.config.path)
    del config.data["LearningRate"]["base_lr"]
    detector = PrunableDetector(trained.TrainedDetector(config, None, None), ALONE)
    data = detector.tuning_data(PruningRequest(case.folder, (0.5,)))
    assert data["LearningRate"]["base_lr"] == pytest.approx(0.001)


def test_what_cannot_be_pruned_is_refused(tmp_path: Path) -> None:
    make_frames(tmp_path / "data")
    config = load_config(tiny_config(tmp_path, weights=str(tmp_path / "trained.pdparams")))
    write_weights(tmp_path / "trained.pdparams", build_model(config, pretrained=False).state_dict())
    with pytest.raises(UserError, match="has no block that can be pruned"):
        prune_detector(config, PruningRequest(tmp_path / "new", (0.3,)), ALONE)
    config.data.pop("TrainDataset")
    with pytest.raises(UserError, match="tiny.yml: pruning needs the section TrainDataset"):
        prune_detector(config, PruningRequest(tmp_path / "new", (0.3,)), ALONE)
    assert not (tmp_path / "new").exists()


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
    names = [Path(name).name for name, image in calibration_images(config, 4)]
    assert names == ["train_00.png", "train_05.png", "train_11.png", "train_17.png"]
    assert len(list(calibration_images(config, 1000))) == 18


def found_as(frames: Frames, shift: float) -> Any:
    """A predictor that knows the truth and moves every box by ``shift`` pixels to the right."""
    names = {image["id"]: image["file_name"] for image in frames.val["images"]}

    class Known:
        classes, class_num = None, len(NAMES)

        def __call__(self, images: list[Path]) -> list[DetectionPrediction]:
            results = []
            for image in images:
                truth = [one for one in frames.val["annotations"] if names[one["image_id"]] == image.name]
                corners = np.array([one["bbox"] for one in truth], np.float32)
                corners[:, 2:] += corners[:, :2]
                corners[:, [0, 2]] += shift
                labels = np.array([one["category_id"] - 1 for one in truth])
                scores = np.full(len(truth), 0.9, np.float32)
                results.append(DetectionPrediction(str(image), corners, scores, labels, HEIGHT, FRAME_WIDTH))
            return results

    return Known()


def test_evaluation_gives_the_ap_of_what_is_found(config: DetectionConfig, frames: Frames) -> None:
    evaluation = evaluation_of(config)
    assert (evaluation.metric, evaluation.data, evaluation.images) == ("AP", "EvalDataset", 6)
    assert evaluation.score(found_as(frames, 0.0)) == pytest.approx(1.0)
    # Boxes of about 30 px that are 4 px off reach some overlaps, not all.
    assert 0.0 < evaluation.score(found_as(frames, 4.0)) < 1.0


@NEEDS_ONNX
@NEEDS_OPENVINO
@needs("nncf")
def test_an_export_of_a_detector_gets_int8_by_the_command_line(config: DetectionConfig, tmp_path: Path) -> None:
    import paddle

    from detection.exporting import export_detector

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
    assert "int8 of format openvino, calibrated on 5 images" in done.stdout and "AP, %" in done.stdout
    entries = yaml.safe_load((tmp_path / "smaller" / "inference.yml").read_text(encoding="utf-8"))["artefacts"]
    assert [entry["precision"] for entry in entries] == ["fp32", "int8"]
    measured = entries[1]["verification"]
    assert (measured["metric"], measured["images"], measured["max_drop_points"]) == ("AP", 6, 100)
    assert measured["bytes"]["int8"] < 0.6 * measured["bytes"]["fp32"]
