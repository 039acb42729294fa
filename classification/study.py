"""Studies: the training runs that one YAML file asks for, each in a folder and a process of its own.

Rows (a configuration and what is changed in it), ablations (a row with one thing changed) and seeds. What is finished
is not repeated; `classification.study_report` compares the rows.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from classification.config import Config, load_config
from ppcls_ext.deploy.published import PUBLISHED_ON_CIFAR100, Published
from ppcls_ext.engine.environment import InterruptWatch
from ppcls_ext.utils.config import ConfigLoader, Document, apply_override, changed_keys, load_config_file
from ppcls_ext.utils.errors import ConfigError, Interrupted, UserError, suggestion
from ppcls_ext.utils.files import is_locked, lock_folder, write_json
from ppcls_ext.utils.history import read_history
from ppcls_ext.utils.machine import available_cores
from ppcls_ext.utils.schema import Checker, CountOrZero, Section

logger = logging.getLogger(__name__)
# A row's name is the name of its folder, beside which the study's own files stand.
ROW_NAME = re.compile(r"(?!.*\.(csv|json|md|png)$)[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# The study gives each run its own.
OWN_KEYS = ("Global.output_dir", "Global.seed", "Global.checkpoints")
CHOSEN = "is chosen by the study for each run (output_dir, seeds)"
# Keys that may differ between what was trained and what is asked for: no figure of the comparison depends on them.
WITHOUT_EFFECT = (
    "Global.device", "Global.keep_checkpoints", "Global.log_ranks", "Global.max_bad_images", "Global.output_dir",
    "Global.print_batch_step", "Global.save_", "Global.use_visualdl", "DataLoader.Train.loader",
    "DataLoader.Eval.loader", "Infer",
)  # fmt: skip
# Where data stand. A run that goes on elsewhere may go on with other data; of a finished one the place means nothing.
PLACES = tuple(
    f"DataLoader.{part}.dataset.{name}"
    for part in ("Train", "Eval")
    for name in ("data_file", "image_root", "cls_label_path")
)
SHOWN_CHANGES = 3
POLL_SECONDS = 0.25


# The file


class RowSection(Section):
    """One entry of ``rows``.

    Attributes:
        name: of the row and of its folder.
        config: a classification configuration; the path is relative to the working directory, as all paths are.
        overrides: dotted keys of that configuration and their values, as ``-o`` takes them.
        seeds: of this row, where they differ from those of the study.
        published: a name of the table of published figures on CIFAR-100, shown beside the row's own.
    """

    name: str
    config: str
    overrides: dict[str, Any] = {}
    seeds: list[CountOrZero] | None = None
    published: str | None = None


class AblationSection(Section):
    """One entry of ``ablations``: the row ``base`` with the changes ``overrides``; for the others see `RowSection`."""

    name: str
    base: str
    overrides: dict[str, Any]
    seeds: list[CountOrZero] | None = None


@dataclass(frozen=True)
class Row:
    """A row to train, once for each seed.

    Attributes:
        name: of the row and of its folder.
        config_file: its configuration.
        changes: of that configuration, ``KEY=VALUE``, in the order in which they are applied.
        seeds: one run each.
        base: for an ablation the row that it differs from, else None.
        differences: for an ablation what differs, ``KEY=VALUE``.
        published: figures of others, or None.
    """

    name: str
    config_file: str
    changes: tuple[str, ...]
    seeds: tuple[int, ...]
    base: str | None = None
    differences: tuple[str, ...] = ()
    published: Published | None = None


@dataclass(frozen=True)
class Study:
    """A whole checked study.

    Attributes:
        name: of its file, without ending.
        path: its file.
        output_dir: each run stands in ``output_dir/ROW/seed_N``.
        rows: the rows, then the ablations.
    """

    name: str
    path: Path
    output_dir: Path
    rows: tuple[Row, ...]

    def choose(self, names: Sequence[str]) -> tuple[Row, ...]:
        """Returns the rows of these names in the order of the file; all if there are no names.

        Raises:
            UserError: there is no such row.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UserError(f"{self.path}: no row '{name}'{suggestion(name, known)}; rows: {', '.join(known)}")
        return tuple(row for row in self.rows if not names or row.name in names)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and checks a study and the configuration of each of its rows, before anything is trained.

    Args:
        path: the file.
        overrides: ``KEY=VALUE`` changes of the configuration of every row; they go last.

    Raises:
        ConfigError: every mistake of the file, one line each with its place.
        UserError: the file cannot be read, or a change is malformed.
    """
    for change in overrides:
        apply_override(Document(Path(), {}, {}), change)
        key = change.partition("=")[0].strip()
        if key in OWN_KEYS:
            raise UserError(f"-o {change}: {key} {CHOSEN}")
    document = load_config_file(path)
    check, data = Checker(document), document.data
    check.known_keys("", data, ("output_dir", "seeds", "overrides", "rows", "ablations"))
    output_dir = data.get("output_dir")
    if not isinstance(output_dir, str) or not output_dir:
        check.add("output_dir", f"must be the folder of the study's runs, got {output_dir!r}")
    seeds = _read_seeds(check, data.get("seeds", [0]), "seeds")
    common = _read_changes(check, data.get("overrides") or {}, "overrides")
    rows: dict[str, Row] = {}
    wrong: set[Any] = set()
    for section, model in (("rows", RowSection), ("ablations", AblationSection)):
        entries = data.get(section, [] if section == "ablations" else None)
        if not isinstance(entries, list) or (section == "rows" and not entries):
            check.add(section, f"must be a list of mappings, at least one row, got {entries!r}")
            wrong.add(None)
            continue
        for index, entry in enumerate(entries):
            key = f"{section}[{index}]"
            settings: Any = check.section(model, entry, key)
            if settings is None:
                wrong.add(entry.get("name") if isinstance(entry, dict) else None)
                continue
            name = settings.name
            if not ROW_NAME.fullmatch(name):
                fit = "at most 100 letters, digits, . _ + -; .csv, .json, .md, .png end the names of the study's files"
                check.add(f"{key}.name", f"must be fit for a folder ({fit}), got {name!r}")
            if name in rows:
                check.add(f"{key}.name", f"'{name}' stands twice; each row has a folder of its own")
            own = seeds if settings.seeds is None else _read_seeds(check, settings.seeds, f"{key}.seeds")
            changes = _read_changes(check, settings.overrides, f"{key}.overrides")
            if model is RowSection:
                published = settings.published
                if published is not None:
                    published = check.choice(published, f"{key}.published", PUBLISHED_ON_CIFAR100)
                known = PUBLISHED_ON_CIFAR100.get(published or "")
                rows[name] = Row(name, settings.config, common + changes, own, published=known)
                continue
            if not changes:
                check.add(f"{key}.overrides", "is empty: an ablation changes something of its base")
            # A base that is there but wrong has a line of its own already.
            bases = [row.name for row in rows.values() if row.base is None]
            if settings.base in wrong or None in wrong or check.choice(settings.base, f"{key}.base", bases) is None:
                continue
            base = rows[settings.base]
            rows[name] = Row(name, base.config_file, base.changes + changes, own, base.name, changes)
    check.raise_any()
    rows = {name: replace(row, changes=row.changes + tuple(overrides)) for name, row in rows.items()}
    places = [f"{section}[{index}]" for section in ("rows", "ablations") for index in range(len(data.get(section, [])))]
    for key, row in zip(places, rows.values(), strict=True):
        try:
            config = load_config(row.config_file, row.changes)
        except UserError as error:
            for line in str(error).splitlines():
                check.add(key, f"{row.name}: {line}")
            continue
        if config.eval is None or not config.run.eval_during_train:
            check.add(key, f"{row.name}: {row.config_file} evaluates nothing, so nothing can be compared")
    check.raise_any()
    return Study(document.path.stem, document.path, Path(str(output_dir)), tuple(rows.values()))


def _read_seeds(check: Checker, value: Any, key: str) -> tuple[int, ...]:
    fits = isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value)
    if not fits or len(set(value)) < len(value):
        check.add(key, f"must be a list of different whole numbers from 0, got {value!r}")
        return ()
    return tuple(value)


def _read_changes(check: Checker, value: Any, key: str) -> tuple[str, ...]:
    """Returns a mapping of dotted keys as ``KEY=VALUE``; JSON is YAML, in one line."""
    if not isinstance(value, dict):
        check.add(key, f"must be a mapping of dotted keys such as Arch.drop_path_rate, got {value!r}")
        return ()
    for name in value:
        if name in OWN_KEYS:
            check.add(f"{key}.{name}", CHOSEN)
    # Dates, which YAML knows and JSON does not, as text: no key takes them, and the check of the row says so.
    return tuple(f"{name}={json.dumps(entry, ensure_ascii=False, default=str)}" for name, entry in value.items())


# Runs


@dataclass(frozen=True)
class Run:
    """One training run: a row with a seed.

    Attributes:
        row: the row.
        seed: the seed.
        folder: what the run writes stands here.
        changes: of the row's configuration, ``KEY=VALUE``, seed and folder included.
        config: the configuration that results.
    """

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
        """The run's own report if it is there and tells that all epochs are done, else None."""
        try:
            report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_whole = isinstance(report, dict) and isinstance(report.get("history"), list)
        return report if is_whole and report.get("epochs") == self.config.run.epochs else None

    def changes_since(self, without_effect: tuple[str, ...]) -> list[str]:
        """Returns ``KEY BEFORE -> NOW`` of what differs from the configuration that the folder was trained with."""
        try:
            before = yaml.load((self.folder / "config.yaml").read_text(encoding="utf-8"), Loader=ConfigLoader)
        except (OSError, ValueError, yaml.YAMLError):
            return []
        now = yaml.load(self.config.to_yaml(), Loader=ConfigLoader)
        return changed_keys(before, now, without_effect) if isinstance(before, dict) else []


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

    Args:
        runs: of the study.
        training: whether they are to be trained; if not, the data may have been moved since.

    Raises:
        ConfigError: it was not; one line for each run.
    """
    lines = []
    for run in runs:
        changed = run.changes_since(WITHOUT_EFFECT if training else WITHOUT_EFFECT + PLACES)
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
    """Holds the study's output folder while it trains, and marks it as this study's.

    Raises:
        UserError: another process trains a study there, or the folder cannot be written.
    """
    with lock_folder(study.output_dir, "another process is training a study in this folder", "output_dir"):
        # Again: only now is it certain that nobody else is marking the folder.
        refuse_other_study(study)
        rows = {row.name: list(row.seeds) for row in study.rows}
        write_json(study.output_dir / "study.json", {"study": study.name, "file": str(study.path), "rows": rows})
        yield


def refuse_other_study(study: Study) -> None:
    """Checks that the output folder is this study's.

    Raises:
        UserError: another study has written there.
    """
    try:
        mark = json.loads((study.output_dir / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(mark, dict) or not isinstance(mark.get("rows"), dict):
        return
    other, rows = mark.get("study"), mark["rows"]
    if other != study.name or not rows.keys() & {row.name for row in study.rows}:
        raise UserError(
            f"{study.output_dir}: holds the study '{other}' with the rows {', '.join(rows)}, not {study.path}; choose "
            "another output_dir"
        )


# Training


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end; ``reason`` is one line."""

    run: Run
    reason: str


