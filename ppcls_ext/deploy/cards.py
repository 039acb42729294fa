"""Model cards: what files tell of a model, and the page (``card.md.j2``) made of it.

    write_card(gather_facts("output/quickstart"), "CARD.md")

Everything comes from files; what they do not tell is called "not measured" or "not recorded". Counting a classifier
loads Paddle, nothing else here does.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ppcls_ext.arch.registry import architecture_parameters, list_models
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.runtime import Description, DetectionDescription, read_description
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of, write_text
from ppcls_ext.utils.tables import markdown_table
from ppcls_ext.weights import find_weights

DEFAULT_SHAPE = (3, 224, 224)
# Arguments that change the last layer, or the training alone.
HARMLESS = ("class_num", "drop_path_rate")
# Classes of the data sets that are known by their kind alone.
CLASSES = {"Cifar10": 10, "Cifar100": 100}
MOST_NAMES = 200
NOT_RECORDED = "not recorded"
# Names of COCO's figures for people, in the order of tables.
COCO_FIGURES = {
    "AP": "AP (mean over overlaps 0.50 to 0.95)", "AP50": "AP at overlap 0.50", "AP75": "AP at overlap 0.75",
    "AP_small": "AP, small objects", "AP_medium": "AP, medium objects", "AP_large": "AP, large objects",
    "AR100": "recall with 100 detections an image",
}  # fmt: skip


class Paper(NamedTuple):
    """Where a family of models was published: its name for people, the paper's title and number at arXiv."""

    family: str
    title: str
    arxiv: str


CONVNEXT = Paper("ConvNeXt", "A ConvNet for the 2020s", "2201.03545")
# By the beginning of a model's name; where two fit, the longer one counts.
PAPERS: dict[str, Paper] = {
    "EConvNeXt": Paper(
        "E-ConvNeXt",
        "E-ConvNeXt: A Lightweight and Efficient ConvNeXt Variant with Cross-Stage Partial Connections",
        "2508.20955",
    ),
    "ConvNeXt": CONVNEXT,
    "ConvNeXtV1": CONVNEXT,
    "ConvNeXtV2": Paper(
        "ConvNeXt V2", "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", "2301.00808"
    ),
    "ResNet": Paper("ResNet", "Deep Residual Learning for Image Recognition", "1512.03385"),
    "ViT": Paper(
        "Vision Transformer", "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", "2010.11929"
    ),
    "SwinTransformer": Paper(
        "Swin Transformer", "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", "2103.14030"
    ),
    "MobileNetV4": Paper("MobileNetV4", "MobileNetV4: Universal Models for the Mobile Ecosystem", "2404.10518"),
    "EfficientNetV2": Paper("EfficientNetV2", "EfficientNetV2: Smaller Models and Faster Training", "2104.00298"),
    "PPYOLOE": Paper("PP-YOLOE", "PP-YOLOE: An evolved version of YOLO", "2203.16250"),
    "YOLOv10": Paper("YOLOv10", "YOLOv10: Real-Time End-to-End Object Detection", "2405.14458"),
}


def paper_of(name: str) -> Paper | None:
    """Returns the paper of a model or an architecture by its name; ``None`` where the table has none."""
    fitting = [start for start in PAPERS if name.startswith(start)]
    return PAPERS[max(fitting, key=len)] if fitting else None


class Counts(NamedTuple):
    """What a network costs: channels, height and width that were counted at; stage -> parameters, multiply-adds."""

    image_shape: tuple[int, int, int]
    stages: dict[str, tuple[int, int]]

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(parameters for parameters, _ in self.stages.values())

    @property
    def multiply_adds(self) -> int:
        """Of one image."""
        return sum(flops for _, flops in self.stages.values())


def count_subject(subject: Any) -> Counts:
    """Counts a ``ppcls_ext.deploy.profile.Subject``; loads Paddle."""
    from ppcls_ext.deploy.profile import count_network

    profile = count_network(subject)
    sums = {stage: (each.parameters, each.flops) for stage, each in profile.by_stage().items()}
    return Counts(profile.image_shape, {stage: pair for stage, pair in sums.items() if any(pair)})


