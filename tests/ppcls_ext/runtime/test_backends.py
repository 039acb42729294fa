"""One contract for all engines: which is taken, what is checked, and what is loaded for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from ppcls_ext.deploy.export import example_images, export_classifier
from ppcls_ext.runtime import BACKENDS, load, read_description
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, hide, small_classifier

PREPROCESS = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
FILES = {"paddle": "inference.pdiparams", "onnxruntime": "inference.onnx", "openvino": "inference.bin"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backends") / "export"
    export_classifier(
        small_classifier(), folder, model_name="small", class_num=4, image_shape=[3, 32, 32], preprocess=PREPROCESS,
        classes=["cube", "ball", "cylinder", "tyre"], topk=4, formats=["paddle", "onnx", "openvino"],
    )  # fmt: skip
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_all_engines_predict_the_same(exported):
    images = list(example_images().values())
    expected = load(exported, "paddle", threads=1)(images, batch_size=2)
    assert {prediction.labels[0] for prediction in expected} > {expected[0].labels[0]}, "all images look alike"
    for backend in ("onnxruntime", "openvino"):
        found = load(exported, backend, threads=1)(images, batch_size=3)
        for one, other in zip(found, expected, strict=True):
            assert one.labels == other.labels
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-3, atol=1e-6)


FORBIDDEN = {"paddle", "ppdet", "paddleclas", "ppcls", "classification", "detection", "onnx", "paddle2onnx"}
FORBIDDEN_PARTS = ("ppcls_ext.deploy.export", "ppcls_ext.arch", "ppcls_ext.engine", "ppcls_ext.weights")
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
        "print(json.dumps(sorted(sys.modules)))"
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
        if backend == changed:
            with pytest.raises(UserError, match=f"{FILES[changed]}: refused, its content is not what was") as caught:
                load(copied, backend, threads=1)
            assert "\n" not in str(caught.value)
        else:
            assert load(copied, backend, threads=1).classes is not None


def renamed_weights(folder, decoy):
    """Lets the description name ``weights_of_mine.bin``; ``decoy`` then stands where OpenVINO would look by itself."""
    file = folder / "inference.yml"
    document = yaml.safe_load(file.read_text())
    (entry,) = (one for one in document["artefacts"] if one["format"] == "openvino")
    (folder / "inference.bin").rename(folder / "weights_of_mine.bin")
    entry["files"]["weights"] = "weights_of_mine.bin"
    entry["sha256"]["weights_of_mine.bin"] = entry["sha256"].pop("inference.bin")
    file.write_text(yaml.safe_dump(document))
    if decoy is not None:
        (folder / "inference.bin").write_bytes(decoy)


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize("decoyed", [True, False])
def test_openvino_opens_the_weights_that_the_description_names(exported, copied, decoyed):
    images = list(example_images().values())[:2]
    expected = load(exported, "openvino", threads=1)(images)
    size = (copied / "inference.bin").stat().st_size
    renamed_weights(copied, bytes(size) if decoyed else None)
    for one, other in zip(load(copied, "openvino", threads=1)(images), expected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-4)
    content = bytearray((copied / "weights_of_mine.bin").read_bytes())
    content[size // 2] ^= 1
    (copied / "weights_of_mine.bin").write_bytes(content)
    with pytest.raises(UserError, match="weights_of_mine.bin: refused, its content is not what was exported"):
        load(copied, "openvino", threads=1)


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_openvino_never_opens_weights_without_a_checksum(copied):
    file = copied / "inference.yml"
    document = yaml.safe_load(file.read_text())
    (entry,) = (one for one in document["artefacts"] if one["format"] == "openvino")
    entry["files"]["weights"] = None
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match="inference.yml: damaged, openvino fp32 names no file of weights"):
        load(copied, "openvino", threads=1)


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_weights_that_are_too_short_for_the_network_are_one_line(copied):
    file = copied / "inference.yml"
    document = yaml.safe_load(file.read_text())
    (entry,) = (one for one in document["artefacts"] if one["format"] == "openvino")
    (copied / "inference.bin").write_bytes(b"too short")
    entry["sha256"]["inference.bin"] = sha256_of(copied / "inference.bin")
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match="inference.xml: cannot be read with the weights inference.bin") as caught:
        load(copied, "openvino", threads=1)
    assert "\n" not in str(caught.value)


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
    description = copied / "inference.yml"
    document = yaml.safe_load(description.read_text())
    document["artefacts"] = document["artefacts"][:2]
    description.write_text(yaml.safe_dump(document))
    message = "has nothing for openvino, it holds paddle fp32, onnx fp32; tools/export_model.py --format openvino makes"
    with pytest.raises(UserError, match=message):
        load(copied, "openvino")
    with pytest.raises(UserError, match="has nothing for onnx fp16, it holds paddle fp32, onnx fp32"):
        load(copied, "onnxruntime", precision="fp16")
    with pytest.raises(UserError, match=r"unknown backend 'onnxrutime' \(did you mean 'onnxruntime'\?\)"):
        load(copied, "onnxrutime")
    hide(monkeypatch, "paddle", "onnxruntime")
    with pytest.raises(UserError, match="no engine for it is installed: pip install paddlepaddle==3.2.2 or pip"):
        load(copied)
    with pytest.raises(UserError, match="backend 'onnxruntime' needs the missing package 'onnxruntime': pip install"):
        load(copied, "onnxruntime")


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_exports_of_the_first_version_still_load(copied):
    file = copied / "inference.yml"
    document = yaml.safe_load(file.read_text())
    artefact = document.pop("artefacts")[0]
    names = {"model": "inference.json", "params": "inference.pdiparams", "sha256": artefact["sha256"]}
    file.write_text(yaml.safe_dump({**document, "format_version": 1, "files": names, "verification": {"images": []}}))
    (only,) = read_description(copied).artefacts
    assert (only.format, only.precision, only.files) == ("paddle", "fp32", ["inference.json", "inference.pdiparams"])
    assert load(copied, threads=1)(np.zeros([9, 9, 3], np.uint8))[0].labels
    file.write_text(yaml.safe_dump({**document, "format_version": 3}))
    with pytest.raises(UserError, match=r"this version reads formats 1 and 2 .*export again with tools"):
        load(copied)


@NEEDS_OPENVINO
def test_openvino_is_told_what_to_compute_in(exported, monkeypatch):
    from ppcls_ext.runtime.backends import import_openvino

    openvino = import_openvino()
    seen = []

    class Core(openvino.Core):
        def compile_model(self, model, device, settings):
            seen.append(settings)
            return super().compile_model(model, device, settings)

    monkeypatch.setattr(openvino, "Core", Core)
    assert load(exported, "openvino", threads=3).backend.computed_in == "float32"
    assert (seen[0]["INFERENCE_PRECISION_HINT"], seen[0]["INFERENCE_NUM_THREADS"]) == ("f32", 3)


def test_every_backend_opens_a_format_that_is_written():
    from ppcls_ext.deploy.formats import FORMATS

    assert {row.backend: name for name, row in FORMATS.items()} == {name: row.format for name, row in BACKENDS.items()}
