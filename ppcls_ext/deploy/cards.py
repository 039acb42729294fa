"""Model cards: what files tell of a model, and the page (``card.md.j2``) made of it.

    write_card(gather_facts("output/quickstart"), "CARD.md")

Everything comes from files; what they do not tell is called "not measured" or "not recorded". Counting a classifier
loads Paddle, nothing else here does.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ppcls_ext.arch.registry import architecture_parameters, list_models
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.runtime import Description, DetectionDescription, read_description
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import read_mapping, sha256_of, write_text
from ppcls_ext.utils.names import user_path
from ppcls_ext.utils.tables import markdown_table, render_markdown
from ppcls_ext.weights import find_weights

if TYPE_CHECKING:
    from ppcls_ext.arch.flops import Count
    from ppcls_ext.deploy.profile import Profile

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


# What a run left


def section_of(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Returns a section of a configuration or a report by its keys; empty where it is not there."""
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class CardFacts:
    """Facts about one model, gathered from files; what none of them tells is empty or ``None``.

    Attributes:
        model: name of the architecture: ``EConvNeXt_mini``, or ``PPYOLOE with EConvNeXt mini``.
        arguments: of the classifier's constructor.
        config, config_file: the resolved configuration, and where it stands.
        report, state: ``report.json`` of the run, ``state.json`` of the checkpoint.
        folder: of the run or of the checkpoint.
        weights: the file with the weights that were evaluated.
        pruning: ``report.json`` of ``tools/prune_model.py``, for a pruned network.
        changed: arguments that make a classifier's network another one than the published one.
        counts: of the network, by layer.
        export: what the export says of itself.
        latency: rows that a benchmark measured on ``machine``, of the export, or of the model by its name, which has
            random weights (``latency_by_name``).
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
    changed: list[str] = field(default_factory=list)
    counts: Profile | None = None
    export: Description | DetectionDescription | None = None
    latency: list[dict[str, Any]] = field(default_factory=list)
    machine: str | None = None
    latency_by_name: bool = False

    @property
    def detects(self) -> bool:
        """Whether it is a detector."""
        return self.task == DETECTION

    @property
    def architecture(self) -> str:
        """The name that papers and tables know: of a detector without its backbone."""
        return self.model.partition(" with ")[0]

    @property
    def trained(self) -> bool:
        """Whether there are weights."""
        return self.weights is not None or self.export is not None

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
        known = self.state.get("class_names") or self.report.get("class_names") or (self.export and self.export.classes)
        return [str(name) for name in known or []]

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

    @property
    def size(self) -> list[int] | None:
        """Height and width of the network's input; ``None`` where nothing tells."""
        if self.export is not None:
            return self.export.input_shape[2:]
        shape = section_of(self.config, "Global").get("image_shape")
        size = shape[1:] if isinstance(shape, list) else None
        if self.detects:
            entries = section_of(self.config, "TestReader").get("sample_transforms") or []
            sizes = [section_of(entry, name).get("target_size") or section_of(entry, name).get("size")
                     for entry in entries for name in ("Resize", "LetterResize", "Pad")]  # fmt: skip
            size = next((each for each in reversed(sizes) if each), None)
        size = [size, size] if isinstance(size, int) else size
        return size if isinstance(size, list) and len(size) == 2 else None

    def inside(self, path: Path | None, unknown: str) -> str:
        """Returns a file or folder of the run as commands of a card name it."""
        if path is None:
            return unknown
        if self.folder is None or not path.is_relative_to(self.folder):
            return shlex.quote(shown_path(path))
        inner = path.relative_to(self.folder).as_posix()
        outer = shown_path(self.folder.absolute())
        return shlex.quote(outer if inner == "." else f"{outer}/{inner}")


def read_run(folder: str | os.PathLike[str]) -> CardFacts:
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


