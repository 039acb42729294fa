"""Checks a detection configuration against what PaddleDetection and we register; reports all problems together.

The constructors are the schema: each section, operator, data set, scheduler and optimizer is compared with the
signature of its imported class.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from detection.configuration.short_keys import SMALLEST
from detection.geometry import BoxReading
from detection.registration import register
from ppcls_ext.engine.shared_keys import SharedKeys
from ppcls_ext.preprocess import depth
from ppcls_ext.utils.config import Document
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.schema import Checker, Count, CountOrZero, NotNegative, Number, Section
from ppcls_ext.utils.signature import REQUIRED, Parameter, parameters_of
from ppcls_ext.utils.texts import read_text

Multiple = Annotated[Number, Field(ge=0.01, le=100)]


class RunKeys(SharedKeys):
    """Top-level keys with a single value, and what holds where they are absent; sections stand beside them."""

    model_config = ConfigDict(extra="ignore")

    architecture: str = ""
    metric: str = ""
    num_classes: Count = 1
    # Ours, see short_keys.py.
    image_size: Count = SMALLEST
    dataset_dir: str = ""
    epoch: Count = 1
    snapshot_epoch: Count = 1
    # As often as checkpoints are written, where it is absent.
    eval_interval: Count | None = None
    save_steps: CountOrZero = 0
    keep_checkpoints: Count = 3
    log_iter: Count = 20
    worker_num: CountOrZero = 0
    seed: CountOrZero | None = None
    # Ours: share of unreadable images of a set above which a run stops.
    max_bad_images: NotNegative = 0.01
    save_dir: str = "output"
    weights: str | None = None
    pretrain_weights: str | None = None
    use_gpu: bool = True
    cpu_kernels: Literal["auto", "paddle"] = "auto"
    # Ours: classes in a smaller share of the images are repeated.
    repeat_threshold: Annotated[Number, Field(gt=0, le=1)] | None = None
    use_xpu: bool = False
    use_npu: bool = False
    use_mlu: bool = False
    use_ema: bool = False
    ema_decay: Annotated[Number, Field(ge=0, le=1)] = 0.9998
    ema_decay_type: Literal["threshold", "normal", "exponential"] = "threshold"
    ema_black_list: list[str] | None = None
    norm_type: Literal["bn", "sync_bn", "gn", "ln", "none"] | None = None
    depth_mult: Multiple = 1
    width_mult: Multiple = 1
    amp: bool = False
    amp_level: Literal["O1", "O2"] = "O1"
    find_unused_parameters: bool = False
    print_flops: bool = False
    print_params: bool = False
    use_vdl: bool = False
    classwise: bool = False
    export: dict[str, Any] = {}
    output_eval: str | None = None


class Regularizer(Section):
    """``OptimizerBuilder.regularizer``."""

    type: Literal["L1", "L2"]
    factor: NotNegative


# Keys of a classifier's Global whose twins have other names here.
DETECTORS_NAMES = {"class_sampling": "repeat_threshold", "epochs": "epoch", "output_dir": "save_dir"}
REQUIRED_KEYS = ("architecture", "num_classes", "epoch")
REQUIRED_SECTIONS = (
    "LearningRate", "OptimizerBuilder", "TrainDataset", "EvalDataset", "TrainReader", "EvalReader", "TestReader",
)  # fmt: skip
# Further keys that PaddleDetection's engine and command lines read, and those that its files hold for anchors.
OTHER_KEYS = frozenset({
    "bias", "custom_black_list", "custom_white_list", "cycle_epoch", "ema_filter_no_grad", "ema_skip_names",
    "ema_start_iters", "eval_height", "eval_size", "eval_width", "filename", "fleet", "fuse_conv_bn", "image_height",
    "image_width", "infer_img", "init_loss_scaling", "map_type", "model", "multi_scale_eval", "num_joints",
    "pretrain_student_weights", "pretrain_teacher_weights", "profiler_options", "proposals_path", "pruner",
    "quant_batch_num", "save_prediction_only", "save_proposals", "scale", "semi_start_iters", "slim", "slim_method",
    "slim_type", "ssod_method", "to_static", "unstructured_prune", "use_cot", "use_fused_allreduce_gradients",
    "use_simple_ema", "use_wandb", "vdl_log_dir", "wandb",
})  # fmt: skip
# PaddleDetection reads these from a reader's section, past its constructor.
READ_ELSEWHERE = (
    "inputs_def", "fuse_normalize", "mixup_epoch", "cutmix_epoch", "mosaic_epoch", "pre_img_epoch",
)  # fmt: skip
# Arguments of an optimizer that PaddleDetection fills in.
FILLED_IN = ("learning_rate", "parameters", "grad_clip", "model", "lr", "name")
# Arguments of the toolkit's data sets that are paths; its constructors have no annotations.
PATHS = ("dataset_dir", "image_dir", "anno_path")
WARM_UPS = ("LinearWarmup", "ExpWarmup")
MOSAICS = ("MosaicPerspective", "Mosaic")
# They move pictures and leave nothing that takes boxes back.
TRAINING_ONLY = ("MosaicPerspective", "RandomPerspective")
LETTERBOX = "LetterResize"
YOLOV10 = "YOLOv10"
# What our tools train, evaluate and export, and the arguments that are their parts.
DETECTORS = ("PPYOLOE", YOLOV10)
NETWORK_PARTS = ("backbone", "neck", "yolo_head")
_ANCHORED = re.compile(r"^(\w+)\s*:\s+&\w", re.MULTILINE)


class _Catalog:
    """The classes that a configuration may name: modules (sections), operators, data sets, schedulers, optimizers; and
    the top-level ``keys`` that are no sections."""

    def __init__(self) -> None:
        register()
        import paddle
        import ppdet.data.source
        import ppdet.data.transform
        import ppdet.optimizer.optimizer as optimizers
        from ppdet.core.workspace import SchemaDict, global_config

        self.schemas = {name: schema for name, schema in global_config.items() if isinstance(schema, SchemaDict)}
        modules = {name: getattr(schema.pymodule, name) for name, schema in self.schemas.items()}
        self.modules = {name: part for name, part in modules.items() if inspect.isclass(part)}
        shared = {key for schema in self.schemas.values() for key in schema.shared}
        self.keys = OTHER_KEYS | shared
        self.operators = _classes(ppdet.data.transform, ("ppdet.data.transform", "detection."))
        datasets = _classes(ppdet.data.source, ("ppdet.",))
        self.datasets = {name: part for name, part in datasets.items() if issubclass(part, paddle.io.Dataset)}
        schedulers = _classes(optimizers, (optimizers.__name__,))
        self.schedulers = {name: part for name, part in schedulers.items() if name not in self.modules}
        found = {name: part for name, part in vars(paddle.optimizer).items() if inspect.isclass(part)}
        del found["Optimizer"]
        self.optimizers = {**found, "AdamWDL": optimizers.build_adamwdl}


def _classes(module: Any, origins: tuple[str, ...]) -> dict[str, type]:
    """Returns the classes that stand in ``module`` and come from modules whose names begin with ``origins``."""
    return {
        name: part for name, part in vars(module).items()
        if inspect.isclass(part) and part.__module__.startswith(origins) and not name.startswith("_")
    }  # fmt: skip


catalog = functools.cache(_Catalog)


@functools.cache
def constructor_of(part: Any) -> dict[str, Parameter]:
    """Returns the named arguments of a class or function; of ours with their annotations. Where ``__init__`` hands
    ``**kwargs`` on to the class above, the arguments of that class count too."""
    if part.__module__.startswith("detection."):
        return parameters_of(part)
    functions = [part]
    if inspect.isclass(part):
        functions = [vars(base)["__init__"] for base in part.__mro__ if "__init__" in vars(base)]
    found: dict[str, Parameter] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and parameter.name != "self":
                annotation = str | None if parameter.name in PATHS else Any
                found.setdefault(parameter.name, Parameter(parameter.name, annotation, parameter.default))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def check_document(document: Document) -> None:
    """Checks keys, sections, operators, optimizer and what is missing; ``ConfigError`` says all that is wrong."""
    known, checker, data = catalog(), Checker(document), document.data
    architecture = data.get("architecture")
    if isinstance(architecture, str) and architecture in known.modules and architecture not in DETECTORS:
        way = f"python -m detection PATH/TO/PaddleDetection/tools/train.py -c {document.path}"
        message = f"only {' and '.join(DETECTORS)} go through these tools, got {architecture}; for others use {way}"
        raise UserError(document.problem("architecture", message))
    for key, message in depth.unify_ranges(data):
        checker.add(key, message)
    checker.section(RunKeys, {str(name): value for name, value in data.items()}, "")
    for name in (*REQUIRED_KEYS, *REQUIRED_SECTIONS):
        if name not in data:
            checker.add("", f"missing {'section' if name in REQUIRED_SECTIONS else 'key'} '{name}'")
    _check_order_of_operators(checker, data)
    unknown = []
    for name, value in data.items():
        if name in known.modules:
            _check_top_section(checker, name, value)
        elif name not in RunKeys.model_fields and name not in known.keys:
            unknown.append(name)
    # The usual names first: of two that resemble a mistake, the first is named.
    names = list(dict.fromkeys([*RunKeys.model_fields, *REQUIRED_SECTIONS, *known.modules, *sorted(known.keys)]))
    helpers = _anchored_keys(document) if unknown else set()
    for name in (name for name in unknown if name not in helpers):
        ours = DETECTORS_NAMES.get(name)
        hint = f" (a classifier's key; a detector's is {ours})" if ours else suggestion(str(name), names)
        checker.add("", f"unknown key '{name}'{hint}")
    if isinstance(architecture, str) and architecture not in known.modules:
        checker.add("architecture", f"unknown class '{architecture}'{suggestion(architecture, known.modules)}")
    checker.raise_any()


def _anchored_keys(document: Document) -> set[str]:
    """Returns top-level keys that exist for their YAML anchor (``eval_size: &eval_size [640, 640]``)."""
    files = {line.rpartition(":")[0] for line in document.lines.values()}
    texts = [read_text(name) for name in sorted(files) if name and Path(name).is_file()]
    return {name for text in texts for name in _ANCHORED.findall(text)}


def _check_top_section(checker: Checker, name: str, value: Any) -> None:
    module = catalog().modules[name].__module__
    if name == "LearningRate":
        _check_learning_rate(checker, value)
    elif name == "OptimizerBuilder":
        _check_optimizer(checker, value)
    elif module == "ppdet.data.reader":
        _check_reader(checker, name, value)
    elif module == "ppdet.data.source.dataset":
        # What the boxes of an annotation file are is said by keys that PaddleDetection does not know.
        is_coco = isinstance(value, dict) and value.get("name") == "COCODataSet"
        own = constructor_of(BoxReading) if is_coco else {}
        _check_named(checker, name, value, "data set", catalog().datasets, extra=own)
        if is_coco and (names := BoxReading.among(value).contradiction()):
            checker.add(f"{name}.{names[0]}", f"{names[0]} and {names[1]} exclude each other")
    else:
        _check_section(checker, name, name, value)


def _is_mapping(checker: Checker, key: str, value: Any) -> bool:
    if not isinstance(value, dict):
        checker.add(key, f"must be a mapping of arguments (none: {{}}), got {value!r}")
    return isinstance(value, dict)


def _check_section(checker: Checker, key: str, name: str, arguments: Any) -> None:
    """Checks the section ``key``, from which PaddleDetection makes an object of the registered class ``name``."""
    if not _is_mapping(checker, key, arguments):
        return
    part, schema = catalog().modules[name], catalog().schemas[name]
    parameters = dict(constructor_of(part))
    # A network's parts are created by name alone; a from_config and top-level keys fill in what is missing.
    by_name = set(NETWORK_PARTS if schema.category == "architecture" else ())
    filled = parameters.keys() if hasattr(part, "from_config") else set(schema.shared) & parameters.keys()
    for word in filled:
        if parameters[word].default is REQUIRED:
            parameters[word] = dataclasses.replace(parameters[word], default=None)
    _check_call(checker, key, parameters, arguments)
    for argument in (by_name | set(schema.inject)) & arguments.keys():
        _check_module(checker, f"{key}.{argument}", arguments[argument], argument in by_name)


def _check_module(checker: Checker, key: str, value: Any, by_name: bool = False) -> None:
    """Checks an argument that names a class (``neck: CustomCSPPAN``) or, unless that is all that PaddleDetection can
    create it by, holds a section with its ``name``."""
    name = value.get("name") if isinstance(value, dict) and not by_name else value
    modules = catalog().modules
    if name is None or name == "None":
        return
    if not isinstance(name, str):
        checker.add(key, f"must be the name of a class, got {name!r}")
    elif name not in modules:
        checker.add(key, f"unknown class '{name}'{suggestion(name, modules)}")
    elif isinstance(value, dict):
        _check_section(checker, key, name, {word: part for word, part in value.items() if word != "name"})


def _check_call(
    checker: Checker, key: str, parameters: Mapping[str, Parameter], arguments: Mapping[str, Any],
    extra: Iterable[str] | Mapping[str, Parameter] = (),
) -> None:  # fmt: skip
    """Checks ``arguments`` against ``parameters`` and ``extra``: further ones, or names that take anything."""
    further = extra if isinstance(extra, Mapping) else {name: Parameter(name, Any, None) for name in extra}
    parameters = {**parameters, **further}
    checker.arguments(parameters, arguments, key)
    for argument, value in arguments.items():
        # A toolkit's parameter has no annotation, but perhaps a default that tells its type.
        parameter = parameters.get(argument)
        if parameter is None or parameter.annotation is not Any or not isinstance(value, str):
            continue
        if isinstance(parameter.default, bool | int | float):
            wanted = "true or false" if isinstance(parameter.default, bool) else "a number"
            checker.add(f"{key}.{argument}", f"must be {wanted}, got {value!r} (str)")


def _check_named(
    checker: Checker, key: str, entry: Any, kind: str, parts: Mapping[str, Any], word: str = "name",
    filled_in: Iterable[str] = (), extra: Iterable[str] | Mapping[str, Parameter] = (),
) -> None:  # fmt: skip
    """Checks ``{name: X, ...}``, where X must be one of ``parts``; arguments ``filled_in`` may not be given."""
    if not _is_mapping(checker, key, entry):
        return
    name = entry.get(word)
    if not isinstance(name, str) or name not in parts:
        place, message = f"{key}.{word}", f"unknown {kind} '{name}'{suggestion(str(name), parts)}"
        if name is None:
            place, message = key, f"missing argument '{word}'"
        checker.add(place, f"{message}; allowed: {', '.join(sorted(parts))}")
        return
    parameters = {argument: one for argument, one in constructor_of(parts[name]).items() if argument not in filled_in}
    arguments = {argument: value for argument, value in entry.items() if argument != word}
    _check_call(checker, key, parameters, arguments, extra)


def _check_learning_rate(checker: Checker, section: Any) -> None:
    key = "LearningRate"
    _check_section(checker, key, key, section)
    if not isinstance(section, dict):
        return
    rate, entries = section.get("base_lr"), section.get("schedulers")
    if isinstance(rate, int | float) and not rate > 0:
        checker.add(f"{key}.base_lr", f"must be positive, got {rate}")
    if entries is None:
        return
    if not isinstance(entries, list) or not entries:
        checker.add(f"{key}.schedulers", f"must be a list of schedulers, got {entries!r}")
        return
    for index, entry in enumerate(entries):
        _check_named(checker, f"{key}.schedulers[{index}]", entry, "scheduler", catalog().schedulers)
    first = entries[0] if isinstance(entries[0], dict) else {}
    if first.get("name") in WARM_UPS:
        checker.add(f"{key}.schedulers[0]", f"{first['name']} must stand second, behind the decay")
    elif len(entries) == 1 and first.get("use_warmup", True):
        words = "needs a warm-up (LinearWarmup or ExpWarmup) after it, or use_warmup: false"
        checker.add(f"{key}.schedulers[0]", words)


def _check_optimizer(checker: Checker, section: Any) -> None:
    """Checks ``OptimizerBuilder``: what the optimizer of its ``type`` takes, so that no base's key leaks into it."""
    key = "OptimizerBuilder"
    _check_section(checker, key, key, section)
    if not isinstance(section, dict):
        return
    regularizer = section.get("regularizer")
    if regularizer and regularizer != "None":
        checker.section(Regularizer, regularizer, f"{key}.regularizer")
    optimizer, key = section.get("optimizer", {}), f"{key}.optimizer"
    if "optimizer" not in section:
        return
    if isinstance(optimizer, dict) and "weight_decay" in optimizer:
        name = optimizer.get("type")
        if name in catalog().optimizers and not name.startswith("AdamW"):
            optimizer = {word: value for word, value in optimizer.items() if word != "weight_decay"}
            checker.add(f"{key}.weight_decay", f"{name} takes its weight decay from OptimizerBuilder.regularizer")
    optimizers = catalog().optimizers
    _check_named(checker, key, optimizer, "optimizer", optimizers, "type", FILLED_IN, extra=("param_groups",))


