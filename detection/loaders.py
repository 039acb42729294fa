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
from detection.coco import CocoSet
from detection.configuration import DetectionConfig, open_part, operators_of
from detection.toolkit import quiet_toolkit, refusals
from ppcls_ext.engine.class_balance import repeat_sampling
from ppcls_ext.engine.environment import Environment, derive_seed
from ppcls_ext.engine.loader import (
    REPLACEMENT_TRIES,
    EpochBatchSampler,
    Loader,
    SampleKey,
    batch_generator,
    sample_generator,
)
from ppcls_ext.preprocess import ImageError
from ppcls_ext.preprocess import detection as preprocess
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

# What ppdet's operators raise on an image that they cannot use.
DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, cv2.error)
SHOWN = 2
FLOAT_BYTES = 4
LARGEST_SEED = 2**32
# What ppdet's operators call the sides of the images that they make.
SIZE_ARGUMENT = "target_size"
# Of an image whose size no operator states, in pixels.
LARGEST_SIDE = 640
COCO = "COCODataSet"
BAD_IMAGES_KEY = "max_bad_images"
# Entries of a batch that are no tensors.
REPORTED = ("bad", "causes")


def training_loader(config: DetectionConfig, environment: Environment) -> Loader:
    """Returns the loader of ``TrainDataset``; the workspace must be open."""
    from ppdet.core.workspace import create

    quiet_toolkit()
    with refusals(config):
        dataset = create("TrainDataset")()
        coco = _parse(dataset, config, environment, "Train")
        factors, threshold = None, config.run_keys.repeat_threshold
        if threshold is not None:
            names = coco.names if coco is not None else list(map(str, range(config.num_classes)))
            factors, line = repeat_sampling(threshold, *boxes_of(dataset), len(dataset.roidbs), names)
            factors = np.tile(factors, dataset.repeat)
            logger.info(line)
        loader = _loader(config, environment, "Train", dataset, create("TrainReader"), factors)
    if coco is not None and len(dataset.roidbs) < len(coco):
        logger.warning(
            "TrainDataset: %d of %d images are left out: those without a usable box, unless allow_empty is true, "
            "those with crowds only, and what sample_num and empty_ratio cut off",
            len(coco) - len(dataset.roidbs), len(coco),
        )  # fmt: skip
    return loader


