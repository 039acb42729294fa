"""An export computes what its model computes, in every format and precision, or it does not exist."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import yaml

from ppcls_ext.deploy import export as exporter
from ppcls_ext.deploy.export import example_images, export_classifier
from ppcls_ext.deploy.formats import FORMATS, INT8, PRECISIONS
from ppcls_ext.deploy.verify import EagerBackend, relative_error
from ppcls_ext.runtime import load
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, small_classifier

PREPROCESS = [{"ResizeImage": {"size": [48, 64]}}, {"NormalizeImage": {"order": ""}}]
ARGUMENTS = {"model_name": "small", "class_num": 4, "image_shape": [3, 64, 48], "preprocess": PREPROCESS}
PAIRS = [(name, precision) for name, row in FORMATS.items() for precision in row.precisions if precision != INT8]


@pytest.fixture(scope="module")
def model():
    return small_classifier()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """All formats, each in all its precisions, in two folders: the first float32 and float16, the second bfloat16."""
    root = tmp_path_factory.mktemp("formats")
    requests = {"a": (["onnx", "openvino"], ["fp32", "fp16"]), "b": (["paddle", "openvino"], ["bf16", "fp32"])}
    descriptions = {}
    for name, (formats, precisions) in requests.items():
        descriptions[name] = export_classifier(
            model, root / name, classes=list("abcd"), formats=formats, precisions=precisions, **ARGUMENTS
        )
    return descriptions


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_artefact_computes_what_the_model_computes(model, exported, name, precision):
    description = exported["b" if name == "paddle" or precision == "bf16" else "a"]
    predictor = load(description.folder, FORMATS[name].backend, threads=1, precision=precision)
    images = np.stack([predictor.prepare(image, key) for key, image in example_images().items()])
    for batch in (images, images[:1], images[1:4], images):
        error = relative_error(predictor.backend.run(batch), EagerBackend(model).run(batch))
        assert error <= PRECISIONS[precision].relative_error
    assert (error > 1e-5) == (precision != "fp32"), "the precision is not the one that was asked for"


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_description_tells_what_was_measured_of_each_file(exported):
    folder = exported["a"].folder
    document = yaml.safe_load((folder / "inference.yml").read_text())
    assert (document["task"], document["preprocess"], document["classes"]) == ("classification", PREPROCESS, [*"abcd"])
    assert document["input"]["shape"] == [-1, 3, 64, 48]
    entries = document["artefacts"]
    assert [(entry["format"], entry["precision"], entry["files"]["model"]) for entry in entries] == [
        ("onnx", "fp32", "inference.onnx"), ("onnx", "fp16", "inference_fp16.onnx"),
        ("openvino", "fp32", "inference.xml"), ("openvino", "fp16", "inference_fp16.xml"),
    ]  # fmt: skip
    for entry in entries:
        assert all(sha256_of(folder / name) == digest for name, digest in entry["sha256"].items())
        found = entry["verification"]
        assert found["images"] == list(example_images()) and list(found["top1_agreement"].values()) == [1.0]
        (error,) = found["relative_error"].values()
        assert 0 < error <= found["tolerance"] == PRECISIONS[entry["precision"]].relative_error
    assert {file.name for file in folder.iterdir()} == {"inference.yml"}.union(*(entry["sha256"] for entry in entries))
    sizes = [(folder / name).stat().st_size for name in ("inference.bin", "inference_fp16.bin")]
    assert sizes[1] < 0.6 * sizes[0]


def test_the_model_can_train_on_after_its_export(tmp_path):
    model = small_classifier()
    model.train()
    (artefact,) = export_classifier(model, tmp_path / "export", **ARGUMENTS).artefacts
    assert artefact.files == ["inference.json", "inference.pdiparams"]
    assert list(artefact.verification["relative_error"]) == [f"Paddle Inference, oneDNN {way}" for way in ("on", "off")]
    before = model[1]._mean.numpy().copy()
    model(paddle.ones([2, 3, 64, 48])).sum().backward()
    assert model.training and model[-1].weight.grad is not None
    assert not np.array_equal(model[1]._mean.numpy(), before)


class _Several(paddle.nn.Layer):
    """Gives its logits as ``kind`` says, beside those of an auxiliary classifier."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.linear = paddle.nn.Linear(3, 4)

    def forward(self, image):
        features = paddle.nn.functional.adaptive_avg_pool2d(image, [1, 1]).flatten(1)
        logits = self.linear(features)
        return [logits, features.tile([1, 2])[:, :4]] if self.kind is list else {"features": features, "logits": logits}


