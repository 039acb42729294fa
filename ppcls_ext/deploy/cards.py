"""Model cards: what files tell of a model, and the page (``card.md.j2``) made of it.

    write_card(gather_facts("output/quickstart"), "CARD.md")

Everything comes from files; what they do not tell is called "not measured" or "not recorded". Counting a classifier
loads Paddle, nothing else here does.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ppcls_ext.arch.registry import architecture_parameters, list_models
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.runtime import Description, DetectionDescription, read_description
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import read_mapping, sha256_of, write_text
from ppcls_ext.utils.names import user_path
from ppcls_ext.utils.tables import markdown_table, render_markdown
from ppcls_ext.weights import find_weights

CLASSIFICATION, DETECTION = "classification", "detection"
REPORT, CONFIG, STATE, LOG, FINE_TUNING = "report.json", "config.yaml", "state.json", "train.log", "fine_tuning"
DEFAULT_SHAPE = (3, 224, 224)
# Arguments that change the last layer, or the training alone.
HARMLESS = ("class_num", "drop_path_rate")
# Classes of the data sets that are known by their kind alone.
CLASSES = {"Cifar10": 10, "Cifar100": 100}
MOST_NAMES = 200
# Of a configuration of either task, what a card tells beside the training data.
TRAINING_SECTIONS = (
    "Arch", "Optimizer", "Loss", "EMA", "AMP", "Distillation", "OptimizerBuilder", "LearningRate", "use_ema",
    "ema_decay", "TrainReader",
)  # fmt: skip
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
    "EConvNeXt": Paper("E-ConvNeXt", "E-ConvNeXt: A Lightweight and Efficient ConvNeXt Variant with Cross-Stage "
                       "Partial Connections", "2508.20955"),
    "ConvNeXt": CONVNEXT,
    "ConvNeXtV1": CONVNEXT,
    "ConvNeXtV2": Paper("ConvNeXt V2", "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders",
                        "2301.00808"),
    "ResNet": Paper("ResNet", "Deep Residual Learning for Image Recognition", "1512.03385"),
    "ViT": Paper("Vision Transformer", "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
                 "2010.11929"),
    "SwinTransformer": Paper("Swin Transformer", "Swin Transformer: Hierarchical Vision Transformer using Shifted "
                             "Windows", "2103.14030"),
    "MobileNetV4": Paper("MobileNetV4", "MobileNetV4: Universal Models for the Mobile Ecosystem", "2404.10518"),
    "EfficientNetV2": Paper("EfficientNetV2", "EfficientNetV2: Smaller Models and Faster Training", "2104.00298"),
    "PPYOLOE": Paper("PP-YOLOE", "PP-YOLOE: An evolved version of YOLO", "2203.16250"),
    "YOLOv10": Paper("YOLOv10", "YOLOv10: Real-Time End-to-End Object Detection", "2405.14458"),
}  # fmt: skip


def paper_of(name: str) -> Paper | None:
    """Returns the paper of a model or an architecture by its name; ``None`` where the table has none."""
    fitting = [start for start in PAPERS if name.startswith(start)]
    return PAPERS[max(fitting, key=len)] if fitting else None


class Counts(NamedTuple):
    """Cost of a network: channels, height and width that it was counted at; stage -> parameters, multiply-adds."""

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


def count_stages(name: str, network: Any, image_shape: tuple[int, int, int]) -> Counts:
    """Counts a network that takes images ``[N, C, H, W]``; ``UserError`` if not such ones. Loads Paddle."""
    from ppcls_ext.deploy.profile import Subject, count_network

    profile = count_network(Subject(name, network, image_shape))
    sums = {stage: (int(each.parameters), int(each.flops)) for stage, each in profile.by("stage").iterrows()}
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

    return count_stages(model, build_model(model, **arguments), image_shape)


# What a run left


def section_of(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Returns a section of a configuration or a report by its keys; empty where it is not there."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class RunFacts:
    """Facts about one model, gathered from files; what none of them tells is empty or ``None``.

    Attributes:
        model: name of the architecture: ``EConvNeXt_mini``, or ``PPYOLOE with EConvNeXt mini``.
        arguments: of the classifier's constructor.
        config, config_file: the resolved configuration, and where it stands.
        report, state: ``report.json`` of the run, ``state.json`` of the checkpoint.
        folder: of the run or of the checkpoint.
        weights: the file with the weights that were evaluated.
        pruning: ``report.json`` of ``tools/prune_model.py``, for a pruned network.
    """

    model: str
    task: str = CLASSIFICATION
    arguments: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_file: Path | None = None
    report: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    weights: Path | None = None
    pruning: dict[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The name that papers and tables know: of a detector without its backbone."""
        return self.model.partition(" with ")[0]

    @property
    def averaged(self) -> bool:
        """Whether the metrics belong to the averaged weights (EMA)."""
        return self.state.get("evaluated_weights") == "ema"

    @property
    def best_epoch(self) -> int | None:
        """The epoch that counts as the best; ``None`` if none was evaluated."""
        return section_of(self.report, "best").get("epoch") if self.report else self.state.get("best_epoch") or None

    @property
    def epoch(self) -> int | None:
        """The epoch after which the weights were kept: of a run without checkpoints the best one; ``None`` amid one."""
        if not self.state:
            return self.best_epoch
        return None if self.state.get("step") else self.state.get("epoch")

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of the epochs."""
        return self.report.get("history") or self.state.get("history") or []

    @property
    def measured(self) -> dict[str, Any]:
        """The metrics of the weights that are kept; empty if they were not measured."""
        if not self.history and self.pruning:
            pruned = section_of(self.pruning, "figures", "pruned")
            return {name: value for name, value in pruned.items() if name.startswith(("top", "AP", "loss"))}
        own = next((record for record in self.history if record.get("epoch") == self.epoch), {})
        return (self.averaged and own.get("ema")) or own.get("eval") or {}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; empty where they are not known."""
        return [str(name) for name in self.state.get("class_names") or self.report.get("class_names") or []]

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        own = self.report.get("seed")
        return section_of(self.state, "data_order").get("seed") if own is None else own

    @property
    def date(self) -> str | None:
        """The day of the last line of the training log, as that line says."""
        if self.folder is None or not (self.folder / LOG).is_file():
            return None
        text = (self.folder / LOG).read_text(encoding="utf-8", errors="replace")
        return next(reversed(re.findall(r"^(\d{4}-\d\d-\d\d)[ T]", text, re.MULTILINE)), None)


