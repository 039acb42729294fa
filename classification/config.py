"""From YAML of PaddleClas's schema to checked settings. Reads no data and loads no Paddle: errors come at once."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from classification.arch_section import read_arch
from classification.config_parts import Reader
from classification.data.batch_operators import BatchOperator, build_batch_operator
from classification.data.datasets import DATASETS
from classification.data.operators import TRAIN_OPERATORS
from classification.distillation.settings import DistillationSettings, read_distillation, refuse_paddleclas_schema
from classification.losses import LOSSES, WeightedSum, loss_parameters
from classification.metrics import METRICS, TopkAcc
from classification.optimizers import OPTIMIZERS, REGULARIZERS, OptimizerSettings
from classification.schedules import SCHEDULES, SUPPLIED, Schedule
from classification.sections import (
    AmpSettings,
    ArchSettings,
    EmaSettings,
    GlobalSettings,
    InferSettings,
    LoaderSettings,
    SamplerSettings,
    TopkSettings,
)
from ppcls_ext.preprocess.pipeline import build_operators
from ppcls_ext.utils.config import Document, load_config_file, plain_copy
from ppcls_ext.utils.errors import UserError

SECTIONS = ("Global", "AMP", "EMA", "Arch", "Loss", "Distillation", "Optimizer", "DataLoader", "Infer", "Metric")
# One of the first stands in PaddleDetection's configurations, the second in each of ours.
DETECTION_KEY = re.compile(r"^(architecture|_BASE_)[ \t]*:", re.MULTILINE)
CLASSIFICATION_KEY = re.compile(r"^Arch[ \t]*:", re.MULTILINE)


@dataclasses.dataclass
class DataSettings:
    """One of ``DataLoader.Train`` and ``DataLoader.Eval``.

    Attributes:
        key: dotted key of the section, for messages.
        dataset: name of the data set's class.
        dataset_arguments: its checked arguments.
        operators: per-image operators, built.
        batch_operator: mixes the images of a batch, or ``None``.
        sampler: batch size and order.
        loader: worker processes.
    """

    key: str
    dataset: str
    dataset_arguments: dict[str, Any]
    operators: list[Callable[..., Any]]
    batch_operator: BatchOperator | None
    sampler: SamplerSettings
    loader: LoaderSettings


@dataclasses.dataclass
class OptimizerPlan:
    """``Optimizer``: the optimizer's settings and the schedule's name and arguments."""

    settings: OptimizerSettings
    schedule: str
    schedule_arguments: dict[str, Any]

    def build_schedule(self, epochs: int, steps_each_epoch: int) -> Schedule:
        """Returns the learning rate as a function of the optimizer step."""
        return SCHEDULES[self.schedule](epochs=epochs, steps_each_epoch=steps_each_epoch, **self.schedule_arguments)


@dataclasses.dataclass
class Config:
    """A whole checked configuration; ``document.data`` is what the file said, with the changes of ``-o``."""

    document: Document
    run: GlobalSettings
    arch: ArchSettings
    amp: AmpSettings | None
    ema: EmaSettings | None
    train_loss: WeightedSum | None
    eval_loss: WeightedSum | None
    optimizer: OptimizerPlan | None
    train: DataSettings | None
    eval: DataSettings | None
    infer: InferSettings | None
    postprocess: TopkSettings | None
    metrics: list[TopkAcc]
    distillation: DistillationSettings | None = None

    @property
    def output_dir(self) -> Path:
        """The folder of this run."""
        return Path(self.run.output_dir)

    def to_yaml(self) -> str:
        """Returns the resolved configuration as YAML, fit to be loaded again."""
        return yaml.safe_dump(self.document.data, sort_keys=False, allow_unicode=True)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads and checks a classification configuration.

    Raises:
        UserError: the file cannot be read, or it is a detection configuration.
        ConfigError: it can, and this lists every unknown key, wrong type, wrong name and impossible value in it.
    """
    _refuse_detection(Path(path))
    return check_config(load_config_file(path, overrides))