def count_classifier(
    model: str, arguments: Mapping[str, Any], image_shape: tuple[int, int, int] = DEFAULT_SHAPE
) -> Counts:
    """Builds a classifier with random weights and counts it; loads Paddle.

    Raises:
        UserError: the network does not take such images.
        ValueError: there is no such model, or it does not take these arguments.
    """
    from ppcls_ext.arch.registry import build_model
    from ppcls_ext.deploy.profile import Subject

    network = build_model(model, **arguments)
    return count_subject(Subject(model, network, network, image_shape))


# ---------------------------------------------------------------- what files tell

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


@dataclass(frozen=True)
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
    config = read_mapping(file) if file.is_file() else {}
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
    record = read_mapping(file)
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


def read_mapping(file: Path) -> dict[str, Any]:
    """Reads a mapping from a JSON or YAML file.

    Raises:
        UserError: the file is not there, damaged, or holds something else.
    """
    try:
        text = file.read_text(encoding="utf-8")
        value = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: damaged, must hold a mapping, not {type(value).__name__}")
    return value


def changed_arguments(model: str, arguments: Mapping[str, Any]) -> list[str]:
    """Returns the arguments of a classifier that make its network another one than the published one.

    Raises:
        ValueError: there is no such model.
    """
    defaults = architecture_parameters(model) if arguments else {}
    return [
        name
        for name, value in arguments.items()
        if name not in HARMLESS and (name not in defaults or defaults[name].default != value)
    ]


class Latency(NamedTuple):
    """What a benchmark measured of one model.

    ``rows`` are as they stand in the file; ``by_name`` tells that the model was measured by its name, that is with
    random weights and 1000 classes.
    """

    rows: list[dict[str, Any]]
    machine: str | None
    by_name: bool


def read_latency(
    file: str | os.PathLike[str], model: str, arguments: Mapping[str, Any], export: Path | None = None
) -> Latency:
    """Reads the measurements of one model: those of its export, else those of its name.

    Args:
        file: the JSON file of ``tools/benchmark.py models``.
        model: name of the classifier, or what an export calls its detector.
        arguments: of the classifier; a network of another form was not measured by its name.
        export: its export folder.

    Raises:
        UserError: the file is no such file, or has no measurement of the model.
    """
    document = read_mapping(Path(file))
    columns = ("model", "size", "backend", "precision", "threads", "batch")
    numbers = ("median_ms", "p90_ms", "images_per_second")
    part = document.get("models")
    rows = part.get("rows") if isinstance(part, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "model" in row for row in rows):
        raise UserError(f"{file}: no benchmark of models; python tools/benchmark.py models --output bench.md makes one")
    measured = [row for row in rows if row.get("status") == "measured"]
    if not all(row.get(key) for row in measured for key in columns) or not all(
        isinstance(row.get(key), int | float) for row in measured for key in numbers
    ):
        raise UserError(f"{file}: damaged, a measured row lacks one of {', '.join([*columns, *numbers])}")
    own = [] if export is None else [row for row in measured if Path(str(row["model"])).resolve() == export.resolve()]
    named = [row for row in measured if str(row["model"]).partition("@")[0] == model]
    changed = changed_arguments(model, arguments) if named else []
    found = own or ([] if changed else named)
    if not found:
        other = f" with {', '.join(changed)} as in this model" if named and changed else ""
        held = ", ".join(dict.fromkeys(str(row.get("architecture") or row["model"]) for row in measured)) or "nothing"
        raise UserError(f"{file}: has no measurement of {model}{other}; it holds {held}")
    machine = document.get("machine")
    return Latency(found, None if machine is None else str(machine), not own)


# ---------------------------------------------------------------- text without paths of a machine

_ABSOLUTE = re.compile(r"^(?:/|~|\\\\|[A-Za-z]:[\\/])")
# Folders of an absolute path inside a longer text, such as ``table=/data/x.npy``.
_EMBEDDED = re.compile(r"(?<![\w./~:-])/(?:[\w.~-]+/)+")
_SPECIAL = re.compile(r"([\\`*{}\[\]<>|#~$])")


