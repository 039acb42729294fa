"""The parts of a run, built by PaddleDetection from a configuration that stands in its workspace."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import random
from typing import Any

import paddle

from detection.configuration import DatasetFiles, DetectionConfig
from detection.data.loader import build_loader
from detection.toolkit import refusals
from ppcls_ext.engine.environment import Environment, derive_seed
from ppcls_ext.engine.loader import Loader
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

# What ppdet's operators call the sides of the images that they make.
SIZE_ARGUMENTS = ("target_size",)
COCO = "COCODataSet"


@dataclasses.dataclass
class Parts:
    """What ppdet's ``Trainer`` is made of.

    Its own constructor also starts a ``paddle.io.DataLoader``, whose thread reads ahead and draws from the random
    numbers that make a run reproducible; so it is put together here.

    Attributes:
        dataset: ``TrainDataset``, parsed.
        batches: the loader of the training data.
        model: the detector.
        rate: the learning rate, a scheduler that is stepped after each batch.
        optimizer: made by ``OptimizerBuilder``.
        average: ppdet's ``ModelEMA``, or ``None`` without ``use_ema``.
    """

    dataset: Any
    batches: Loader
    model: paddle.nn.Layer
    rate: Any
    optimizer: paddle.optimizer.Optimizer
    average: Any


def build_parts(settings: Any, config: DetectionConfig, environment: Environment) -> Parts:
    """Builds everything that a training run needs.

    Args:
        settings: ppdet's configuration, from ``detection.toolkit.workspace``, which must be open.
        config: the same configuration.
        environment: device, rank and seed.

    Raises:
        UserError: a part refuses its arguments, or there are fewer images than one batch needs.
    """
    import ppdet.engine  # noqa: F401  (registers what the workspace may name)
    from ppdet.core.workspace import create

    quiet_toolkit()
    with refusals(config):
        dataset = _opened(create("TrainDataset")(), environment)
        batches = training_loader(dataset, create("TrainReader"), config, environment)
        model = create(config.architecture)
        model.load_meanstd(settings["TestReader"]["sample_transforms"])
        rate = create("LearningRate")(len(batches))
        optimizer = create("OptimizerBuilder")(rate, model)
    _tell_left_out(dataset, config)
    if settings.get("amp", False) and settings.get("amp_level", "O1") == "O2" and environment.on_gpu:
        model, optimizer = paddle.amp.decorate(models=model, optimizers=optimizer, level="O2")
    return Parts(dataset, batches, model, rate, optimizer, _average_of(settings, model))


def _average_of(settings: Any, model: paddle.nn.Layer) -> Any:
    from ppdet.optimizer import ModelEMA

    if not settings.get("use_ema", False):
        return None
    black_list = list(settings.get("ema_black_list") or [])
    if settings.get("ema_filter_no_grad", False):
        # ppdet would fail on this key: it appends to a set.
        black_list += [name for name, parameter in model.named_parameters() if parameter.stop_gradient
                       and not name.endswith(("._mean", "._variance"))]  # fmt: skip
    return ModelEMA(
        model,
        decay=settings.get("ema_decay", 0.9998),
        ema_decay_type=settings.get("ema_decay_type", "threshold"),
        cycle_epoch=settings.get("cycle_epoch", -1),
        ema_black_list=black_list,
    )


def _opened(dataset: Any, environment: Environment) -> Any:
    """Reads the annotations of a data set of ppdet."""
    # With `empty_ratio` it draws from the images without boxes, which has to be the same draw in all processes.
    random.seed(derive_seed(environment.seed, "images"))
    dataset.check_or_download_dataset()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints how it gets on
        dataset.parse_dataset()
    return dataset


def _listed_images(files: DatasetFiles) -> int:
    """Returns how many images an annotation file lists."""
    return len(json.loads(files.annotations.read_text(encoding="utf-8"))["images"]) if files.annotations else 0


def _tell_left_out(dataset: Any, config: DetectionConfig) -> None:
    """Says in one line how many of the listed images ppdet does not train on."""
    if config.data["TrainDataset"].get("name") != COCO:
        return
    listed, used = _listed_images(config.datasets["Train"]), len(dataset.roidbs)
    if used < listed:
        logger.warning(
            "TrainDataset: %d of %d images are left out: those without a usable box, unless allow_empty is true, and "
            "what sample_num and empty_ratio cut off", listed - used, listed,
        )  # fmt: skip


def training_loader(dataset: Any, reader: Any, config: DetectionConfig, environment: Environment) -> Loader:
    """Returns the loader of the training data.

    Args:
        dataset: ``TrainDataset`` of ppdet, parsed.
        reader: ``TrainReader`` of ppdet.
        config: the configuration.
        environment: rank and seed.
    """
    return build_loader(
        dataset,
        reader,
        seed=environment.seed,
        training=True,
        rank=environment.rank,
        world_size=environment.world_size,
        num_workers=config.data.get("worker_num", 0),
        largest_side=largest_side(config.data.get("TrainReader")),
    )


def evaluation_loader(config: DetectionConfig, environment: Environment) -> Loader:
    """Returns the loader of ``EvalDataset``; every image once, over all processes.

    The workspace must be open. The loader's data set is ``loader.workers.read_batch.dataset``.

    Raises:
        UserError: a part refuses its arguments, or would evaluate other images than the annotation file lists.
    """
    from ppdet.core.workspace import create

    quiet_toolkit()
    with refusals(config):
        dataset = create("EvalDataset")()
        # An image without boxes belongs to an evaluation: whatever is found there is wrong.
        dataset.allow_empty, dataset.empty_ratio = True, 1.0
        _opened(dataset, environment)
        reader = create("EvalReader")
    listed = _listed_images(config.datasets["Eval"])
    if len(dataset) != listed:
        raise UserError(
            f"{config.path}: EvalDataset would evaluate {len(dataset)} images, but the figures are those of all "
            f"{listed} of {config.datasets['Eval'].annotations}: leave out sample_num and repeat"
        )
    return build_loader(
        dataset,
        reader,
        seed=environment.seed,
        training=False,
        rank=environment.rank,
        world_size=environment.world_size,
        num_workers=config.data.get("worker_num", 0),
        largest_side=largest_side(config.data.get("EvalReader")),
    )


def category_ids_of(loader: Loader) -> dict[int, int]:
    """Returns the annotations' category id of each class of the model."""
    return {label: category for category, label in loader.workers.read_batch.dataset.catid2clsid.items()}


def largest_side(reader: dict[str, Any] | None) -> int:
    """Returns the side in pixels of the largest image that the reader's operators make."""
    sizes: list[int] = []
    for operators in (reader or {}).get("sample_transforms", []), (reader or {}).get("batch_transforms", []):
        for operator in operators or []:
            for arguments in operator.values():
                for name in SIZE_ARGUMENTS:
                    value = (arguments or {}).get(name, [])
                    sizes += value if isinstance(value, list) else [value]
    return max([size for size in sizes if isinstance(size, int)], default=640)


def count_trainable(model: paddle.nn.Layer) -> int:
    """Returns the number of parameters that training changes."""
    return sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)


def quiet_toolkit() -> None:
    """Keeps the messages of what is loaded of ppdet to warnings: what matters is said by us."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "ppdet":
            logging.getLogger(name).setLevel(logging.WARNING)