def train_runs(runs: Sequence[Run], script: Path, jobs: int = 1) -> list[Failure]:
    """Trains what is not finished yet, some runs side by side, each in a process of its own.

    Unless ``OMP_NUM_THREADS`` is set, each process gets its share of the cores; of the GPUs that
    ``CUDA_VISIBLE_DEVICES`` names, each gets one.

    Args:
        runs: to train, in their order.
        script: ``tools/train.py``.
        jobs: runs at a time. One that another process trains, such as one that outlived a killed study, has its place
            until that ends.

    Returns:
        The runs that failed; they do not stop the others.

    Raises:
        Interrupted: the user stopped it; every run under way was saved.
    """
    waiting = [run for run in runs if run.report is None]
    logger.info("%d of %d runs are finished, %d to train", len(runs) - len(waiting), len(runs), len(waiting))
    stop, kill = threading.Event(), threading.Event()
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    def train(run: Run) -> Failure | None:
        slot = slots.get()
        try:
            return _train_run(run, script, _environment(slot, jobs), stop, kill)
        finally:
            slots.put(slot)

    with InterruptWatch(world_size=1) as watch, ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(train, run) for run in waiting]
        try:
            while wait(futures, timeout=POLL_SECONDS).not_done:
                if watch.stop_after(0):
                    stop.set()
        except BaseException:
            stop.set()
            kill.set()
            raise
    if stop.is_set():
        raise Interrupted("stopped; what was under way is saved; continue with the same command")
    failures = [future.result() for future in futures]
    return [failure for failure in failures if failure is not None]


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """Returns the environment of a run: its share of the threads and, of several GPUs, one."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // jobs)))
    gpus = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment


def _train_run(
    run: Run, script: Path, environment: dict[str, str], stop: threading.Event, kill: threading.Event
) -> Failure | None:
    """Trains one run and tells of its epochs; ``stop`` lets it save and leave, ``kill`` ends it at once."""
    told_of_other = False
    while is_locked(run.folder):
        if not told_of_other:
            told_of_other = True
            logger.info("%s: another process trains it, perhaps of a killed study; waiting for it", run.label)
        if stop.wait(POLL_SECONDS):
            return None
    if stop.is_set():
        return None
    if run.report is not None:
        logger.info("%s: finished by another process", run.label)
        return None
    console = run.folder / "console.log"
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        stream = open(console, "a", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        return _failure(run, f"{error.filename}: {error.strerror}")
    with stream:
        begin, told = stream.tell(), len(read_history(run.folder))
        command = [sys.executable, str(script), "-c", run.row.config_file, "-o", *run.changes, "--resume", "auto"]
        # A session of its own: Ctrl-C at the terminal would reach it too, and the signal that is passed on would be the
        # second one, which saves nothing.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                                   env=environment, start_new_session=True)  # fmt: skip
        logger.info("%s: %s", run.label, f"continued after epoch {told}" if told else "started")
        is_asked_to_stop = False
        while process.poll() is None:
            if kill.is_set():
                process.kill()
            elif stop.is_set() and not is_asked_to_stop:
                is_asked_to_stop = True
                process.send_signal(signal.SIGTERM)
            time.sleep(POLL_SECONDS)
            told = _tell_epochs(run, told)
        _tell_epochs(run, told)
    if process.returncode == 0 and run.report is not None:
        logger.info("%s: finished", run.label)
        return None
    if stop.is_set():
        logger.info("%s: stopped", run.label)
        return None
    lines = console.read_bytes()[begin:].decode("utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    status = process.returncode
    cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return _failure(run, errors[0] if errors else f"{cause}; see {console}")


def _failure(run: Run, reason: str) -> Failure:
    logger.warning("%s failed: %s", run.label, reason)
    return Failure(run, reason)


def _tell_epochs(run: Run, told: int) -> int:
    """Logs the epochs after the first ``told`` ones; returns how many are told now."""
    history = read_history(run.folder)
    for record in history[told:]:
        figures = evaluation_of(record)
        top1 = f"  top-1 {100 * figures['top1']:.2f} %" if "top1" in figures else ""
        train, epochs = record["train"], run.config.run.epochs
        logger.info(
            "%s: epoch %d/%d  loss %.3f%s  (%.0f s)",
            run.label, record["epoch"], epochs, train["loss"], top1, train["seconds"],
        )  # fmt: skip
    return max(told, len(history))


def evaluation_of(record: dict[str, Any]) -> dict[str, float]:
    """Returns the figures of an epoch: of the averaged weights where a run has them, else of the plain ones.

    Which of both is decided by the configuration, not by which did better on the test images.
    """
    return record.get("ema") or record.get("eval") or {}