def read_run(folder: str | os.PathLike[str]) -> RunFacts:
    """Reads the folder of a training run, a checkpoint folder, or the folder of a pruning.

    A pruning gives the fine-tuned network if there is one, else the pruned one.

    Raises:
        UserError: it is none of them, or one of its files is damaged.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    report = read_mapping(root / REPORT) if (root / REPORT).is_file() else {}
    if "criterion" in report:
        runs = sorted(file.parent for file in (root / FINE_TUNING).rglob(CONFIG) if "checkpoints" not in file.parts)
        if runs:
            return replace(read_run(runs[0]), pruning=report)
        config_file = next(iter(sorted(root.glob("*_pruned.y*ml"))), None)
        if config_file is None or not (root / "weights" / STATE).is_file():
            raise UserError(f"{root}: damaged, without configuration or weights as tools/prune_model.py writes them")
        return replace(_source_of(root, config_file, {}, root / "weights"), pruning=report)
    places = (root, root / "checkpoints" / "best", root / "checkpoints" / "latest")
    checkpoint = next((place for place in places if (place / STATE).is_file()), None)
    config_file = root / CONFIG if (root / CONFIG).is_file() else None
    if checkpoint != root and (config_file is None or not (checkpoint or report)):
        raise UserError(
            f"{root}: neither the folder of a run ({CONFIG} with {REPORT} or checkpoints), nor of a checkpoint "
            f"({STATE}), nor of a pruning"
        )
    source = _source_of(root, config_file, report, checkpoint)
    # A detector's run lies one folder deeper than a classifier's.
    for tuning in (root.absolute(), root.absolute().parent):
        if tuning.name == FINE_TUNING and (tuning.parent / REPORT).is_file():
            return replace(source, pruning=read_mapping(tuning.parent / REPORT))
    return source


def _source_of(root: Path, config_file: Path | None, report: dict[str, Any], checkpoint: Path | None) -> RunFacts:
    """Returns what a configuration, a report and a checkpoint of ``root`` tell, which must name one model."""
    state = read_mapping(checkpoint / STATE) if checkpoint else {}
    config = read_mapping(config_file) if config_file else {}
    arch, kept = section_of(config, "Arch"), section_of(state, "arch")
    detects = report.get("architecture") is not None or "architecture" in config
    names = {detector_name(config)} if detects else {report.get("model"), kept.get("name"), arch.get("name")} - {None}
    if len(names) != 1:
        found = f"its files are of different models: {', '.join(sorted(map(str, names)))}"
        raise UserError(f"{root}: {found if names else 'does not tell which model it holds'}")
    given = {key: value for key, value in arch.items() if key not in ("name", "pretrained", "use_ssld")}
    return RunFacts(
        model=str(names.pop()), task=DETECTION if detects else CLASSIFICATION,
        arguments=report.get("arguments") or kept.get("arguments") or ({} if detects else given), config=config,
        config_file=config_file, report=report, state=state, folder=root,
        weights=None if checkpoint is None else find_weights(checkpoint),
    )  # fmt: skip


def detector_name(config: dict[str, Any]) -> str:
    """Returns architecture and backbone of a detection configuration, as exports of detectors are called."""
    architecture = str(config.get("architecture"))
    backbone = section_of(config, architecture).get("backbone")
    arguments = backbone if isinstance(backbone, dict) else section_of(config, str(backbone))
    name = arguments.get("name", "its backbone") if isinstance(backbone, dict) else backbone or "its backbone"
    size = arguments.get("arch") or config.get("scale")
    return f"{architecture} with {name} {size}" if size else f"{architecture} with {name}"


def changed_arguments(model: str, arguments: Mapping[str, Any]) -> list[str]:
    """Returns the arguments of a classifier that make its network another one than the published one; a ValueError if
    there is no such model."""
    defaults = architecture_parameters(model) if arguments else {}
    return [name for name, value in arguments.items()
            if name not in HARMLESS and (name not in defaults or defaults[name].default != value)]  # fmt: skip


# Text without paths of a machine

_ABSOLUTE = re.compile(r"^(?:/|~|\\\\|[A-Za-z]:[\\/])")
# Folders of an absolute path inside a longer text, such as ``table=/data/x.npy``.
_EMBEDDED = re.compile(r"(?<![\w./~:-])/(?:[\w.~-]+/)+")
_SPECIAL = re.compile(r"([\\`*{}\[\]<>|#~$])")


def shown_path(path: str | Path) -> str:
    """Returns a path as a card may name it: inside the working folder from there, elsewhere its last part only."""
    text = str(path).replace("\\", "/").rstrip("/")
    if _ABSOLUTE.match(text):
        # Links stay as they are called: checkpoints/best.
        absolute, here = Path(os.path.abspath(user_path(text))), Path.cwd()
        inside = text[0] in "/~" and absolute.is_relative_to(here) and absolute != here
        return absolute.relative_to(here).as_posix() if inside else text.rpartition("/")[2]
    text = _EMBEDDED.sub("", text)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return parts[-1] if ".." in parts else "/".join(parts)


def as_yaml(value: Any) -> str:
    """Returns a part of a configuration as YAML, without paths of this machine."""

    def shown(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: shown(each) for key, each in part.items()}
        if isinstance(part, list):
            return [shown(each) for each in part]
        return shown_path(part) if isinstance(part, str) and ("/" in part or "\\" in part) else part

    text = yaml.safe_dump(shown(value), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return text.strip()


def shown_metric(name: str) -> str:
    """Returns the name of a metric for people: ``top-1`` for ``top1``."""
    return f"top-{name[3:]}" if name.startswith("top") else name


def pruning_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the ``figures`` of ``prune_model`` as Markdown: a row for each figure, a column for each network."""
    # Figure -> label, scale, digits.
    kinds = {"parameters": ("parameters, M", 1e-6, 2), "flops": ("multiply-adds, M", 1e-6, 2),
             "median_ms": ("median latency, ms", 1, 2), "p90_ms": ("90th percentile, ms", 1, 2)}  # fmt: skip
    rows = []
    for name in dict.fromkeys(name for network in figures.values() for name in network):
        share = (f"{shown_metric(name)}, %", 100, 2) if name.startswith(("top", "AP")) else (name, 1, 4)
        label, scale, digits = kinds.get(name, share)
        values = [network.get(name) for network in figures.values()]
        rows.append([label, *("not measured" if one is None else f"{one * scale:.{digits}f}" for one in values)])
    return markdown_table(["", *figures], rows)


