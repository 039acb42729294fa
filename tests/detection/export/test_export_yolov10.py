"""YOLOv10 leaves training without suppression: its graph, its boxes through a letterbox, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detection.export as exporter
from detection.export import Deployed, EagerBackend, export_detector, form_of
from ppcls_ext.preprocess import read_image
from ppcls_ext.preprocess.detection import build_detection_pipeline
from ppcls_ext.runtime import DetectionPredictor, load, read_description
from ppcls_ext.runtime.description import OutputForm
from ppcls_ext.runtime.nms import TopkSettings
from ppcls_ext.utils.errors import UserError
from tests.support.detectors import CLASSES, SIZE, draw_frames
from tests.support.yolov10_detectors import LETTERBOX, PLAIN, make_yolov10_lively, yolov10_config

SETTINGS = {"model_name": "tiny", "class_num": len(CLASSES), "classes": CLASSES, "preprocess": LETTERBOX}
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
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A YOLOv10-N in training mode that finds something."""
    from detection.configuration import load_config
    from detection.toolkit import build_model

    network = build_model(load_config(yolov10_config(tmp_path_factory.mktemp("config"))))
    make_yolov10_lively(network)
    network.train()
    return network


@pytest.fixture(scope="module")
def exports(model: Any, frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports with detections, with raw outputs, and of a size with more anchors than are kept."""
    root = tmp_path_factory.mktemp("exports")
    images = {file.name: read_image(file) for file in frames}
    for name, options in (("final", {}), ("raw", {"nms": False}), ("larger", {"size": LARGER})):
        export_detector(model, root / name, images=images, **SETTINGS, **options)
    return {name: root / name for name in ("final", "raw", "larger")}


def test_the_model_is_left_as_it_was(exports: dict[str, Path], model: Any) -> None:
    assert model.training
    assert model.yolo_head.one_to_many is not None
    assert any(type(layer).__name__.startswith("BatchNorm") for layer in model.sublayers())


@pytest.mark.parametrize(
    "backbone", [{"EConvNeXt": {"arch": "mini", "drop_path_rate": 0.0}}, {"ConvNeXt": {"arch": "tiny"}}], ids=list
)
def test_other_backbones_leave_as_well(backbone: dict[str, Any], frames: list[Path], tmp_path: Path) -> None:
    from detection.configuration import load_config
    from detection.toolkit import build_model

    (name,) = backbone
    neck = {"depth_mult": 0.33, "cib": ["N5"], "large_kernel": ["N5"]}
    file = yolov10_config(tmp_path, scale=None, YOLOv10={"backbone": name}, YOLOv10Neck=neck, **backbone)
    network = build_model(load_config(file))
    make_yolov10_lively(network, class_spread=0.3)
    images = {file.name: read_image(file) for file in frames}
    description = export_detector(network, tmp_path / "export", images=images, **SETTINGS)
    (artefact,) = description.artefacts
    assert all(figures["compared"] > 0 for figures in artefact.verification["engines"].values())
    found = load(tmp_path / "export")(frames)
    # A network without life would give every picture the same scores, and its proof would prove nothing.
    assert len({round(float(prediction.scores[0]), 4) for prediction in found}) > 3


def test_description(exports: dict[str, Path]) -> None:
    description = read_description(exports["final"])
    assert description.form == OutputForm(TopkSettings(300), final=True, scaled=False)
    assert description.form.suppression == "not needed"
    document = description.to_document()
    assert document["postprocess"] == {"name": "TopK", "in_graph": True, "keep": 300}
    assert "scale_factor" not in document["input"]
    assert [(output["name"], output["pixels_of"]) for output in document["output"]] == [("detections", "input")]
    assert {"LetterResize": {"target_size": [SIZE, SIZE]}} in document["preprocess"]
    raw = read_description(exports["raw"])
    assert raw.form == OutputForm(TopkSettings(300), final=False, scaled=False)
    assert [output["name"] for output in raw.to_document()["output"]] == ["boxes", "scores"]
    larger = read_description(exports["larger"])
    assert larger.input_shape == [-1, 3, *LARGER]
    assert larger.preprocess[1] == {"LetterResize": {"target_size": list(LARGER)}}


def operators_in(value: Any) -> Iterator[str]:
    """Gives the names of the operators in a program of Paddle 3."""
    if isinstance(value, dict):
        if "#" in value and "I" in value:
            yield value["#"]
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from operators_in(part)


@pytest.mark.parametrize("kind", ["final", "raw", "larger"])
def test_the_graph_is_plain(exports: dict[str, Path], kind: str) -> None:
    names = list(operators_in(json.loads((exports[kind] / "inference.json").read_text())))
    # 0 and 1 are Paddle's own operators; one of a plug-in has another number.
    assert {name.split(".")[0] for name in names} == {"0", "1"}
    assert not [name for name in names if "nms" in name or "batch_norm" in name]
    assert names.count("1.data") == 1
    # Half of it is the branch that only training needs.
    assert names.count("1.topk") == (0 if kind == "raw" else 2)


def test_the_batch_is_free_and_few_anchors_are_enough(exports: dict[str, Path]) -> None:
    for kind, (height, width), kept in (("final", (SIZE, SIZE), ANCHORS), ("larger", LARGER, 300)):
        backend = load(exports[kind], threads=1).backend
        for batch in (1, 3, 2):
            (rows,) = backend.detect(np.ones([batch, 3, height, width], np.float32), np.ones([batch, 2], np.float32))
            assert rows.shape == (batch, kept, 6)
            assert (np.diff(rows[:, :, 1]) <= 0).all()


@pytest.mark.parametrize("kind", ["final", "raw"])
@pytest.mark.parametrize("onednn", [True, False])
def test_runtime_finds_what_the_readers_of_the_toolkit_and_the_model_find(
    exports: dict[str, Path], model: Any, frames: list[Path], kind: str, onednn: bool
) -> None:
    predictions = load(exports[kind], threads=1, onednn=onednn)(frames, batch_size=4)
    for file, prediction in zip(frames, predictions, strict=True):
        check_same(prediction, detect_with_the_toolkit(model, LETTERBOX, file))
        assert len(prediction.scores) == ANCHORS


@pytest.mark.parametrize(
    "resizing",
    [
        [{"Resize": {"target_size": [64, 96], "keep_ratio": False, "interp": 2}}],
        [{"Resize": {"target_size": [64, 64], "keep_ratio": True, "interp": 1}}, {"Pad": {"size": [64, 64]}}],
        [{"LetterResize": {"target_size": [96, 64], "upscale": False}}],
        [{"Resize": {"target_size": 50, "keep_ratio": False}}, {"LetterResize": {"target_size": [64, 96]}}],
    ],
    ids=["stretched", "ratio kept, padded", "letterbox that enlarges nothing", "stretched, then letterbox"],
)  # fmt: skip
def test_boxes_go_back_to_the_picture_whatever_was_done_to_it(model: Any, frames: list[Path], resizing: Any) -> None:
    operators = [{"Decode": {}}, *resizing, PLAIN, {"Permute": {}}]
    prepare = build_detection_pipeline(operators)
    model.eval()
    predictor = DetectionPredictor(EagerBackend(model), prepare, CLASSES, 3, [-1, 3, -1, -1], form_of(model))
    model.train()
    for file in frames:
        (prediction,) = predictor(file)
        check_same(prediction, detect_with_the_toolkit(model, operators, file))


def check_same(prediction: Any, expected: np.ndarray) -> None:
    """Compares detections in their order; those with equal scores may have changed places."""
    assert len(prediction.scores) == len(expected)
    np.testing.assert_allclose(prediction.scores, expected[:, 1], atol=1e-4)
    rows = np.concatenate([prediction.labels[:, None], prediction.boxes], axis=1)
    distances = np.abs(rows[:, None] - expected[None, :, [0, 2, 3, 4, 5]]).max(axis=2)
    assert distances.min(axis=1).max() < 0.01
    assert len(set(distances.argmin(axis=1).tolist())) == len(rows)


def detect_with_the_toolkit(model: Any, operators: list[Any], file: Path) -> np.ndarray:
    """Detects with ppdet's reader and the architecture's own answer to ppdet's evaluation."""
    import paddle
    from ppdet.data.reader import Compose

    sample = Compose(operators, 3)({"im_file": str(file), "im_id": np.array([1]), "curr_iter": 0})
    wanted = [key for key in ("image", "scale_factor", "pad") if key in sample]
    model.eval()
    try:
        with paddle.no_grad():
            found = model({key: paddle.to_tensor(np.asarray(sample[key])[np.newaxis]) for key in wanted})
    finally:
        model.train()
    rows = found["bbox"].numpy()
    assert found["bbox_num"].numpy().tolist() == [len(rows)]
    return rows[np.argsort(-rows[:, 1], kind="stable")]


def test_the_picture_decides_what_is_found(exports: dict[str, Path], frames: list[Path]) -> None:
    first, second, *_, black = load(exports["final"], threads=1)(frames)
    assert len(set(first.labels.tolist())) > 1
    assert np.ptp(first.scores) > 0.2
    assert np.abs(first.scores - second.scores).max() > 1e-3
    assert np.abs(first.scores - black.scores).max() > 1e-3


def test_how_many_are_kept_is_the_models_choice(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "keep", 7)
    assert form_of(model).selection == TopkSettings(7)
    images = np.random.default_rng(0).uniform(size=[2, 3, SIZE, SIZE]).astype(np.float32)
    (rows,) = EagerBackend(model).detect(images, np.ones([2, 2], np.float32))
    assert rows.shape == (2, 7, 6)
    boxes, scores = EagerBackend(model, final=False).detect(images, np.ones([2, 2], np.float32))
    assert (boxes.shape, scores.shape) == ((2, ANCHORS, 4), (2, len(CLASSES), ANCHORS))
    for own_boxes, own_scores, own_rows in zip(boxes, scores, rows, strict=True):
        np.testing.assert_array_equal(TopkSettings(7).select(own_boxes, own_scores), own_rows)


def test_a_corrupted_export_is_refused(
    model: Any, frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupted(*arguments: Any, **more: Any) -> Deployed:
        """Changes one weight of thousands in what is exported."""
        deployed = Deployed(*arguments, **more)
        if not more.get("fused", arguments[-1]):
            return deployed
        weight = deployed.network.yolo_head.one_to_one.classes[0][-1].weight
        changed = weight.numpy()
        changed[0, 0] += 3
        weight.set_value(changed)
        return deployed

    monkeypatch.setattr(exporter, "Deployed", corrupted)
    images = {frames[0].name: read_image(frames[0])}
    with pytest.raises(UserError, match="does not compute what the model computes: .*frame_0"):
        export_detector(model, tmp_path / "export", images=images, **SETTINGS)
    assert not list(tmp_path.iterdir())
