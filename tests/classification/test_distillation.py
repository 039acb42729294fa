"""The section Distillation, the teacher's files, and the losses against NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from classification.config import load_config
from classification.distillation import Teacher, feature_loss, find_teacher, hard_loss, soft_loss
from classification.task import require_sections
from ppcls_ext.utils.errors import ConfigError, UserError
from tests.support.runs import small_config, write_config

TEACHER = {"name": "ConvNeXtV1_tiny", "pretrained": "somewhere.pdparams"}


def configured(folder: Path, section: object, **changes: object) -> Path:
    return write_config(folder, {**small_config(folder / "run", **changes), "Distillation": section})


MISTAKES = [
    ({"teacher": TEACHER, "temprature": 2}, "", "unknown argument 'temprature' (did you mean 'temperature'?)"),
    ({"teacher": TEACHER, "kind": "hard", "temperature": 2}, ".temperature", "has no effect on kind: hard; remove it"),
    ({"teacher": TEACHER, "weight": 0}, ".weight", "0 without features leaves the teacher nothing to teach"),
    ({"teacher": {"name": "ConvNeXtV1_tiny"}}, ".teacher.pretrained", "is missing: a teacher with random weights te"),
    ({"teacher": {**TEACHER, "class_num": 7}}, ".teacher.class_num", "the teacher has 7 classes, the student 10 (Arch"),
    ({"teacher": {**TEACHER, "name": "ResNet50"}, "features": {}}, ".features",
     "needs the outputs of stages, which ResNet50 (Distillation.teacher.name) does not give; these do: "),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "message"), MISTAKES)
def test_a_mistake_is_one_line_under_its_key(tmp_path, section, key, message):
    with pytest.raises(ConfigError) as error:
        load_config(configured(tmp_path, section))
    (problem,) = error.value.problems
    assert f": Distillation{key}: {message}" in problem


def test_what_is_left_out_has_its_default_and_the_teacher_the_students_classes(tmp_path):
    settings = load_config(configured(tmp_path, {"teacher": TEACHER, "features": {}})).distillation
    assert (settings.kind, settings.temperature, settings.weight, settings.features.stages) == ("soft", 4.0, 0.7, [4])
    assert settings.teacher.arguments == {"class_num": 10}


def test_missing_weights_are_told_where_something_trains(tmp_path):
    """Evaluation and export of the student need no teacher."""
    config = load_config(configured(tmp_path, {"teacher": TEACHER}))
    with pytest.raises(UserError, match=r"Distillation\.teacher\.pretrained: somewhere.pdparams: no such weight file"):
        require_sections(config)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What a run of a ConvNeXt with small kernels leaves, as far as it is looked at before Paddle is loaded."""
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "ema.pdparams").write_bytes(b"weights")
    arguments = {"class_num": 10, "kernel_size": 3, "drop_path_rate": 0.1}
    state = {"evaluated_weights": "ema", "arch": {"name": "ConvNeXtV1_tiny", "arguments": arguments}}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def found(folder: Path, checkpoint: Path, **changes: object):
    teacher = {**TEACHER, "pretrained": str(checkpoint), **changes}
    return find_teacher(load_config(configured(folder, {"teacher": teacher})))


def test_a_checkpoint_says_what_its_network_is(tmp_path, checkpoint):
    teacher = found(tmp_path, checkpoint, drop_path_rate=0.3)
    assert teacher.arch.arguments == {"class_num": 10, "kernel_size": 3, "drop_path_rate": 0.3}
    assert teacher.file == checkpoint / "ema.pdparams"