def int8_table(measured: Mapping[str, Any]) -> str:
    """Returns what was measured of an int8 network, its ``verification`` in ``inference.yml``, as Markdown."""
    rows = {"latency, ms": (measured["latency_ms"], 1), "size, MB": (measured["bytes"], 1e-6)}
    if "metric" in measured:
        rows = {f"{shown_metric(measured['metric'])}, %": (measured, 100), **rows}
    cells = [[label, *(f"{pair[name] * scale:.2f}" for name in ("fp32", "int8"))]
             for label, (pair, scale) in rows.items()]  # fmt: skip
    return markdown_table(["", "fp32", "int8"], cells)


def escaped(text: Any) -> str:
    """Returns a name that other people chose, so that Markdown shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def percent(share: Any, unit: str = " %") -> str:
    """Returns a share as percent with two digits."""
    return f"{100 * share:.2f}{unit}" if isinstance(share, int | float) else "not measured"


def shown_inside(source: RunFacts, path: Path | None, unknown: str) -> str:
    """Returns a file or folder of a run as commands of a card name it."""
    if path is None:
        return unknown
    if source.folder is None or not path.is_relative_to(source.folder):
        return shlex.quote(shown_path(path))
    inner = path.relative_to(source.folder).as_posix()
    outer = shown_path(source.folder.absolute())
    return shlex.quote(outer if inner == "." else f"{outer}/{inner}")


# What configurations tell


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
    section, name = dataset_of(config, "Eval"), data_name(config, "Eval")
    part = section.get("split") or section.get("cls_label_path") or section.get("anno_path")
    return "data that are not recorded" if name is None else f"{name} ({shown_path(str(part))})" if part else name


def input_size(source: RunFacts) -> list[int] | None:
    """Returns height and width of the network's input; ``None`` where nothing tells."""
    shape = section_of(source.config, "Global").get("image_shape")
    size = shape[1:] if isinstance(shape, list) else None
    if source.task == DETECTION:
        entries = section_of(source.config, "TestReader").get("sample_transforms") or []
        sizes = [section_of(entry, name).get("target_size") or section_of(entry, name).get("size")
                 for entry in entries for name in ("Resize", "LetterResize", "Pad")]  # fmt: skip
        size = next((each for each in reversed(sizes) if each), None)
    size = [size, size] if isinstance(size, int) else size
    return size if isinstance(size, list) and len(size) == 2 else None


