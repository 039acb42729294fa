"""Studies: the training runs that one YAML file asks for, each in a folder and a process of its own.

Rows (a configuration and what is changed in it), ablations (a row with one thing changed) and seeds. What is finished
is not repeated; `classification.study_report` compares the rows.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator

from classification.config import Config, load_config
from ppcls_ext.deploy.published import PUBLISHED_ON_CIFAR100, Published
from ppcls_ext.engine.environment import InterruptWatch
from ppcls_ext.preprocess import depth
from ppcls_ext.utils.config import ConfigLoader, Document, apply_override, changed_keys, load_config_file
from ppcls_ext.utils.errors import ConfigError, Interrupted, UserError, suggestion
from ppcls_ext.utils.files import is_locked, lock_folder, write_json
from ppcls_ext.utils.history import evaluation_of, read_history
from ppcls_ext.utils.machine import available_cores
from ppcls_ext.utils.names import user_path
from ppcls_ext.utils.schema import Checker, CountOrZero, Section

logger = logging.getLogger(__name__)
# A row's name is the name of its folder, beside which the study's own files stand.
ROW_NAME = re.compile(r"(?!.*\.(csv|json|md|png)$)[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# The study gives each run its own.
OWN_KEYS = ("Global.output_dir", "Global.seed", "Global.checkpoints")
CHOSEN = "is chosen by the study for each run (output_dir, seeds)"
# Keys that may differ between what was trained and what is asked for: no figure of the comparison depends on them.
WITHOUT_EFFECT = (
    "Global.device", "Global.keep_checkpoints", "Global.log_ranks", "Global.loggers", "Global.max_bad_images",
    "Global.output_dir", "Global.print_batch_step", "Global.save_", "Global.use_visualdl", "DataLoader.Train.loader",
    "DataLoader.Eval.loader", "Infer",
)  # fmt: skip
# Where data stand. A run that goes on elsewhere may go on with other data; of a finished one the place means nothing.
DATA_PATH_KEYS = tuple(f"DataLoader.{part}.dataset.{name}" for part in ("Train", "Eval")
                       for name in ("data_file", "data_dir", "image_root", "cls_label_path"))  # fmt: skip
SHOWN_CHANGES = 3
POLL_SECONDS = 0.25


# The file


def _check_name(name: str) -> str:
    if not ROW_NAME.fullmatch(name):
        fit = "at most 100 letters, digits, . _ + -; .csv, .json, .md, .png end the names of the study's files"
        raise ValueError(f"must be fit for a folder ({fit}), got {name!r}")
    return name


def _check_seeds(seeds: list[int]) -> list[int]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"must be a list of different whole numbers from 0, got {seeds!r}")
    return seeds


def _check_overrides(overrides: dict[str, Any]) -> dict[str, Any]:
    if own := overrides.keys() & set(OWN_KEYS):
        raise ValueError(f"{own.pop()} {CHOSEN}")
    return overrides


RowName = Annotated[str, AfterValidator(_check_name)]
Seeds = Annotated[list[CountOrZero], AfterValidator(_check_seeds)]
# Dotted keys of a configuration and their values, as ``-o`` takes them.
Overrides = Annotated[dict[str, Any], AfterValidator(_check_overrides)]


class RowSection(Section):
    """One entry of ``rows``: a configuration and changes of it.

    ``seeds`` are given where they differ from those of the study; ``published`` is a name of the table of published
    figures on CIFAR-100, shown beside the row's own.
    """

    name: RowName
    config: str
    overrides: Overrides = {}
    seeds: Seeds | None = None
    published: str | None = None


class AblationSection(Section):
    """One entry of ``ablations``: the row ``base`` with the changes ``overrides``."""

    name: RowName
    base: str
    overrides: Overrides
    seeds: Seeds | None = None


class StudySection(Section):
    """The file: ``output_dir`` holds all runs; ``seeds`` and ``overrides`` are those of every row."""

    output_dir: str
    seeds: Seeds = [0]
    overrides: Overrides | None = None
    rows: list[Any]
    ablations: list[Any] = []


@dataclass(frozen=True)
class Row:
    """A row to train, once for each seed: ``config`` is ``config_file`` with ``changes`` (``KEY=VALUE``).

    An ablation also has ``base``, the row that it differs from, and ``differences`` (``KEY=VALUE``).
    """

    name: str
    config_file: str
    changes: tuple[str, ...]
    config: Config
    seeds: tuple[int, ...]
    base: str | None = None
    differences: tuple[str, ...] = ()
    published: Published | None = None


@dataclass(frozen=True)
class Study:
    """A whole checked study: its name and file, the folder of its runs (``ROW/seed_N``), the rows and ablations."""

    name: str
    path: Path
    output_dir: Path
    rows: tuple[Row, ...]

    def choose(self, names: Sequence[str]) -> tuple[Row, ...]:
        """Returns the rows of these names in the order of the file; all if there are no names."""
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UserError(f"{self.path}: no row '{name}'{suggestion(name, known)}; rows: {', '.join(known)}")
        return tuple(row for row in self.rows if not names or row.name in names)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and checks a study and the configuration of each of its rows, before anything is trained.

    ``overrides`` are ``KEY=VALUE`` changes of the configuration of every row; they go last.

    Raises:
        ConfigError: the mistakes of the file, one line each with its place.
        UserError: the file cannot be read, or a change is malformed.
    """
    for change in overrides:
        apply_override(Document(Path(), {}, {}), change)
        key = change.partition("=")[0].strip()
        if key in OWN_KEYS:
            raise UserError(f"-o {change}: {key} {CHOSEN}")
    document = load_config_file(path)
    check = Checker(document)
    file: Any = check.section(StudySection, document.data, "")
    check.raise_any()
    if not file.rows:
        check.add("rows", "must hold at least one row")
    sections: dict[str, Any] = {}
    for section, model in (("rows", RowSection), ("ablations", AblationSection)):
        for index, entry in enumerate(getattr(file, section)):
            sections[f"{section}[{index}]"] = check.section(model, entry, f"{section}[{index}]")
    check.raise_any()

    rows: dict[str, Row] = {}
    changes_of: dict[str, tuple[str, ...]] = {}
    for key, entry in sections.items():
        name, changes, more = entry.name, _as_changes(entry.overrides), {}
        if name in rows:
            check.add(f"{key}.name", f"'{name}' stands twice; each row has a folder of its own")
        if isinstance(entry, AblationSection):
            if not changes:
                check.add(f"{key}.overrides", "is empty: an ablation changes something of its base")
            bases = [row.name for row in rows.values() if row.base is None]
            base = check.choice(entry.base, f"{key}.base", bases)
            if base is None:
                continue
            more = {"base": base, "differences": changes}
            config_file, changes = rows[base].config_file, changes_of[base] + changes
        else:
            if entry.published is not None:
                known = check.choice(entry.published, f"{key}.published", PUBLISHED_ON_CIFAR100)
                more = {"published": PUBLISHED_ON_CIFAR100.get(known or "")}
            config_file, changes = entry.config, _as_changes(file.overrides or {}) + changes
        config: Any = None
        try:
            config = load_config(config_file, (*changes, *overrides))
            if config.eval is None or not config.run.eval_during_train:
                check.add(key, f"{name}: {config_file} evaluates nothing, so nothing can be compared")
        except UserError as error:
            for line in str(error).splitlines():
                check.add(key, f"{name}: {line}")
        changes_of[name] = changes
        rows[name] = Row(name, config_file, (*changes, *overrides), config, tuple(entry.seeds or file.seeds), **more)
    check.raise_any()
    return Study(document.path.stem, document.path, user_path(file.output_dir), tuple(rows.values()))


