"""An export computes what its model computes, or it does not exist."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import yaml

from ppcls_ext import build_model
from ppcls_ext.deploy.export import example_images, export_classifier
from ppcls_ext.deploy.verify import ClassifierComparison, EagerBackend, relative_error
from ppcls_ext.runtime import load
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of

PREPROCESS = [
    {"ResizeImage": {"resize_short": 72}},
    {"CropImage": {"size": 64}},
    {"NormalizeImage": {"scale": "1.0/255.0", "order": ""}},
    {"ToCHWImage": None},
]
ARGUMENTS = {"model_name": "EConvNeXt_mini", "class_num": 10, "image_shape": [3, 64, 64], "preprocess": PREPROCESS}


def make_model():
    """Builds a small classifier whose batch norms have seen data, so that folding them is no trivial matter."""
    paddle.seed(3)
    model = build_model("EConvNeXt_mini", class_num=10)
    generator = np.random.default_rng(3)
    for name, tensor in model.state_dict().items():
        if name.endswith("_mean"):
            tensor.set_value(generator.normal(scale=0.1, size=tensor.shape).astype(np.float32))
        if name.endswith("_variance"):
            tensor.set_value(generator.uniform(0.2, 2.0, size=tensor.shape).astype(np.float32))
        if name.endswith("conv.weight"):
            tensor.set_value(tensor * 4)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "mini"
    description = export_classifier(model, folder, classes=[f"class {i}" for i in range(10)], topk=3, **ARGUMENTS)
    return folder, description


def test_writes_files_and_description(exported):
    folder, description = exported
    assert sorted(file.name for file in folder.iterdir()) == ["inference.json", "inference.pdiparams", "inference.yml"]
    document = yaml.safe_load((folder / "inference.yml").read_text())
    assert document["task"] == "classification"
    assert document["input"]["shape"] == [-1, 3, 64, 64]
    assert document["preprocess"] == PREPROCESS
    assert document["classes"][3] == "class 3"
    (artefact,) = document["artefacts"]
    assert (artefact["format"], artefact["precision"], artefact["computed_in"]) == ("paddle", "fp32", "float32")
    assert artefact["files"] == {"model": "inference.json", "weights": "inference.pdiparams"}
    for name in ("inference.json", "inference.pdiparams"):
        assert artefact["sha256"][name] == sha256_of(folder / name)
    errors = artefact["verification"]["relative_error"]
    assert len(errors) == 2
    assert all(error <= 1e-4 for error in errors.values())
    assert list(artefact["verification"]["top1_agreement"].values()) == [1.0, 1.0]
    assert len(artefact["verification"]["images"]) >= 3
    assert description.folder == folder


@pytest.mark.parametrize("onednn", [True, False])
def test_reloaded_export_equals_the_eager_model(model, exported, onednn):
    predictor = load(exported[0], threads=1, onednn=onednn)
    images = np.stack([predictor.prepare(image, name) for name, image in example_images().items()])
    for batch in (images, images[:1], images[1:4]):
        expected = EagerBackend(model).run(batch)
        assert relative_error(predictor.backend.run(batch), expected) <= 1e-4
    assert np.ptp(EagerBackend(model).run(images), axis=0).max() > 1e-3, "all images look alike to the model"


def test_the_model_can_train_on_after_its_export(tmp_path):
    model = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 4, 8, 8), paddle.nn.BatchNorm2D(4), paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(),
        paddle.nn.Linear(4, 10),
    )  # fmt: skip
    model.train()
    export_classifier(model, tmp_path / "export", **{**ARGUMENTS, "model_name": "small"})
    assert model.training
    before = model[1]._mean.numpy().copy()
    model(paddle.ones([2, 3, 64, 64])).sum().backward()
    assert model[4].weight.grad is not None
    assert not np.array_equal(model[1]._mean.numpy(), before)


class _Several(paddle.nn.Layer):
    """Gives its logits as ``kind`` says, beside those of an auxiliary classifier."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.linear = paddle.nn.Linear(3, 10)

    def forward(self, image):
        features = paddle.nn.functional.adaptive_avg_pool2d(image, [1, 1]).flatten(1)
        logits, auxiliary = self.linear(features), features.tile([1, 4])[:, :10]
        return [logits, auxiliary] if self.kind is list else {"features": features, "logits": logits}