# The card


class CardFacts(NamedTuple):
    """All that a card is made of. What is ``None`` or empty is told to be unknown, or left out.

    ``latency`` is what a benchmark measured on ``machine`` of the export, or of the model by its name, which has random
    weights (``latency_by_name``); ``checksum`` is the SHA-256 of the weights.
    """

    source: RunFacts
    counts: Counts | None = None
    export: Description | DetectionDescription | None = None
    latency: Sequence[dict[str, Any]] = ()
    machine: str | None = None
    latency_by_name: bool = False
    checksum: str | None = None


def gather_facts(
    source: RunFacts | str | os.PathLike[str] | None = None, *, model: str | None = None, counts: Counts | None = None,
    export: str | os.PathLike[str] | None = None, benchmark: str | os.PathLike[str] | None = None,
) -> CardFacts:  # fmt: skip
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
    if source is not None and not isinstance(source, RunFacts):
        source = read_run(source)
    description = None if export is None else read_description(export)
    exports_detector = isinstance(description, DetectionDescription)
    if source is None:
        if model is None and description is None:
            raise UserError("nothing is named that a card could be made of: a model, a run or an export")
        name = model or str(description.model_name)
        source = RunFacts(name, DETECTION if exports_detector else CLASSIFICATION)
    if model is not None and model not in (source.model, source.architecture):
        where = "the export" if source.folder is None else str(source.folder)
        raise UserError(f"{where}: holds {source.model}, not {model}")
    try:
        changed = changed_arguments(source.model, source.arguments) if source.task == CLASSIFICATION else []
        if source.task == CLASSIFICATION:
            architecture_parameters(source.model)
    except ValueError as error:
        raise UserError(str(error)) from error
    if description is not None:
        if exports_detector != (source.task == DETECTION) or description.model_name != source.model:
            raise UserError(f"{description.folder}: is an export of {description.model_name}, not of {source.model}")
        names, number = source.class_names, source.arguments.get("class_num", description.class_num)
        differ = names and description.classes is not None and names != description.classes
        if differ or number != description.class_num:
            raise UserError(f"{description.folder}: its classes are not those of {source.folder or source.model}")
    latency: list[dict[str, Any]] = []
    machine, by_name = None, False
    if benchmark is not None:
        latency, machine, by_name = _latency_of(source, changed, export, benchmark)
    if counts is None and source.task == CLASSIFICATION and (source.arguments or description is None):
        shape = section_of(source.config, "Global").get("image_shape") or DEFAULT_SHAPE
        counts = count_classifier(source.model, source.arguments, tuple(shape))
    checksum = None if source.weights is None else sha256_of(source.weights)
    return CardFacts(source, counts, description, latency, machine, by_name, checksum)


