"""From checked settings to objects: data sets, batches, and networks that can take their images."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from classification.config import Config, DataSettings
from classification.data.datasets import (
    DATASETS,
    DatasetError,
    ImageDataset,
    ImageFolder,
    ImageNetDataset,
    check_labels,
)
from classification.data.loader import build_loader
from classification.sections import ArchSettings
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.arch.registry import build_model
from ppcls_ext.engine.class_balance import class_sampling
from ppcls_ext.engine.environment import Environment
from ppcls_ext.engine.loader import EpochBatchSampler, Loader
from ppcls_ext.preprocess import depth
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.names import meant_path
from ppcls_ext.utils.texts import read_text
from ppcls_ext.weights import (
    class_names_of_weights,
    label_order_of_weights,
    load_weights,
    training_set_of_weights,
)

logger = logging.getLogger(__name__)

# Data sets that may take the numbers of their classes from the training set.
NUMBERED = (ImageFolder.__name__, ImageNetDataset.__name__)
SHOWN_CLASSES = 8
NO_DATA_HINT = "configs/quickstart.yaml trains without any download"
# What a forward pass raises for shapes that do not fit; no memory or a broken device is another matter.
SHAPE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """A network of a configuration, ``[channels, height, width]`` of what it sees, and the dotted keys of both."""

    arch: ArchSettings
    image_shape: list[int]
    key: str = "Arch"
    shape_key: str = "Global.image_shape"


class UnavailableDataError(UserError):
    """A data set that is missing, empty or malformed; ``reason`` is the message without place and advice."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def open_dataset(config: Config, settings: DataSettings, label_order: Sequence[Any] | None = None) -> ImageDataset:
    """Opens a data set; one for evaluation with the ``label_order`` of the training set of the same kind.

    Raises:
        UnavailableDataError: it is missing, empty or malformed; the line begins with place and dotted key.
    """
    arguments = settings.dataset_arguments
    if label_order is not None and settings.dataset in NUMBERED:
        arguments = {**arguments, "label_order": label_order}
    try:
        dataset = DATASETS[settings.dataset](**arguments)
        dataset.value_range = depth.range_of(depth.statement_in(config.document.data))
        return dataset
    except DatasetError as error:
        hints = "does not exist" in error.message and config.pretraining is None
        message = f"{error.message}; {NO_DATA_HINT}" if hints else error.message
        problem = config.document.problem(f"{settings.key}.dataset.{error.argument}", message)
        raise UnavailableDataError(problem, error.message) from error


def open_if_present(
    config: Config, settings: DataSettings | None, label_order: Sequence[Any] | None = None
) -> ImageDataset | None:
    """Opens a data set if it is there: a machine that evaluates, predicts or exports need not have all data."""
    if settings is None:
        return None
    try:
        return open_dataset(config, settings, label_order)
    except UnavailableDataError as error:
        logger.info("%s.dataset is not there (%s): going on without it", settings.key, error.reason)
        return None


def evaluation_label_order(
    config: Config, training: ImageDataset | None = None, weights: Path | None = None
) -> list[Any] | None:
    """Returns what numbers the classes of ``DataLoader.Eval``, which may lack some of them: the training set's folders
    or, with ``relabel``, its labels; ``None`` where the data themselves state the numbers.

    Args:
        config: names both data sets.
        training: the training set where it is open; else it is looked for, unless ``weights`` say enough.
        weights: the file that is evaluated; its checkpoint may name the classes of the run, or say how ``relabel``
            numbered their labels.
    """
    settings, train = config.eval, config.train
    if settings is None or settings.dataset not in NUMBERED:
        return None
    is_list = settings.dataset == ImageNetDataset.__name__
    if is_list and not settings.dataset_arguments.get("relabel"):
        return None
    if weights is not None:
        known = label_order_of_weights(weights) if is_list else class_names_of_weights(weights)
        if known:
            return list(known)
    if train is None or train.dataset != settings.dataset:
        return None
    training = training or open_if_present(config, train)
    return None if training is None or training.label_order is None else list(training.label_order)


