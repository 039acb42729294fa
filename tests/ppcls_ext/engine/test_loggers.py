"""Loggers: values by tag and step, one run with a service over all sessions, and no failure that ends a training."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from classification import train
from ppcls_ext.engine import loggers
from ppcls_ext.engine.loggers import EPOCH, UPDATE, Loggers
from ppcls_ext.engine.recorder import Recorder, RunFolder
from ppcls_ext.engine.task import RunProgress
from ppcls_ext.utils.errors import UserError
from tests.support.runs import tiny_config, write_config


class Message(SimpleNamespace):
    """Stands for TensorBoard's protocol buffers: what one is made of are its attributes."""

    START, Value = "start", SimpleNamespace


class Services:
    """Stands for the optional packages: the writer, client and run that our loggers talk to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        packages = {}
        for name in ("tensorboard.compat.proto.event_pb2", "tensorboard.compat.proto.summary_pb2",
                     "tensorboard.summary.writer.event_file_writer", "mlflow.entities", "mlflow.tracking", "wandb"):
            for length in range(1, name.count(".") + 2):
                packages[".".join(name.split(".")[:length])] = MagicMock()
        for name, package in packages.items():
            monkeypatch.setitem(sys.modules, name, package)
        monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: name)
        for name in ("event_pb2", "summary_pb2"):
            package = packages[f"tensorboard.compat.proto.{name}"]
            package.Event = package.SessionLog = package.Summary = Message
        self.make_writer = packages["tensorboard.summary.writer.event_file_writer"].EventFileWriter
        packages["mlflow.entities"].Metric = lambda name, value, _time, step: (name, value, step)
        self.client = packages["mlflow.tracking"].MlflowClient.return_value
        self.client.create_run.return_value.info.run_id = "run 7"
        self.init = packages["wandb"].init
        self.run = self.init.return_value
        self.run.id = "abc"

    def began(self) -> list[int]:
        """Returns how often each package began or continued a run."""
        calls = (self.make_writer, self.client.create_run, self.init)
        return [call.call_count for call in calls]

    def events(self) -> list[Message]:
        return [call.args[0] for call in self.make_writer.return_value.add_event.call_args_list]

    def values(self) -> dict[str, list[tuple[str, float, int]]]:
        """Returns name, value and step of all that each package was given."""
        scalars = [(each, event.step) for event in self.events() if hasattr(event, "summary")
                   for each in event.summary.value]  # fmt: skip
        batches = [call.kwargs.get("metrics", ()) for call in self.client.log_batch.call_args_list]
        logged = [dict(call.args[0]) for call in self.run.log.call_args_list]
        steps = [values.pop(EPOCH, None) or values.pop(UPDATE) for values in logged]
        return {
            "tensorboard": [(each.tag, each.simple_value, step) for each, step in scalars],
            "mlflow": [metric for batch in batches for metric in batch],
            "wandb": [(*item, step) for values, step in zip(logged, steps, strict=True) for item in values.items()],
        }


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Services:
    return Services(monkeypatch)


OPTIONAL = ["tensorboard", "mlflow", "wandb"]


def test_a_resumed_run_goes_on_in_all_loggers_and_says_how_it_was_made(tmp_path: Path, services) -> None:
    config = write_config(tmp_path, tiny_config(tmp_path / "run"))
    train(config, {"Global.epochs": 1, "Global.loggers": OPTIONAL})
    first = services.values()
    report = train(config, {"Global.epochs": 2, "Global.loggers": OPTIONAL}, resume="auto")
    found = services.values()
    for name, values in found.items():
        taken = {tag: [step for other, _, step in values if other == tag] for tag, _, _ in values}
        assert taken["train/loss"] == taken["train/learning_rate"] == [2, 4, 6, 8], name
        assert taken["eval/top1_by_epoch"] == taken["train/loss_by_epoch"] == [1, 2], name
        assert values[: len(first[name])] == first[name]
    services.client.create_run.assert_called_once()
    services.client.update_run.assert_called_once_with("run 7", status="RUNNING")
    assert [call.args[1] for call in services.client.set_terminated.call_args_list] == ["FINISHED", "FINISHED"]
    assert [call.kwargs["id"] for call in services.init.call_args_list] == [None, "abc"]
    assert [call.kwargs["exit_code"] for call in services.run.finish.call_args_list] == [0, 0]
    restarts = [event.step for event in services.events() if hasattr(event, "session_log")]
    assert restarts == [5], "what an earlier file says of later steps is dropped"
    losses = [value for tag, value, _ in found["mlflow"] if tag == "train/loss_by_epoch"]
    assert losses == [record["train"]["loss"] for record in report["history"]]
    assert report["overrides"] == ["Global.epochs=2", f"Global.loggers={json.dumps(OPTIONAL)}"]
    assert report["packages"]["numpy"] and report["packages"]["Python"]
    assert report["source"] is None or len(report["source"]["commit"]) == 40
    assert ", threads: " in report["machine"]
    assert json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8")) == report


def test_a_logger_that_fails_is_warned_of_once_and_ends_nothing(tmp_path, services, caplog) -> None:
    started = Loggers(["mlflow", "tensorboard"], tmp_path, {}, updates=0)
    services.client.log_batch.side_effect = ConnectionError("no route\nto host")
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            started.write({"train/loss": 0.5}, step, UPDATE)
        started.close(finished=False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "mlflow failed and gets nothing more of this run: no route to host"
    assert [step for *_, step in services.values()["tensorboard"]] == [1, 2]


def test_a_logger_that_does_not_start_stops_before_the_training(tmp_path, services) -> None:
    services.init.side_effect = ZeroDivisionError("division by zero")
    with pytest.raises(UserError, match="^the logger wandb does not start: division by zero$"):
        Loggers(["mlflow", "wandb"], tmp_path, {}, updates=0)
    services.client.set_terminated.assert_called_once_with("run 7", "KILLED")


def test_an_unknown_logger_and_a_missing_package_are_named_before_any_data_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda _: None)
    config = write_config(tmp_path, tiny_config(tmp_path / "run"))
    for name, message in (
        ("wandb", "^Global.loggers: wandb needs the package wandb, which is not installed: pip install wandb$"),
        ("wnadb", r"Global\.loggers\[0\]: must be one of visualdl, .* \(did you mean 'wandb'"),
    ):
        with pytest.raises(UserError, match=message):
            train(config, {"Global.loggers": [name]})
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_writes(tmp_path, services) -> None:
    for active in (False, True):
        with RunFolder(tmp_path / "run", active) as folder:
            options = SimpleNamespace(loggers=OPTIONAL, config={})
            task = SimpleNamespace(options=options, model=SimpleNamespace(parameters=list))
            recorder = Recorder(folder, task, RunProgress())
            recorder.open()
            recorder.close()
            assert services.began() == [int(active)] * 3
