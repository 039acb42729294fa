"""From YAML of PaddleClas's schema to checked settings: names, types and ranges, before any data are read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from classification import sections
from classification.data.datasets import DATASETS, ImageFolder, UnlabelledImages, shared_folder
from classification.data.operators import TRAIN_OPERATORS, BatchOperator, build_batch_operator, misplaced
from classification.losses import LOSSES, WeightedSum
from classification.metrics import METRICS, TopkAcc
from classification.optimizers import OPTIMIZERS, OptimizerSettings, Regularizer
from classification.schedules import SCHEDULES, Schedule
from classification.sections import (
    ArchSettings,
    DistillationSettings,
    FeatureSettings,
    FileSection,
    OnnxTeacherSettings,
)
from ppcls_ext.arch.registry import architecture_parameters, family_of, list_models
from ppcls_ext.engine.shared_keys import AmpSettings
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.operators import build_operators
from ppcls_ext.utils.config import Document, apply_override, flatten, is_detection_config, load_config_file, plain_copy
from ppcls_ext.utils.errors import ConfigError, UserError, suggestion
from ppcls_ext.utils.lengths import follow_epochs
from ppcls_ext.utils.names import user_path
from ppcls_ext.utils.schema import Checker
from ppcls_ext.utils.signature import Parameter, parameters_of

EPOCHS = "Global.epochs"
# Lengths that are shares of the run: they were written for the epochs that the file states.
LENGTHS = re.compile(
    r"Optimizer\.lr\.(?:warmup_epoch|step_size)"
    r"|(?P<whole>Optimizer\.lr\.(?:milestones|decay_epochs)\[\d+\]|Global\.freeze_epochs)"
)
PRETRAINING = "Pretraining"
DISTILLATION = "Distillation"
TEACHER = f"{DISTILLATION}.teacher"
CACHE = f"{DISTILLATION}.cache"
# Keys of Arch that are the trainer's, not the model's.
TRAINER_KEYS = {
    "use_sync_bn": Parameter("use_sync_bn", bool, False),
    "pretrained": Parameter("pretrained", bool | str, False),
}
WEIGHTS_WANTED = "give a checkpoint folder such as RUN/checkpoints/best, or a weight file"


@dataclasses.dataclass
class DataSettings:
    """One of ``DataLoader.Train`` and ``DataLoader.Eval``, whose dotted key is ``key``.

    Of the data set it holds the name and the checked arguments; the operators are built. With ``split_ignored``
    ``split`` is not applied, because training and evaluation have folders of their own.
    """

    key: str
    dataset: str
    dataset_arguments: dict[str, Any]
    operators: list[Callable[..., Any]]
    batch_operator: BatchOperator | None
    sampler: sections.SamplerSettings
    loader: sections.LoaderSettings
    split_ignored: bool = False


@dataclasses.dataclass
class OptimizerPlan:
    """``Optimizer``: the optimizer's settings and its schedule, which the task fits to the run."""

    settings: OptimizerSettings
    schedule: Schedule


