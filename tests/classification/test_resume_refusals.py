"""What a checkpoint must agree on with the run that continues it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from classification.config import load_config
from classification.task import ClassificationTask
from ppcls_ext.engine.checkpoint import Checkpoint
from ppcls_ext.engine.environment import Environment
from ppcls_ext.engine.task import RunProgress
from ppcls_ext.utils.errors import UserError
from tests.support.distillation import distilled, write_teacher
from tests.support.pictures import lines_of, list_config, write_class_folders
from tests.support.runs import TINY, tiny_config, write_config


def task_of(folder: Path, data: dict[str, Any] | None = None, **changes: Any) -> ClassificationTask:
    """A task on 39 digits in batches of 8: four steps an epoch."""
    data = data or tiny_config(folder / "run", **changes)
    config = load_config(write_config(folder, data))
    return ClassificationTask(config, Environment("cpu", 0, 1, config.run.seed))


def checkpoint_of(task: ClassificationTask, **changes: Any) -> Checkpoint:
    """A checkpoint of ``task`` after two epochs; of ``changes`` some belong to its state, some to its arrays."""
    task.start()
    progress = RunProgress(epoch=2, updates=8, best_metric=0.5, best_epoch=1)
    state = {**progress.to_json(), **task.state(), "data_order": task.data_order()}
    checkpoint = Checkpoint(state, **task.arrays(), config=task.options.config_text)
    state.update({key: value for key, value in changes.items() if key in state})
    arrays = {key: value for key, value in changes.items() if key not in state}
    return dataclasses.replace(checkpoint, **arrays)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> ClassificationTask:
    return task_of(tmp_path_factory.mktemp("task"))


def test_a_fitting_checkpoint_is_continued(tmp_path, task, caplog):
    fresh = task_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        progress = fresh.resume(checkpoint_of(task, bad_images=["photos/3.jpg"]))
    assert (progress.epoch, progress.updates, progress.best_metric) == (2, 8, 0.5)
    assert fresh.state()["bad_images"] == ["photos/3.jpg"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


ARGUMENTS = {name: value for name, value in TINY.items() if name != "name"}
# As earlier versions wrote it.
ORDER = {"seed": 5, "images": 39, "images_per_step": 16, "update_freq": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": {"name": "EConvNeXt_tiny", "arguments": ARGUMENTS}}, "(Arch.name EConvNeXt_tiny -> EConvNeXt_mini)"),
        ({"arch": {"name": TINY["name"], "arguments": {**ARGUMENTS, "class_num": 7}}}, "(Arch.class_num 7 -> 10)"),
        ({"optimizer": None}, "holds no optimizer state; its weights can be used as Global.pretrained_model"),
        ({"optimizer_name": "Momentum"}, "(Optimizer.name Momentum -> AdamW)"),
        ({"ema": None}, "(EMA False -> True)"),
    ],
    ids=["model", "classes", "no optimizer state", "optimizer", "no average"],
)
def test_what_does_not_fit_is_refused(task, changes, message):
    checkpoint = checkpoint_of(task, **changes)
    with pytest.raises(UserError) as error:
        task.resume(checkpoint)
    assert str(error.value).startswith("checkpoint of epoch 2: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (None, "(Distillation.teacher (SHA-256) None -> "),
        ({"sha256": "cd" * 32}, "(Distillation.teacher (SHA-256) cdcd"),
        ({"stages": [3, 4]}, "(Distillation.features.stages [3, 4] -> [3])"),
        ({"weights": "elsewhere/best/ema.pdparams"}, None),
    ],
    ids=["new", "another", "other stages", "moved"],
)
def test_only_the_same_teacher_goes_on(tmp_path, before, message):
    weights = write_teacher(tmp_path / "teacher.pdparams")
    task = task_of(tmp_path, distilled(tmp_path / "run", weights, {"features": {"stages": [3]}}))
    checkpoint = checkpoint_of(task, teacher=None if before is None else {**task.teacher, **before})
    if message is None:
        assert task.resume(checkpoint).epoch == 2
        return
    with pytest.raises(UserError) as error:
        task.resume(checkpoint)
    assert message in str(error.value)


def test_between_epochs_another_order_is_only_warned_of_and_the_learning_rate_follows_the_epochs(task, caplog):
    """Two epochs were done of another number of steps; now an epoch has four."""
    with caplog.at_level(logging.WARNING):
        progress = task.resume(checkpoint_of(task, data_order=ORDER, updates=4))
    assert "images_per_step 16 -> 8; the run goes on, but not to the same numbers" in caplog.text
    assert (progress.epoch, progress.updates) == (2, 8)


def test_inside_an_epoch_shuffled_batches_go_on_shuffled_only(task):
    order = task.data_order()
    with pytest.raises(UserError, match=r"now hold other images \(shuffle False -> True\)"):
        task.resume(checkpoint_of(task, step=1, data_order={**order, "shuffle": False}))
    del order["shuffle"]
    assert task.resume(checkpoint_of(task, step=1, data_order=order)).step == 1


def test_changed_keys_are_listed_and_those_without_effect_are_not(tmp_path, task, caplog):
    changed = tiny_config(tmp_path / "elsewhere", Global__print_batch_step=99)
    changed["Optimizer"]["lr"]["learning_rate"] = "5e-1"
    changed["Loss"]["Train"][0]["CELoss"]["epsilon"] = 0.0
    with caplog.at_level(logging.WARNING):
        task_of(tmp_path, changed).resume(checkpoint_of(task))
    (record,) = caplog.records
    assert record.getMessage() == (
        "checkpoint of epoch 2: the configuration has changed since: Loss.Train[0].CELoss.epsilon 0.1 -> 0.0; "
        "Optimizer.lr.learning_rate 0.001 -> 0.5"
    )


def test_labels_that_mean_other_classes_are_refused(tmp_path, task):
    checkpoint = checkpoint_of(task, class_names=["1", "0", *"23456789"])
    with pytest.raises(UserError, match="checkpoint of epoch 2 name different classes: label 0 is '0' and '1'"):
        task.resume(checkpoint)
    # Those of a list are told by their numbers.
    lines = lines_of(write_class_folders(tmp_path / "pictures"), tmp_path, {"class_0": 3, "class_1": 8})
    config = load_config(list_config(tmp_path, lines, lines, 2, Train=True, Eval=True))
    listed = ClassificationTask(config, Environment("cpu", 0, 1, config.run.seed))
    assert listed.resume(checkpoint_of(listed)).epoch == 2
    with pytest.raises(UserError, match="name different classes: label 0 is '3' and '8'"):
        listed.resume(checkpoint_of(listed, label_numbering=[8, 3]))
