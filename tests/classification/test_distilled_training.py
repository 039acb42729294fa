"""Runs with a teacher: what learns, what is recorded, and that they resume to the same bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml

from classification.config import load_config
from classification.distillation import soft_loss
from classification.evaluation import evaluate_config
from classification.task import ClassificationTask
from ppcls_ext import build_model
from ppcls_ext.engine.environment import prepare_environment
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import load_weights, read_pickle, read_weights, write_weights
from tests.support.distillation import STUDENT, distilled, loaded, trainer_of, write_teacher
from tests.support.runs import same_files
from tests.support.seeded import seed_weights

# Stage 2 of the student is projected to the teacher's width, and so is stage 4.
ALL = {"features": {"stages": [2, 4], "weight": 0.5}, "weight": 0.6, "temperature": 3.0}
TENSORS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt", "auxiliary.pdparams")
CHANGES = {"Global__save_steps": 2, "Global__update_freq": 2, "AMP": {"level": "O1"}}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logits and features, mixed labels, smoothing, average, accumulated gradients; a checkpoint at every update."""
    folder = tmp_path_factory.mktemp("distilled")
    weights = write_teacher(folder / "teacher.pdparams")
    trainer_of(loaded(folder, distilled(folder / "run", weights, ALL, **CHANGES))).run()
    return folder


def test_it_resumes_to_the_same_bits_wherever_the_teacher_lies_now(whole_run, tmp_path):
    moved = shutil.copy(whole_run / "teacher.pdparams", tmp_path / "moved.pdparams")
    run = tmp_path / "run"
    shutil.copytree(whole_run / "run", run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "epoch_0002")
    trainer = trainer_of(loaded(tmp_path, distilled(run, Path(moved), ALL, **CHANGES)), "auto")
    assert (trainer.progress.epoch, trainer.progress.step) == (1, 2)
    trainer.run()
    folders = [run / "run" / "checkpoints" / "epoch_0002" for run in (tmp_path, whole_run)]
    assert same_files(*folders, TENSORS) == []
    begun, ended = (read_weights(whole_run / "run/checkpoints" / name / "auxiliary.pdparams")
                    for name in ("epoch_0000_step_000002", "epoch_0002"))  # fmt: skip
    assert all((begun[name] != ended[name]).any() for name in ("stage_2.weight", "stage_4.weight"))


def test_what_is_saved_is_the_plain_student(whole_run):
    checkpoint = whole_run / "run/checkpoints/epoch_0002"
    student = build_model("EConvNeXt_mini", class_num=10, **STUDENT)
    for name in ("model.pdparams", "ema.pdparams"):
        assert load_weights(student, checkpoint / name).complete
    trained = {name for name, parameter in student.named_parameters() if not parameter.stop_gradient}
    projections = {f"distillation.stage_{stage}.{name}" for stage in (2, 4) for name in ("weight", "bias")}
    state = read_pickle(checkpoint / "optimizer.pdopt")
    owners = {name.rpartition("/")[0] for name, value in state.items() if isinstance(value, np.ndarray)}
    assert owners == trained | projections
    config = load_config(checkpoint / "config.yaml", [f"Global.pretrained_model={checkpoint}"])
    # A machine that evaluates the student need not have the teacher.
    config.distillation.teacher.pretrained = "nowhere.pdparams"
    assert evaluate_config(config, prepare_environment("cpu", 0))["images"] > 0


