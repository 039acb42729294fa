"""Detectors in every format and precision: suppression inside for any batch, outside, or not needed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detection.export import EagerBackend, export_detector
from ppcls_ext.deploy import export as shared
from ppcls_ext.deploy import onnx as onnx_suppression
from ppcls_ext.deploy.formats import FORMATS, PRECISIONS
from ppcls_ext.preprocess import read_image
from ppcls_ext.runtime import load, read_description
from ppcls_ext.runtime.nms import NmsSettings, suppress
from ppcls_ext.utils.errors import UserError
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO
from tests.support.detectors import CLASSES, SIZE
from tests.support.yolov10_detectors import LETTERBOX, make_yolov10_lively, yolov10_config

SETTINGS = {"model_name": "tiny", "class_num": 3, "classes": CLASSES}
ALL = {"formats": ["paddle", "onnx", "openvino"]}
ENGINES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def images(frames: list[Path]) -> dict[str, np.ndarray]:
    """Frames by name, and a tiny and a nearly black one."""
    generator = np.random.default_rng(0)
    tiny = generator.integers(0, 255, (7, 12, 3), dtype=np.uint8)
    dark = generator.integers(0, 6, (90, 60, 3), dtype=np.uint8)
    return {file.name: read_image(file) for file in frames} | {"tiny": tiny, "dark": dark}


@pytest.fixture(scope="module")
def exports(config: Any, model: Any, images: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PP-YOLOE with suppression inside and outside in float32, and inside in 16 bits."""
    root = tmp_path_factory.mktemp("formats")
    preprocess = config.data["TestReader"]["sample_transforms"]
    for name, options in {
        "final": ALL,
        "raw": {**ALL, "nms": False},
        "half": {"formats": ["onnx", "openvino"], "precisions": ["fp16"]},
        "bfloat": {"formats": ["openvino"], "precisions": ["bf16"]},
    }.items():
        export_detector(model, root / name, preprocess=preprocess, images=images, **SETTINGS, **options)
    return {name: root / name for name in ("final", "raw", "half", "bfloat")}


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["final", "raw"])
def test_every_engine_finds_what_paddle_finds(exports: Any, frames: list[Path], engine: str, kind: str) -> None:
    expected = load(exports["final"], "paddle", threads=1)(frames)
    for batch_size in (1, 2, 3):
        for one, other in zip(load(exports[kind], engine, threads=1)(frames, batch_size), expected, strict=True):
            assert len(one.scores) == len(other.scores) > 5
            np.testing.assert_array_equal(one.labels, other.labels)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
            np.testing.assert_allclose(one.boxes, other.boxes, atol=0.02)


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_what_was_measured_stands_in_the_description(exports: Any, images: Any) -> None:
    for name, precision in (("final", "fp32"), ("raw", "fp32"), ("half", "fp16"), ("bfloat", "bf16")):
        for artefact in read_description(exports[name]).artefacts:
            limits = PRECISIONS[precision]
            assert artefact.precision == precision
            assert artefact.verification["images"] == list(images)
            assert artefact.verification["tolerance"] == {"box_px": limits.box_px, "score": limits.score}
            for figures in artefact.verification["engines"].values():
                assert figures["compared"] > 50
                assert figures["score_error"] <= limits.score


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_no_detections_at_all(config: Any, model: Any, frames: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(model.yolo_head.nms, "score_threshold", 0.999)
    preprocess = config.data["TestReader"]["sample_transforms"]
    export_detector(model, tmp_path / "export", preprocess=preprocess, formats=["onnx", "openvino"], **SETTINGS)
    for engine in ENGINES:
        for found in load(tmp_path / "export", engine, threads=1)(frames, batch_size=2):
            assert (len(found.scores), found.boxes.shape) == (0, (0, 4))


@NEEDS_ONNX
def test_suppression_that_onnx_has_not_is_refused_before_any_work(
    config: Any, model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(model.yolo_head.nms, "nms_eta", 0.9)
    monkeypatch.setattr(model.yolo_head.nms, "background_label", 0)
    preprocess = config.data["TestReader"]["sample_transforms"]
    message = r"PPYOLOEHead.nms: nms_eta: 0.9, background_label: 0: ONNX and OpenVINO have no such .* --raw"
    with pytest.raises(UserError, match=message):
        export_detector(model, tmp_path / "export", preprocess=preprocess, formats=["onnx"], **SETTINGS)
    assert not list(tmp_path.iterdir())


@NEEDS_ONNX
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_that_drops_other_boxes_leaves_no_file(
    config: Any, model: Any, images: Any, tmp_path: Path, monkeypatch: Any, precision: str
) -> None:
    def lenient(core: Any, settings: NmsSettings) -> Any:
        return onnx_suppression.add_suppression(core, dataclasses.replace(settings, nms_threshold=0.9))

    monkeypatch.setattr(shared, "add_suppression", lenient)
    preprocess = config.data["TestReader"]["sample_transforms"]
    with pytest.raises(UserError, match="does not compute what the model computes: ONNX Runtime.* kept by the export"):
        export_detector(
            model, tmp_path / "export", preprocess=preprocess, images=images, formats=["onnx"],
            precisions=[precision], **SETTINGS,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_boxes_that_few_bits_move_are_refused_with_the_pairs_that_remain(
    config: Any, model: Any, images: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    strict = dataclasses.replace(PRECISIONS["bf16"], box_px=0.0, score=0.0)
    monkeypatch.setitem(PRECISIONS, "bf16", strict)
    preprocess = config.data["TestReader"]["sample_transforms"]
    message = (
        r"Paddle Inference, oneDNN, bf16, .*nothing was written: bf16 of format 'paddle' does not suit this model; "
        r"other pairs are paddle: fp32; onnx: fp32, fp16; openvino: fp32, fp16, bf16, int8$"
    )
    with pytest.raises(UserError, match=message) as caught:
        export_detector(
            model, tmp_path / "export", preprocess=preprocess, images=images, formats=["paddle"],
            precisions=["bf16"], nms=False, **SETTINGS,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def anchors_of(count: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes ``[N, A, 4]`` in clusters and scores ``[N, 3, A]``; the last image has none."""
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 4, (images, count, 2)) * 30 + generator.uniform(0, 8, (images, count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(20, 30, (images, count, 2))], axis=2)
    scores = generator.uniform(size=(images, 3, count))
    scores[-1] = 0
    return boxes.astype(np.float32), scores.astype(np.float32)


@NEEDS_ONNX
@pytest.mark.parametrize(
    "settings",
    [
        NmsSettings(score_threshold=0.3, nms_top_k=20, keep_top_k=15, nms_threshold=0.5),
        NmsSettings(score_threshold=0.05, nms_top_k=-1, keep_top_k=-1, nms_threshold=0.6),
        NmsSettings(score_threshold=0.9, nms_top_k=1000, keep_top_k=300, nms_threshold=0.7),
        NmsSettings(score_threshold=0.9999, nms_top_k=10, keep_top_k=10, nms_threshold=0.5),
    ],
)
def test_suppression_in_the_graph_is_that_of_numpy(settings: NmsSettings) -> None:
    import onnxruntime
    from onnx import TensorProto, helper

    def value(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    names = {"boxes_in": (onnx_suppression.ANCHOR_BOXES, ["n", "a", 4]),
             "scores_in": (onnx_suppression.ANCHOR_SCORES, ["n", 3, "a"])}  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [other]) for name, (other, _) in names.items()],
        "core",
        [value(name, shape) for name, (_, shape) in names.items()],
        [value(other, shape) for other, shape in names.values()],
    )
    core = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    completed = onnx_suppression.add_suppression(core, settings)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        completed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for images, count in ((3, 60), (1, 5), (2, 400), (4, 60)):
        boxes, scores = anchors_of(count, images, seed=count)
        rows, counts = session.run(None, {"boxes_in": boxes, "scores_in": scores})
        expected = [suppress(*pair, settings) for pair in zip(boxes, scores, strict=True)]
        assert counts.tolist() == [len(one) for one in expected]
        assert counts[-1] == 0
        for own, wanted in zip(np.split(rows, np.cumsum(counts)[:-1]), expected, strict=True):
            np.testing.assert_array_equal(own, wanted[np.argsort(-wanted[:, 1], kind="stable")])


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_yolov10_in_every_format(images: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    from detection.configuration import load_config
    from detection.toolkit import build_model

    root = tmp_path_factory.mktemp("yolov10")
    network = build_model(load_config(yolov10_config(root)))
    make_yolov10_lively(network)
    for name, options in {"final": ALL, "raw": {"formats": ["onnx", "openvino"], "nms": False}}.items():
        export_detector(network, root / name, preprocess=LETTERBOX, images=images, **SETTINGS, **options)
    pictures = list(images.values())
    expected = load(root / "final", "paddle", threads=1)(pictures)
    # 84 anchors, fewer than the 300 boxes that would be kept.
    assert len(expected[0].scores) == (SIZE // 8) ** 2 + (SIZE // 16) ** 2 + (SIZE // 32) ** 2
    for kind in ("final", "raw"):
        document = yaml.safe_load((root / kind / "inference.yml").read_text())
        assert [output["name"] for output in document["output"]] == (
            ["detections"] if kind == "final" else ["boxes", "scores"]
        )
        for engine in ENGINES:
            for one, other in zip(load(root / kind, engine, threads=1)(pictures, 2), expected, strict=True):
                np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
                # Of equal scores either may come first.
                sure = np.flatnonzero(np.abs(np.diff(other.scores, prepend=2)) > 1e-3)
                sure = sure[np.isin(sure + 1, sure)]
                np.testing.assert_allclose(one.boxes[sure], other.boxes[sure], atol=0.05)
    assert EagerBackend(network).computed_in == "float32"


def test_every_precision_has_limits_for_boxes() -> None:
    for row in FORMATS.values():
        for precision in row.precisions:
            limits = PRECISIONS[precision].of_image((0.25, 0.5))
            assert limits.box_px == 4 * PRECISIONS[precision].box_px
            assert PRECISIONS[precision].of_image((2.0, 3.0)).box_px == PRECISIONS[precision].box_px
