"""Curves of a run for VisualDL, TensorBoard, MLflow and Weights & Biases: a logger is a class and a row of ``LOGGERS``.

All but VisualDL are optional packages. Addresses, projects and keys are those packages' own environment variables; what
they write to disk stands in the folder of the run. A resumed run goes on where it was; where a checkpoint lies before
the last values, the same values come again.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ppcls_ext.utils.config import flatten
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json

logger = logging.getLogger(__name__)

# Names of the runs with the services, by logger.
RUN_NAMES = "loggers.json"
# What the steps of values count.
UPDATE, EPOCH = "update", "epoch"
# MLflow refuses longer values and longer lists.
LONGEST_VALUE, MOST_VALUES = 500, 100


class VisualDL:
    """Files in ``RUN/vdl``, shown by ``visualdl --logdir RUN/vdl``."""

    name = None

    def __init__(self, folder: Path, config: Mapping[str, Any], updates: int, name: str | None) -> None:
        from visualdl import LogWriter

        # Its file cannot be cut back: a run that starts at its beginning starts with none.
        if updates == 0:
            shutil.rmtree(folder / "vdl", ignore_errors=True)
        self._writer = LogWriter(logdir=str(folder / "vdl"))

    def write(self, values: Mapping[str, float], step: int, axis: str) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag=tag, step=step, value=value)

    def close(self, finished: bool) -> None:
        self._writer.close()


class TensorBoard:
    """Files in ``RUN/tensorboard``, shown by ``tensorboard --logdir RUN``."""

    name = None

    def __init__(self, folder: Path, config: Mapping[str, Any], updates: int, name: str | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        if updates == 0:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer = EventFileWriter(str(folder / "tensorboard"))
        if updates:
            # The viewer drops what an earlier file says of later steps.
            restart = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=updates + 1, session_log=restart))

    def write(self, values: Mapping[str, float], step: int, axis: str) -> None:
        entries = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=entries)))
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


class MLflow:
    """A run with the server of ``MLFLOW_TRACKING_URI``, without it in the folder ``RUN/mlruns``."""

    def __init__(self, folder: Path, config: Mapping[str, Any], updates: int, name: str | None) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        # Seven tries, its default, hold a training up for minutes where the server is away.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            # MLflow 3 wants to be asked for a folder, which alone needs neither a server nor a database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (folder / "mlruns").resolve().as_uri()
        self._client = MlflowClient(place)
        if name is not None:
            self.name = name
            self._client.update_run(self.name, status="RUNNING")
            return
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        experiment = self._client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment else self._client.create_experiment(title)
        self.name = self._client.create_run(number, run_name=folder.resolve().name).info.run_id
        keys = [Param(_allowed(key), str(value)[:LONGEST_VALUE]) for key, value in flatten(dict(config)).items()]
        for first in range(0, len(keys), MOST_VALUES):
            self._client.log_batch(self.name, params=keys[first : first + MOST_VALUES])

    def write(self, values: Mapping[str, float], step: int, axis: str) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(_allowed(tag), value, now, step) for tag, value in values.items()]
        self._client.log_batch(self.name, metrics=metrics)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self.name, "FINISHED" if finished else "KILLED")


def _allowed(key: str) -> str:
    """Returns a dotted key with the characters that MLflow takes."""
    key = key.replace("[", ".").replace("]", "")
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in key)


class WeightsAndBiases:
    """A run of the project ``WANDB_PROJECT``; with ``WANDB_MODE=offline`` in ``RUN/wandb`` alone."""

    def __init__(self, folder: Path, config: Mapping[str, Any], updates: int, name: str | None) -> None:
        import wandb

        self._run = wandb.init(
            dir=str(folder), name=folder.resolve().name, id=name, resume="allow",
            config=dict(config), allow_val_change=True, settings=wandb.Settings(console="off"),
        )  # fmt: skip
        self.name = self._run.id
        self._known: set[str] = set()

    def write(self, values: Mapping[str, float], step: int, axis: str) -> None:
        for tag in values.keys() - self._known:
            self._run.define_metric(tag, step_metric=axis)
        self._known |= values.keys()
        self._run.log({**values, axis: step})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class Row(NamedTuple):
    """A logger: its class, the module that it needs, and what to install.

    The class begins with the run's folder, its configuration, the optimizer steps done (0: a fresh run), and the
    ``name`` that an earlier session of the run has with the service. ``write(values, step, axis)`` takes values by tag
    after ``step`` of what ``axis`` counts; ``close(finished)`` tells whether the run reached its last epoch.
    """

    writer: type[Any]
    module: str
    package: str


LOGGERS = {
    "visualdl": Row(VisualDL, "visualdl", "visualdl"),
    "tensorboard": Row(TensorBoard, "tensorboard", "tensorboard"),
    "mlflow": Row(MLflow, "mlflow", "mlflow-skinny"),
    "wandb": Row(WeightsAndBiases, "wandb", "wandb"),
}
# What the key `loggers` of a configuration may hold.
LoggerName = Literal[tuple(LOGGERS)]  # type: ignore[valid-type]


def require_packages(names: Sequence[str], key: str) -> None:
    """Checks before any work that the packages of the loggers are there.

    Raises:
        UserError: one is missing; the message says what to install.
    """
    for name in names:
        if importlib.util.find_spec(LOGGERS[name].module) is None:
            package = LOGGERS[name].package
            raise UserError(f"{key}: {name} needs the package {package}, which is not installed: pip install {package}")


class Loggers:
    """The loggers of a run. One that fails later is warned of once and left out: it must not end a training.

    Args:
        names: keys of ``LOGGERS``.
        folder: of the run.
        config: of the run.
        updates: optimizer steps done; 0 begins new runs with the services.

    Raises:
        UserError: a logger does not start.
    """

    def __init__(self, names: Sequence[str], folder: Path, config: Mapping[str, Any], updates: int) -> None:
        file = folder / RUN_NAMES
        known = json.loads(file.read_text(encoding="utf-8")) if updates and file.is_file() else {}
        self._writers: dict[str, Any] = {}
        for name in dict.fromkeys(names):
            try:
                self._writers[name] = LOGGERS[name].writer(folder, config, updates, known.get(name))
            except Exception as error:
                self.close(finished=False)
                raise UserError(f"the logger {name} does not start: {_in_one_line(error)}") from error
        runs = {name: writer.name for name, writer in self._writers.items() if writer.name is not None}
        if runs or file.is_file():
            write_json(file, {**known, **runs})

    def write(self, values: Mapping[str, float], step: int, axis: str) -> None:
        """Writes values by tag, after ``step`` of what ``axis`` counts: ``UPDATE`` or ``EPOCH``."""
        self._each("write", values, step, axis)

    def close(self, finished: bool) -> None:
        """Closes all; ``finished`` tells whether the run reached its last epoch."""
        self._each("close", finished)
        self._writers = {}

    def _each(self, method: str, *arguments: Any) -> None:
        for name, writer in list(self._writers.items()):
            try:
                getattr(writer, method)(*arguments)
            except Exception as error:  # noqa: BLE001 (each package has errors of its own)
                logger.warning("%s failed and gets nothing more of this run: %s", name, _in_one_line(error))
                del self._writers[name]


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
