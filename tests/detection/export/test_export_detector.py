"""An exported detector finds what the model finds, whichever way it was exported; a wrong one is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import detection.export as exporter
from detection.export import Deployed, EagerBackend, export_detector, nms_settings, with_size
from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime import DetectionDescription, load, read_description
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import NmsSettings
from ppcls_ext.utils.errors import UserError
from tests.support.detectors import CLASSES

SETTINGS = {"model_name": "tiny", "class_num": 3, "classes": CLASSES}


def operators_of(config: Any) -> list[Any]:
    return config.data["TestReader"]["sample_transforms"]


@pytest.fixture(scope="module")
def exports(config: Any, model: Any, frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports with suppression inside and with raw outputs, of a model in training mode."""
    root = tmp_path_factory.mktemp("exports")
    images = {file.name: read_image(file) for file in frames}
    model.train()
    model.backbone.eval()
    for name, nms in (("final", True), ("raw", False)):
        export_detector(
            model, root / name, preprocess=operators_of(config), nms=nms, images=images, **SETTINGS
        )  # fmt: skip
    return {name: root / name for name in ("final", "raw")}


def test_the_model_is_left_as_it_was(exports: dict[str, Path], model: Any) -> None:
    assert model.training
    assert not model.backbone.training
    assert any(hasattr(layer, "conv1") for layer in model.sublayers())
    assert not model.yolo_head.exclude_nms


def test_description(exports: dict[str, Path], frames: list[Path]) -> None:
    description = read_description(exports["final"])
    assert isinstance(description, DetectionDescription)
    assert description.input_shape == [-1, 3, 64, 64]
    assert description.classes == CLASSES
    nms = NmsSettings(score_threshold=0.05, nms_top_k=100, keep_top_k=50, nms_threshold=0.6)
    assert description.form == OutputForm(nms, final=True, scaled=True)
    assert description.artefacts[0].verification["images"] == [file.name for file in frames]
    for figures in description.artefacts[0].verification["engines"].values():
        assert figures["compared"] > 100
        assert figures["box_error_px"] < 0.1
        assert figures["score_error"] < 1e-3
    document = yaml.safe_load((exports["final"] / "inference.yml").read_text())
    assert document["task"] == "detection"
    assert document["postprocess"]["in_graph"] is True
    assert [output["name"] for output in document["output"]] == ["boxes", "count"]
    assert document["input"]["scale_factor"]["shape"] == [-1, 2]
    assert not read_description(exports["raw"]).form.final


@pytest.mark.parametrize("kind", ["final", "raw"])
@pytest.mark.parametrize("onednn", [True, False])
def test_runtime_finds_what_the_readers_of_the_toolkit_and_the_model_find(
    exports: dict[str, Path], config: Any, model: Any, frames: list[Path], kind: str, onednn: bool
) -> None:
    predictions = load(exports[kind], threads=1, onednn=onednn)(frames, batch_size=2)
    for file, prediction in zip(frames, predictions, strict=True):
        expected = detect_with_the_toolkit(config, model, file)
        assert 0 < len(expected) == len(prediction.scores)
        np.testing.assert_array_equal(prediction.labels, expected[:, 0])
        np.testing.assert_allclose(prediction.scores, expected[:, 1], atol=1e-4)
        np.testing.assert_allclose(prediction.boxes, expected[:, 2:], atol=0.01)


def detect_with_the_toolkit(config: Any, model: Any, file: Path) -> np.ndarray:
    """Detects with ppdet alone: its reader's operators, its model in evaluation mode; the best rows first."""
    import paddle
    from ppdet.data.reader import Compose

    sample = Compose(config.data["EvalReader"]["sample_transforms"], 3)(
        {"im_file": str(file), "im_id": np.array([1]), "curr_iter": 0}
    )
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        with paddle.no_grad():
            inputs = {key: paddle.to_tensor(sample[key][np.newaxis]) for key in ("image", "scale_factor")}
            rows = model(inputs)["bbox"].numpy()
    finally:
        for layer, training in modes:
            layer.training = training
    return rows[np.argsort(-rows[:, 1], kind="stable")]


