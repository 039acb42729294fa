"""The training loop, on a task of one weight: when it evaluates, saves and stops."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppcls_ext.engine.environment import Environment, InterruptWatch
from ppcls_ext.engine.loader import EpochBatchSampler, Loader
from ppcls_ext.engine.plan import EarlyStopping
from ppcls_ext.engine.recorder import RunFolder
from ppcls_ext.engine.task import RunOptions, StepResult, Task
from ppcls_ext.engine.trainer import Trainer
from ppcls_ext.utils.errors import Interrupted, UserError


class OneWeight(Task):
    """Ten samples in batches of two; the weight counts optimizer steps, and the metric falls after its third value."""

    metric, advice, constant = "score", "try something else", 0.1
    scores = (0.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    environment = Environment("cpu", 0, 1, 0)

    def __init__(self, bad_step: int = -1, update_freq: int = 1, **options: Any) -> None:
        defaults = {"epochs": 4, "log_interval": 2, "eval_interval": 1, "save_interval": 10, "save_steps": 0,
                    "keep_checkpoints": 99, "loggers": ()}  # fmt: skip
        self.options = RunOptions({}, "", (), **{**defaults, **options})
        self.bad_step, self.update_freq = bad_step, update_freq
        self.model = paddle.nn.Linear(1, 1)
        self.batches = Loader(
            lambda keys: {"image": np.array([key.index for key in keys], "float32")}, EpochBatchSampler(10, 2),
            lambda arrays: {name: paddle.to_tensor(value) for name, value in arrays.items()},
        )  # fmt: skip
        self.updates, self.evaluated = 0, 0

    def describe(self) -> str:
        return "one weight"

    def start(self) -> None:
        pass

    def train_mode(self) -> None:
        pass

    def train_step(self, batch, progress) -> StepResult:
        loss = float("nan") if (progress.epoch, progress.step) == (2, self.bad_step) else float(batch["image"].sum())
        self.updates += (progress.step + 1) % self.update_freq == 0
        return StepResult(loss, {"loss": loss}, 1, 2, {"loss": loss, "loss_part": loss / 2}, 0.1)

    def evaluate(self) -> dict[str, dict[str, Any]]:
        self.evaluated += 1
        return {"eval": {"score": self.scores[self.evaluated - 1]}}

    def rate(self, updates: int) -> float:
        return self.constant

    def data_order(self) -> dict[str, int]:
        return {"images": 10}

    def state(self) -> dict[str, Any]:
        return {"counted": self.updates, "evaluated": self.evaluated}

    def arrays(self) -> dict[str, Any]:
        return {"model": {"weight": np.array([self.updates], "float32")}, "ema": None, "optimizer": {}}

    def check(self, checkpoint, where: str) -> None:
        pass

    def restore(self, checkpoint, updates: int, where: str) -> None:
        assert updates == checkpoint.state["counted"] == checkpoint.model["weight"][0]
        self.updates, self.evaluated = updates, checkpoint.state["evaluated"]

    def report(self) -> dict[str, Any]:
        return {"model": "one weight"}

    def draw_curves(self, history: Sequence[dict[str, Any]], path: Path) -> None:
        path.write_text(f"{len(history)} epochs")

    def image_names(self, batch: dict[str, Any]) -> list[str]:
        return [f"photos/{index:.0f}.jpg" for index in batch["image"].tolist()]


def train(folder: Path, task: OneWeight, resume: str | None = None) -> dict[str, Any]:
    with RunFolder(folder, active=True, resume=resume) as held:
        return Trainer(task, held, resume).run()


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if not path.is_symlink())


def test_the_last_and_the_best_epochs_are_saved_and_the_rest_as_often_as_asked(tmp_path):
    report = train(tmp_path, OneWeight())
    assert saved(tmp_path) == ["epoch_0001", "epoch_0002", "epoch_0004"]
    assert (tmp_path / "checkpoints" / "best").resolve().name == "epoch_0002"
    assert report["best"] == {"score": 0.5, "epoch": 2}
    assert (report["epochs"], report["optimizer_steps"], report["model"]) == (4, 20, "one weight")
    assert (tmp_path / "curves.png").read_text() == "4 epochs"
    assert [record["train"]["loss"] for record in report["history"]] == [9.0] * 4
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kinds == ["step", "step", "epoch"] * 4
    # A finished run is neither repeated nor reported anew, and a second one is refused.
    before = (tmp_path / "report.json").read_bytes()
    assert train(tmp_path, OneWeight(overrides=["a=1"]), "auto") == json.loads(before)
    assert (tmp_path / "report.json").read_bytes() == before
    # Killed before it was reported, it is now.
    (tmp_path / "report.json").unlink()
    assert train(tmp_path, OneWeight(overrides=["a=1"]), "auto")["overrides"] == ["a=1"]
    with pytest.raises(UserError, match="already holds a run"):
        train(tmp_path, OneWeight())


def test_another_branch_of_a_run_has_a_best_epoch_of_its_own(tmp_path, caplog):
    def branch(*scores: float) -> OneWeight:
        task = OneWeight(epochs=6, save_interval=1)
        task.scores = scores
        return task

    train(tmp_path, branch(0.1, 0.5, 0.2, 0.3, 0.9, 0.4))
    best = tmp_path / "checkpoints" / "best"
    assert best.resolve().name == "epoch_0005"
    report = train(tmp_path, branch(0.1, 0.5, 0.2, 0.3, 0.45, 0.4), f"{tmp_path}/checkpoints/epoch_0004")
    assert report["best"] == {"score": 0.5, "epoch": 2}
    assert best.resolve().name == "epoch_0002"
    (aside,) = tmp_path.glob("abandoned_*")
    assert sorted(path.name for path in aside.iterdir()) == ["epoch_0005", "epoch_0006"]


def test_other_kernels_are_told_of_and_frozen_parameters_are_counted(tmp_path, caplog):
    class Compiled(OneWeight):
        def networks(self) -> list[paddle.nn.Layer]:
            return []

        def begin_epoch(self, epoch: int) -> None:
            self.model.weight.stop_gradient = True

    assert train(tmp_path, Compiled(epochs=1))["trainable_parameters"] == 2
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        train(tmp_path, OneWeight(epochs=2, cpu_kernels="paddle"), "auto")
        assert "CPU kernels" not in caplog.text
        train(tmp_path, OneWeight(epochs=3), "auto")
    assert "CPU kernels: paddle before, fast now" in caplog.text


def test_evaluation_leaves_epochs_out_but_never_the_last(tmp_path):
    report = train(tmp_path, OneWeight(eval_interval=3, save_interval=2))
    assert ["eval" in record for record in report["history"]] == [False, False, True, True]
    assert saved(tmp_path) == ["epoch_0002", "epoch_0003", "epoch_0004"]


def test_inside_an_epoch_only_whole_updates_are_saved_and_a_rest_of_batches_is_left_out(tmp_path):
    report = train(tmp_path, OneWeight(update_freq=2, save_steps=1, epochs=1))
    assert saved(tmp_path) == ["epoch_0000_step_000002", "epoch_0001"]
    assert report["optimizer_steps"] == 2


STOPS = {"patience": 2, "min_delta": 0.05}


def stopping(epochs: int = 6, **changes: Any) -> OneWeight:
    return OneWeight(epochs=epochs, early_stopping=EarlyStopping(**{**STOPS, **changes}))


def test_a_run_whose_metric_no_longer_rises_ends_early(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        report = train(tmp_path, stopping())
    reason = "score has not risen by more than 0.05 above 0.5000 (epoch 2) in 2 evaluations"
    assert f"stopped early, after epoch 4 of 6: {reason}" in caplog.text
    assert report["early_stopping"] == {**STOPS, "stopped": True, "reason": reason}
    assert saved(tmp_path) == ["epoch_0001", "epoch_0002", "epoch_0004"]
    assert "early_stopping" not in train(tmp_path / "without", OneWeight())
    assert train(tmp_path / "larger", stopping(patience=1, min_delta=0.5))["epochs"] == 2


def test_a_run_that_ended_early_goes_on_with_more_patience_epochs_or_another_rate_only(tmp_path, caplog):
    def go_on(task: OneWeight) -> int:
        shutil.copytree(tmp_path / "run", tmp_path / "next", symlinks=True)
        epochs = train(tmp_path / "next", task, "auto")["epochs"]
        shutil.rmtree(tmp_path / "next")
        return epochs

    train(tmp_path / "run", stopping())
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        assert go_on(stopping()) == 4
    assert "finished early already: score has not risen" in caplog.text
    assert go_on(stopping(patience=3)) == 5
    assert go_on(stopping(epochs=7)) == 6, "it waits anew"
    other = stopping()
    other.constant = 0.05
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        assert go_on(other) == 6
    assert "planned anew, over 6 epochs: after epoch 4 it goes on at 0.05 (before: 0.1)" in caplog.text


@pytest.mark.parametrize(("stop_at", "make"), [(0, OneWeight), (18, stopping)])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch, stop_at, make):
    """At update 0: between the last batch of an epoch and its evaluation, with which the resumed run begins."""
    whole = train(tmp_path / "whole", make())
    with monkeypatch.context() as patched:
        patched.setattr(InterruptWatch, "stop_after", lambda _watch, update: update == stop_at)
        with pytest.raises(Interrupted, match="everything is saved in .* --resume auto"):
            train(tmp_path / "run", make())
    partial = f"epoch_{stop_at // 5:04d}_step_{stop_at % 5 or 5:06d}"
    assert partial in saved(tmp_path / "run")
    resumed = train(tmp_path / "run", make(), "auto")
    assert [name for name in saved(tmp_path / "run") if name != partial] == saved(tmp_path / "whole")
    assert resumed.get("early_stopping") == whole.get("early_stopping")
    for ours, theirs in zip(resumed["history"], whole["history"], strict=True):
        assert (ours["eval"], ours["train"]["loss"]) == (theirs["eval"], theirs["train"]["loss"])
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("run", "whole")]
    assert [json.loads(line).get("step") for line in logs[0]] == [json.loads(line).get("step") for line in logs[1]]


def test_a_bad_loss_names_the_step_and_saves_the_batch(tmp_path):
    with pytest.raises(UserError) as error:
        train(tmp_path, OneWeight(bad_step=3))
    file = tmp_path / "bad_batch_epoch_0003_step_000004_rank_0.npz"
    message = str(error.value)
    assert message.startswith("the loss became nan at epoch 3, batch 4 (optimizer step 14, loss_part nan); ")
    assert message.endswith(
        f"the batch is saved in {file}; the newest checkpoint is {tmp_path}/checkpoints/epoch_0002; try something else"
    )
    with np.load(file, allow_pickle=False) as batch:
        assert batch["names"].tolist() == ["photos/6.jpg", "photos/7.jpg"]
        assert batch["image"].tolist() == [6.0, 7.0]
    assert saved(tmp_path) == ["epoch_0001", "epoch_0002"], "a broken model was saved"