def _check_reader(checker: Checker, name: str, section: Any) -> None:
    """Checks a section such as ``TrainReader`` with all its operators."""
    if not _is_mapping(checker, name, section):
        return
    _check_call(checker, name, constructor_of(catalog().modules[name]), section, READ_ELSEWHERE)
    batch_size = section.get("batch_size", 1)
    # A text was refused above, by the constructor's default.
    if not isinstance(batch_size, str) and not (type(batch_size) is int and batch_size >= 1):
        checker.add(f"{name}.batch_size", f"must be a whole number of at least 1, got {batch_size!r}")
    if name == "TrainReader" and section.get("collate_batch") is False:
        checker.add(f"{name}.collate_batch", "must be true: boxes reach the model as one array, padded by PadGT")
    for key, value in section.items():
        if str(key).endswith(("_transforms", "_aug")):
            _check_operators(checker, f"{name}.{key}", value)
    if section.get("inputs_def") is not None:
        _is_mapping(checker, f"{name}.inputs_def", section["inputs_def"])
    shape = _section(section, "inputs_def").get("image_shape")
    whole = isinstance(shape, list) and all(type(size) is int for size in shape) and len(shape) in (3, 4)
    if shape is not None and not whole:
        checker.add(f"{name}.inputs_def.image_shape", f"must be [3, height, width], got {shape!r}")