def _as_changes(overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns ``KEY=VALUE``; JSON is YAML, in one line."""
    # Dates, which YAML knows and JSON does not, as text: no key takes them, and the check of the row says so.
    return tuple(f"{name}={json.dumps(value, ensure_ascii=False, default=str)}" for name, value in overrides.items())


# Runs


@dataclass(frozen=True)
class Run:
    """One training run, a row with a seed, in its folder; ``config`` is the row's with ``changes`` (``KEY=VALUE``)."""

    row: Row
    seed: int
    folder: Path
    changes: tuple[str, ...]
    config: Config

    @property
    def label(self) -> str:
        """Names the run in messages."""
        return f"{self.row.name}, seed {self.seed}"

    @property
    def report(self) -> dict[str, Any] | None:
        """The run's own report if it is there and tells that the run is over, else None."""
        try:
            report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(report, dict) or not isinstance(report.get("history"), list):
            return None
        is_over = report.get("epochs") == self.config.run.epochs or report.get("early_stopping", {}).get("stopped")
        return report if is_over else None


def runs_of(study: Study, rows: Sequence[Row]) -> list[Run]:
    """Returns all runs: the first seed of every row, then the second ones, so that a table is soon complete."""
    runs = []
    for number in range(max(len(row.seeds) for row in rows)):
        for row in rows:
            if number < len(row.seeds):
                seed = row.seeds[number]
                folder = study.output_dir / row.name / f"seed_{seed}"
                own = (f"Global.output_dir={json.dumps(str(folder), ensure_ascii=False)}", f"Global.seed={seed}")
                changes = (*row.changes, *own)
                runs.append(Run(row, seed, folder, changes, load_config(row.config_file, changes)))
    return runs


def refuse_changed_runs(runs: Sequence[Run], training: bool = True) -> None:
    """Checks that what stands in the folders was trained as the study says now.

    Raises:
        ConfigError: it was not; one line for each run. Unless they are for ``training``, data may have been moved.
    """
    lines, without_effect = [], WITHOUT_EFFECT if training else WITHOUT_EFFECT + DATA_PATH_KEYS
    for run in runs:
        try:
            before = yaml.load((run.folder / "config.yaml").read_text(encoding="utf-8"), Loader=ConfigLoader)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        config, trained = run.config, depth.statement_in(before)
        if trained and depth.is_auto(depth.statement_in(config.document.data)):
            config = config.with_depth(trained)
        now = yaml.load(config.to_yaml(), Loader=ConfigLoader)
        changed = changed_keys(before, now, without_effect) if isinstance(before, dict) else []
        if changed:
            shown = "; ".join(changed[:SHOWN_CHANGES]) + ("; ..." if len(changed) > SHOWN_CHANGES else "")
            lines.append(
                f"{run.folder}: holds a run of row '{run.row.name}' with another configuration ({shown}); "
                "give the row another name, choose another output_dir, or remove the folder"
            )
    if lines:
        raise ConfigError(lines)


@contextlib.contextmanager
def open_study(study: Study) -> Iterator[None]:
    """Holds the study's output folder while it trains, and marks it as its own; a UserError if it is not."""
    with lock_folder(study.output_dir, "another process is training a study in this folder", "output_dir"):
        # Again: only now is it certain that nobody else is marking the folder.
        refuse_other_study(study)
        rows = {row.name: list(row.seeds) for row in study.rows}
        write_json(study.output_dir / "study.json", {"study": study.name, "file": str(study.path), "rows": rows})
        yield


def refuse_other_study(study: Study) -> None:
    """Raises a UserError if another study has written into the output folder."""
    try:
        mark = json.loads((study.output_dir / "study.json").read_text(encoding="utf-8"))
        other, rows = mark["study"], dict(mark["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if other != study.name or not rows.keys() & {row.name for row in study.rows}:
        raise UserError(
            f"{study.output_dir}: holds the study '{other}' with the rows {', '.join(rows)}, not {study.path}; choose "
            "another output_dir"
        )


# Training


def train_runs(runs: Sequence[Run], script: Path, jobs: int = 1) -> list[tuple[Run, str]]:
    """Trains what is not finished yet, some runs side by side, each in a process of its own that a thread looks after.

    Unless ``OMP_NUM_THREADS`` is set, each process gets its share of the cores; of the GPUs that
    ``CUDA_VISIBLE_DEVICES`` names, each gets one.

    Args:
        runs: to train, in their order.
        script: ``tools/train.py``.
        jobs: runs at a time; one that another process trains, as after a killed study, has a place until that ends.

    Returns:
        The runs that failed, each with the reason in one line; they do not stop the others.

    Raises:
        Interrupted: the user stopped it; every run under way was saved.
    """
    waiting = [run for run in runs if run.report is None]
    logger.info("%d of %d runs are finished, %d to train", len(runs) - len(waiting), len(runs), len(waiting))
    environment = {"OMP_NUM_THREADS": str(max(1, available_cores() // jobs)), **os.environ}
    gpus = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    places: SimpleQueue[dict[str, str]] = SimpleQueue()
    for place in range(jobs):
        places.put({**environment, **({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})})
    at_once = Event()
    with InterruptWatch(world_size=1) as watch, ThreadPoolExecutor(jobs) as threads:

        def is_stopping() -> bool:
            return watch.stop_after(0) or at_once.is_set()

        def train(run: Run) -> str | None:
            place = places.get()
            try:
                reason = _train(run, script, place, is_stopping, at_once)
            finally:  # the next one waits for it
                places.put(place)
            if reason is not None:
                logger.warning("%s failed: %s", run.label, reason)
            return reason

        try:
            reasons = list(threads.map(train, waiting))
        finally:  # a second Ctrl-C saves nothing
            at_once.set()
        if watch.stop_after(0):
            raise Interrupted("stopped; what was under way is saved; continue with the same command")
    return [(run, reason) for run, reason in zip(waiting, reasons, strict=True) if reason is not None]


def _train(
    run: Run, script: Path, environment: Mapping[str, str], is_stopping: Callable[[], bool], at_once: Event
) -> str | None:
    """Trains one run and tells of its epochs; where ``is_stopping``, it is told to save and leave, or killed
    ``at_once``. Returns why it failed, None if it did not."""
    if is_locked(run.folder):
        logger.info("%s: another process trains it, perhaps of a killed study; waiting for it", run.label)
    while is_locked(run.folder) and not is_stopping():
        time.sleep(POLL_SECONDS)
    if is_stopping():
        return None
    if run.report is not None:
        logger.info("%s: finished by another process", run.label)
        return None
    console = run.folder / "console.log"
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        stream = open(console, "a", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    with stream:
        begin, told, is_told_to_stop = stream.tell(), len(read_history(run.folder)), False
        command = [sys.executable, str(script), "-c", run.row.config_file, "-o", *run.changes, "--resume", "auto"]
        # A session of its own: Ctrl-C at the terminal would reach it too, and the signal that is passed on would be the
        # second one, which saves nothing.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                                   env=environment, start_new_session=True)  # fmt: skip
        logger.info("%s: %s", run.label, f"continued after epoch {told}" if told else "started")
        is_over = False
        try:
            while not is_over:
                time.sleep(POLL_SECONDS)
                is_over = process.poll() is not None
                if at_once.is_set():
                    process.kill()
                elif is_stopping() and not is_told_to_stop:
                    is_told_to_stop = True
                    process.send_signal(signal.SIGTERM)
                history = read_history(run.folder)
                for record in history[told:]:
                    metrics, train = evaluation_of(record), record["train"]
                    top1 = f"  top-1 {100 * metrics['top1']:.2f} %" if "top1" in metrics else ""
                    logger.info("%s: epoch %d/%d  loss %.3f%s  (%.0f s)", run.label, record["epoch"],
                                run.config.run.epochs, train["loss"], top1, train["seconds"])  # fmt: skip
                told = max(told, len(history))
        finally:  # nobody would watch it after an error here
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode == 0 and run.report is not None:
        logger.info("%s: finished", run.label)
        return None
    if is_stopping():
        logger.info("%s: stopped", run.label)
        return None
    lines = console.read_bytes()[begin:].decode("utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    status = process.returncode
    cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return errors[0] if errors else f"{cause}; see {console}"
