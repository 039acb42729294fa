"""One run of a study: its folder, and what stands in it. Loads no Paddle."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from classification.config import Config
from classification.study.config import Row, Study, run_config
from ppcls_ext.utils.config import ConfigLoader, changed_keys
from ppcls_ext.utils.errors import ConfigError, UserError
from ppcls_ext.utils.files import write_json
from ppcls_ext.utils.locks import lock_folder

# Keys that may differ between what was trained and what is asked for: no figure of the report depends on them.
WITHOUT_EFFECT = (
    "Global.device",
    "Global.keep_checkpoints",
    "Global.log_ranks",
    "Global.max_bad_images",
    "Global.output_dir",
    "Global.print_batch_step",
    "Global.save_",
    "Global.use_visualdl",
    "DataLoader.Train.loader",
    "DataLoader.Eval.loader",
    "Infer",
)
# Where data stand. A run that goes on elsewhere may go on with other data; of a finished one the place means nothing.
PLACES = tuple(
    f"DataLoader.{part}.dataset.{name}"
    for part in ("Train", "Eval")
    for name in ("data_file", "image_root", "cls_label_path")
)
SHOWN_CHANGES = 3


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
    def epochs(self) -> int:
        """Epochs to train."""
        return self.config.run.epochs

    @property
    def report(self) -> dict[str, Any] | None:
        """The run's own report if it is there and tells that all epochs are done, else None."""
        try:
            report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_whole = isinstance(report, dict) and isinstance(report.get("history"), list)
        return report if is_whole and report.get("epochs") == self.epochs else None

    def history(self) -> list[dict[str, Any]]:
        """Returns the records of the finished epochs, from ``log.jsonl``: also of a run that is under way."""
        try:
            text = (self.folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        records = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # The last line of a run that is writing, or was killed.
            if isinstance(record, dict) and record.get("kind") == "epoch":
                records.append(record)
        return records

    def changes_since(self, without_effect: tuple[str, ...] = WITHOUT_EFFECT) -> list[str]:
        """Returns ``KEY BEFORE -> NOW`` of what differs from the configuration that the folder was trained with.

        Args:
            without_effect: beginnings of dotted keys that may differ.
        """
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
                runs.append(Run(row, seed, folder, *run_config(row, seed, folder)))
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