def shown_path(path: str | Path) -> str:
    """Returns a path as a card may name it: inside the working folder from there, elsewhere its last part only."""
    text = str(path).replace("\\", "/").rstrip("/")
    if _ABSOLUTE.match(text):
        # Links stay as they are called: checkpoints/best.
        absolute, here = Path(os.path.abspath(Path(text).expanduser())), Path.cwd()
        inside = text[0] in "/~" and absolute.is_relative_to(here) and absolute != here
        return absolute.relative_to(here).as_posix() if inside else text.rpartition("/")[2]
    text = _EMBEDDED.sub("", text)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return parts[-1] if ".." in parts else "/".join(parts)


def shown_value(value: Any) -> str:
    """Returns a value of a configuration as a card shows it, in YAML's way of writing on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {shown_value(each)}" for key, each in value.items())
    if isinstance(value, str):
        return (shown_path(value) if "/" in value or "\\" in value else value) or "''"
    if isinstance(value, Sequence):
        return f"[{', '.join(shown_value(each) for each in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_operator(entry: Any) -> str:
    """Returns an entry of a list of operators, ``{Name: {argument: value}}`` or a name, as code in Markdown."""
    text = shown_value(entry)
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, arguments = next(iter(entry.items()))
        inside = shown_value(arguments) if arguments else ""
        text = f"{name}({inside})" if inside else str(name)
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def escaped(text: Any) -> str:
    """Returns a name that other people chose, so that Markdown shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def percent(share: Any, unit: str = "") -> str:
    """Returns a share as percent with two digits."""
    return f"{100 * share:.2f}{unit}" if isinstance(share, int | float) else "not measured"


def shown_inside(source: Source, path: Path | None, unknown: str) -> str:
    """Returns a file or folder of a run as commands of a card name it."""
    if path is None:
        return unknown
    if source.folder is None or not path.is_relative_to(source.folder):
        return shlex.quote(shown_path(path))
    inner = path.relative_to(source.folder).as_posix()
    outer = shown_path(source.folder.absolute())
    return shlex.quote(outer if inner == "." else f"{outer}/{inner}")


def listed(rows: Mapping[str, Any]) -> str:
    """Returns names and values as a Markdown list; empty values are left out."""
    return "\n".join(f"- **{name}**: {value}" for name, value in rows.items() if value)


# ---------------------------------------------------------------- what configurations tell