@pytest.mark.parametrize("kind", [list, dict])
def test_a_model_that_returns_more_than_logits_is_exported_with_its_logits(tmp_path, kind):
    model = _Several(kind)
    export_classifier(model, tmp_path / "export", **ARGUMENTS)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 48)).astype(np.float32)
    expected = images.mean(axis=(2, 3)) @ model.linear.weight.numpy() + model.linear.bias.numpy()
    for backend in (EagerBackend(model), load(tmp_path / "export", threads=1).backend):
        np.testing.assert_allclose(backend.run(images), expected, rtol=1e-4, atol=1e-6)


class _Noisy(paddle.nn.Layer):
    """Gives other outputs once it is exported."""

    def forward(self, image):
        logits = paddle.nn.functional.adaptive_avg_pool2d(image, [1, 1]).flatten(1).tile([1, 2])[:, :4]
        return logits if paddle.in_dynamic_mode() else logits * 1.001


def test_a_disagreeing_export_leaves_no_file_and_an_older_one_stays(tmp_path, model):
    message = r"Paddle Inference, oneDNN on, generated photo, wide: relative error 1\.0e-03"
    with pytest.raises(UserError, match=message):
        export_classifier(_Noisy(), tmp_path / "export", **ARGUMENTS)
    assert not list(tmp_path.iterdir())
    export_classifier(model, tmp_path / "export", **ARGUMENTS)
    before = {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    with pytest.raises(UserError, match=message):
        export_classifier(_Noisy(), tmp_path / "export", **ARGUMENTS)
    assert {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before


@NEEDS_ONNX
def test_a_wrong_weight_in_one_artefact_leaves_no_file(model, exported, tmp_path, monkeypatch):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(exported["a"].folder / "inference.onnx"))
    largest = max(graph.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.3), largest.name))
    monkeypatch.setattr(exporter, "convert", lambda *arguments: graph)
    for formats, precision in ((["paddle", "onnx"], "fp32"), (["onnx"], "fp16")):
        with pytest.raises(UserError, match="does not compute what the model computes: ONNX Runtime.*: relative error"):
            export_classifier(model, tmp_path / "export", formats=formats, precisions=[precision], **ARGUMENTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": [3, 96, 96]}, r"preprocessing gives shape \[3, 64, 48\], the model takes \[3, 96, 96\]"),
        ({"class_num": 12}, r"gives outputs of shape \[1, 4\].*expected \[1, 12\]"),
        ({"images": {"broken.jpg": b"no image"}}, r"broken\.jpg"),
        ({"formats": ["onx"]}, r"unknown format 'onx' \(did you mean 'onnx'\?\); allowed: paddle, onnx, openvino"),
        ({"precisions": ["fp16"]}, "'paddle' cannot be written in fp16; what works is paddle: fp32, bf16; onnx: fp32"),
        ({"precisions": ["int8"]}, "precision 'int8' needs images to calibrate on: tools/export_model.py"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_file(tmp_path, model, change, message):
    with pytest.raises(UserError, match=message) as caught:
        export_classifier(model, tmp_path / "export", **{**ARGUMENTS, **change})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_not_replaced(tmp_path, model):
    (tmp_path / "thesis.txt").write_text("three years of work")
    for target, message in ((tmp_path, "is not an export"), (tmp_path / "thesis.txt", "is a file, not a folder")):
        with pytest.raises(UserError, match=message):
            export_classifier(model, target, **ARGUMENTS)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"