def boxes_of(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of the image and of the class of each box of a data set of ppdet, ``int64`` ``[A]`` both."""
    classes = [np.ravel(record.get("gt_class", [])).astype(np.int64) for record in dataset.roidbs]
    return np.repeat(np.arange(len(classes)), list(map(len, classes))), np.concatenate(classes)


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
    name = config.data[f"{part}Dataset"].get("name")
    if name != COCO or config.datasets[part].annotations is None:
        logger.warning(
            "%sDataset: %s is read by PaddleDetection, which drops boxes and images without a word: prepare COCO files",
            part, name,
        )  # fmt: skip
        dataset.check_or_download_dataset()
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            dataset.parse_dataset()
        return None
    ledger = Ledger()
    coco = open_part(config, part, ledger)
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

    Its own rules drop boxes and images in silence; of data without faults both make the same records, and its keys
    mean the same. ``training`` leaves out images that show nothing but crowds, which would be taught as background.
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


def _loader(
    config: DetectionConfig, environment: Environment, part: str, dataset: Any, reader: Any,
    factors: np.ndarray | None = None,
) -> Loader:  # fmt: skip
    """Builds the loader of ``part``, ``Train`` or ``Eval``, from ppdet's data set and its reader of it (transforms,
    batch size, order); ``factors``: how often an epoch shows each image."""
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
            factors=factors,
        )
    except ValueError as error:
        raise UserError(f"{part}Reader.{error}") from error
    batches = DetectionBatchReader(
        dataset, reader._batch_transforms, environment.seed, environment.rank, sampler.global_batch_size, training
    )
    # Larger images than the shared memory holds go through pipes.
    stated = [arguments.get(SIZE_ARGUMENT, []) for _, arguments in operators_of(config.data, f"{part}Reader")]
    side = max((int(size) for sizes in stated for size in np.ravel(sizes)), default=LARGEST_SIDE)
    slot_bytes = FLOAT_BYTES * reader.batch_size * 3 * side**2
    return Loader(batches, sampler, _to_tensors, config.run_keys.worker_num, slot_bytes)


def _to_tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    """Copies arrays into tensors; what is reported of unreadable images stays as it is."""
    return {name: value if name in REPORTED else paddle.to_tensor(value) for name, value in arrays.items()}


class DetectionBatchReader:
    """Loads, augments and collates the samples of a batch; runs in the loader's workers.

    An image that cannot be read, or of which resizing would leave nothing, is never a sample: training takes the next
    one for it, with that one's boxes, and an evaluation leaves it out.

    Args:
        dataset: a data set of ppdet, parsed, with its sample transforms set.
        batch_transforms: ppdet's ``BatchCompose``.
        seed, rank: of the augmentation.
        global_batch_size: samples in a batch of all processes, by which the number of the batch is known.
        training: what happens to unreadable images.
    """

    def __init__(
        self, dataset: Any, batch_transforms: Any, seed: int, rank: int, global_batch_size: int, training: bool = True
    ) -> None:
        self.dataset, self.batch_transforms, self.training = dataset, batch_transforms, training
        self.seed, self.rank, self.global_batch_size = seed, rank, global_batch_size
        # Number of each file; the first of one that is listed twice.
        files = [self.name_of(index) for index in range(len(self))]
        self._numbers = {file: index for index, file in reversed(list(enumerate(files)))}
        self._resizers = _resizers_of(batch_transforms)

    def __len__(self) -> int:
        """Number of images, each counted once."""
        return len(self.dataset.roidbs)

    def name_of(self, index: int) -> str:
        """Returns the file of an image, which a data set that repeats itself counts on."""
        return str(self.dataset.roidbs[index % len(self)].get("im_file", f"image {index}"))

    def image_id(self, index: int) -> int:
        """Returns the id of an image in the annotation file."""
        return int(np.ravel(self.dataset.roidbs[index]["im_id"])[0])

    def __call__(self, keys: Sequence[SampleKey]) -> dict[str, Any]:
        """Returns the batch of these samples: ``image`` ``float32`` ``[B, 3, H, W]`` and whatever the operators add.

        ``bad`` has the numbers of images that could not be read, ``int64``, and ``causes`` says why. In an evaluation B
        is smaller by those, and may be 0. ``UserError`` if an operator refuses an image, or none of many can be read.
        """
        self.dataset.set_epoch(keys[0].epoch)
        bad: dict[int, str] = {}
        samples = [sample for key in keys if (sample := self._read(key, bad)) is not None]
        report = {"bad": np.array(list(bad), dtype=np.int64), "causes": list(bad.values())}
        if not samples:
            return {"image": np.zeros((0, 3, 1, 1), dtype=np.float32), **report}
        number = keys[0].position // self.global_batch_size
        _seed_globally(batch_generator(self.seed, keys[0].epoch, number, self.rank))
        try:
            batch = self.batch_transforms(samples)
        except DAMAGE as error:
            files = ", ".join(self.name_of(key.index) for key in keys[:SHOWN])
            raise UserError(f"batch_transforms refuse a batch ({_cause(error)}) of {files}, ...") from error
        return {name: value for name, value in batch.items() if isinstance(value, np.ndarray)} | report

    def _read(self, key: SampleKey, bad: dict[int, str]) -> dict[str, Any] | None:
        """Returns the sample, in training or its replacement, or ``None``; notes in ``bad`` what cannot be read."""
        tries = min(REPLACEMENT_TRIES, len(self.dataset)) if self.training else 1
        first: ImageError | None = None
        for step in range(tries):
            index = (key.index + step) % len(self.dataset)
            file = self.name_of(index)
            _seed_globally(sample_generator(self.seed, key.epoch, index, key.copy))
            # For operators that grow stronger: ppdet counts the samples that a process has loaded.
            self.dataset._curr_iter = key.position
            try:
                sample = self.dataset[index]
                for resizer in self._resizers:
                    resizer.refuse_nothing(*sample["image"].shape[:2])
                return sample
            except ImageError as error:
                # Of a mosaic it may be any of the pictures.
                name = error.name if error.name in self._numbers else file
                bad[self._numbers[name]] = error.cause
                first = first or ImageError(name, error.cause)
            except cv2.error as error:
                # OpenCV minds shapes: too long, or nothing left. Of a mosaic it may be another picture's.
                bad[self._numbers[file]] = f"an operator cannot use it, or what it is combined with ({_cause(error)})"
                first = first or ImageError(file, bad[self._numbers[file]])
            except DAMAGE as error:
                raise UserError(f"{file}: cannot be used ({_cause(error)})") from error
        if self.training and first is not None:
            raise UserError(f"{first.name} and the {tries - 1} images after it cannot be used: {first.cause}")
        return None


def _resizers_of(batch_transforms: Any) -> list[preprocess.Resize]:
    """Returns what a batch's images may be resized to with their ratio kept, which may leave nothing of one of them."""
    found = []
    for operator in batch_transforms.transforms_cls:
        if type(operator).__name__ == "BatchRandomResize" and operator.keep_ratio:
            sizes = operator.target_size if operator.random_size else [operator.target_size]
            found += [preprocess.Resize(size, keep_ratio=True) for size in sizes]
    return found


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