def section_of(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Returns a section of a configuration by its keys; empty where it is not there."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def dataset_of(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Returns the section of the data set of ``Train`` or ``Eval``."""
    return section_of(config, "DataLoader", part, "dataset") or section_of(config, f"{part}Dataset")


def data_name(config: Mapping[str, Any], part: str) -> str | None:
    """Returns what a data set is called: its folder, or the name of its kind where it has none."""
    section = dataset_of(config, part)
    place = section.get("image_root") or section.get("dataset_dir")
    if isinstance(place, str) and place.strip("./~ "):
        return shown_path(place).rpartition("/")[2]
    name = section.get("name")
    classes = section_of(config, "Arch").get("class_num")
    if name in CLASSES and isinstance(classes, int) and 0 < classes < CLASSES[name]:
        # An accuracy among fewer classes must not pass for one of the whole data set.
        return f"{name} ({classes} of its {CLASSES[name]} classes)"
    return str(name) if name else None


def evaluation_data(config: Mapping[str, Any]) -> str:
    """Returns the data set of the evaluation with the part that is taken of it."""
    section = dataset_of(config, "Eval")
    name = data_name(config, "Eval")
    if name is None:
        return "data that are not recorded"
    part = section.get("split") or section.get("cls_label_path") or section.get("anno_path")
    return f"{name} ({shown_path(str(part))})" if part else name


def operators_of(config: Mapping[str, Any], purpose: str) -> list[Any]:
    """Returns operators as the configuration lists them.

    Args:
        config: resolved configuration.
        purpose: ``training`` or ``deployment``.
    """
    if purpose == "deployment":
        found = section_of(config, "Infer").get("transforms") or section_of(config, "TestReader").get(
            "sample_transforms"
        )
        return found if isinstance(found, list) else []
    dataset, reader = dataset_of(config, "Train"), section_of(config, "TrainReader")
    lists = (
        dataset.get("transform_ops"), dataset.get("batch_transform_ops"), reader.get("sample_transforms"),
        reader.get("batch_transforms"),
    )  # fmt: skip
    return [entry for each in lists if isinstance(each, list) for entry in each]


def input_size(source: Source) -> str:
    """Returns height and width of the network's input; empty where nothing tells."""
    if source.task == DETECTION:
        sizes = [
            section_of(entry, name).get("target_size") or section_of(entry, name).get("size")
            for entry in operators_of(source.config, "deployment")
            if isinstance(entry, Mapping)
            for name in ("Resize", "LetterResize", "Pad")
            if name in entry
        ]
        size = next((each for each in reversed(sizes) if each), None)
    else:
        shape = section_of(source.config, "Global").get("image_shape")
        size = shape[1:] if isinstance(shape, list) else None
    if isinstance(size, int):
        size = [size, size]
    return f"{size[0]} x {size[1]} px" if isinstance(size, list) and len(size) == 2 else ""


def named(section: Mapping[str, Any], *left_out: str) -> str:
    """Returns a section with a ``name`` or ``type`` as a line, ``AdamW (weight_decay: 0.05)``."""
    rest = {key: value for key, value in section.items() if key not in ("name", "type", *left_out)}
    name = str(section.get("name") or section.get("type") or "")
    return f"{name} ({shown_value(rest)})".strip() if rest else name


# ---------------------------------------------------------------- the card


@dataclass(frozen=True)
class Facts:
    """All that a card is made of. What is ``None`` or empty is told to be unknown, or left out.

    Attributes:
        source: the model, and the run that trained it.
        counts: parameters and multiply-adds.
        export: what was exported.
        latency: what a benchmark measured.
        checksum: SHA-256 of the weights.
    """

    source: Source
    counts: Counts | None = None
    export: Description | DetectionDescription | None = None
    latency: Latency | None = None
    checksum: str | None = None


def gather_facts(
    source: Source | str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    counts: Counts | None = None,
    export: str | os.PathLike[str] | None = None,
    benchmark: str | os.PathLike[str] | None = None,
) -> Facts:
    """Collects what files tell of a model, and counts a classifier (which loads Paddle).

    Args:
        source: what was read already; or the folder of a run, a checkpoint or a pruning.
        model: name of a classifier; with a source it must be that of the source.
        counts: of the network; ``None`` counts a classifier, and leaves a detector uncounted.
        export: folder that ``tools/export_model.py`` wrote.
        benchmark: JSON file of ``tools/benchmark.py models``.

    Raises:
        UserError: nothing is named, a file is missing or damaged, or the parts belong to different models.
    """
    if source is not None and not isinstance(source, Source):
        source = read_run(source)
    description = None if export is None else read_description(export)
    if source is None:
        if model is None and description is None:
            raise UserError("nothing is named that a card could be made of: a model, a run or an export")
        detects = isinstance(description, DetectionDescription)
        name = model or str(description.model_name)
        source = Source(name, DETECTION if detects else CLASSIFICATION)
    if model is not None and model not in (source.model, source.architecture):
        where = "the export" if source.folder is None else str(source.folder)
        raise UserError(f"{where}: holds {source.model}, not {model}")
    if source.task == CLASSIFICATION:
        try:
            architecture_parameters(source.model)
        except ValueError as error:
            raise UserError(str(error)) from error
    if description is not None:
        detects = isinstance(description, DetectionDescription)
        if detects != (source.task == DETECTION) or description.model_name != source.model:
            raise UserError(
                f"{description.folder}: is an export of {description.model_name}, not of {source.model}"
            )
        names, number = source.class_names, source.arguments.get("class_num", description.class_num)
        differ = names is not None and description.classes is not None and names != description.classes
        if differ or number != description.class_num:
            raise UserError(f"{description.folder}: its classes are not those of {source.folder or source.model}")
    latency = None
    if benchmark is not None:
        folder = None if export is None else Path(export)
        latency = read_latency(benchmark, source.model, source.arguments, folder)
    if counts is None and source.task == CLASSIFICATION and (source.arguments or description is None):
        shape = section_of(source.config, "Global").get("image_shape") or DEFAULT_SHAPE
        counts = count_classifier(source.model, source.arguments, tuple(shape))
    checksum = None if source.weights is None else sha256_of(source.weights)
    return Facts(source, counts, description, latency, checksum)


def card_text(facts: Facts) -> str:
    """Returns the card as Markdown, with a head in YAML as Hugging Face reads it (of measured results only)."""
    import jinja2

    source, export, counts = facts.source, facts.export, facts.counts
    config, measured, detects = source.config, source.measured, source.task == DETECTION
    trained = source.weights is not None or export is not None
    paper, order = paper_of(source.architecture), source.state.get("data_order") or {}
    names = source.class_names or (export.classes if export else None)
    class_number = export.class_num if export else len(names or []) or source.arguments.get("class_num") or config.get(
        "num_classes")  # fmt: skip
    data = data_name(config, "Train")
    title = f"{source.model} on {data}" if data and trained else source.model
    planned = section_of(config, "Global").get("epochs") or config.get("epoch")
    done = source.report.get("epochs", source.state.get("epoch"))

    # The head
    pipeline = "object-detection" if detects else "image-classification"
    family = [paper.family.lower().replace(" ", "-")] if paper else []
    head: dict[str, Any] = {
        "license": "apache-2.0", "library_name": "paddlepaddle", "pipeline_tag": pipeline,
        "tags": list(dict.fromkeys([pipeline, *family, "paddle"])),
    }  # fmt: skip
    datasets = list(dict.fromkeys(filter(None, (data_name(config, part) for part in ("Train", "Eval")))))
    if datasets and trained:
        head["datasets"] = datasets
    shares = ("AP", "AP50") if detects else [name for name in measured if name.startswith("top")]
    kind = "mean_average_precision" if detects else "accuracy"
    metrics = [{"type": kind, "name": f"{shown_metric(name)}, %", "value": round(100 * measured[name], 2)}
               for name in shares if isinstance(measured.get(name), int | float)]  # fmt: skip
    if metrics:
        dataset = data_name(config, "Eval") or "not named"
        result = {"task": {"type": pipeline}, "dataset": {"name": dataset, "type": dataset}, "metrics": metrics}
        head |= {"metrics": [kind], "model-index": [{"name": title, "results": [result]}]}

    # Tables
    if detects:
        figures = [(words, percent(measured[name], " %")) for name, words in COCO_FIGURES.items() if name in measured]
    else:
        figures = [(shown_metric(name), percent(measured[name], " %")) for name in shares]
        figures += [("loss", f"{measured['loss']:.4f}")] if isinstance(measured.get("loss"), int | float) else []
    by_class = [(escaped(name), percent(value, " %")) for name, value in (measured.get("per_class") or {}).items()]
    # A network for small images has less than a tenth of a GFLOP.
    unit, factor = ("GFLOPs", 1e9) if counts and counts.multiply_adds >= 1e8 else ("MFLOPs", 1e6)
    stages = {**counts.stages, "**all**": (counts.parameters, counts.multiply_adds)} if counts else {}
    cost = [(stage, f"{parameters:,}", f"{flops / factor:.3f}") for stage, (parameters, flops) in stages.items()]
    pruned = section_of(source.pruning, "figures")
    # Figure -> label, scale, digits
    kinds = {"parameters": ("parameters, M", 1e-6, 2), "flops": ("multiply-adds, M", 1e-6, 2),
             "median_ms": ("median latency, ms", 1, 2), "p90_ms": ("90th percentile, ms", 1, 2)}  # fmt: skip
    pruning_rows = []
    for name in dict.fromkeys(name for each in pruned.values() for name in each):
        share = (f"{shown_metric(name)}, %", 100, 2) if name.startswith(("top", "AP")) else (name, 1, 4)
        label, scale, digits = kinds.get(name, share)
        values = [each.get(name) for each in pruned.values()]
        pruning_rows.append((label, *(f"{value * scale:.{digits}f}" if isinstance(value, int | float)
                                      else "not measured" for value in values)))  # fmt: skip
    artefacts = export.artefacts if export else []
    int8 = next((each for each in artefacts if each.precision == "int8"), None)
    int8_rows = []
    if int8 and int8.verification:
        figures8 = int8.verification
        if "metric" in figures8:
            label = f"{shown_metric(figures8['metric'])}, %"
            int8_rows.append((label, percent(figures8["fp32"]), percent(figures8["int8"])))
        for label, key, scale in (("latency, ms", "latency_ms", 1), ("size, MB", "bytes", 1e6)):
            if section := section_of(figures8, key):
                int8_rows.append((label, *(f"{section[name] / scale:.2f}" for name in ("fp32", "int8"))))
    latency_rows = [
        (row["backend"], row["precision"], row["size"], row["threads"], row["batch"], f"{row['median_ms']:.1f}",
         f"{row['p90_ms']:.1f}", f"{row['images_per_second']:.1f}")
        for row in (facts.latency.rows if facts.latency else [])
    ]  # fmt: skip
    export_folder = shown_path(export.folder) if export else "EXPORT"
    checksums = [(source.weights.name, f"`{facts.checksum}`")] if source.weights and facts.checksum else []
    digests = {name: digest for each in artefacts for name, digest in each.checksums.items()}
    checksums += [(name, f"`{digest}`") for name, digest in digests.items()]

    # Lists
    shape = export.input_shape if export else None
    shown_names = ", ".join(escaped(name) for name in (names or [])[:MOST_NAMES])
    if names and len(names) > MOST_NAMES:
        shown_names += f" and {len(names) - MOST_NAMES} more"
    operators = export.preprocess if export else operators_of(config, "deployment")
    inputs = listed({
        "Size": f"{shape[2]} x {shape[3]} px" if shape else input_size(source),
        "Preprocessing": "; ".join(map(shown_operator, operators)), f"Classes ({len(names or [])})": shown_names,
    })  # fmt: skip
    plain, builder = section_of(config, "Optimizer"), section_of(config, "OptimizerBuilder")
    sampler = section_of(config, "DataLoader", "Train", "sampler") or section_of(config, "TrainReader")
    losses = section_of(config, "Loss").get("Train")
    average = section_of(config, "EMA") or (
        {"decay": config["ema_decay"]} if config.get("use_ema") and "ema_decay" in config else {}
    )
    seconds = (source.report.get("seconds") or {}).get("training")
    recipe = listed({
        "Data": f"{data or NOT_RECORDED}" + (f", {order['images']} images" if order.get("images") else ""),
        "Evaluated on": evaluation_data(config),
        "Epochs": f"{done} of {planned}" if done is not None and done != planned else planned or NOT_RECORDED,
        "Batch size of a process": sampler.get("batch_size"),
        "Optimizer": named(plain or {**section_of(builder, "optimizer"), **builder}, "lr", "optimizer"),
        "Learning rate": named(section_of(plain, "lr")) or shown_value(section_of(config, "LearningRate")),
        "Loss": "; ".join(map(shown_operator, losses)) if isinstance(losses, list) else "",
        "Averaged weights (EMA)": shown_value(average),
        "Mixed precision": shown_value(config["AMP"]) if config.get("AMP") else "",
        "Arguments of the model": shown_value(source.arguments),
        "Augmentation": "; ".join(map(shown_operator, operators_of(config, "training"))),
        "Seed": "" if source.seed is None else str(source.seed),
        "Trained with": ", ".join(filter(None, (
            f"{source.report['processes']} process(es)" if "processes" in source.report else "",
            str(source.report.get("device", "")),
            f"Paddle {source.report['paddle']}" if "paddle" in source.report else "",
            f"{seconds / 3600:.2f} hours" if seconds else "",
        ))),
    })  # fmt: skip
    settings = section_of(config, "Distillation")
    distillation = settings and {
        "teacher": section_of(settings, "teacher"),
        "settings": {key: value for key, value in settings.items() if key != "teacher" and value is not None},
    }
    teacher = (source.report.get("teacher") or source.state.get("teacher") or {}).get("eval")

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {
        "escape_markdown": escaped, "path": shown_path, "value": shown_value, "percent": percent,
        "table": markdown_table,
    }  # fmt: skip
    template = importlib.resources.files("ppcls_ext.deploy").joinpath("card.md.j2").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120), title=title, source=source,
        paper=paper, published=PUBLISHED.get(source.architecture), detects=detects, trained=trained, export=export,
        counts=counts, latency=facts.latency, class_number=class_number, measured=measured, figures=figures,
        by_class=by_class, evaluation_data=evaluation_data(config), flops_unit=unit, cost=cost, inputs=inputs,
        recipe=recipe, distillation=distillation, teacher_top1=(teacher or {}).get("top1"),
        pruning_columns=["", *pruned], pruning_rows=pruning_rows, int8=int8, int8_rows=int8_rows,
        latency_rows=latency_rows, export_folder=export_folder, checksums=checksums,
        artefacts=[(each.format, each.precision, each.computed_in,
                    f'`load("{export_folder}", precision="{each.precision}")`') for each in artefacts],
        changed=[] if detects else changed_arguments(source.model, source.arguments),
        config_file=shown_inside(source, source.config_file, "CONFIG"),
        weights_folder=shown_inside(source, source.weights and source.weights.parent, "CHECKPOINT"),
        weights_key="weights" if detects else "Global.pretrained_model",
        limitations=limitations(facts, trained, names, data, order.get("images"), done, planned),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def shown_metric(name: str) -> str:
    """Returns the name of a figure for people: ``top-1`` for ``top1``."""
    return f"top-{name[3:]}" if name.startswith("top") else name