def _latency_of(
    source: RunFacts, changed: Sequence[str], export: str | os.PathLike[str] | None, benchmark: str | os.PathLike[str]
) -> tuple[list[dict[str, Any]], str | None, bool]:
    """Returns the measured rows of a benchmark that are of the export, or else of the model by its name; the machine;
    and whether they are of the name."""
    document = read_mapping(Path(benchmark))
    rows = section_of(document, "models").get("rows")
    if not isinstance(rows, list):
        command = "python tools/benchmark.py models --output bench.md makes one"
        raise UserError(f"{benchmark}: no benchmark of models; {command}")
    rows = [row for row in rows if row["status"] == "measured"]
    named = [row for row in rows if row["model"].partition("@")[0] == source.model]
    own = [row for row in rows if export is not None and Path(row["model"]).resolve() == Path(export).resolve()]
    # A network of another form was not measured by its name.
    found = own or ([] if changed else named)
    if not found:
        other = f" with {', '.join(changed)} as in this model" if named else ""
        held = ", ".join(dict.fromkeys(row["architecture"] for row in rows)) or "nothing"
        raise UserError(f"{benchmark}: has no measurement of {source.model}{other}; it holds {held}")
    return found, document.get("machine"), not own


def card_text(facts: CardFacts) -> str:
    """Returns the card as Markdown, with a head in YAML as Hugging Face reads it (of measured results only)."""
    source, export, counts = facts.source, facts.export, facts.counts
    config, measured, detects = source.config, source.measured, source.task == DETECTION
    trained = source.weights is not None or export is not None
    paper, data = paper_of(source.architecture), data_name(config, "Train")
    names = source.class_names or (export.classes if export else None) or []
    title = f"{source.model} on {data}" if data and trained else source.model

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

    training = {key: config[key] for key in TRAINING_SECTIONS if config.get(key)}
    if loader := section_of(config, "DataLoader", "Train"):
        training["DataLoader"] = {"Train": loader}
    infers = section_of(config, "Infer").get("transforms") or section_of(config, "TestReader").get("sample_transforms")
    int8 = next((each for each in export.artefacts if each.precision == "int8"), None) if export else None
    return render_markdown(
        "ppcls_ext.deploy", "card.md.j2",
        {"escape_markdown": escaped, "path": shown_path, "percent": percent, "yaml": as_yaml, "metric": shown_metric,
         "pruning_table": pruning_table, "int8_table": int8_table},
        head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120), title=title, source=source,
        config=config, paper=paper, published=PUBLISHED.get(source.architecture), detects=detects, trained=trained,
        export=export, export_folder=shown_path(export.folder) if export else "EXPORT", counts=counts, facts=facts,
        names=names, most_names=MOST_NAMES, measured=measured, data=data, evaluation_data=evaluation_data(config),
        coco=COCO_FIGURES, size=export.input_shape[2:] if export else input_size(source), report=source.report,
        images=section_of(source.state, "data_order").get("images"), training=training, int8=int8,
        preprocess=export.preprocess if export else infers,
        planned=section_of(config, "Global").get("epochs") or config.get("epoch"),
        done=source.report.get("epochs") or source.state.get("epoch"),
        teacher=section_of(source.report, "teacher", "eval") or section_of(source.state, "teacher", "eval"),
        changed=[] if detects else changed_arguments(source.model, source.arguments),
        config_file=shown_inside(source, source.config_file, "CONFIG"),
        weights_folder=shown_inside(source, source.weights and source.weights.parent, "CHECKPOINT"),
        weights_key="weights" if detects else "Global.pretrained_model",
    )  # fmt: skip


def write_card(facts: CardFacts, path: str | os.PathLike[str]) -> str:
    """Writes a card, whole or not at all; returns its text."""
    text = card_text(facts)
    write_text(path, text)
    return text


def models_page(count_of: Callable[[str], tuple[int, int]]) -> str:
    """Returns docs/models/README.md: a table of all our models, of whose names ``count_of`` makes parameters and
    multiply-adds, with 1000 classes at 224 px.
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
        "# Models\n\nWritten by `python tools/model_card.py --all --output docs/models/README.md --overwrite`. "
        "Parameters and multiply-adds (GFLOPs) are counted, for one image of 224 x 224 px and 1000 classes; accuracies "
        "are published ones, not measured by this project. `python tools/model_card.py --model NAME` writes the card "
        f"of one model, with its stages.\n\n{markdown_table(columns, rows, 'llrrrl')}\n"
    )