def _refuse_detection(path: Path) -> None:
    """Recognises PaddleDetection's configurations by their text: their YAML may hold tags that only it can read."""
    text = ""
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace")
    key = DETECTION_KEY.search(text)
    if key is not None and not CLASSIFICATION_KEY.search(text):
        line = text.count("\n", 0, key.start()) + 1
        message = "this is a detection configuration; detection is not part of this version yet"
        raise UserError(f"{path}:{line}: {key[1]}: {message}")


def check_config(document: Document) -> Config:
    """Checks a document that is already in memory, such as the one inside a checkpoint.

    Raises:
        ConfigError: every problem of the document, one line each.
    """
    refuse_paddleclas_schema(document)
    reader = Reader(document)
    data = plain_copy(document.data)
    reader.known_keys("", data, SECTIONS)
    run = _read_global(reader, data.get("Global"))
    # PaddleClas accepts the number of classes under Global too, and so must its configs here.
    arch = read_arch(reader, data.get("Arch"), run.class_num)
    loss = reader.mapping(data.get("Loss"), "Loss", ("Train", "Eval"))
    loader = reader.mapping(data.get("DataLoader"), "DataLoader", ("Train", "Eval"))
    infer, postprocess = _read_infer(reader, data.get("Infer"))
    config = Config(
        document=document,
        run=run,
        arch=arch,
        amp=_optional(reader, AmpSettings, data, "AMP"),
        ema=_optional(reader, EmaSettings, data, "EMA"),
        train_loss=_read_losses(reader, loss.get("Train"), "Loss.Train"),
        eval_loss=_read_losses(reader, loss.get("Eval"), "Loss.Eval"),
        optimizer=_read_optimizer(reader, data.get("Optimizer"), run.epochs),
        train=_read_data(reader, loader.get("Train"), "DataLoader.Train"),
        eval=_read_data(reader, loader.get("Eval"), "DataLoader.Eval"),
        infer=infer,
        postprocess=postprocess,
        metrics=_read_metrics(reader, data.get("Metric")),
        distillation=read_distillation(reader, data.get("Distillation"), arch),
    )
    if config.amp is not None and not config.amp.use_amp:
        config.amp = None
    reader.problems.raise_any()
    return config


def _optional(reader: Reader, settings: type, data: dict[str, Any], key: str) -> Any:
    """Builds a section whose mere presence turns a feature on; ``null`` is as good as absent."""
    return None if data.get(key) is None else reader.build(settings, data[key], key)


def _read_global(reader: Reader, section: Any) -> GlobalSettings:
    run = reader.build(GlobalSettings, {} if section is None else section, "Global")
    if run is not None:
        return run
    # The other sections are still checked, so that all problems are reported. The warm-up is compared with the epochs:
    # where these are not known, with so many that it is not blamed for them.
    epochs = section.get("epochs", GlobalSettings.epochs) if isinstance(section, dict) else None
    return GlobalSettings(epochs=epochs if type(epochs) is int and epochs > 0 else 10**9)


def _read_losses(reader: Reader, section: Any, key: str) -> WeightedSum | None:
    parts = []
    for name, arguments, place in reader.named_list(section, key, LOSSES):
        checked = reader.arguments(loss_parameters(name), arguments, place)
        weight = checked.pop("weight", 1.0)
        if weight < 0:
            reader.problems.add(f"{place}.weight", f"must not be negative, got {weight}")
        loss = reader.construct(LOSSES[name], checked, place)
        if loss is not None:
            parts.append((weight, loss))
    return WeightedSum(parts) if parts else None


def _read_optimizer(reader: Reader, section: Any, epochs: int) -> OptimizerPlan | None:
    if section is None:
        return None
    if not isinstance(section, dict):
        reader.problems.add("Optimizer", "must be a mapping with the keys name and lr")
        return None
    name = reader.choice(section.pop("name", None), "Optimizer.name", OPTIMIZERS)
    rate = section.pop("lr", None)
    schedule, schedule_arguments = _read_schedule(reader, rate, epochs)
    _translate_spellings(reader, section)
    settings = reader.build(OPTIMIZERS[name], section, "Optimizer") if name else None
    return OptimizerPlan(settings, schedule, schedule_arguments) if settings and schedule else None