def limitations(
    facts: Facts, trained: bool, names: Sequence[str] | None, data: str | None, images: Any, done: Any, planned: Any
) -> list[str]:
    """Returns what the card's facts do not cover; every line follows from them."""
    source, lines = facts.source, []
    if trained:
        number = f"{images} images" if images else f"a number of images that is {NOT_RECORDED}"
        classes = f"{len(names)} classes" if names else f"classes whose names are {NOT_RECORDED}"
        if data or images:
            lines.append(f"Trained on {number} of {data or 'data that are not named'}, {classes}; it knows no others.")
        else:
            lines.append(f"Training data: {NOT_RECORDED}.")
        if source.seed is not None:
            lines.append(f"Trained once, with seed {source.seed}: the deviation over seeds was not measured.")
        if source.folder is not None and not source.report and not source.pruning:
            lines.append(f"The checkpoint is of epoch {done} of {planned}; how the run ended is {NOT_RECORDED}.")
        elif planned and done is not None and done < planned:
            lines.append(f"The training was not finished: {done} of {planned} epochs.")
        if unread := len(source.report.get("bad_images") or []):
            lines.append(f"{unread} training images could not be read and were left out.")
    if not source.measured:
        lines.append("Accuracy: not measured by this project.")
    else:
        data = evaluation_data(source.config)
        lines.append(f"Accuracy on other data than {data}, robustness and fairness: not measured.")
        if source.best_epoch and len(source.history) > 1:
            lines.append(
                f"Epoch {source.best_epoch} was chosen among {len(source.history)} by the evaluation on the same "
                "images that its accuracy is given for; on images set aside from both: not measured."
            )
    if facts.latency is None:
        lines.append("Latency: not measured.")
    elif facts.latency.by_name:
        lines.append("Latency was measured with random weights and 1000 classes, not with these weights.")
    if facts.export is None:
        lines.append("Exported files: none belong to this card.")
    return lines


