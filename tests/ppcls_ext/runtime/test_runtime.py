"""Prediction from an export folder: the steps around the network, and one contract for all engines."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_ext.deploy.export import example_images
from ppcls_ext.runtime import load, read_description
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, export_small, hide
from tests.support.predictors import Known, made_classifier

PREPROCESS = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
FOREIGN = {"format": "paddle", "precision": "fp32", "files": {"model": "../x.json", "weights": "y"}, "sha256": {}}
CLASSES = ["cube", "ball", "cylinder", "tyre"]
FILES = {"paddle": "inference.pdiparams", "onnxruntime": "inference.onnx", "openvino": "inference.bin"}


def brightness(image):
    """Class 0 for dark images, class 1 for bright ones."""
    return [-image.mean(), image.mean(), -50, -60]


@pytest.fixture
def predictor():
    return made_classifier(Known(brightness), PREPROCESS, classes=CLASSES)


@pytest.fixture
def pictures(tmp_path):
    files = []
    for index, level in enumerate([0, 255, 10]):
        file = tmp_path / f"picture_{index}.png"
        Image.new("RGB", (40 + index, 30), (level,) * 3).save(file)
        files.append(file)
    return files


def test_names_labels_and_scores_come_in_order(predictor, pictures):
    predictions = predictor(pictures)
    assert [prediction.name for prediction in predictions] == [str(file) for file in pictures]
    assert [prediction.labels for prediction in predictions] == [["cube", "ball"], ["ball", "cube"], ["cube", "ball"]]
    assert [prediction.class_ids[0] for prediction in predictions] == [0, 1, 0]
    for prediction in predictions:
        assert 0.5 < prediction.scores[0] <= 1.0
        assert prediction.scores[0] + prediction.scores[1] == pytest.approx(1.0)
    expected = [prediction.scores for prediction in predictions]
    predictor.backend.batches.clear()
    assert [prediction.scores for prediction in predictor(pictures, batch_size=2)] == expected
    assert predictor.backend.batches == [2, 1]
    unnamed = made_classifier(Known(brightness), PREPROCESS, classes=None, topk=9)
    assert unnamed(pictures[0])[0].labels == ["0", "1", "2", "3"]
    for wrong in (0, -1):
        with pytest.raises(UserError, match=f"^topk must be at least 1, got {wrong}"):
            predictor(pictures, topk=wrong)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    formats = ["paddle", "onnx", "openvino"]
    return export_small(tmp_path_factory.mktemp("runtime") / "export", classes=CLASSES, topk=4, formats=formats)


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def change(folder, **changes):
    """Changes keys of ``inference.yml``; ``openvino`` is a function that changes the entry of that format."""
    file = folder / "inference.yml"
    document = yaml.safe_load(file.read_text())
    edit = changes.pop("openvino", None)
    if edit is not None:
        edit(next(one for one in document["artefacts"] if one["format"] == "openvino"))
    file.write_text(yaml.safe_dump({**document, **changes}))


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_all_engines_predict_the_same(exported, tmp_path):
    images = list(example_images().values())
    expected = load(exported, "paddle", threads=1)(images, batch_size=2)
    assert {prediction.labels[0] for prediction in expected} > {expected[0].labels[0]}, "all images look alike"
    for backend in ("onnxruntime", "openvino"):
        found = load(exported, backend, threads=1)(images, batch_size=3)
        for one, other in zip(found, expected, strict=True):
            assert one.labels == other.labels
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-3, atol=1e-6)
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    (from_file,) = load(exported, threads=1)(tmp_path / "photo.png")
    assert (from_file.labels, from_file.scores) == (expected[0].labels, pytest.approx(expected[0].scores, rel=1e-5))


FORBIDDEN = {"paddle", "ppdet", "paddleclas", "ppcls", "classification", "detection", "onnx", "paddle2onnx"}
FORBIDDEN_PARTS = ("ppcls_ext.deploy.export", "ppcls_ext.arch.econvnext", "ppcls_ext.engine", "ppcls_ext.weights")
TELEMETRY = """
import pathlib
pathlib.Path(__file__).with_name("sent.txt").write_text("sent")
"""


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_prediction_loads_neither_paddle_nor_training_code_nor_telemetry(exported, tmp_path, backend):
    (tmp_path / "openvino_telemetry.py").write_text(TELEMETRY)
    code = (
        "import json, sys; import numpy as np; from ppcls_ext.runtime import load; "
        f"predictor = load({str(exported)!r}, {backend!r}, threads=1); "
        "(one,) = predictor(np.full([40, 50, 3], 90, np.uint8)); assert one.labels, one; "
        "print(json.dumps(sorted(name for name, module in sys.modules.items() if module)))"
    )
    search = os.pathsep.join([str(tmp_path), os.getcwd()])
    environment = {**os.environ, "PYTHONPATH": search}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert {name.split(".")[0] for name in modules} & (FORBIDDEN | {"openvino_telemetry"}) == set()
    assert [name for name in modules if name.startswith(FORBIDDEN_PARTS)] == []
    assert not (tmp_path / "sent.txt").exists()


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize("changed", sorted(FILES))
def test_a_changed_file_is_refused_by_the_engine_that_opens_it(copied, changed):
    content = bytearray((copied / FILES[changed]).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / FILES[changed]).write_bytes(content)
    for backend in FILES:
        refused = pytest.raises(UserError, match=f"{FILES[changed]}: refused, its content is not what was exported")
        with refused if backend == changed else contextlib.nullcontext():
            load(copied, backend, threads=1)


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_openvino_opens_the_weights_that_the_description_names(exported, copied):
    def rename(entry):
        entry["files"]["weights"] = "weights_of_mine.bin"
        entry["sha256"]["weights_of_mine.bin"] = sha256_of(copied / "weights_of_mine.bin")

    images = list(example_images().values())[:2]
    expected = load(exported, "openvino", threads=1)(images)
    (copied / "inference.bin").rename(copied / "weights_of_mine.bin")
    change(copied, openvino=rename)
    # Where OpenVINO would look by itself.
    (copied / "inference.bin").write_bytes(bytes((copied / "weights_of_mine.bin").stat().st_size))
    for one, other in zip(load(copied, "openvino", threads=1)(images), expected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4)
    (copied / "weights_of_mine.bin").write_bytes(b"too short")
    with pytest.raises(UserError, match="weights_of_mine.bin: refused, its content is not what was exported"):
        load(copied, "openvino", threads=1)
    change(copied, openvino=rename)
    with pytest.raises(UserError, match="inference.xml: cannot be read with the weights weights_of_mine.bin") as caught:
        load(copied, "openvino", threads=1)
    assert "\n" not in str(caught.value)
    change(copied, openvino=lambda entry: entry["files"].update(weights=None))
    with pytest.raises(UserError, match="inference.yml: damaged, openvino fp32 names no file of weights"):
        load(copied, "openvino", threads=1)


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_the_first_engine_that_is_installed_is_taken(copied, monkeypatch):
    assert type(load(copied, threads=1).backend).__name__ == "PaddleBackend"
    hide(monkeypatch, "paddle")
    assert type(load(copied, threads=1).backend).__name__ == "OnnxRuntimeBackend"
    hide(monkeypatch, "paddle", "onnxruntime")
    assert type(load(copied, threads=1).backend).__name__ == "OpenVinoBackend"


@NEEDS_ONNX
def test_what_an_export_does_not_hold_is_told_with_what_it_holds(copied, monkeypatch):
    document = yaml.safe_load((copied / "inference.yml").read_text())
    change(copied, artefacts=document["artefacts"][:2])
    message = "has nothing for openvino, it holds paddle fp32, onnx fp32; tools/export_model.py --format openvino makes"
    with pytest.raises(UserError, match=message):
        load(copied, "openvino")
    with pytest.raises(UserError, match="has nothing for onnx fp16, it holds paddle fp32, onnx fp32"):
        load(copied, "onnxruntime", precision="fp16")
    with pytest.raises(UserError, match=r"unknown backend 'padle' \(did you mean 'paddle'\?\); allowed: onnxruntime, "):
        load(copied, "padle")
    hide(monkeypatch, "paddle", "onnxruntime")
    with pytest.raises(UserError, match="no engine for it is installed: pip install paddlepaddle==3.2.2 or pip"):
        load(copied)
    with pytest.raises(UserError, match="backend 'onnxruntime' needs the missing package 'onnxruntime': pip install"):
        load(copied, "onnxruntime")


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 9}, r"format 9 of .* not supported; this version reads format 2 .*export again"),
        ({"task": "segmentation"}, "task 'segmentation' is not supported"),
        ({"artefacts": [{"format": "paddle"}]}, "damaged, a key is missing"),
        ({"artefacts": [FOREIGN]}, "must be a file name without a folder"),
        ({"preprocess": [{"Resize": {}}]}, r"preprocess\[0\]: unknown operator 'Resize'"),
    ],
)
def test_a_wrong_description_is_refused(copied, changes, message):
    change(copied, **changes)
    with pytest.raises(UserError, match=message):
        load(copied)


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_incomplete_damaged_and_foreign_folders_are_refused(copied, tmp_path):
    with pytest.raises(UserError, match="not an export folder"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match="^bits: must be from 8 to 32"):
        load(copied, bits=40)
    (copied / "inference.pdiparams").unlink()
    with pytest.raises(UserError, match=r"inference\.pdiparams: missing"):
        load(copied)
    (copied / "inference.yml").write_text("files: [")
    with pytest.raises(UserError, match="damaged"):
        load(copied)


@NEEDS_OPENVINO
def test_openvino_is_told_what_to_compute_in(exported):
    from ppcls_ext.runtime.backends import compile_openvino

    compiled = compile_openvino(exported, read_description(exported).artefacts[2], threads=1)
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