def _translate_spellings(reader: Reader, section: dict[str, Any]) -> None:
    """Puts PaddleClas's other spellings, ``clip_grad`` and ``regularizer``, under our names."""
    limit = section.pop("clip_grad", None)
    if limit is not None:
        if section.get("clip_norm") is not None:
            reader.problems.add("Optimizer.clip_grad", "is another name of clip_norm; only one of them may stand")
        section["clip_norm"] = limit
    regularizer = section.pop("regularizer", None)
    if regularizer is None:
        return
    if "weight_decay" in section:
        reader.problems.add("Optimizer.regularizer", "is another name of weight_decay; only one of them may stand")
    kind = regularizer.pop("name", None) if isinstance(regularizer, dict) else None
    if reader.choice(kind, "Optimizer.regularizer.name", REGULARIZERS):
        built = reader.build(REGULARIZERS[kind], regularizer, "Optimizer.regularizer")
        if built is not None:
            section["weight_decay"] = built.weight_decay


def _read_schedule(reader: Reader, section: Any, epochs: int) -> tuple[str | None, dict[str, Any]]:
    key = "Optimizer.lr"
    if isinstance(section, int | float):
        section = {"name": "ConstLR", "learning_rate": section}
    if not isinstance(section, dict):
        reader.problems.add(key, "must be a mapping such as {name: Cosine, learning_rate: 4e-3}")
        return None, {}
    name = reader.choice(section.pop("name", None), f"{key}.name", SCHEDULES)
    if name is None:
        return None, {}
    arguments = reader.checked(SCHEDULES[name], section, key, SUPPLIED)
    if arguments is None:
        return None, {}
    # Built once with a made-up number of steps, so that its own checks speak before any data are read.
    reader.construct(SCHEDULES[name], {**arguments, "epochs": epochs, "steps_each_epoch": 1}, key)
    return name, arguments


def _read_data(reader: Reader, section: Any, key: str) -> DataSettings | None:
    if section is None:
        return None
    known = reader.mapping(section, key, ("dataset", "sampler", "loader"))
    if not isinstance(section, dict):
        return None
    section, dataset = known, known.get("dataset")
    if not isinstance(dataset, dict):
        reader.problems.add(f"{key}.dataset", "must be a mapping with the key name, such as ImageFolder")
        return None
    operators = reader.collected(
        build_operators, dataset.pop("transform_ops", None), f"{key}.dataset.transform_ops", TRAIN_OPERATORS
    )
    batch_operator = reader.collected(
        build_batch_operator, dataset.pop("batch_transform_ops", None), f"{key}.dataset.batch_transform_ops"
    )
    name = reader.choice(dataset.pop("name", None), f"{key}.dataset.name", DATASETS)
    arguments = reader.checked(DATASETS[name], dataset, f"{key}.dataset") if name else None
    sampler = reader.build(SamplerSettings, section.get("sampler") or {}, f"{key}.sampler")
    loader = reader.build(LoaderSettings, section.get("loader") or {}, f"{key}.loader")
    if name is None or arguments is None or sampler is None or loader is None:
        return None
    return DataSettings(key, name, arguments, operators or [], batch_operator, sampler, loader)


def _read_infer(reader: Reader, section: Any) -> tuple[InferSettings | None, TopkSettings | None]:
    if section is None:
        return None, None
    infer = reader.build(InferSettings, section, "Infer")
    if infer is None:
        return None, None
    # Checked here; the list itself is kept as written, because it travels into the export.
    reader.collected(build_operators, infer.transforms, "Infer.transforms")
    return infer, reader.build(TopkSettings, infer.PostProcess, "Infer.PostProcess")


def _read_metrics(reader: Reader, section: Any) -> list[TopkAcc]:
    """Returns the metrics of ``Metric.Eval``.

    ``Metric.Train``, which stands in many of PaddleClas's configurations, is checked but has no effect: of the training
    images the top-1 accuracy is always shown, and nothing else.
    """
    section = reader.mapping(section, "Metric", ("Train", "Eval"))
    reader.metrics(section.get("Train"), "Metric.Train", METRICS)
    return reader.metrics(section.get("Eval"), "Metric.Eval", METRICS) or [TopkAcc([1, 5])]