@dataclasses.dataclass
class Config:
    """A whole checked configuration; ``document.data`` is what the file said, with the changes of ``-o``."""

    document: Document
    run: sections.GlobalSettings
    arch: ArchSettings
    amp: AmpSettings | None
    ema: sections.EmaSettings | None
    train_loss: WeightedSum | None
    eval_loss: WeightedSum | None
    optimizer: OptimizerPlan | None
    train: DataSettings | None
    eval: DataSettings | None
    infer: sections.InferSettings | None
    postprocess: sections.TopkSettings
    metrics: list[TopkAcc]
    distillation: DistillationSettings | None = None
    pretraining: sections.PretrainingSettings | None = None

    @property
    def output_dir(self) -> Path:
        """The folder of this run."""
        return user_path(self.run.output_dir)

    @property
    def topk(self) -> int:
        """How many classes are shown of an image."""
        return min(self.postprocess.topk, self.arch.class_num)

    def to_yaml(self) -> str:
        """Returns the resolved configuration as YAML, fit to be loaded again."""
        return yaml.safe_dump(self.document.data, sort_keys=False, allow_unicode=True)

    def with_depth(self, statement: depth.Statement) -> Config:
        """Returns the configuration whose decode operators all state this range of values."""
        if statement == depth.statement_in(self.document.data):
            return self
        data = depth.with_statement(self.document.data, statement)
        return check_config(dataclasses.replace(self.document, data=data))

    def as_trained(self, weights: Path) -> Config:
        """Returns the configuration with the range of values that the run of ``weights``, a file, used."""
        return self.with_depth(depth.as_trained(self.document.data, weights, str(self.document.path)))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads and checks a classification configuration.

    Raises:
        UserError: the file cannot be read, or it is a detection configuration.
        ConfigError: it can, and this lists every unknown key, wrong type, wrong name and impossible value in it.
    """
    if is_detection_config(path):
        raise UserError(f"{path}: this is a detection configuration; use a classification configuration (with Arch)")
    document = load_config_file(path)
    epochs = flatten(document.data).get(EPOCHS)
    for change in overrides:
        apply_override(document, change)
    follow_epochs(document, EPOCHS, LENGTHS, epochs, document.is_overridden)
    return check_config(document)


def check_config(document: Document) -> Config:
    """Checks a document that is already in memory, such as the one inside a checkpoint.

    Raises:
        ConfigError: every problem of the document, one line each.
    """
    _refuse_paddleclas_distillation(document)
    checker = Checker(document)
    for key, message in depth.unify_ranges(document.data):
        checker.add(key, message)
    data, allowed = plain_copy(document.data), list(FileSection.model_fields)
    for name in [name for name in data if name not in allowed]:
        checker.add("", f"unknown key '{name}'{suggestion(str(name), allowed)}; allowed: {', '.join(allowed)}")
        del data[name]
    file = checker.section(FileSection, data, "")
    if file is None:
        checker.raise_any()
    # Where a section is wrong the other ones are still checked, so that all problems are reported.
    run, infer = file.Global or sections.GlobalSettings(), file.Infer
    loss, metric = file.Loss or sections.ListsSection(), file.Metric or sections.ListsSection()
    loader = file.DataLoader or sections.DataLoaderSection()
    # PaddleClas accepts the number of classes under Global too, and so must its configs here.
    instead = "give a file with Global.pretrained_model=PATH instead"
    arch = _read_arch(checker, file.Arch, "Arch", run.class_num, tuple(TRAINER_KEYS), instead)
    # `Metric.Train` of PaddleClas's configurations has no effect: top-1 of the training images is always shown.
    checker.collected(build_operators, metric.Train, "Metric.Train", METRICS, "metric")
    if infer is not None:
        # Checked here; the list itself is kept as written, because it travels into the export.
        checker.collected(build_operators, infer.transforms, "Infer.transforms")
    config = Config(
        document=document,
        run=run,
        arch=arch,
        amp=file.AMP if file.AMP is not None and file.AMP.use_amp else None,
        ema=file.EMA,
        train_loss=_read_losses(checker, loss.Train, "Loss.Train"),
        eval_loss=_read_losses(checker, loss.Eval, "Loss.Eval"),
        optimizer=_read_optimizer(checker, file.Optimizer),
        train=_read_data(checker, loader.Train, "DataLoader.Train"),
        eval=_read_data(checker, loader.Eval, "DataLoader.Eval"),
        infer=infer,
        postprocess=(infer and infer.PostProcess) or sections.TopkSettings(),
        metrics=checker.collected(build_operators, metric.Eval, "Metric.Eval", METRICS, "metric") or [TopkAcc([1, 5])],
        distillation=_read_distillation(checker, file.Distillation, arch),
        pretraining=file.Pretraining,
    )
    _check_both_data_sets(checker, config.train, config.eval)
    _check_pretraining(checker, config)
    checker.raise_any()
    return config


def _check_both_data_sets(checker: Checker, train: DataSettings | None, evaluation: DataSettings | None) -> None:
    """Takes all images of both folders where training and evaluation have one each: ``split`` is for a single folder.

    Folders and splits that share images are refused, for the evaluation would be of images that were learnt; and so are
    lists of which only one has ``relabel``.
    """
    if train is None or evaluation is None or train.dataset != evaluation.dataset:
        return
    key, learnt = f"{evaluation.key}.dataset", "images would be learnt and evaluated"
    if train.dataset == ImageFolder.__name__:
        both = (train, evaluation)
        shared = shared_folder(*(one.dataset_arguments["image_root"] for one in both))
        if shared is None:
            for one in both:
                one.split_ignored = one.dataset_arguments.pop("split", None) is not None
            return
        if shared != "same":
            checker.add(f"{key}.image_root", f"{shared}: {learnt}; use two folders side by side, or one for both")
            return
    parameters = parameters_of(DATASETS[train.dataset])
    ours, theirs = (
        {name: one.dataset_arguments.get(name, parameter.default) for name, parameter in parameters.items()}
        for one in (train, evaluation)
    )
    if ours.get("relabel") != theirs.get("relabel"):
        message = f"is {theirs['relabel']}, but {train.key}.dataset.relabel is {ours['relabel']}: the same label would"
        checker.add(f"{key}.relabel", f"{message} mean two classes; write relabel: True in both, or in neither")
    # Splits of other files (the digits have none) do not meet; with the same split the same images are meant.
    files = ("data_file", "data_dir", "mode")
    if ours.get("split") == theirs.get("split") or any(ours.get(name) != theirs.get(name) for name in files):
        return
    draw = [name for name in ("holdout", "seed") if ours[name] != theirs[name]]
    for name in draw if ours["split"] and theirs["split"] else ["split"]:
        wanted = "be the same in both" if name in draw else "be train in one of them and val in the other"
        message = f"is {theirs[name]}, and {ours[name]} in {train.key}.dataset: {learnt}; it must {wanted}"
        checker.add(f"{key}.{name}", message)


def _read_arch(
    checker: Checker, section: Any, key: str, class_num: int | None, own_keys: Sequence[str], instead: str
) -> ArchSettings:
    """Reads a section that describes a network; where it is wrong (noted), another network stands in for it.

    ``class_num`` holds where the section names none; ``own_keys`` of the trainer may stand here; ``instead`` is said to
    those who ask for a download.
    """
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        checker.add(f"{key}.name", "must name the model, such as EConvNeXt_mini")
        return ArchSettings("EConvNeXt_mini")
    section = dict(section)
    name = section.pop("name")
    own = {word: section.pop(word) for word in own_keys if word in section}
    own = checker.arguments({word: TRAINER_KEYS[word] for word in own_keys}, own, key) or {}
    try:
        parameters = architecture_parameters(name)
    except ValueError as error:
        checker.add(f"{key}.name", str(error))
        return ArchSettings(name)
    if class_num is not None and "class_num" in parameters:
        section.setdefault("class_num", class_num)
    arguments = checker.arguments(parameters, section, key) or {}
    if type(arguments.get("class_num")) is int and arguments["class_num"] < 1:
        checker.add(f"{key}.class_num", f"must be at least 1, got {arguments['class_num']}")
    if own.get("pretrained") is True:
        checker.add(f"{key}.pretrained", f"no weights are downloaded; {instead}")
    return ArchSettings(name, own.get("use_sync_bn", False), own.get("pretrained", False), arguments)


def _read_losses(checker: Checker, section: Any, key: str) -> WeightedSum | None:
    losses = checker.collected(build_operators, section, key, LOSSES, "loss")
    return WeightedSum(losses) if losses else None


def _read_optimizer(checker: Checker, section: Any) -> OptimizerPlan | None:
    if section is None:
        return None
    if not isinstance(section, dict):
        checker.add("Optimizer", "must be a mapping with the keys name and lr")
        return None
    name = checker.choice(section.pop("name", None), "Optimizer.name", OPTIMIZERS)
    rate = section.pop("lr", None)
    if isinstance(rate, int | float):
        rate = {"name": "ConstLR", "learning_rate": rate}
    schedule = None
    if isinstance(rate, dict):
        kind = checker.choice(rate.pop("name", None), "Optimizer.lr.name", SCHEDULES)
        if kind is not None:
            schedule = checker.section(SCHEDULES[kind], rate, "Optimizer.lr")
    else:
        checker.add("Optimizer.lr", "must be a mapping such as {name: Cosine, learning_rate: 4e-3}")
    # PaddleClas's other spellings of clip_norm and weight_decay.
    for word, ours in (("clip_grad", "clip_norm"), ("regularizer", "weight_decay")):
        value = section.pop(word, None)
        if value is not None and section.get(ours) is not None:
            checker.add(f"Optimizer.{word}", f"is another name of {ours}; only one of them may stand")
        if value is not None and word == "regularizer":
            decay = checker.section(Regularizer, value, "Optimizer.regularizer")
            value = decay and decay.coeff
        if value is not None:
            section[ours] = value
    settings = checker.section(OPTIMIZERS[name], section, "Optimizer") if name else None
    return OptimizerPlan(settings, schedule) if settings and schedule else None


def _read_data(checker: Checker, section: sections.DataSection | None, key: str) -> DataSettings | None:
    if section is None:
        return None
    dataset, place = section.dataset, f"{key}.dataset"
    operations, batch_operations = (dataset.pop(name, None) for name in ("transform_ops", "batch_transform_ops"))
    operators = checker.collected(build_operators, operations, f"{place}.transform_ops", TRAIN_OPERATORS)
    for number, fault in misplaced(operators or []):
        checker.add(f"{place}.transform_ops[{number}].{type(operators[number]).__name__}", fault)
    batch_operator = checker.collected(build_batch_operator, batch_operations, f"{place}.batch_transform_ops")
    name = checker.choice(dataset.pop("name", None), f"{place}.name", DATASETS)
    supplied = ("label_order",)  # an evaluation set has it from the training set
    arguments = checker.arguments(parameters_of(DATASETS[name]), dataset, place, supplied) if name else None
    if arguments is None:
        return None
    sampler, loader = section.sampler or sections.SamplerSettings(), section.loader or sections.LoaderSettings()
    return DataSettings(key, name, arguments, operators or [], batch_operator, sampler, loader)


def _read_distillation(checker: Checker, section: Any, student: ArchSettings) -> DistillationSettings | None:
    if section is None:
        return None
    if not isinstance(section, dict):
        allowed = ", ".join(DistillationSettings.model_fields)
        checker.add(DISTILLATION, f"must be a mapping with the keys {allowed}, got {section!r}")
        return None
    given = section.get("teacher")
    is_file = isinstance(given, dict) and "onnx" in given
    networks = {"Arch.name": student}
    if is_file:
        teacher = checker.section(OnnxTeacherSettings, given, TEACHER)
    else:
        teacher = networks[f"{TEACHER}.name"] = _read_teacher(checker, given, student, section.get("weight"))
    features = _read_features(checker, section.get("features"), networks)
    if features is not None and is_file and len(features.outputs or []) != len(features.stages):
        message = f"names the teacher's output for each of the stages {features.stages}, got {features.outputs}"
        checker.add(f"{DISTILLATION}.features.outputs", message)
    if features is not None and not is_file and features.outputs is not None:
        checker.add(f"{DISTILLATION}.features.outputs", f"names the outputs of an ONNX file; {teacher.name} has stages")
    if teacher is None:
        return None
    section = {**section, "teacher": teacher, "features": features}
    settings = checker.section(DistillationSettings, section, DISTILLATION)
    if settings is not None and is_file and settings.weight > 0 and teacher.logits is None:
        message = "is missing: the name of the teacher's output [N, class_num]"
        checker.add(f"{TEACHER}.logits", f"{message}; or learn from its features only ({DISTILLATION}.weight: 0)")
    return settings


def _read_teacher(checker: Checker, section: Any, student: ArchSettings, weight: Any) -> ArchSettings:
    """Reads a teacher that is a network of the registry; with ``weight`` 0, of features only, it may know other
    classes."""
    teacher = _read_arch(checker, section, TEACHER, student.class_num, ("pretrained",), WEIGHTS_WANTED)
    if isinstance(section, dict) and section.get("pretrained") in (None, False):
        message = f"is missing: a teacher with random weights teaches noise; {WEIGHTS_WANTED}"
        checker.add(f"{TEACHER}.pretrained", message)
    if "class_num" in teacher.arguments and teacher.class_num != student.class_num and weight != 0:
        message = f"the teacher has {teacher.class_num} classes, the student {student.class_num} (Arch.class_num)"
        checker.add(f"{TEACHER}.class_num", f"{message}; they must be the same")
    return teacher


def _read_features(checker: Checker, section: Any, networks: Mapping[str, ArchSettings]) -> FeatureSettings | None:
    """Reads ``Distillation.features``, for which each of the networks, by their places, must have stages."""
    if section is None:
        return None
    key = f"{DISTILLATION}.features"
    for place, network in networks.items():
        if family_of(network.name) is None:
            message = f"needs the outputs of stages, which {network.name} ({place}) does not give"
            checker.add(key, f"{message}; these do: {', '.join(list_models())}")
    return checker.section(FeatureSettings, section, key)


def _check_pretraining(checker: Checker, config: Config) -> None:
    """Notes what does not go together with ``Pretraining``, and random views where a cache needs one view."""
    if config.pretraining is not None:
        if family_of(config.arch.name) is None:
            message = f"needs a network with stages, which {config.arch.name} does not give"
            checker.add("Arch.name", f"{message}; these do: {', '.join(list_models())}")
        distilled, stated = config.pretraining.name == "Distilled", config.document.data.get(DISTILLATION) is not None
        if distilled and not stated:
            checker.add(DISTILLATION, f"is missing: {PRETRAINING}.name Distilled follows its teacher")
        if stated and not distilled:
            checker.add(DISTILLATION, f"has no effect with {PRETRAINING}.name Masked; remove one of the two")
        unused = {
            "Loss": config.train_loss, "DataLoader.Eval": config.eval, "Global.to_static": config.run.to_static,
            "DataLoader.Train.dataset.batch_transform_ops": config.train and config.train.batch_operator,
            "Global.class_weights": config.run.class_weights, "Global.class_sampling": config.run.class_sampling,
        }  # fmt: skip
        for key, value in unused.items():
            if value:
                checker.add(key, f"has no effect with {PRETRAINING}, which knows no labels; remove it")
    for settings in (config.train, config.eval):
        if config.pretraining is None and settings is not None and settings.dataset == UnlabelledImages.__name__:
            checker.add(f"{settings.key}.dataset.name", f"has no labels; only the section {PRETRAINING} needs none")
    if config.distillation is not None and config.distillation.cache and config.train is not None:
        random = [type(one).__name__ for one in config.train.operators if getattr(one, "random", False)]
        random += [type(config.train.batch_operator).__name__] if config.train.batch_operator else []
        if random:
            message = "needs the same view of an image in every epoch, but DataLoader.Train.dataset.transform_ops has"
            checker.add(CACHE, f"{message} {', '.join(dict.fromkeys(random))}")


def _refuse_paddleclas_distillation(document: Document) -> None:
    """Recognises PaddleClas's way to say distillation (``Arch.name: DistillationModel`` and losses between networks).

    Raises:
        ConfigError: this is such a configuration; its one line says how ours looks.
    """
    arch, loss = document.data.get("Arch"), document.data.get("Loss")
    named = {"Arch.name": arch.get("name") if isinstance(arch, dict) else None}
    entries = loss.get("Train") if isinstance(loss, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        named[f"Loss.Train[{index}]"] = next(iter(entry), None) if isinstance(entry, dict) else entry
    for key, name in named.items():
        if name == "DistillationModel" or (key != "Arch.name" and str(name).startswith("Distillation")):
            teacher = f"teacher ({TEACHER}: {{name: ..., pretrained: PATH}}, temperature, weight)"
            message = f"is PaddleClas's way to distil; here Arch is the student, the section {DISTILLATION} names the"
            rest = "and Loss.Train stays CELoss: see configs/quickstart_distilled.yaml"
            raise ConfigError([document.problem(key, f"{name} {message} {teacher}, {rest}")])
