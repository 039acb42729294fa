"""Data sets of ppdet, opened and turned into batches by a configuration that stands in its workspace."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
from typing import Any

from detection.configuration import DatasetFiles, DetectionConfig
from detection.data.loader import build_loader
from detection.toolkit import quiet_toolkit, refusals
from ppcls_ext.engine.environment import Environment, derive_seed
from ppcls_ext.engine.loader import Loader
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

# What ppdet's operators call the sides of the images that they make.
SIZE_ARGUMENTS = ("target_size",)
COCO = "COCODataSet"


def training_loader(config: DetectionConfig, environment: Environment) -> Loader:
    """Returns the loader of ``TrainDataset``; the workspace must be open.

    Raises:
        UserError: a part refuses its arguments, or there are fewer images than one batch needs.
    """
    from ppdet.core.workspace import create

    quiet_toolkit()
    with refusals(config):
        dataset = create("TrainDataset")()
        _parse(dataset, environment)
        loader = _loader(config, environment, "Train", dataset, create("TrainReader"))
    if config.data["TrainDataset"].get("name") == COCO:
        listed, used = _listed_images(config.datasets["Train"]), len(dataset.roidbs)
        if used < listed:
            logger.warning(
                "TrainDataset: %d of %d images are left out: those without a usable box, unless allow_empty is true, "
                "and what sample_num and empty_ratio cut off", listed - used, listed,
            )  # fmt: skip
    return loader


def evaluation_loader(config: DetectionConfig, environment: Environment) -> Loader:
    """Returns the loader of ``EvalDataset``; every image once, over all processes. The workspace must be open.

    Raises:
        UserError: a part refuses its arguments, or would evaluate other images than the annotation file lists.
    """
    from ppdet.core.workspace import create

    quiet_toolkit()
    with refusals(config):
        dataset = create("EvalDataset")()
        # An image without boxes belongs to an evaluation: whatever is found there is wrong.
        dataset.allow_empty, dataset.empty_ratio = True, 1.0
        _parse(dataset, environment)
        reader = create("EvalReader")
    listed = _listed_images(config.datasets["Eval"])
    if len(dataset) != listed:
        raise UserError(
            f"{config.path}: EvalDataset would evaluate {len(dataset)} images, but the figures are those of all "
            f"{listed} of {config.datasets['Eval'].annotations}: leave out sample_num and repeat"
        )
    return _loader(config, environment, "Eval", dataset, reader)


def _parse(dataset: Any, environment: Environment) -> None:
    """Reads the annotations of a data set of ppdet."""
    # With `empty_ratio` it draws from the images without boxes, which has to be the same draw in all processes.
    random.seed(derive_seed(environment.seed, "images"))
    dataset.check_or_download_dataset()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        dataset.parse_dataset()


def _listed_images(files: DatasetFiles) -> int:
    """Returns how many images an annotation file lists."""
    return len(json.loads(files.annotations.read_text(encoding="utf-8"))["images"]) if files.annotations else 0


def _loader(config: DetectionConfig, environment: Environment, part: str, dataset: Any, reader: Any) -> Loader:
    return build_loader(
        dataset,
        reader,
        seed=environment.seed,
        training=part == "Train",
        rank=environment.rank,
        world_size=environment.world_size,
        num_workers=config.data.get("worker_num", 0),
        largest_side=largest_side(config.data.get(f"{part}Reader")),
    )


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