def test_a_model_that_finds_nothing(
    config: Any, model: Any, frames: list[Path], tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(model.yolo_head.nms, "score_threshold", 0.999)
    with caplog.at_level("WARNING"):
        export_detector(model, tmp_path / "export", preprocess=operators_of(config), **SETTINGS)
    assert "the model finds nothing in any of the pictures" in caplog.text
    for prediction in load(tmp_path / "export", threads=1)(frames, batch_size=2):
        assert (prediction.error, len(prediction.scores), prediction.boxes.shape) == (None, 0, (0, 4))


def test_a_corrupted_export_is_refused_and_leaves_the_older_one(
    exports: dict[str, Path], config: Any, model: Any, frames: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    def corrupted(*arguments: Any, **more: Any) -> Deployed:
        """Changes one weight of thousands in what is exported."""
        deployed = Deployed(*arguments, **more)
        if not more.get("fused", arguments[-1]):
            return deployed
        weight = deployed.network.yolo_head.pred_cls[2].weight
        changed = weight.numpy()
        changed[0] *= 1.2
        weight.set_value(changed)
        return deployed

    monkeypatch.setattr(exporter, "Deployed", corrupted)
    shutil.copytree(exports["final"], tmp_path / "export")
    before = {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    images = {file.name: read_image(file) for file in frames}
    for nms, target in ((True, tmp_path / "export"), (False, tmp_path / "raw")):
        with pytest.raises(UserError, match="does not compute what the model computes: Paddle Inference, oneDNN on"):
            export_detector(model, target, preprocess=operators_of(config), nms=nms, images=images, **SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["export"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before


def test_changed_weights_are_refused_at_loading(exports: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(exports["final"], tmp_path / "export")
    content = bytearray((tmp_path / "export" / "inference.pdiparams").read_bytes())
    content[5000] ^= 255
    (tmp_path / "export" / "inference.pdiparams").write_bytes(content)
    with pytest.raises(UserError, match="refused, its content is not what was exported"):
        load(tmp_path / "export")


def test_suppression_of_the_toolkit_is_translated(model: Any) -> None:
    from ppdet.modeling.layers import MultiClassNMS

    network = Deployed(model, final=True, fused=False).network
    network.yolo_head.nms = MultiClassNMS(score_threshold=0.2, nms_top_k=9, keep_top_k=8, nms_threshold=0.4)
    settings = nms_settings(network)
    assert settings is not None
    assert (settings.score_threshold, settings.nms_top_k, settings.keep_top_k, settings.nms_threshold) == (
        0.2,
        9,
        8,
        0.4,
    )
    boxes, counts = EagerBackend(network).detect(np.ones([2, 3, 64, 64], np.float32), np.ones([2, 2], np.float32))
    assert len(boxes) == counts.sum()
    network.yolo_head.nms = object()
    with pytest.raises(UserError, match=r"PPYOLOEHead\.nms: object cannot be exported; use MultiClassNMS3"):
        nms_settings(network)


def test_size(config: Any) -> None:
    operators, shape = with_size(operators_of(config), None)
    assert (operators, shape) == (operators_of(config), [3, 64, 64])
    operators, shape = with_size(operators_of(config), [96, 128])
    assert shape == [3, 96, 128]
    assert operators[1] == {"Resize": {"target_size": [96, 128], "keep_ratio": False, "interp": 2}}
    assert operators_of(config)[1]["Resize"]["target_size"] == [64, 64]
    with pytest.raises(UserError, match="multiples of 32 pixels, got 100 x 100"):
        with_size(operators_of(config), [100, 100])
    with pytest.raises(UserError, match="Resize is missing"):
        with_size([{"Decode": {}}], None)
    keeps_ratio = {"Resize": {"target_size": 64, "keep_ratio": True}}
    for wrong in ([keeps_ratio], [keeps_ratio, {"Pad": {}}], [{"Resize": {"target_size": 64}}]):
        with pytest.raises(UserError, match="keep_ratio must be false, or a Pad with size follow it"):
            with_size(wrong, None)
    with pytest.raises(UserError, match=r"LetterResize: the size must be \[height, width\], got None"):
        with_size([{"LetterResize": {}}], None)


def test_size_where_the_ratio_is_kept() -> None:
    padded = [{"Resize": {"target_size": 64, "keep_ratio": True, "interp": 1}}, {"Pad": {"size": [64, 64]}}]
    operators, shape = with_size(padded, None)
    assert (operators[0], operators[1]["Pad"]["size"], shape) == (padded[0], [64, 64], [3, 64, 64])
    operators, shape = with_size(padded, [96, 96])
    assert operators[0]["Resize"] == {"target_size": [96, 96], "keep_ratio": True, "interp": 1}
    assert (operators[1]["Pad"]["size"], shape) == ([96, 96], [3, 96, 96])
    # A first Resize to a fixed size keeps it: only what the network takes is changed.
    letterbox = [{"Resize": {"target_size": [50, 70], "keep_ratio": False}}, {"LetterResize": {"target_size": 64}}]
    operators, shape = with_size(letterbox, [96, 128])
    assert operators == [letterbox[0], {"LetterResize": {"target_size": [96, 128]}}]
    assert shape == [3, 96, 128]


def test_a_folder_that_is_no_export_is_not_replaced(config: Any, model: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists and is not an export"):
        export_detector(model, tmp_path, preprocess=operators_of(config), **SETTINGS)
