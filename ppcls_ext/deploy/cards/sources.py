"""What the files of a run, a checkpoint or a pruning tell of a model. Loads no Paddle."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.deploy.cards.text import shown_path
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import find_weights

CLASSIFICATION, DETECTION = "classification", "detection"
REPORT, CONFIG, STATE, LOG = "report.json", "config.yaml", "state.json", "train.log"
BEST, LATEST = "best", "latest"
FINE_TUNING, PRUNED = "fine_tuning", "pruned"
# How the names of accuracies begin, in the figures of a pruning.
ACCURACIES = ("top", "AP", "loss")
# What must stand under the keys of report.json and state.json, if anything does.
KINDS: dict[str, type] = {
    "history": list, "best": dict, "seconds": dict, "class_names": list, "arguments": dict, "figures": dict,
    "data_order": dict, "teacher": dict, "bad_images": list, "model": str, "config": str,
}  # fmt: skip
# What a record of the history holds of an evaluation.
FIGURES = ("eval", "ema")
_DATE = re.compile(r"^(\d{4}-\d\d-\d\d)[ T]")


@dataclasses.dataclass(frozen=True)
class Source:
    """What is known of one model.

    Attributes:
        model: name of the architecture: ``EConvNeXt_mini``, or ``PPYOLOE with EConvNeXt mini``.
        task: ``classification`` or ``detection``.
        arguments: of the classifier's constructor.
        config: the resolved configuration; empty where none is known.
        config_file: where the resolved configuration stands; ``None`` where none is known.
        report: ``report.json`` of the run; empty without one.
        state: ``state.json`` of the checkpoint; empty without one.
        folder: of the run or of the checkpoint.
        weights: the file with the weights that were evaluated.
        pruning: ``report.json`` of ``tools/prune_model.py``, for a pruned network.
    """

    model: str
    task: str = CLASSIFICATION
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    config_file: Path | None = None
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: dict[str, Any] = dataclasses.field(default_factory=dict)
    folder: Path | None = None
    weights: Path | None = None
    pruning: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The name that papers and tables know: of a detector without its backbone."""
        return self.model.partition(" with ")[0]

    @property
    def backbone(self) -> str | None:
        """The detector's backbone."""
        return self.model.partition(" with ")[2] or None

    @property
    def averaged(self) -> bool:
        """Whether the figures belong to the averaged weights (EMA)."""
        return self.state.get("evaluated_weights") == "ema"

    @property
    def best_epoch(self) -> int | None:
        """The epoch that counts as the best; ``None`` if none was evaluated."""
        best = self.report.get("best")
        return (best or {}).get("epoch") if self.report else self.state.get("best_epoch") or None

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was recorded of each epoch."""
        return self.report.get("history") or self.state.get("history") or []

    @property
    def measured(self) -> dict[str, Any]:
        """The figures of the best epoch, of the weights that are kept; empty if nothing was measured."""
        record = next((each for each in self.history if each.get("epoch") == self.best_epoch), {})
        averaged = record.get("ema") if self.averaged else None
        figures = averaged or record.get("eval") or {}
        if not self.history and self.pruning:
            pruned = (self.pruning.get("figures") or {}).get(PRUNED, {})
            figures = {name: value for name, value in pruned.items() if name.startswith(ACCURACIES)}
        return figures

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes; ``None`` where they are not known."""
        names = self.state.get("class_names") or self.report.get("class_names")
        return [str(name) for name in names] if names else None

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.report.get("seed", (self.state.get("data_order") or {}).get("seed"))

    @property
    def date(self) -> str | None:
        """The day of the last line of the training log, as that line says."""
        log = None if self.folder is None else self.folder / LOG
        if log is None or not log.is_file():
            return None
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        dates = [match[1] for match in map(_DATE.match, lines) if match]
        return dates[-1] if dates else None