def _check_operators(checker: Checker, key: str, entries: Any) -> None:
    if not isinstance(entries, list):
        checker.add(key, f"must be a list of operators, got {entries!r}")
        return
    operators = catalog().operators
    for index, entry in enumerate(entries):
        place = f"{key}[{index}]"
        if not isinstance(entry, dict) or not entry:
            checker.add(place, f"must be an operator with arguments, such as 'Permute: {{}}', got {entry!r}")
            continue
        for name, arguments in entry.items():
            if name not in operators:
                checker.add(place, f"unknown operator '{name}'{suggestion(str(name), operators)}")
            elif _is_mapping(checker, f"{place}.{name}", arguments):
                parameters = constructor_of(operators[name])
                _check_call(checker, f"{place}.{name}", parameters, arguments)
                for argument in arguments.keys() & parameters.keys():
                    if argument.startswith("transforms"):
                        _check_operators(checker, f"{place}.{name}.{argument}", arguments[argument])


def _section(data: dict[str, Any], name: str) -> dict[str, Any]:
    section = data.get(name)
    return section if isinstance(section, dict) else {}


def _check_order_of_operators(checker: Checker, data: dict[str, Any]) -> None:
    """Notes a mosaic that would never happen, and evaluation after which boxes would lie elsewhere."""
    names = {
        reader: [next(iter(entry), "") if isinstance(entry, dict) else "" for entry in transforms]
        for reader in ("TrainReader", "EvalReader", "TestReader")
        if isinstance(transforms := _section(data, reader).get("sample_transforms"), list)
    }
    train, epoch = names.get("TrainReader", []), _section(data, "TrainReader").get("mosaic_epoch")
    key = "TrainReader.mosaic_epoch"
    if epoch is None and MOSAICS[0] in train:
        place = f"TrainReader.sample_transforms[{train.index(MOSAICS[0])}]"
        advice = f"set {key}, the epoch from which it is off (-1: off from the start, 0: on to the end)"
        checker.add(place, f"{MOSAICS[0]} gets one sample only: {advice}")
    elif epoch is not None and (type(epoch) is not int or epoch < -1):
        checker.add(key, f"must be an epoch, 0 for mosaics to the end or -1 for none, got {epoch!r}")
    elif epoch not in (None, -1) and not any(name in train for name in MOSAICS):
        checker.add(key, f"needs {MOSAICS[0]} in TrainReader.sample_transforms, which makes one image of several")
    architecture = data.get("architecture")
    for reader in ("EvalReader", "TestReader"):
        for number, name in enumerate(names.get(reader, [])):
            key = f"{reader}.sample_transforms[{number}]"
            if name in TRAINING_ONLY:
                checker.add(key, f"{name} belongs to TrainReader: boxes could not be taken back")
            if name in ("Resize", "Pad", LETTERBOX) and LETTERBOX in names[reader][:number]:
                checker.add(key, f"{name} cannot follow {LETTERBOX}, which gives the final size")
            if name == LETTERBOX and architecture != YOLOV10:
                needs = f"{LETTERBOX} needs architecture: {YOLOV10}, which takes its padding back"
                checker.add(key, f"{needs}; {architecture} does not")
