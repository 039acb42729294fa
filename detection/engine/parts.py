"""The parts of a run, built by PaddleDetection from a configuration that stands in its workspace."""

from __future__ import annotations

import logging
from typing import Any

import paddle

from detection.configuration import DetectionConfig
from detection.data.loader import DetectionLoader, build_loader
from ppcls_ext.common.errors import UserError
from ppcls_ext.training.environment import Environment

logger = logging.getLogger(__name__)

# What ppdet's operators call the sides of the images that they make.
SIZE_ARGUMENTS = ("target_size",)


def build_trainer(settings: Any) -> Any:
    """Returns ppdet's ``Trainer`` in training mode: data set, reader, model, optimizer, learning rate, average.

    Args:
        settings: ppdet's configuration, from ``detection.toolkit.workspace``.

    Raises:
        UserError: a part refuses its arguments.
    """
    from ppdet.engine import Trainer

    quiet_toolkit()

    # No workers: its reader is not used to read. ppdet's own count of the parameters raises an IndexError.
    changed = {"worker_num": 0, "print_params": False, "use_vdl": False, "use_wandb": False}
    before = {key: settings.get(key) for key in changed}
    settings.update(changed)
    try:
        return Trainer(settings, mode="train")
    except (ValueError, AssertionError, FileNotFoundError) as error:
        raise UserError(f"PaddleDetection refuses the configuration: {' '.join(str(error).split())}") from error
    finally:
        settings.update(before)


def training_loader(built: Any, config: DetectionConfig, environment: Environment) -> DetectionLoader:
    """Returns the loader of the training data of :func:`build_trainer`."""
    return build_loader(
        built.dataset,
        built.loader,
        seed=environment.seed,
        training=True,
        rank=environment.rank,
        world_size=environment.world_size,
        num_workers=config.data.get("worker_num", 0),
        largest_side=largest_side(config.data.get("TrainReader")),
    )


def evaluation_loader(config: DetectionConfig, environment: Environment) -> DetectionLoader:
    """Returns the loader of ``EvalDataset``; every image once, over all processes.

    The workspace must be open. The loader's data set is ``loader.workers.read_batch.dataset``.
    """
    from ppdet.core.workspace import create

    quiet_toolkit()

    dataset = create("EvalDataset")()
    dataset.check_or_download_dataset()
    dataset.parse_dataset()
    return build_loader(
        dataset,
        create("EvalReader"),
        seed=environment.seed,
        training=False,
        rank=environment.rank,
        world_size=environment.world_size,
        num_workers=config.data.get("worker_num", 0),
        largest_side=largest_side(config.data.get("EvalReader")),
    )


def category_ids_of(loader: DetectionLoader) -> dict[int, int]:
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
