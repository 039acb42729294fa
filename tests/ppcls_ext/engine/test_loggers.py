"""Loggers: values by tag and step, one run with a service over all sessions, and no failure that ends a training."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from classification import train
from ppcls_ext.engine import loggers
from ppcls_ext.engine.loggers import EPOCH, UPDATE, Loggers
from ppcls_ext.engine.recorder import Recorder, RunFolder
from ppcls_ext.engine.task import RunProgress
from ppcls_ext.utils.errors import UserError
from tests.support.runs import tiny_config, write_config


class Record(SimpleNamespace):
    """Stands for the protocol buffers and entities of the packages: what it is called with are its attributes."""

    START = "start"

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(values=values, **named)


class Service:
    """Stands for MLflow's server and the cloud of Weights & Biases; ``broken`` fails like a network."""

    def __init__(self) -> None:
        self.values: list[tuple] = []
        self.began: list[str | None] = []
        self.ended: list[Any] = []
        self.broken = False

    def take(self, name: str, value: float, step: int) -> None:
        if self.broken:
            raise ConnectionError("no route\nto host")
        self.values.append((name, value, step))


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    """Puts stubs in place of the optional packages; returns what they were told."""
    found = {name: Service() for name in ("tensorboard", "mlflow", "wandb")}

    class EventFileWriter:
        def __init__(self, folder: str) -> None:
            found["tensorboard"].began.append(folder)
            self.close = self.flush = lambda: None

        def add_event(self, event: Record) -> None:
            for value in event.summary.value if hasattr(event, "summary") else []:
                found["tensorboard"].take(value.tag, value.simple_value, event.step)
            if hasattr(event, "session_log"):
                found["tensorboard"].ended.append(event.step)

    class Summary(Record):
        Value = Record

    class MlflowClient:
        def __init__(self, place: str) -> None:
            self.service = found["mlflow"]

        def get_experiment_by_name(self, name: str) -> Record:
            return Record(experiment_id=name)

        def create_run(self, experiment: str, run_name: str) -> Record:
            self.service.began.append(run_name)
            return Record(info=Record(run_id="run 7"))

        def update_run(self, run: str, status: str) -> None:
            self.service.began.append(run)

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            for metric in metrics:
                name, value, _, step = metric.values
                self.service.take(name, value, step)

        def set_terminated(self, run: str, status: str) -> None:
            self.service.ended.append(status)

    class Run:
        id = "abc"

        def define_metric(self, name: str, step_metric: str) -> None:
            assert step_metric in (UPDATE, EPOCH)

        def log(self, values: dict[str, float]) -> None:
            step = values.get(EPOCH, values.get(UPDATE))
            for name in values.keys() - {EPOCH, UPDATE}:
                found["wandb"].take(name, values[name], int(step))

        def finish(self, exit_code: int) -> None:
            found["wandb"].ended.append(exit_code)

    def init(**settings: Any) -> Run:
        found["wandb"].began.append(settings["id"])
        return Run()

    stubs = {
        "tensorboard.compat.proto.event_pb2": {"Event": Record, "SessionLog": Record},
        "tensorboard.compat.proto.summary_pb2": {"Summary": Summary},
        "tensorboard.summary.writer.event_file_writer": {"EventFileWriter": EventFileWriter},
        "mlflow.entities": {"Metric": Record, "Param": Record}, "mlflow.tracking": {"MlflowClient": MlflowClient},
        "wandb": {"init": init, "Settings": Record},
    }  # fmt: skip
    for name, content in stubs.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:length]), ModuleType(parts[length - 1]))
        for key, value in content.items():
            setattr(sys.modules[name], key, value)
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: name)
    return found


OPTIONAL = ["tensorboard", "mlflow", "wandb"]


def test_a_resumed_run_goes_on_in_all_loggers_and_says_how_it_was_made(tmp_path: Path, services) -> None:
    config = write_config(tmp_path, tiny_config(tmp_path / "run"))
    train(config, {"Global.epochs": 1, "Global.loggers": OPTIONAL})
    first = {name: list(service.values) for name, service in services.items()}
    report = train(config, {"Global.epochs": 2, "Global.loggers": OPTIONAL}, resume="auto")
    for name, service in services.items():
        taken = {tag: [step for other, _, step in service.values if other == tag] for tag, _, _ in service.values}
        assert taken["train/loss"] == taken["train/learning_rate"] == [2, 4, 6, 8], name
        assert taken["eval/top1_by_epoch"] == taken["train/loss_by_epoch"] == [1, 2], name
        assert service.values[: len(first[name])] == first[name]
    assert services["mlflow"].began == ["run", "run 7"] and services["mlflow"].ended == ["FINISHED", "FINISHED"]
    assert services["wandb"].began == [None, "abc"] and services["wandb"].ended == [0, 0]
    assert services["tensorboard"].ended == [5], "what an earlier file says of later steps is dropped"
    losses = [value for tag, value, _ in services["mlflow"].values if tag == "train/loss_by_epoch"]
    assert losses == [record["train"]["loss"] for record in report["history"]]
    assert report["overrides"] == ["Global.epochs=2", f"Global.loggers={json.dumps(OPTIONAL)}"]
    assert report["packages"]["numpy"] and report["packages"]["Python"]
    assert report["source"] is None or len(report["source"]["commit"]) == 40
    assert ", threads: " in report["machine"]
    assert json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8")) == report


def test_a_logger_that_fails_is_warned_of_once_and_ends_nothing(tmp_path, services, caplog) -> None:
    started = Loggers(["mlflow", "tensorboard"], tmp_path, {}, updates=0)
    services["mlflow"].broken = True
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            started.write({"train/loss": 0.5}, step, UPDATE)
        started.close(finished=False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "mlflow failed and gets nothing more of this run: no route to host"
    assert [step for *_, step in services["tensorboard"].values] == [1, 2]


def test_a_logger_that_does_not_start_stops_before_the_training(tmp_path, services, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **_: 1 / 0)
    with pytest.raises(UserError, match="^the logger wandb does not start: division by zero$"):
        Loggers(["mlflow", "wandb"], tmp_path, {}, updates=0)
    assert services["mlflow"].ended == ["KILLED"]


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
            task = SimpleNamespace(options=SimpleNamespace(loggers=OPTIONAL, config={}))
            recorder = Recorder(folder, task, RunProgress())
            recorder.open()
            recorder.close()
            assert [len(service.began) for service in services.values()] == [int(active)] * 3
