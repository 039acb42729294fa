"""Prediction from an export folder, without Paddle until a Paddle backend is opened."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_ext.deploy.export import example_images, export_classifier
from ppcls_ext.preprocess import build_pipeline
from ppcls_ext.runtime import BACKENDS, Predictor, load
from ppcls_ext.runtime.backends import BackendRow
from ppcls_ext.runtime.predictor import softmax
from ppcls_ext.utils.errors import UserError

PREPROCESS = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]
FOREIGN = {"format": "paddle", "precision": "fp32", "files": {"model": "../x.json", "weights": "y"}, "sha256": {}}
CLASSES = ["cube", "ball", "cylinder", "tyre"]


class Brightness:
    """A backend whose logits are known: class 0 for dark images, class 1 for bright ones."""

    def __init__(self):
        self.batch_sizes = []

    def run(self, images):
        self.batch_sizes.append(len(images))
        mean = images.mean(axis=(1, 2, 3))
        return np.stack([-mean, mean, np.full_like(mean, -50), np.full_like(mean, -60)], axis=1)


@pytest.fixture
def predictor():
    return Predictor(Brightness(), build_pipeline(PREPROCESS, "test"), CLASSES, 2, [-1, 3, 32, 32])


@pytest.fixture
def pictures(tmp_path):
    files = []
    for index, level in enumerate([0, 255, 10]):
        file = tmp_path / f"picture_{index}.png"
        Image.new("RGB", (40 + index, 30), (level,) * 3).save(file)
        files.append(file)
    return files


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    import paddle
    from paddle import nn

    paddle.seed(0)
    model = nn.Sequential(nn.Conv2D(3, 8, 4, 4), nn.GELU(), nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, 4))
    folder = tmp_path_factory.mktemp("runtime") / "export"
    export_classifier(
        model,
        folder,
        model_name="small",
        class_num=4,
        image_shape=[3, 32, 32],
        preprocess=PREPROCESS,
        topk=2,
        classes=CLASSES,
    )
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_importing_the_runtime_loads_no_paddle():
    code = "import sys, ppcls_ext.runtime; sys.exit(any(name.split('.')[0] == 'paddle' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_labels_and_scores_come_in_order(predictor, pictures):
    predictions = predictor(pictures)
    assert [prediction.name for prediction in predictions] == [str(file) for file in pictures]
    assert [prediction.labels for prediction in predictions] == [["cube", "ball"], ["ball", "cube"], ["cube", "ball"]]
    assert [prediction.class_ids[0] for prediction in predictions] == [0, 1, 0]
    for prediction in predictions:
        assert 0.5 < prediction.scores[0] <= 1.0
        assert prediction.scores[0] + prediction.scores[1] == pytest.approx(1.0)


def test_takes_paths_arrays_bytes_and_batches_alike(predictor, pictures):
    array = np.asarray(Image.open(pictures[1]))
    for given in (pictures[1], str(pictures[1]), pictures[1].read_bytes(), array, [array], array[np.newaxis]):
        (prediction,) = predictor(given)
        assert prediction.labels[0] == "ball"
    assert [p.name for p in predictor([array, array])] == ["image 0", "image 1"]


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_batches_do_not_change_the_result(predictor, pictures, batch_size, sizes):
    expected = [prediction.scores for prediction in predictor(pictures)]
    predictor.backend.batch_sizes.clear()
    assert [prediction.scores for prediction in predictor(pictures, batch_size=batch_size)] == expected
    assert predictor.backend.batch_sizes == sizes


def test_an_unreadable_image_is_named_and_the_others_are_predicted(predictor, pictures, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:40])
    with caplog.at_level("WARNING"):
        predictions = predictor([pictures[0], broken, tmp_path / "absent.png", pictures[1]], batch_size=2)
    assert [bool(prediction.error) for prediction in predictions] == [False, True, True, False]
    assert [prediction.labels[:1] for prediction in predictions] == [["cube"], [], [], ["ball"]]
    assert "broken.png" in caplog.text
    assert "absent.png" in caplog.text


def test_without_names_the_class_numbers_are_shown(pictures):
    predictor = Predictor(Brightness(), build_pipeline(PREPROCESS, "test"), None, 9, [-1, 3, -1, -1])
    (prediction,) = predictor(pictures[0])
    assert prediction.labels == ["0", "1", "2", "3"]


def test_softmax_is_stable():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]])), [[0.5, 0.5], [0.0, 1.0]])


def test_loads_an_export_and_predicts_files_and_arrays(exported, tmp_path):
    predictor = load(exported, threads=1)
    images = list(example_images().values())
    predictions = predictor(images, batch_size=2)
    assert all(len(prediction.labels) == 2 and set(prediction.labels) <= set(CLASSES) for prediction in predictions)
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    (from_file,) = predictor(tmp_path / "photo.png")
    assert from_file.labels == predictions[0].labels
    assert from_file.scores == pytest.approx(predictions[0].scores, rel=1e-5)


def test_incomplete_and_foreign_folders_are_refused(copied, tmp_path):
    with pytest.raises(UserError, match="not an export folder"):
        load(tmp_path / "nothing")
    (copied / "inference.pdiparams").unlink()
    with pytest.raises(UserError, match=r"inference\.pdiparams: missing"):
        load(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "format 9 of task 'classification' is not supported"),
        ({"task": "segmentation"}, "task 'segmentation' is not supported"),
        ({"artefacts": [{"format": "paddle"}]}, "damaged, a key is missing"),
        ({"artefacts": []}, "damaged, a key is missing"),
        ({"artefacts": [FOREIGN]}, "must be a file name without a folder"),
        ({"preprocess": [{"Resize": {}}]}, r"preprocess\[0\]: unknown operator 'Resize'"),
    ],
)
def test_a_wrong_description_is_refused(copied, change, message):
    file = copied / "inference.yml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load(copied)


def test_a_damaged_description_is_refused(copied):
    (copied / "inference.yml").write_text("files: [")
    with pytest.raises(UserError, match="damaged"):
        load(copied)


def test_backends_are_rows_of_a_table(exported, monkeypatch):
    allowed = "allowed: onnxruntime, openvino, paddle"
    with pytest.raises(UserError, match=rf"unknown backend 'padle' \(did you mean 'paddle'\?\); {allowed}"):
        load(exported, backend="padle")
    other = BackendRow(None, "no_such_package", "pip install other", "paddle")
    monkeypatch.setitem(BACKENDS, "other", other)
    with pytest.raises(UserError, match="needs the missing package 'no_such_package': pip install other"):
        load(exported, backend="other")
    with pytest.raises(UserError, match="threads must be at least 1"):
        load(exported, threads=0)