def refuse_other_labels(config: Config, weights: Path) -> None:
    """Raises a UserError unless ``DataLoader.Eval`` has ``relabel`` as the training of ``weights`` had it; else the
    same label would mean two classes."""
    settings, train, trained = config.eval, config.train, training_set_of_weights(weights)
    if not settings.dataset == trained.get("name") == ImageNetDataset.__name__:
        return
    before, now = bool(trained.get("relabel")), settings.dataset_arguments.get("relabel", False)
    if before != now:
        key = f"{settings.key}.dataset.relabel"
        also = f" -o {train.key}.dataset.relabel={before}" if train and train.dataset == settings.dataset else ""
        message = f"is {now}, but {weights} was trained with {before}: the same label would mean two classes"
        raise UserError(config.document.problem(key, f"{message}; use -o {key}={before}{also}"))


def build_evaluation_dataset(
    config: Config, training: ImageDataset | None = None, weights: Path | None = None
) -> ImageDataset:
    """Opens ``DataLoader.Eval`` with the classes of the training set; warns of those without an image.

    For arguments see :func:`evaluation_label_order`, for errors :func:`build_dataset`, :func:`refuse_other_labels` and
    :func:`check_same_classes`.
    """
    assert config.eval is not None
    if weights is not None:
        refuse_other_labels(config, weights)
    dataset = build_dataset(config, config.eval, evaluation_label_order(config, training, weights))
    if weights is not None:
        names, place = class_names_of_weights(weights), f"{config.eval.key}.dataset"
        check_same_classes(names, str(weights), dataset.class_names, place)
    if lacking := dataset.lacking:
        logger.warning(
            "%s.dataset: no image of %d of the %d classes (%s); names and numbers are those of the training",
            config.eval.key, len(lacking), len(dataset.class_names), ", ".join(lacking[:SHOWN_CLASSES])
            + (", ..." if len(lacking) > SHOWN_CLASSES else ""),
        )  # fmt: skip
    return dataset


def build_dataset(config: Config, settings: DataSettings, label_order: Sequence[Any] | None = None) -> ImageDataset:
    """Opens a data set and checks its labels against the model.

    Raises:
        UserError: it cannot be opened (see :func:`open_dataset`), or a label has no output.
    """
    dataset = open_dataset(config, settings, label_order)
    try:
        check_labels(dataset, config.arch.class_num)
    except DatasetError as error:
        raise UserError(config.document.problem("Arch.class_num", error.message)) from error
    words = ""
    if held_out := dataset.held_out:
        words = f" of {len(dataset) + held_out}, the other {held_out} are held out (split, holdout)"
    elif settings.split_ignored:
        words = ", all of the folder: training and evaluation have one each, so that none are held out"
    logger.info("%s.dataset: %d images%s", settings.key, len(dataset), words)
    return dataset


def build_batches(
    config: Config, settings: DataSettings, dataset: ImageDataset, environment: Environment, training: bool,
    factors: np.ndarray | None = None,
) -> Loader:  # fmt: skip
    """Returns the loader over ``dataset`` of one of the two ``DataLoader`` sections.

    ``factors`` say how often an epoch shows each image on average; once each where they are None.

    Raises:
        UserError: the data do not fill a single batch on every process.
    """
    try:
        sampler = EpochBatchSampler(
            len(dataset), settings.sampler.batch_size, settings.sampler.shuffle,
            settings.sampler.drop_last and training, environment.seed, environment.rank, environment.world_size,
            equal_batches=training, factors=factors,
        )  # fmt: skip
    except ValueError as error:
        key = f"{settings.key}.sampler.batch_size"
        raise UserError(config.document.problem(key, str(error).partition(": ")[2])) from error
    return build_loader(
        dataset, settings.operators, settings.batch_operator, sampler, seed=environment.seed, training=training,
        num_workers=settings.loader.num_workers, use_shared_memory=settings.loader.use_shared_memory,
        image_shape=config.run.image_shape,
    )  # fmt: skip