def read_run(folder: str | os.PathLike[str]) -> Source:
    """Reads the folder of a training run, a checkpoint folder, or the folder of a pruning.

    Raises:
        UserError: it is none of them, or one of its files is damaged.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    report = read_record(root / REPORT) if (root / REPORT).is_file() else {}
    if "criterion" in report:
        return _read_pruning(root, report)
    if (root / STATE).is_file():
        return _source(root, root, {})
    checkpoints = [root / "checkpoints" / name for name in (BEST, LATEST)]
    checkpoint = next((each for each in checkpoints if (each / STATE).is_file()), None)
    if not (root / CONFIG).is_file() or (checkpoint is None and not report):
        raise UserError(
            f"{root}: neither the folder of a run ({CONFIG} with {REPORT} or checkpoints), nor of a checkpoint "
            f"({STATE}), nor of a pruning"
        )
    source = _source(root, checkpoint, report)
    # A detector's run lies one folder deeper than a classifier's.
    for tuning in (root.absolute(), root.absolute().parent):
        if tuning.name == FINE_TUNING and (tuning.parent / REPORT).is_file():
            source = dataclasses.replace(source, pruning=read_record(tuning.parent / REPORT))
    return source


def _read_pruning(root: Path, report: dict[str, Any]) -> Source:
    """Reads what ``tools/prune_model.py`` left: the fine-tuned network if there is one, else the pruned one."""
    runs = sorted(file.parent for file in (root / FINE_TUNING).rglob(CONFIG) if "checkpoints" not in file.parts)
    if runs:
        return dataclasses.replace(read_run(runs[0]), pruning=report)
    configs = sorted(root.glob("*_pruned.y*ml"))
    if not configs or not (root / "weights" / STATE).is_file():
        raise UserError(f"{root}: damaged, without the configuration or the weights that tools/prune_model.py writes")
    return dataclasses.replace(_source(root, root / "weights", {}, configs[0]), pruning=report)


def _source(root: Path, checkpoint: Path | None, report: dict[str, Any], config_file: Path | None = None) -> Source:
    state = read_record(checkpoint / STATE) if checkpoint is not None else {}
    file = config_file or root / CONFIG
    config = read_yaml(file) if file.is_file() else {}
    arch = config.get("Arch") if isinstance(config.get("Arch"), dict) else {}
    known = state.get("arch") if isinstance(state.get("arch"), dict) else {}
    detects = "architecture" in report or "architecture" in config
    name = detector_name(config) if detects else report.get("model") or known.get("name") or arch.get("name")
    if not name:
        raise UserError(f"{root}: does not tell which model it holds")
    names = {each for each in (report.get("model"), known.get("name"), arch.get("name")) if each}
    if not detects and len(names) > 1:
        raise UserError(f"{root}: its files are of different models: {', '.join(sorted(map(str, names)))}")
    arguments = report.get("arguments") or known.get("arguments") or {}
    if not detects and not arguments:
        arguments = {key: value for key, value in arch.items() if key not in ("name", "pretrained", "use_ssld")}
    return Source(
        model=str(name),
        task=DETECTION if detects else CLASSIFICATION,
        arguments=arguments,
        config=config,
        config_file=file if config else None,
        report=report,
        state=state,
        folder=root,
        weights=None if checkpoint is None else find_weights(checkpoint),
    )


def detector_name(config: dict[str, Any]) -> str:
    """Returns architecture and backbone of a detection configuration, as exports of detectors are called."""
    architecture = str(config.get("architecture"))
    section = config.get(architecture)
    backbone = section.get("backbone") if isinstance(section, dict) else None
    if isinstance(backbone, dict):
        name, arguments = str(backbone.get("name", "its backbone")), backbone
    else:
        name = str(backbone or "its backbone")
        arguments = config.get(name)
    arch = arguments.get("arch") if isinstance(arguments, dict) else None
    size = arch or config.get("scale")
    return f"{architecture} with {name} {size}" if size else f"{architecture} with {name}"


def read_record(file: Path) -> dict[str, Any]:
    """Reads ``report.json`` or ``state.json``.

    Raises:
        UserError: the file is not there, damaged, or holds something else.
    """
    record = read_json(file)
    for key, kind in KINDS.items():
        if record.get(key) is not None and not isinstance(record[key], kind):
            raise UserError(f"{file}: damaged, {key} must be a {kind.__name__}, got {type(record[key]).__name__}")
    history = record.get("history") or []
    parts = [*history, *(record.get("figures") or {}).values()]
    parts += [each[name] for each in history if isinstance(each, dict) for name in FIGURES if each.get(name)]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{file}: damaged, history and figures must hold objects")
    for key, value in {"epochs": record.get("epochs"), **(record.get("seconds") or {})}.items():
        if not isinstance(value, int | float | None):
            raise UserError(f"{file}: damaged, {key} must be a number, got {value!r}")
    return record


def read_json(file: Path) -> dict[str, Any]:
    """Reads an object from a JSON file.

    Raises:
        UserError: the file is not there, damaged, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: damaged, no JSON ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: damaged, must hold an object, not {type(value).__name__}")
    return value


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads a mapping from a YAML file.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: damaged, must hold a mapping")
    return value


def shown_config(source: Source) -> str:
    """Returns the resolved configuration as commands of a card name it."""
    if source.config_file is None:
        return "CONFIG"
    return _inside(source, source.config_file)


def shown_weights(source: Source) -> str:
    """Returns the checkpoint folder as commands of a card name it."""
    return "CHECKPOINT" if source.weights is None else _inside(source, source.weights.parent)


def _inside(source: Source, path: Path) -> str:
    if source.folder is None or not path.is_relative_to(source.folder):
        return shlex.quote(shown_path(path))
    inner = path.relative_to(source.folder).as_posix()
    outer = shown_path(source.folder.absolute())
    return shlex.quote(outer if inner == "." else f"{outer}/{inner}")