def _source_of(root: Path, config_file: Path | None, report: dict[str, Any], checkpoint: Path | None) -> CardFacts:
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
    return CardFacts(
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
    defaults = architecture_parameters(model)
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


# The card


def gather_facts(
    source: CardFacts | str | os.PathLike[str] | None = None, *, model: str | None = None,
    counts: Profile | None = None, export: str | os.PathLike[str] | None = None,
    benchmark: str | os.PathLike[str] | None = None,
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
    if source is not None and not isinstance(source, CardFacts):
        source = read_run(source)
    description = None if export is None else read_description(export)
    exports_detector = isinstance(description, DetectionDescription)
    if source is None:
        if model is None and description is None:
            raise UserError("nothing is named that a card could be made of: a model, a run or an export")
        source = CardFacts(
            model or str(description.model_name), DETECTION if exports_detector else CLASSIFICATION
        )  # fmt: skip
    where = source.folder or "the export"
    if model is not None and model not in (source.model, source.architecture):
        raise UserError(f"{where}: holds {source.model}, not {model}")
    try:
        changed = [] if source.detects else changed_arguments(source.model, source.arguments)
    except ValueError as error:
        raise UserError(str(error)) from error
    if description is not None:
        if exports_detector != source.detects or description.model_name != source.model:
            raise UserError(f"{description.folder}: is an export of {description.model_name}, not of {source.model}")
        names, number = source.class_names, source.arguments.get("class_num", description.class_num)
        differ = names and description.classes is not None and names != description.classes
        if differ or number != description.class_num:
            raise UserError(f"{description.folder}: its classes are not those of {source.folder or source.model}")
    if counts is None and not source.detects and (source.arguments or description is None):
        shape = section_of(source.config, "Global").get("image_shape") or DEFAULT_SHAPE
        counts = _count_classifier(source.model, source.arguments, tuple(shape))
    facts = replace(source, changed=changed, export=description, counts=counts)
    return facts if benchmark is None else _with_latency(facts, export, Path(benchmark))


def _count_classifier(model: str, arguments: Mapping[str, Any], image_shape: tuple[int, ...]) -> Profile:
    """Builds a classifier with random weights and counts it."""
    from ppcls_ext.arch.registry import build_model
    from ppcls_ext.deploy.profile import Subject, count_network

    return count_network(Subject(model, build_model(model, **arguments), image_shape))


def _with_latency(facts: CardFacts, export: str | os.PathLike[str] | None, benchmark: Path) -> CardFacts:
    """Adds the measured rows of a benchmark that are of the export, or else of the model by its name."""
    document = read_mapping(benchmark)
    rows = section_of(document, "models").get("rows")
    if not isinstance(rows, list):
        command = "python tools/benchmark.py models --output bench.md makes one"
        raise UserError(f"{benchmark}: no benchmark of models; {command}")
    rows = [row for row in rows if row["status"] == "measured"]
    named = [row for row in rows if row["model"].partition("@")[0] == facts.model]
    own = [row for row in rows if export is not None and Path(row["model"]).resolve() == Path(export).resolve()]
    # A network of another form was not measured by its name.
    found = own or ([] if facts.changed else named)
    if not found:
        other = f" with {', '.join(facts.changed)} as in this model" if named else ""
        held = ", ".join(dict.fromkeys(row["architecture"] for row in rows)) or "nothing"
        raise UserError(f"{benchmark}: has no measurement of {facts.model}{other}; it holds {held}")
    return replace(facts, latency=found, machine=document.get("machine"), latency_by_name=not own)


def card_text(facts: CardFacts) -> str:
    """Returns the card as Markdown, with a head in YAML as Hugging Face reads it (of measured results only)."""
    config, export = facts.config, facts.export
    training = {key: config[key] for key in TRAINING_SECTIONS if config.get(key)}
    if loader := section_of(config, "DataLoader", "Train"):
        training["DataLoader"] = {"Train": loader}
    infers = section_of(config, "Infer").get("transforms") or section_of(config, "TestReader").get("sample_transforms")
    return render_markdown(
        "ppcls_ext.deploy", "card.md.j2",
        {"escape_markdown": escaped, "path": shown_path, "percent": percent, "yaml": as_yaml, "metric": shown_metric,
         "pruning_table": pruning_table, "int8_table": int8_table},
        facts=facts, config=config, report=facts.report, export=export, measured=facts.measured,
        names=facts.class_names, most_names=MOST_NAMES, coco=COCO_FIGURES, training=training,
        paper=paper_of(facts.architecture), published=PUBLISHED.get(facts.architecture),
        data=data_name(config, "Train"), evaluated_on=data_name(config, "Eval"),
        evaluation_data=evaluation_data(config), preprocess=export.preprocess if export else infers,
        int8=next((each for each in export.artefacts if each.precision == "int8"), None) if export else None,
        checksum=facts.weights and sha256_of(facts.weights),
    )  # fmt: skip


def write_card(facts: CardFacts, path: str | os.PathLike[str]) -> str:
    """Writes a card, whole or not at all; returns its text."""
    text = card_text(facts)
    write_text(path, text)
    return text


def models_page(count_of: Callable[[str], Count]) -> str:
    """Returns docs/models/README.md: a table of all our models, which ``count_of`` counts by their names, with 1000
    classes at 224 px.
    """
    rows = []
    for model in list_models():
        count, published, paper = count_of(model), PUBLISHED.get(model), paper_of(model)
        rows.append((
            model, paper and f"{paper.family}, [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})",
            f"{count.parameters / 1e6:.2f}", f"{count.flops / 1e9:.3f}",
            f"{published.top1:g} %" if published else "none known", published and published.source,
        ))  # fmt: skip
    columns = ("model", "family", "parameters, M", "GFLOPs", "top-1 on ImageNet-1k, published", "source")
    return (
        "# Models\n\nWritten by `python tools/model_card.py --all --output docs/models/README.md --overwrite`. "
        "Parameters and multiply-adds (GFLOPs) are counted, for one image of 224 x 224 px and 1000 classes; accuracies "
        "are published ones, not measured by this project. `python tools/model_card.py --model NAME` writes the card "
        f"of one model, with its stages.\n\n{markdown_table(columns, rows, 'llrrrl')}\n"
    )
