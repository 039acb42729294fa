"""Batches of ppdet's data sets and operators, the same bit for bit for any number of worker processes.

ppdet's own reader hands its data set to ``paddle.io.DataLoader``, whose forked workers hang now and then and draw their
random numbers from the clock. Here ppdet's operators run in workers of ours, and the global generators that they draw
from are seeded for each sample by (seed, epoch, sample) and for each batch by (seed, epoch, batch, rank).
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import paddle

from detection.annotations import Ledger
from detection.coco import CocoSet, open_coco
from detection.configuration import DetectionConfig
from detection.geometry import as_keys
from detection.toolkit import quiet_toolkit, refusals
from ppcls_ext.engine.environment import Environment, derive_seed
from ppcls_ext.engine.loader import EpochBatchSampler, Loader, SampleKey, batch_generator, sample_generator
from ppcls_ext.preprocess import ImageError, read_image
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

# What ppdet's operators raise on an image that cannot be read, or that they cannot use.
DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, cv2.error)
SHOWN = 2
FLOAT_BYTES = 4
LARGEST_SEED = 2**32
# What ppdet's operators call the sides of the images that they make.
SIZE_ARGUMENT = "target_size"
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
        coco = _parse(dataset, config, environment, "Train")
        loader = _loader(config, environment, "Train", dataset, create("TrainReader"))
    if coco is not None and len(dataset.roidbs) < len(coco):
        logger.warning(
            "TrainDataset: %d of %d images are left out: those without a usable box, unless allow_empty is true, "
            "those with crowds only, and what sample_num and empty_ratio cut off",
            len(coco) - len(dataset.roidbs), len(coco),
        )  # fmt: skip
    return loader


def evaluation_loader(config: DetectionConfig, environment: Environment) -> tuple[Loader, CocoSet]:
    """Returns the loader of ``EvalDataset``, and what was read of its annotations.

    It gives every image once, over all processes. The workspace must be open.

    Raises:
        UserError: a part refuses its arguments, or would evaluate other images than the annotation file lists.
    """
    from ppdet.core.workspace import create

    quiet_toolkit()
    with refusals(config):
        dataset = create("EvalDataset")()
        # An image without boxes belongs to an evaluation: whatever is found there is wrong.
        dataset.allow_empty, dataset.empty_ratio = True, 1.0
        coco = _parse(dataset, config, environment, "Eval")
        reader = create("EvalReader")
    if coco is None:
        raise UserError(f"{config.path}: EvalDataset: COCO's metrics need name: {COCO} and its anno_path")
    if len(dataset) != len(coco):
        raise UserError(
            f"{config.path}: EvalDataset would evaluate {len(dataset)} images, but the figures are those of all "
            f"{len(coco)} of {coco.path}: leave out sample_num and repeat"
        )
    return _loader(config, environment, "Eval", dataset, reader), coco


def _parse(dataset: Any, config: DetectionConfig, environment: Environment, part: str) -> CocoSet | None:
    """Reads the annotations of a data set of ppdet; those of a COCO file by our rules, and says what they left out."""
    # With `empty_ratio` it draws from the images without boxes, which has to be the same draw in all processes.
    random.seed(derive_seed(environment.seed, "images"))
    files = config.datasets[part]
    if config.data[f"{part}Dataset"].get("name") != COCO or files.annotations is None:
        dataset.check_or_download_dataset()
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            dataset.parse_dataset()
        return None
    ledger = Ledger()
    coco = open_coco(files.annotations, files.image_dir, ledger, files.reading, as_keys(f"{part}Dataset"))
    fill_dataset(dataset, coco, part == "Train")
    for line in ledger.summary() if environment.is_main else ():
        logger.warning("%sDataset: %s", part, line)
    for entry in ledger.entries if environment.is_main else ():
        if entry["kind"] == "box_reading":
            logger.info("%sDataset: %s", part, entry["reason"])
    crowds = sum(box.crowd for frame in coco.frames for box in frame.boxes)
    if crowds and part == "Train" and not dataset.load_crowd and environment.is_main:
        logger.info("TrainDataset: %d boxes of crowds are not learnt from", crowds)
    return coco


def fill_dataset(dataset: Any, coco: CocoSet, training: bool) -> None:
    """Gives a ``COCODataSet`` of ppdet the images and boxes of an annotation file, in place of its own parsing.

    Its own rules drop boxes and images in silence; of data without faults both make the same records.

    Args:
        dataset: the data set; its keys ``data_fields``, ``sample_num``, ``load_crowd``, ``allow_empty`` and
            ``empty_ratio`` mean what they mean there.
        coco: images with their checked boxes.
        training: leaves out images that show nothing but crowds, which would be taught as background.
    """
    dataset.load_image_only = False
    dataset.catid2clsid = {category: label for label, category in enumerate(coco.category_ids)}
    dataset.cname2cid = {name: label for label, name in enumerate(coco.names)}
    full, empty = [], []
    for frame in sorted(coco.frames, key=lambda frame: frame.image_id):
        boxes = [box for box in frame.boxes if dataset.load_crowd or not box.crowd]
        if not boxes and (not dataset.allow_empty or (training and frame.boxes)):
            continue
        # Rounded as ppdet rounds them.
        corners = [[round(value, 3) for value in (x, y, x + w, y + h)] for x, y, w, h in (box.xywh for box in boxes)]
        fields = {
            "is_crowd": np.array([[box.crowd] for box in boxes], np.int32).reshape(-1, 1),
            "gt_class": np.array([[box.category] for box in boxes], np.int32).reshape(-1, 1),
            "gt_bbox": np.array(corners, np.float32).reshape(-1, 4),
            "gt_poly": [None] * len(boxes),
        }
        record = {"im_file": str(frame.image), "im_id": np.array([frame.image_id]),
                  "h": float(frame.height), "w": float(frame.width)}  # fmt: skip
        record = record if "image" in dataset.data_fields else {}
        record |= {name: value for name, value in fields.items() if name in dataset.data_fields}
        (full if boxes else empty).append(record)
        if 0 < dataset.sample_num <= len(full) + len(empty):
            break
    dataset.roidbs = full + (dataset._sample_empty(empty, len(full)) if empty else [])


def _loader(config: DetectionConfig, environment: Environment, part: str, dataset: Any, reader: Any) -> Loader:
    """Builds the loader of ``part``, ``Train`` or ``Eval``, from ppdet's data set and its reader of it (transforms,
    batch size, order)."""
    logging.getLogger("reader").setLevel(logging.CRITICAL)  # it would print the stack of what we report in one line
    dataset.set_transform(reader._sample_transforms)
    dataset.set_kwargs(**reader.kwargs)
    training = part == "Train"
    try:
        sampler = EpochBatchSampler(
            len(dataset),
            reader.batch_size,
            shuffle=reader.shuffle,
            # An evaluation that leaves out the last images is none, whatever ppdet's default says.
            drop_last=reader.drop_last and training,
            seed=environment.seed,
            rank=environment.rank,
            world_size=environment.world_size,
            in_step=training,
        )
    except ValueError as error:
        raise UserError(f"{part}Reader.{error}") from error
    batches = reader._batch_transforms, environment.seed, environment.rank, sampler.global_batch_size
    slot_bytes = FLOAT_BYTES * reader.batch_size * 3 * largest_side(config.data.get(f"{part}Reader")) ** 2
    workers = config.data.get("worker_num", 0)
    return Loader(DetectionBatchReader(dataset, *batches), sampler, _to_tensors, workers, slot_bytes)


def _to_tensors(arrays: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def largest_side(reader: dict[str, Any] | None) -> int:
    """Returns the side in pixels of the largest image that the reader's operators make; larger ones than the shared
    memory holds go through pipes."""
    sizes: list[int] = []
    for operators in (reader or {}).get("sample_transforms", []), (reader or {}).get("batch_transforms", []):
        for operator in operators or []:
            for arguments in operator.values():
                sizes += np.ravel((arguments or {}).get(SIZE_ARGUMENT, [])).astype(int).tolist()
    return max(sizes, default=640)


class DetectionBatchReader:
    """Loads, augments and collates the samples of a batch; runs in the loader's workers.

    Args:
        dataset: a data set of ppdet, parsed, with its sample transforms set.
        batch_transforms: ppdet's ``BatchCompose``.
        seed: seed of the augmentation.
        rank: this process.
        global_batch_size: samples in a batch of all processes, by which the number of the batch is known.
    """

    def __init__(self, dataset: Any, batch_transforms: Any, seed: int, rank: int, global_batch_size: int) -> None:
        self.dataset = dataset
        self.transforms = _Remembering(dataset.transform)
        dataset.set_transform(self.transforms)
        self.batch_transforms = batch_transforms
        self.seed = seed
        self.rank = rank
        self.global_batch_size = global_batch_size

    def __call__(self, keys: Sequence[SampleKey]) -> dict[str, np.ndarray]:
        """Returns the batch of these samples: ``image`` ``float32`` ``[B, 3, H, W]`` and whatever the operators add.

        Raises:
            UserError: an image is missing or damaged, or an operator refuses it; the message names the file.
        """
        self.dataset.set_epoch(keys[0].epoch)
        samples = [self._read(key) for key in keys]
        number = keys[0].position // self.global_batch_size
        _seed_globally(batch_generator(self.seed, keys[0].epoch, number, self.rank))
        try:
            batch = self.batch_transforms(samples)
        except DAMAGE as error:
            files = ", ".join(self._file_of(key) for key in keys[:SHOWN])
            raise UserError(f"batch_transforms refuse a batch ({_cause(error)}) of {files}, ...") from error
        return {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}

    def _read(self, key: SampleKey) -> dict[str, Any]:
        _seed_globally(sample_generator(self.seed, key.epoch, key.index))
        # ppdet counts the samples that a process has loaded, for operators that grow stronger; we say it by position.
        self.dataset._curr_iter = key.position
        try:
            return self.dataset[key.index]
        except DAMAGE as error:
            file = self.transforms.culprit() or self._file_of(key)
            reason = f"cannot be used ({_cause(error)}); tools/check_data.py lists all such"
            raise UserError(f"{file}: {reason}") from error

    def _file_of(self, key: SampleKey) -> str:
        record = self.dataset.roidbs[key.index % len(self.dataset.roidbs)]
        return str(record.get("im_file", f"image {key.index}"))


class _Remembering:
    """The sample transforms of a reader, which remember the files that they were last given: of a mosaic, several."""

    def __init__(self, transforms: Any) -> None:
        self.transforms = transforms
        self.files: list[str] = []

    def __call__(self, records: Any) -> Any:
        several = records if isinstance(records, list) else [records]
        self.files = [str(record["im_file"]) for record in several if "im_file" in record]
        return self.transforms(records)

    def culprit(self) -> str | None:
        """Returns which of several files cannot be read, or ``None`` where it was one, or can all be read."""
        if len(self.files) < 2:
            return None
        for file in self.files:
            try:
                read_image(file)
            except ImageError:
                return file
        return None


def _cause(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return " ".join(str(error).split())[:200] or type(error).__name__


def _seed_globally(generator: np.random.Generator) -> None:
    """Seeds the two generators that ppdet's operators draw from."""
    np.random.seed(int(generator.integers(LARGEST_SEED)))
    random.seed(int(generator.integers(LARGEST_SEED)))