def write_card(facts: Facts, path: str | os.PathLike[str]) -> str:
    """Writes a card, whole or not at all; returns its text."""
    text = card_text(facts)
    write_text(path, text)
    return text


def models_page(count_of: Callable[[str], tuple[int, int]]) -> str:
    """Returns docs/models/README.md: a table of all our models.

    Args:
        count_of: parameters and multiply-adds of a model by its name, with 1000 classes at 224 px.
    """
    rows = []
    for model in list_models():
        parameters, multiply_adds = count_of(model)
        published, paper = PUBLISHED.get(model), paper_of(model)
        rows.append((
            model, paper and f"{paper.family}, [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})",
            f"{parameters / 1e6:.2f}", f"{multiply_adds / 1e9:.3f}",
            f"{published.top1:g} %" if published else "none known", published and published.source,
        ))  # fmt: skip
    columns = ("model", "family", "parameters, M", "GFLOPs", "top-1 on ImageNet-1k, published", "source")
    return (
        "# Models\n\nWritten by `python tools/model_card.py --all --output docs/models/README.md`. Parameters and "
        "multiply-adds (GFLOPs) are counted, for one image of 224 x 224 px and 1000 classes; accuracies are published "
        "ones, not measured by this project. `python tools/model_card.py --model NAME` writes the card of one model, "
        f"with its stages.\n\n{markdown_table(columns, rows, 'llrrrl')}\n"
    )
