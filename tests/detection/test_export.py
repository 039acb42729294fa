"""An exported detector finds what the model finds, in every format; a wrong one is refused.

PP-YOLOE with NMS inside and outside the graph, and YOLOv10, which needs none.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import detection.exporting as exporter
from detection.exporting import Deployed, export_detector, nms_settings
from ppcls_ext.deploy.formats import PRECISIONS
from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime import DetectionDescription, load, read_description
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import NmsSettings, TopkSettings
from ppcls_ext.utils.errors import UserError
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO
from tests.support.detectors import (
    CLASSES,
    LETTERBOX,
    SIZE,
    draw_frames,
    make_lively,
    make_yolov10_lively,
    tiny_config,
    yolov10_config,
)

SETTINGS = {"model_name": "tiny", "class_num": len(CLASSES), "classes": CLASSES}
MISSING = NEEDS_ONNX.args[0] or NEEDS_OPENVINO.args[0]
ALL = {} if MISSING else {"formats": ["paddle", "onnx", "openvino"]}
ENGINES = ["onnxruntime", "openvino"]
# 84 anchors of SIZE, fewer than are kept.
ANCHORS = (SIZE // 8) ** 2 + (SIZE // 16) ** 2 + (SIZE // 32) ** 2
LARGER = (96, 160)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Frames wider, as wide and narrower than high, larger and smaller than the input, tiny, and a black one."""
    folder = tmp_path_factory.mktemp("frames")
    files = draw_frames(folder, [(100, 80), (64, 64), (200, 121), (61, 130), (9, 5)])
    Image.new("RGB", (90, 70)).save(folder / "black.png")
    return [*files, folder / "black.png"]


@pytest.fixture(scope="module")
def images(frames: list[Path]) -> dict[str, np.ndarray]:
    return {file.name: read_image(file) for file in frames}


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    content = yaml.safe_load(tiny_config(tmp_path_factory.mktemp("config")).read_text())
    return content["TestReader"]["sample_transforms"]


@pytest.fixture(scope="module")
def ppyoloe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny PP-YOLOE that finds something, in training mode but for its backbone."""
    import paddle

    from detection.configuration import load_config
    from detection.toolkit import build_model

    paddle.seed(0)
    network = build_model(load_config(tiny_config(tmp_path_factory.mktemp("ppyoloe"))))
    make_lively(network)
    network.train()
    network.backbone.eval()
    return network


@pytest.fixture(scope="module")
def yolov10(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A YOLOv10-N in training mode that finds something."""
    from detection.configuration import load_config
    from detection.toolkit import build_model

    network = build_model(load_config(yolov10_config(tmp_path_factory.mktemp("yolov10"))))
    make_yolov10_lively(network)
    network.train()
    return network


