"""An interrupt between the last batch of an epoch and its evaluation loses nothing and repeats nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from classification.config import load_config
from classification.trainer import Trainer
from ppcls_ext.engine.environment import InterruptWatch, prepare_environment
from ppcls_ext.utils.errors import Interrupted
from tests.support.runs import same_files, small_config, write_config

TENSORS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


def train(folder: Path, resume: str | None = None) -> dict:
    # Four batches of 8; three of them make an update, and the fourth makes none.
    changes = {"Global__update_freq": 3, "Global__save_interval": 10, "Arch__drop_path_rate": 0.0}
    config = load_config(write_config(folder, small_config(folder / "run", **changes)))
    return Trainer(config, prepare_environment("cpu", config.run.seed), resume).run()


def test_the_resumed_run_begins_with_the_evaluation(tmp_path, monkeypatch, caplog):
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(InterruptWatch, "stop_after", lambda _watch, step: step == 0)
        with pytest.raises(Interrupted, match="everything is saved in .* --resume auto"):
            train(tmp_path / "stopped")
    checkpoints = tmp_path / "stopped" / "run" / "checkpoints"
    assert (checkpoints / "latest").resolve().name == "epoch_0000_step_000003"
    with caplog.at_level(logging.INFO):
        resumed = train(tmp_path / "stopped", resume="auto")
    assert "resuming from" in caplog.text
    last = "epoch_0002"
    assert same_files(checkpoints / last, tmp_path / "whole" / "run" / "checkpoints" / last, TENSORS) == []
    assert resumed["optimizer_steps"] == whole["optimizer_steps"] == 2
    for ours, theirs in zip(resumed["history"], whole["history"], strict=True):
        assert ours["eval"] == theirs["eval"]
        assert ours["train"]["loss"] == theirs["train"]["loss"]
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "stopped/run/log.jsonl").read_text().splitlines()]
    assert kinds.count("epoch") == 2