@pytest.mark.parametrize("kind", [list, dict])
def test_a_model_that_returns_more_than_logits_is_exported_with_its_logits(tmp_path, kind):
    model = _Several(kind)
    export_classifier(model, tmp_path / "export", **{**ARGUMENTS, "model_name": "several"})
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    expected = images.mean(axis=(2, 3)) @ model.linear.weight.numpy() + model.linear.bias.numpy()
    for backend in (EagerBackend(model), load(tmp_path / "export", threads=1).backend):
        np.testing.assert_allclose(backend.run(images), expected, rtol=1e-4, atol=1e-6)


class _Noisy(paddle.nn.Layer):
    """Gives other outputs once it is exported."""

    def forward(self, image):
        logits = paddle.nn.functional.adaptive_avg_pool2d(image, [1, 1]).flatten(1).tile([1, 4])[:, :10]
        return logits if paddle.in_dynamic_mode() else logits * 1.001


def test_a_disagreeing_export_fails_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"Paddle Inference, oneDNN on, generated photo, wide: relative error 1\.0e-03"):
        export_classifier(_Noisy(), tmp_path / "export", **ARGUMENTS)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_the_older_one(tmp_path, model):
    export_classifier(model, tmp_path / "export", **ARGUMENTS)
    before = {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    with pytest.raises(UserError, match="relative error"):
        export_classifier(_Noisy(), tmp_path / "export", **ARGUMENTS)
    assert {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_shape": [3, 96, 96]}, r"preprocessing gives shape \[3, 64, 64\], the model takes \[3, 96, 96\]"),
        ({"class_num": 12}, r"gives outputs of shape \[1, 10\].*expected \[1, 12\]"),
        ({"classes": ["a", "b"]}, "2 class names for 10 classes"),
        ({"images": {"broken.jpg": b"no image"}}, r"broken\.jpg"),
        ({"preprocess": [{"ResizeImag": {}}]}, "did you mean 'ResizeImage'"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_file(tmp_path, model, change, message):
    with pytest.raises(UserError, match=message):
        export_classifier(model, tmp_path / "export", **{**ARGUMENTS, **change})
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_not_replaced(tmp_path, model):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(UserError, match="is not an export"):
        export_classifier(model, tmp_path, **ARGUMENTS)
    with pytest.raises(UserError, match="is not an export"):
        export_classifier(model, tmp_path / "thesis.txt", **ARGUMENTS)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


class _Fixed:
    def __init__(self, value):
        self.value = value

    def run(self, images):
        return np.full((len(images), 2), self.value, dtype=np.float32)


@pytest.mark.parametrize("value", [1.001, float("nan"), float("inf"), -1.0])
def test_verification_accepts_no_wrong_number(value):
    inputs = {"photo": np.zeros((3, 4, 4), dtype=np.float32)}
    assert ClassifierComparison(_Fixed(1.0), inputs)({"same": _Fixed(1.0)})["relative_error"] == {"same": 0.0}
    with pytest.raises(UserError, match="other, photo"):
        ClassifierComparison(_Fixed(1.0), inputs)({"same": _Fixed(1.0), "other": _Fixed(value)})
    with pytest.raises(UserError, match="same, photo"):
        ClassifierComparison(_Fixed(float("nan")), inputs)({"same": _Fixed(float("nan"))})


def test_example_images_differ_in_shape_and_light():
    images = example_images()
    assert len({image.shape for image in images.values()}) == len(images)
    assert all(image.dtype == np.uint8 for image in images.values())
    assert images["generated photo, dark"].max() < 20
    assert max(images["generated photo, tiny"].shape[:2]) < 32
    for name, image in example_images().items():
        np.testing.assert_array_equal(image, images[name])