def test_report_and_log_tell_the_teachers_accuracy_and_the_parts_of_the_loss(whole_run):
    report = json.loads((whole_run / "run/report.json").read_text())
    teacher = report["teacher"]
    assert (teacher["name"], teacher["stages"], len(teacher["sha256"])) == ("EConvNeXt_mini", [2, 4], 64)
    data = yaml.safe_load((whole_run / "config.yaml").read_text())
    arch = {**data["Distillation"]["teacher"], "class_num": 10}
    weights = arch.pop("pretrained")
    changes = {"Arch": arch, "Distillation": None}
    (whole_run / "teacher.yaml").write_text(yaml.safe_dump({**data, **changes}))
    alone = load_config(whole_run / "teacher.yaml", [f"Global.pretrained_model={weights}"])
    assert teacher["eval"] == evaluate_config(alone, prepare_environment("cpu", 0))
    records = [json.loads(line) for line in (whole_run / "run/log.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records].count("teacher") == 1
    means = [record for record in records if record["kind"] == "step"]
    means += [record["train"] for record in report["history"]]
    assert len(means) == 6
    for mean in means:
        total = 0.4 * mean["loss_label"] + 0.6 * mean["loss_distillation"] + 0.5 * mean["loss_features"]
        assert mean["loss"] == pytest.approx(total, rel=1e-5)


def batch_of_noise() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    label = paddle.to_tensor(generator.integers(0, 10, 8))
    # Each has a colour of its own, so that a teacher tells them apart.
    image = generator.normal(size=(8, 3, 32, 32)) + 2 * generator.normal(size=(8, 3, 1, 1))
    image = paddle.to_tensor(image.astype("float32"))
    return {"image": image, "label": label, "label_mixed": label.flip([0]), "lam": paddle.to_tensor(0.7)}


def learner_of(folder: Path, settings: dict[str, Any], **changes: Any) -> ClassificationTask:
    weights = write_teacher(folder / "teacher.pdparams")
    changes = {"Arch__drop_path_rate": 0.0, "EMA": None, **changes}
    config = distilled(folder / "run", weights, settings, **changes)
    config["Optimizer"] = {"name": "AdamW", "lr": {"name": "ConstLR", "learning_rate": 5e-3}}
    learner = ClassificationTask(loaded(folder, config), prepare_environment("cpu", 0))
    learner.train_mode()
    return learner


@pytest.mark.parametrize("settings", [{"weight": 1.0}, {"weight": 1.0, "kind": "hard"}])
def test_the_student_comes_to_answer_as_its_teacher_which_stays_as_it_is(tmp_path, settings):
    learner, batch = learner_of(tmp_path, settings), batch_of_noise()
    teacher = learner.distillation.teacher
    taught = teacher(batch["image"])
    assert len(set(taught.argmax(axis=-1).tolist())) > 1, "a teacher that says always the same shows nothing"
    before = {name: value.numpy() for name, value in teacher.state_dict().items()}
    distances = []
    for step in range(15):
        answer = learner.forward(batch, seed=step)
        distances.append(float(soft_loss(answer.logits, taught, 1.0)))
        learner.backward(answer.loss)
        assert all(parameter.grad is None for parameter in teacher.parameters())
        learner.update(step)
    assert distances[-1] < distances[0]
    if settings.get("kind") == "hard":
        assert answer.logits.argmax(axis=-1).tolist() == taught.argmax(axis=-1).tolist()
    else:
        assert distances[-1] < distances[0] / 4
    assert all((value.numpy() == before[name]).all() for name, value in teacher.state_dict().items())
    assert not any(layer.training for layer in teacher.sublayers())


def test_a_teacher_of_paddleclas_teaches_a_student_of_its_own_family(tmp_path):
    """Both name their parameters themselves, and alike."""
    arch = {"name": "MobileNetV2_x0_25", "class_num": 10}
    network = build_model(**arch)
    seed_weights(network)
    network.eval()
    write_weights(tmp_path / "teacher.pdparams", network.state_dict())
    data = distilled(tmp_path / "run", tmp_path / "teacher.pdparams")
    data["Arch"] = arch
    data["Distillation"]["teacher"] = {**arch, "pretrained": str(tmp_path / "teacher.pdparams")}
    learner, batch = ClassificationTask(loaded(tmp_path, data), prepare_environment("cpu", 0)), batch_of_noise()
    learner.train_mode()
    answer = learner.forward(batch, seed=0)
    expected = float(soft_loss(answer.logits, network(batch["image"]), 4.0))
    assert expected > 1e-3
    assert float(answer.parts["loss_distillation"]) == pytest.approx(expected, rel=1e-5)
    learner.backward(answer.loss)
    learner.update(0)
    before = network.state_dict()
    for name, value in learner.distillation.teacher.network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy(), err_msg=name)


def test_the_compiled_student_learns_the_same(tmp_path):
    losses = []
    for to_static in (False, True):
        learner = learner_of(tmp_path, ALL, Global__to_static=to_static)
        answer = learner.forward(batch_of_noise(), seed=0)
        learner.backward(answer.loss)
        gradient = dict(learner.named_parameters)["distillation.stage_2.weight"].grad
        losses.append([float(value) for value in (answer.loss, *answer.parts.values(), gradient.abs().sum())])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_student_starts_as_it_would_without_a_teacher(tmp_path):
    with_teacher = learner_of(tmp_path, ALL).model.state_dict()
    data = distilled(tmp_path / "alone", tmp_path / "teacher.pdparams")
    alone = ClassificationTask(loaded(tmp_path, {**data, "Distillation": None}), prepare_environment("cpu", 0))
    for name, value in alone.model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), with_teacher[name].numpy(), err_msg=name)


def test_the_teacher_may_see_images_of_another_size(tmp_path):
    learner, batch = learner_of(tmp_path, {**ALL, "image_size": 64}), batch_of_noise()
    teacher = learner.distillation.teacher
    larger = paddle.nn.functional.interpolate(batch["image"], [64, 64], mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(teacher(batch["image"]).numpy(), teacher.network(larger).numpy())
    assert np.isfinite(float(learner.forward(batch, seed=0).loss))


def test_a_teacher_of_other_images_or_weights_is_refused_with_the_key_that_helps(tmp_path):
    for change, message in (
        ({"in_channels": 1}, r"image_size: EConvNeXt_mini cannot take images of shape \[3"),
        ({"width_multiplier": 0.25}, r"teacher\.pretrained: .*does not fit the model.*\(Distillation\.teacher\.name"),
    ):
        data = distilled(tmp_path / "run", write_teacher(tmp_path / "teacher.pdparams"))
        data["Distillation"]["teacher"].update(change)
        with pytest.raises(UserError, match=rf"Distillation\.{message}"):
            trainer_of(loaded(tmp_path, data))
