"""What a checkpoint must agree on with the run that continues it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from classification.config import load_config
from classification.progress import RunProgress, random_states
from classification.resume import restore_run
from ppcls_ext.engine.checkpoint import Checkpoint
from ppcls_ext.utils.errors import UserError
from tests.support.runs import small_config, write_config

ORDER = {"seed": 5, "images": 36, "images_per_step": 8, "update_freq": 1}


@pytest.fixture
def config(tmp_path):
    return load_config(write_config(tmp_path, small_config(tmp_path / "run")))


@pytest.fixture
def learner():
    restored = []
    return SimpleNamespace(
        optimizer_name="AdamW",
        updates_each_epoch=4,
        precision=SimpleNamespace(weights="float32"),
        restored=restored,
        restore=lambda *given: restored.append(given),
    )


def checkpoint(config, **changes) -> Checkpoint:
    state = {
        **RunProgress(epoch=2, updates=8, best_metric=0.5, best_epoch=1).to_json(),
        "arch": {"name": config.arch.name, "arguments": dict(config.arch.arguments)},
        "optimizer_name": "AdamW",
        "weight_precision": "float32",
        "data_order": dict(ORDER),
        "random": random_states(),
    }
    state.update({key: value for key, value in changes.items() if key in state})
    arrays = {"head.weight": np.ones(2, "float32")}
    return Checkpoint(state, arrays, changes.get("ema", arrays), changes.get("optimizer", arrays), config="")


def test_a_fitting_checkpoint_is_continued(config, learner):
    progress = restore_run(checkpoint(config), config, learner, ORDER)
    assert (progress.epoch, progress.updates, progress.best_metric) == (2, 8, 0.5)
    assert len(learner.restored) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arch": {"name": "EConvNeXt_tiny", "arguments": {}}},
            "is of model EConvNeXt_tiny, but Arch.name is EConvNeXt_mini",
        ),
        (
            {"arch": {"name": "EConvNeXt_mini", "arguments": {"class_num": 7, "drop_path_rate": 0.2}}},
            "was trained with Arch.class_num=7, now it is 10",
        ),
        ({"optimizer": None}, "holds no optimizer state; its weights can be used as Global.pretrained_model"),
        ({"optimizer_name": "Momentum"}, "was trained with Optimizer.name=Momentum, now it is AdamW"),
        ({"weight_precision": "float16"}, "was trained with weights in float16, now they are in float32"),
        ({"ema": None}, "was trained without EMA; remove the section EMA to continue it"),
        (
            {"step": 3, "data_order": {**ORDER, "images_per_step": 16}},
            "stands inside an epoch whose batches are cut otherwise now (images_per_step 16 -> 8)",
        ),
    ],
    ids=["model", "classes", "no optimizer state", "optimizer", "precision", "no average", "batches"],
)
def test_what_does_not_fit_is_refused_before_anything_changes(config, learner, changes, message):
    with pytest.raises(UserError) as error:
        restore_run(checkpoint(config, **changes), config, learner, ORDER)
    assert str(error.value).startswith("checkpoint of epoch 2: ")
    assert message in str(error.value)
    assert learner.restored == []


TEACHER = {"name": "ConvNeXtV1_tiny", "weights": "runs/best/ema.pdparams", "sha256": "ab" * 32, "stages": [3]}
SECTION = {"teacher": {"name": "ConvNeXtV1_tiny", "pretrained": "runs/best"}, "features": {"stages": [3]}}


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (TEACHER, None, "was trained with a teacher; keep the section Distillation to continue it"),
        (None, TEACHER, "was trained without a teacher; remove the section Distillation to continue it"),
        (TEACHER, {**TEACHER, "sha256": "cd" * 32}, "was trained with another teacher (ConvNeXtV1_tiny, runs/best/ema"),
        (TEACHER, {**TEACHER, "stages": [3, 4]}, "was trained with Distillation.features.stages=[3], now it is [3, 4]"),
        (TEACHER, {**TEACHER, "weights": "elsewhere/best/ema.pdparams"}, None),
    ],
    ids=["gone", "new", "another", "other stages", "moved"],
)
def test_only_the_same_teacher_goes_on(tmp_path, config, learner, before, now, message):
    saved = checkpoint(config)
    saved.state["teacher"] = before
    section = None if now is None else SECTION
    taught = load_config(write_config(tmp_path, small_config(tmp_path / "run", Distillation=section)))
    learner.distillation = SimpleNamespace(identity=lambda: now)
    if message is None:
        assert restore_run(saved, taught, learner, ORDER).teacher == before
        return
    with pytest.raises(UserError) as error:
        restore_run(saved, taught, learner, ORDER)
    assert message in str(error.value)
    assert learner.restored == []


def test_an_average_that_the_run_no_longer_keeps_is_refused(tmp_path, config, learner):
    without = load_config(write_config(tmp_path, small_config(tmp_path / "run", EMA=None)))
    with pytest.raises(UserError, match="was trained with EMA; keep the section EMA to continue it"):
        restore_run(checkpoint(config), without, learner, ORDER)


def test_between_epochs_another_order_is_only_warned_of(config, learner, caplog):
    with caplog.at_level(logging.WARNING):
        restore_run(checkpoint(config), config, learner, {**ORDER, "seed": 6})
    assert "seed 5 -> 6; the run goes on, but not to the same numbers" in caplog.text


def test_after_another_batch_size_the_learning_rate_follows_the_epochs(config, learner):
    """Two epochs of four steps were done; with batches of twice the size an epoch has two steps."""
    learner.updates_each_epoch = 2
    progress = restore_run(checkpoint(config), config, learner, {**ORDER, "images_per_step": 16})
    assert (progress.epoch, progress.updates) == (2, 4)


def test_changed_keys_are_listed_and_those_without_effect_are_not(tmp_path, config, learner, caplog):
    saved = checkpoint(config)
    saved.config = config.to_yaml()
    changed = small_config(tmp_path / "elsewhere", Global__print_batch_step=99)
    changed["Optimizer"]["lr"]["learning_rate"] = "5e-1"
    changed["Loss"]["Train"][0]["CELoss"]["epsilon"] = 0.0
    with caplog.at_level(logging.WARNING):
        restore_run(saved, load_config(write_config(tmp_path, changed)), learner, ORDER)
    (record,) = caplog.records
    assert record.getMessage() == (
        "checkpoint of epoch 2: the configuration has changed since: Loss.Train[0].CELoss.epsilon 0.1 -> 0.0; "
        "Optimizer.lr.learning_rate 0.001 -> 0.5"
    )
    caplog.clear()
    restore_run(saved, config, learner, ORDER)
    assert caplog.records == []