def test_a_text_of_a_checkpoint_is_not_evaluated(tmp_path, checkpoint):
    """PaddleClas's ViT evaluates the name of its normalisation."""
    ran = tmp_path / "ran"
    arguments = {"class_num": 10, "img_size": 32, "norm_layer": f"open({str(ran)!r}, 'w') or nn.LayerNorm"}
    state = {"evaluated_weights": "ema", "arch": {"name": "ViT_small_patch16_224", "arguments": arguments}}
    (checkpoint / "state.json").write_text(json.dumps(state))
    section = {"teacher": {"name": "ViT_small_patch16_224", "pretrained": str(checkpoint)}}
    config = load_config(configured(tmp_path, section))
    with pytest.raises(UserError, match=r"Distillation\.teacher\.norm_layer: PaddleClas evaluates texts: only names"):
        Teacher(config, find_teacher(config))
    assert not ran.exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path, checkpoint):
    for changes, message in (
        ({"name": "ConvNeXtV1_small"}, r"teacher\.name: .* is a checkpoint of ConvNeXtV1_tiny, not of ConvNeXtV1_s"),
        ({"activation": "relu"}, r"teacher\.activation: .*best was trained with gelu, here it is relu"),
    ):
        with pytest.raises(UserError, match=rf"Distillation\.{message}"):
            found(tmp_path, checkpoint, **changes)
    section = {"teacher": {**TEACHER, "pretrained": str(checkpoint)}}
    config = load_config(configured(tmp_path, section, Arch__class_num=12))
    with pytest.raises(UserError, match=r"class_num: .* was trained with 10 classes, the student has 12 "):
        find_teacher(config)
    # Features need no classes.
    section |= {"weight": 0.0, "features": {"stages": [3, 4]}}
    section["teacher"] |= {"class_num": 10}
    assert find_teacher(load_config(configured(tmp_path, section, Arch__class_num=12))).arch.class_num == 10
    del section["teacher"]["class_num"]
    assert find_teacher(load_config(configured(tmp_path, section, Arch__class_num=12))).arch.class_num == 10


def test_paddleclas_way_to_distil_is_answered_with_ours(tmp_path):
    for change, key in (
        ({"Arch": {"name": "DistillationModel", "models": [{"Teacher": {"name": "ResNet101_vd"}}]}}, "Arch.name"),
        ({"Loss": {"Train": [{"DistillationDMLLoss": {"weight": 1.0}}]}}, "Loss.Train[0]"),
    ):
        with pytest.raises(ConfigError) as error:
            load_config(write_config(tmp_path, {**small_config(tmp_path / "run"), **change}))
        (problem,) = error.value.problems
        assert f": {key}: Distillation" in problem
        assert "Distillation.teacher: {name: ..., pretrained: PATH}" in problem


# Losses

GENERATOR = np.random.default_rng(0)
OURS = GENERATOR.normal(0, 3, (5, 4)).astype("float32")
THEIRS = GENERATOR.normal(0, 3, (5, 4)).astype("float32")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype("float64"))
    return powers / powers.sum(axis=1, keepdims=True)


def whitened(features: np.ndarray) -> np.ndarray:
    features = features.astype("float64")
    return (features - features.mean(1, keepdims=True)) / np.sqrt(features.var(1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_is_the_divergence_times_the_squared_temperature(temperature):
    p, q = softmax(THEIRS / temperature), softmax(OURS / temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    logits = paddle.to_tensor(OURS, stop_gradient=False)
    loss = soft_loss(logits, paddle.to_tensor(THEIRS), temperature)
    assert (loss.dtype, loss.shape) == (paddle.float32, [])
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), temperature * (q - p) / len(OURS), rtol=1e-4, atol=1e-6)
    half = paddle.to_tensor(OURS).astype("float16")
    same = soft_loss(half, half + 3.0, temperature)
    assert (same.dtype, float(same)) == (paddle.float32, pytest.approx(0.0, abs=1e-5))


def test_hard_takes_the_teachers_best_class_for_the_label():
    expected = -np.log(softmax(OURS))[np.arange(5), THEIRS.argmax(axis=1)].mean()
    assert float(hard_loss(paddle.to_tensor(OURS), paddle.to_tensor(THEIRS))) == pytest.approx(expected, rel=1e-5)


def test_features_are_compared_by_direction_not_by_scale():
    shapes = {"ours": [(2, 6, 4, 4), (2, 3, 2, 2)], "theirs": [(2, 6, 8, 8), (2, 3, 2, 2)]}
    ours, theirs = ([GENERATOR.normal(size=shape).astype("float32") for shape in side] for side in shapes.values())
    pooled = theirs[0].reshape(2, 6, 4, 2, 4, 2).mean(axis=(3, 5))
    parts = [((whitened(a) - whitened(b)) ** 2).mean() for a, b in zip(ours, [pooled, theirs[1]], strict=True)]
    tensors = [[paddle.to_tensor(value) for value in side] for side in (ours, theirs)]
    assert float(feature_loss(*tensors)) == pytest.approx(sum(parts) / 2, rel=1e-4)
    scaled = [4.0 * value + 7.0 for value in tensors[0]]
    assert float(feature_loss(tensors[0], scaled)) == pytest.approx(0.0, abs=1e-4)