def sampling_factors(config: Config, dataset: ImageDataset, names: Sequence[str]) -> np.ndarray | None:
    """Returns how often an epoch shows each training image by ``Global.class_sampling``, and says it; ``None`` without.

    ``names`` are those of all classes, see :func:`names_of_all_classes`.
    """
    if config.run.class_sampling is None:
        return None
    factors, line = class_sampling(config.run.class_sampling, dataset.labels, names)
    logger.info(line)
    return factors


def build_network(config: Config, environment_on_gpu: bool | None = None) -> paddle.nn.Layer:
    """Builds the model of ``Arch`` (random weights): ``[N, 3, H, W]`` -> ``[N, class_num]``.

    ``environment_on_gpu`` says whether a training runs on a GPU, where ``Arch.use_sync_bn`` takes effect; it is
    ``None`` to evaluate, predict or export, where that key means nothing.

    Raises:
        UserError: the constructor refuses a value, or the model cannot take images of ``Global.image_shape``.
    """
    model = construct_network(config, NetworkSpec(config.arch, config.run.image_shape))
    if config.arch.use_sync_bn and environment_on_gpu is not None:
        if environment_on_gpu:
            return paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        logger.info("Arch.use_sync_bn needs a GPU: using plain batch norm on the CPU")
    return model


def construct_network(config: Config, spec: NetworkSpec) -> paddle.nn.Layer:
    """Builds one of the networks of ``config`` with random weights; see :func:`build_network`."""
    try:
        model = build_model(spec.arch.name, **spec.arch.arguments)
    except (ValueError, AssertionError) as error:
        # The constructor's message may begin with an argument's name.
        name, _, message = str(error).partition(": ")
        if message and name in spec.arch.arguments:
            raise UserError(config.document.problem(f"{spec.key}.{name}", message)) from error
        message = str(error) or f"these values are refused: {spec.arch.arguments}"
        raise UserError(config.document.problem(spec.key, message)) from error
    check_image_shape(config, model, spec)
    return model


def load_pretrained(config: Config, model: paddle.nn.Layer, fine_tune: bool) -> None:
    """Loads ``Global.pretrained_model`` (or a path under ``Arch.pretrained``) if there is one.

    With ``fine_tune`` the classifier starts fresh where only its number of classes differs, with one line about it.

    Raises:
        UserError: the file is missing, damaged or of another model.
    """
    source = config.run.pretrained_model or (config.arch.pretrained or None)
    if source is None:
        return
    load_weights(model, str(source), may_differ=classifier_prefixes(model, config.arch.class_num) if fine_tune else ())
    logger.info("loaded weights from %s", source)


def classifier_prefixes(model: paddle.nn.Layer, class_num: int) -> tuple[str, ...]:
    """Returns the prefix of the classifier: the last linear layer or convolution with ``class_num`` outputs."""
    prefixes = []
    for name, layer in model.named_sublayers():
        # A linear layer's weight is [inputs, outputs], a convolution's [outputs, inputs, height, width].
        axis = {paddle.nn.Linear: 1, paddle.nn.Conv2D: 0}.get(type(layer))
        if axis is not None and layer.weight.shape[axis] == class_num:
            prefixes.append(f"{name}.")
    # Only the last one classifies; an inner layer may happen to be as wide.
    return tuple(prefixes[-1:])