@pytest.fixture(scope="module")
def exports(
    ppyoloe: Any, yolov10: Any, operators: Any, images: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Both detectors with detections and raw outputs, PP-YOLOE in all formats; a YOLOv10 with many anchors."""
    root = tmp_path_factory.mktemp("exports")
    for name, model, preprocess, formats in (("ppyoloe", ppyoloe, operators, ALL), ("yolov10", yolov10, LETTERBOX, {})):
        for kind in ("final", "raw"):
            options = {"preprocess": preprocess, "images": images, "nms": kind == "final", **formats}
            export_detector(model, root / f"{name} {kind}", **options, **SETTINGS)
    letterbox = {"LetterResize": {"target_size": list(LARGER)}}
    larger = [letterbox if "LetterResize" in entry else entry for entry in LETTERBOX]
    export_detector(yolov10, root / "yolov10 larger", preprocess=larger, images=images, **SETTINGS)
    return {folder.name: folder for folder in root.iterdir()}


def test_the_model_is_left_as_it_was(exports: dict[str, Path], ppyoloe: Any, yolov10: Any) -> None:
    assert ppyoloe.training
    assert not ppyoloe.backbone.training
    assert any(hasattr(layer, "conv1") for layer in ppyoloe.sublayers())
    assert not ppyoloe.yolo_head.exclude_nms
    assert yolov10.training
    assert yolov10.yolo_head.one_to_many is not None
    assert any(type(layer).__name__.startswith("BatchNorm") for layer in yolov10.sublayers())


def test_description_of_a_detector_with_nms(exports: dict[str, Path], frames: list[Path]) -> None:
    description = read_description(exports["ppyoloe final"])
    assert isinstance(description, DetectionDescription)
    assert description.input_shape == [-1, 3, 64, 64]
    nms = NmsSettings(score_threshold=0.05, nms_top_k=100, keep_top_k=50, nms_threshold=0.6)
    assert description.form == OutputForm(nms, final=True, scaled=True)
    assert description.artefacts[0].verification["images"] == [file.name for file in frames]
    for figures in description.artefacts[0].verification["engines"].values():
        assert figures["compared"] > 100
        assert (figures["box_error_px"] < 0.1, figures["score_error"] < 1e-3) == (True, True)
    document = yaml.safe_load((exports["ppyoloe final"] / "inference.yml").read_text())
    assert (document["task"], document["postprocess"]["in_graph"]) == ("detection", True)
    assert [output["name"] for output in document["output"]] == ["boxes", "count"]
    assert document["input"]["scale_factor"]["shape"] == [-1, 2]
    assert not read_description(exports["ppyoloe raw"]).form.final


def test_description_of_a_detector_without_nms(exports: dict[str, Path]) -> None:
    description = read_description(exports["yolov10 final"])
    assert description.form == OutputForm(TopkSettings(300), final=True, scaled=False)
    assert description.form.suppression == "none needed"
    document = description.to_document()
    assert document["postprocess"] == {"name": "TopK", "in_graph": True, "keep": 300}
    assert "scale_factor" not in document["input"]
    assert [(output["name"], output["pixels_of"]) for output in document["output"]] == [("detections", "input")]
    raw = read_description(exports["yolov10 raw"])
    assert raw.form == OutputForm(TopkSettings(300), final=False, scaled=False)
    assert [output["name"] for output in raw.to_document()["output"]] == ["boxes", "scores"]
    larger = read_description(exports["yolov10 larger"])
    assert larger.input_shape == [-1, 3, *LARGER]


def detect_with_the_toolkit(model: Any, operators: list[Any], file: Path) -> np.ndarray:
    """Detects with ppdet alone: its reader's operators, its model in evaluation mode; the best rows first."""
    import paddle
    from ppdet.data.reader import Compose

    sample = Compose(operators, 3)({"im_file": str(file), "im_id": np.array([1]), "curr_iter": 0})
    wanted = [key for key in ("image", "scale_factor", "pad") if key in sample]
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        with paddle.no_grad():
            found = model({key: paddle.to_tensor(np.asarray(sample[key])[np.newaxis]) for key in wanted})
    finally:
        for layer, training in modes:
            layer.training = training
    rows = found["bbox"].numpy()
    assert found["bbox_num"].numpy().tolist() == [len(rows)]
    return rows[np.argsort(-rows[:, 1], kind="stable")]


def check_same(prediction: Any, expected: np.ndarray) -> None:
    """Compares detections in their order; those with equal scores may have changed places."""
    assert 0 < len(prediction.scores) == len(expected)
    np.testing.assert_allclose(prediction.scores, expected[:, 1], atol=1e-4)
    rows = np.concatenate([prediction.labels[:, None], prediction.boxes], axis=1)
    distances = np.abs(rows[:, None] - expected[None, :, [0, 2, 3, 4, 5]]).max(axis=2)
    assert distances.min(axis=1).max() < 0.01
    assert len(set(distances.argmin(axis=1).tolist())) == len(rows)


@pytest.mark.parametrize(
    ("name", "kind", "onednn"),
    [("ppyoloe", "final", True), ("ppyoloe", "raw", False), ("yolov10", "final", False), ("yolov10", "raw", True)],
)
def test_runtime_finds_what_the_readers_of_the_toolkit_and_the_model_find(
    exports: Any, ppyoloe: Any, yolov10: Any, operators: Any, frames: list[Path], name: str, kind: str, onednn: bool
) -> None:
    model, preprocess = {"ppyoloe": (ppyoloe, operators), "yolov10": (yolov10, LETTERBOX)}[name]
    predictions = load(exports[f"{name} {kind}"], threads=1, onednn=onednn)(frames, batch_size=4)
    for file, prediction in zip(frames, predictions, strict=True):
        check_same(prediction, detect_with_the_toolkit(model, preprocess, file))
    # A network without life would give every picture the same scores, and its proof would prove nothing.
    assert len({round(float(prediction.scores[0]), 4) for prediction in predictions}) > 3


def test_the_batch_is_free_and_few_anchors_are_enough(exports: dict[str, Path]) -> None:
    for kind, (height, width), kept in (("final", (SIZE, SIZE), ANCHORS), ("larger", LARGER, 300)):
        backend = load(exports[f"yolov10 {kind}"], threads=1).backend
        for batch in (1, 3, 2):
            (rows,) = backend.detect(np.ones([batch, 3, height, width], np.float32), np.ones([batch, 2], np.float32))
            assert rows.shape == (batch, kept, 6)
            assert (np.diff(rows[:, :, 1]) <= 0).all()


def test_a_model_that_finds_nothing(
    ppyoloe: Any, operators: Any, frames: list[Path], tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(ppyoloe.yolo_head.nms, "score_threshold", 0.999)
    with caplog.at_level("WARNING"):
        export_detector(ppyoloe, tmp_path / "export", preprocess=operators, **SETTINGS)
    assert "the model finds nothing in any of the pictures" in caplog.text
    for prediction in load(tmp_path / "export", threads=1)(frames[:3], batch_size=2):
        assert (prediction.error, len(prediction.scores), prediction.boxes.shape) == (None, 0, (0, 4))


def test_a_corrupted_export_is_refused_and_leaves_the_older_one(
    exports: Any, ppyoloe: Any, operators: Any, images: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def corrupted(model: Any, final: bool, fused: bool) -> Deployed:
        """Changes one weight of thousands in what is exported."""
        deployed = Deployed(model, final, fused)
        if fused:
            weight = deployed.network.yolo_head.pred_cls[2].weight
            changed = weight.numpy()
            changed[0] = 3 + 1.2 * changed[0]
            weight.set_value(changed)
        return deployed

    monkeypatch.setattr(exporter, "Deployed", corrupted)
    shutil.copytree(exports["ppyoloe final"], tmp_path / "export")
    before = {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    with pytest.raises(UserError, match="does not compute what the model computes: Paddle Inference, oneDNN on"):
        export_detector(ppyoloe, tmp_path / "export", preprocess=operators, images=images, **SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["export"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before


def test_nms_of_the_toolkit_is_translated(ppyoloe: Any) -> None:
    from ppdet.modeling.layers import MultiClassNMS

    network = Deployed(ppyoloe, final=True, fused=False).network
    network.yolo_head.nms = MultiClassNMS(score_threshold=0.2, nms_top_k=9, keep_top_k=8, nms_threshold=0.4)
    assert nms_settings(network) == NmsSettings(score_threshold=0.2, nms_top_k=9, keep_top_k=8, nms_threshold=0.4)
    network.yolo_head.nms = object()
    with pytest.raises(UserError, match=r"PPYOLOEHead\.nms: object cannot be exported; use MultiClassNMS3"):
        nms_settings(network)


def test_inputs_of_several_sizes_or_of_an_odd_one_are_refused(ppyoloe: Any, tmp_path: Path) -> None:
    for operator, message in (
        ({"Resize": {"target_size": 64, "keep_ratio": True, "interp": 1}}, "inputs of several sizes.* LetterResize"),
        ({"LetterResize": {"target_size": [100, 100]}}, "multiples of 32 pixels, got 100 x 100"),
    ):
        with pytest.raises(UserError, match=message):
            export_detector(ppyoloe, tmp_path / "new", preprocess=[LETTERBOX[0], operator, *LETTERBOX[2:]], **SETTINGS)
    assert not list(tmp_path.iterdir())


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_every_engine_finds_what_paddle_finds(exports: dict[str, Path], frames: list[Path]) -> None:
    expected = load(exports["ppyoloe final"], "paddle", threads=1)(frames)
    for kind in ("final", "raw"):
        for engine in ENGINES:
            found = load(exports[f"ppyoloe {kind}"], engine, threads=1)(frames, 4)
            for one, other in zip(found, expected, strict=True):
                assert len(one.scores) == len(other.scores) > 5
                np.testing.assert_array_equal(one.labels, other.labels)
                np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
                np.testing.assert_allclose(one.boxes, other.boxes, atol=0.02)


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_what_was_measured_stands_in_the_description(
    exports: dict[str, Path], ppyoloe: Any, operators: Any, images: Any, tmp_path: Path
) -> None:
    folders = {"fp32": exports["ppyoloe raw"], "fp16": tmp_path / "half", "bf16": tmp_path / "bfloat"}
    for precision, folder in folders.items():
        if precision != "fp32":
            options = {"formats": ["openvino"], "precisions": [precision]}
            export_detector(ppyoloe, folder, preprocess=operators, images=images, **SETTINGS, **options)
        limits = PRECISIONS[precision]
        for artefact in read_description(folder).artefacts:
            assert artefact.precision == precision
            assert artefact.verification["images"] == list(images)
            assert artefact.verification["tolerance"] == {"box_px": limits.box_px, "score": limits.score}
            for figures in artefact.verification["engines"].values():
                assert figures["compared"] > 50
                assert figures["score_error"] <= limits.score


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.slow
def test_yolov10_in_every_format(yolov10: Any, images: Any, tmp_path: Path) -> None:
    for name, options in {"final": ALL, "raw": {"formats": ["onnx", "openvino"], "nms": False}}.items():
        export_detector(yolov10, tmp_path / name, preprocess=LETTERBOX, images=images, **SETTINGS, **options)
    pictures = list(images.values())
    expected = load(tmp_path / "final", "paddle", threads=1)(pictures)
    assert len(expected[0].scores) == ANCHORS
    for kind in ("final", "raw"):
        for engine in ENGINES:
            for one, other in zip(load(tmp_path / kind, engine, threads=1)(pictures, 2), expected, strict=True):
                np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
                # Of equal scores either may come first.
                sure = np.flatnonzero(np.abs(np.diff(other.scores, prepend=2)) > 1e-3)
                sure = sure[np.isin(sure + 1, sure)]
                np.testing.assert_allclose(one.boxes[sure], other.boxes[sure], atol=0.05)


@NEEDS_ONNX
def test_nms_that_onnx_has_not_is_refused_before_any_work(
    ppyoloe: Any, operators: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(ppyoloe.yolo_head.nms, "nms_eta", 0.9)
    monkeypatch.setattr(ppyoloe.yolo_head.nms, "background_label", 0)
    message = r"PPYOLOEHead.nms: nms_eta: 0.9, background_label: 0: ONNX and OpenVINO have no such .* --raw"
    with pytest.raises(UserError, match=message):
        export_detector(ppyoloe, tmp_path / "export", preprocess=operators, formats=["onnx"], **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_boxes_that_few_bits_move_are_refused_with_the_pairs_that_remain(
    ppyoloe: Any, operators: Any, images: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    strict = PRECISIONS["bf16"]._replace(box_px=0.0, score=0.0)
    monkeypatch.setitem(PRECISIONS, "bf16", strict)
    message = (
        r"Paddle Inference, oneDNN, bf16, .*nothing was written: bf16 of format 'paddle' does not suit this model; "
        r"other pairs are paddle: fp32; onnx: fp32, fp16, int8; openvino: fp32, fp16, bf16, int8$"
    )
    with pytest.raises(UserError, match=message) as caught:
        export_detector(
            ppyoloe, tmp_path / "export", preprocess=operators, images=images, precisions=["bf16"], nms=False,
            **SETTINGS,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