def read_class_names(config: Config, dataset: ImageDataset | None) -> list[str] | None:
    """Returns the class names of the data set, else of ``Infer.PostProcess.class_id_map_file``, else ``None``.

    Raises:
        UserError: the file exists but its lines are not ``id name``.
    """
    if dataset is not None and dataset.class_names:
        return list(dataset.class_names)
    if not config.postprocess.class_id_map_file:
        return None
    file = meant_path(config.postprocess.class_id_map_file)
    if not file.is_file():
        logger.info("no class names: %s (Infer.PostProcess.class_id_map_file) does not exist", file)
        return None
    names: dict[int, str] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        identifier, name = [*line.strip().split(config.postprocess.delimiter or None, 1), ""][:2]
        if not identifier.isdigit():
            raise UserError(f"{file}:{number}: must be a class number and a name, got '{line.strip()}'")
        names[int(identifier)] = name.strip()
    return [names.get(index, str(index)) for index in range(max(names) + 1)] if names else []


def names_of_all_classes(config: Config, names: Sequence[str] | None) -> list[str]:
    """Returns a name for each class of the network; its number where ``names`` has none."""
    names = list(names or [])
    return [*names, *map(str, range(len(names), config.arch.class_num))]


def check_same_classes(names: list[str] | None, place: str, others: list[str] | None, other_place: str) -> None:
    """Compares the class names by label of two places, where both are known (not ``None``).

    Raises:
        UserError: they differ; the message names the first label that means something else.
    """
    if not names or not others:
        return
    for label, (name, other) in enumerate(itertools.zip_longest(names, others)):
        if name != other:
            first, second = ("nothing" if word is None else f"'{word}'" for word in (other, name))
            raise UserError(f"{other_place} and {place} name different classes: label {label} is {first} and {second}")


def check_image_shape(config: Config, model: paddle.nn.Layer, spec: NetworkSpec | None = None) -> None:
    """Runs one image through a new ``model``, that of ``spec`` (``Arch`` unless given), in evaluation mode.

    Raises:
        UserError: the model cannot take it, or its logits are not ``[1, class_num]``.
    """
    spec = spec or NetworkSpec(config.arch, config.run.image_shape)
    shape, name, class_num = spec.image_shape, spec.arch.name, spec.arch.class_num
    problem = f"{name} cannot take images of shape {shape}"
    coarsest = getattr(model, "feature_strides", [1])[-1]
    if min(shape[1:]) < coarsest:
        # Paddle computes on with maps of no position, and gives numbers.
        small = f"they are too small, its last stage needs {coarsest} px; a smaller {spec.key}.stem_stride needs fewer"
        raise UserError(config.document.problem(spec.shape_key, f"{problem}: {small}"))
    # Layers whose result holds no number; Paddle computes on with it, to zeros or to NaN.
    empty: list[str] = []

    def note(place: str, _layer: paddle.nn.Layer, _inputs: Any, output: Any) -> None:
        if isinstance(output, paddle.Tensor) and 0 in output.shape:
            empty.append(place)

    hooks = [layer.register_forward_post_hook(partial(note, place)) for place, layer in model.named_sublayers()]
    model.eval()
    try:
        with paddle.no_grad():
            outputs = list(logits_of(model(paddle.zeros([1, *shape], "float32"))).shape)
    except SHAPE_ERRORS as error:
        # Paddle's own account is a page long. A convolution's weight is [outputs, inputs, height, width].
        first = next((layer for layer in model.sublayers() if isinstance(layer, paddle.nn.Conv2D)), None)
        lines = str(error).strip().splitlines()
        if first is not None and first.weight.shape[1] != shape[0]:
            problem += f": its first convolution takes {first.weight.shape[1]} channels, not {shape[0]}"
        elif len(lines) == 1:
            problem += f": {lines[0]}"
        raise UserError(config.document.problem(spec.shape_key, problem)) from error
    finally:
        model.train()
        for hook in hooks:
            hook.remove()
    if empty:
        small = f"they are too small, {empty[0]} leaves nothing of them"
        raise UserError(config.document.problem(spec.shape_key, f"{problem}: {small}"))
    if outputs != [1, class_num]:
        message = f"{name} gives outputs of shape {outputs} for one image, expected [1, {class_num}]"
        raise UserError(config.document.problem(f"{spec.key}.class_num", message))
