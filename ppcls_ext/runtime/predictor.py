"""From images to named classes or to boxes: the same steps whichever engine runs the network."""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ppcls_ext.preprocess import ImageError, Pipeline
from ppcls_ext.preprocess.decode import Picture
from ppcls_ext.preprocess.detection import DetectionPipeline, Prepared
from ppcls_ext.preprocess.samples import AnyRange
from ppcls_ext.runtime.description import OutputForm, Thresholds
from ppcls_ext.runtime.nms import NmsSettings, suppress_across_classes
from ppcls_ext.runtime.tiles import OVERLAP, Tiled, merge, windows
from ppcls_ext.runtime.tracking import LOWEST_SCORE, Tracker
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
RECOMMENDED = "recommended"
# What holds an image file; all others are pictures that the program made itself.
FILES = (str, bytes, os.PathLike)
ImageSource = str | os.PathLike[str] | bytes | Picture
Images = ImageSource | Iterable[ImageSource]
# Channel orders of arrays, and how OpenCV turns them to RGB, by the number of channels.
CHANNELS = {"rgb": {}, "bgr": {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}}
BATCH_SIZE = 8
# From which score an object begins to be tracked, unless told.
TRACKED_THRESHOLD = 0.3


class Engine(ABC):
    """Runs a network: the files of an export, or (by the same methods) a model in memory.

    Attributes:
        computed_in: type of the numbers that it computes with, ``float32``, ``float16`` or ``bfloat16``; the engine
            chose: 16 bits only on processors that have them.
        input_names: of the network; any of ``image`` and ``scale_factor``, a classifier has one of any name.
    """

    computed_in: str
    input_names: Sequence[str]

    def run(self, images: np.ndarray) -> np.ndarray:
        """Of a classifier: ``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""
        (only,) = self.input_names
        return self.compute({only: images})[0]

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> Sequence[np.ndarray]:
        """Of a detector: finds boxes.

        Args:
            images: ``float32`` ``[N, 3, H, W]``.
            scale_factors: ``float32`` ``[N, 2]``: height and width of the resized image, divided by those of the image;
                ignored by a network that does not take them.

        Returns:
            The outputs of the network in their order; ``OutputForm`` tells what they mean. Either detections:
            ``float32`` ``[N, k, 6]`` (class, score, x1, y1, x2, y2), or ``[M, 6]``, those of the first image first, and
            how many each image has, ``int32`` ``[N]``. Or all anchors: boxes ``[N, A, 4]`` and scores ``[N, C, A]``.
        """
        values = {"image": images, "scale_factor": scale_factors}
        return self.compute({name: values[name] for name in self.input_names})

    @abstractmethod
    def compute(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays by the names of the inputs -> the outputs in their order."""


def is_stream(images: Images) -> bool:
    """Tells whether images come one by one and nobody knows how many: of an iterator or a generator."""
    return isinstance(images, Iterable) and not isinstance(images, (*FILES, Image.Image, Sized))


def in_order(
    images: Images,
    batch_size: int | None,
    channels: str,
    empty: Callable[[str], Any],
    prepare: Callable[[ImageSource, str], Any],
    fill: Callable[[list[Any], list[Any]], None],
) -> Iterator[Any]:
    """Gives a prediction for each image, in their order, as soon as its batch is complete.

    Args:
        images: one image, or anything that gives images one after the other, an array ``[N, H, W, C]`` too.
        batch_size: how many at most are in a batch, all of one shape; None is 1 for a stream, whose next image may be
            a long time coming, and ``BATCH_SIZE`` otherwise.
        channels: order of the channels of arrays, a key of ``CHANNELS``.
        empty: makes a prediction of a name.
        prepare: makes a model input of an image and its name: an array, or something with ``pixels``.
        fill: runs a batch: the empty predictions and their inputs.

    Raises:
        UserError: ``batch_size`` is below 1, the channels are unknown, or an image that is no file cannot be used. A
            file that cannot be used is logged by name, and its prediction carries the ``error``.
    """
    if channels not in CHANNELS:
        raise UserError(f"channels must be one of {', '.join(CHANNELS)}, got {channels!r}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    most = batch_size or (1 if is_stream(images) else BATCH_SIZE)
    if isinstance(images, np.ndarray):
        given: Iterable[Any] = images if images.ndim == 4 else [images]
    else:
        given = [images] if isinstance(images, (*FILES, Image.Image)) or not isinstance(images, Iterable) else images

    # Predictions that wait for a batch, with their inputs; None for an unreadable file.
    waiting: list[tuple[Any, Any]] = []

    def flush() -> Iterator[Any]:
        batch = [pair for pair in waiting if pair[1] is not None]
        if batch:
            fill([prediction for prediction, _ in batch], [prepared for _, prepared in batch])
        yield from [prediction for prediction, _ in waiting]
        waiting.clear()

    def predictions() -> Iterator[Any]:
        for number, image in enumerate(given):
            name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {number}"
            prediction, prepared = empty(name), None
            try:
                prepared = prepare(_as_rgb(image, CHANNELS[channels]), name)
            except ImageError as error:
                if not isinstance(image, FILES):
                    raise
                logger.warning("skipped %s", error)
                prediction.error = error.cause
            inputs = [each for _, each in waiting if each is not None]
            if prepared is not None and inputs and _shape_of(inputs[0]) != _shape_of(prepared):
                yield from flush()
                inputs = []
            waiting.append((prediction, prepared))
            if len(inputs) + (prepared is not None) in (0, most):
                yield from flush()
        yield from flush()

    return predictions()


def _shape_of(prepared: Any) -> tuple[int, ...]:
    """Returns the shape of a model input."""
    return np.shape(getattr(prepared, "pixels", prepared))


def _as_rgb(image: ImageSource, codes: dict[int, int]) -> ImageSource:
    """Brings the channels of an array into the order RGB; what is no picture is left for ``prepare`` to refuse."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] not in codes or not image.size:
        return image
    if image.dtype.kind != "u" or image.dtype.itemsize > 2:
        return image
    return cv2.cvtColor(image.astype(image.dtype.newbyteorder("="), copy=False), codes[image.shape[2]])


@dataclass
class Prediction:
    """The best classes of one image, best first; empty, with the reason in ``error``, if the image was unreadable."""

    name: str
    class_ids: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    error: str | None = None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits ``[N, C]`` -> probabilities ``float64`` ``[N, C]``."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def prepare_input(pipeline: Pipeline, image: ImageSource, name: str, expected: Sequence[int]) -> np.ndarray:
    """Makes one model input ``float32`` ``[3, H, W]``.

    Args:
        pipeline: the operators.
        image: path, encoded file, or RGB array.
        name: what errors call the image.
        expected: ``[3, H, W]`` that the network takes; -1 is free.

    Raises:
        ImageError: the image cannot be read.
        UserError: the pipeline's result is not what the network takes.
    """
    prepared = pipeline(image, name)
    if not pipeline.channel_first:
        prepared = prepared.transpose(2, 0, 1)
    check_shape(prepared, expected, name, "ResizeImage and CropImage in Infer.transforms", "Global.image_shape")
    return np.ascontiguousarray(prepared, dtype=np.float32)


def check_shape(prepared: np.ndarray, expected: Sequence[int], name: str, operators: str, keys: str) -> None:
    """Raises a ``UserError`` if a model input is not ``expected``, where -1 is free; it names what makes the size."""
    if any(size not in (-1, got) for size, got in zip(expected, prepared.shape, strict=True)):
        raise UserError(
            f"{name}: preprocessing gives shape {list(prepared.shape)}, the model takes {list(expected)}; "
            f"let {operators} give that size ({keys})"
        )


class _AnyPredictor:
    """What the predictors of both tasks know."""

    def __init__(
        self, backend: Any, classes: Sequence[str] | None, input_shape: Sequence[int], model_name: str
    ) -> None:
        self.backend = backend
        self.classes = list(classes) if classes else None
        self.input_shape = list(input_shape)
        self.model_name = model_name
        self._lock = threading.Lock()

    def label(self, number: int) -> str:
        """Returns the name of class ``number``, or the number where names are unknown."""
        return self.classes[number] if self.classes and number < len(self.classes) else str(number)


class Predictor(_AnyPredictor):
    """Prepares images, runs the network and names the best classes.

    Threads may share one: the network runs for one of them at a time.

    Args:
        backend: runs the network.
        pipeline: makes a model input of an image.
        classes: names of the classes; None shows their numbers.
        topk: how many classes a prediction lists.
        input_shape: ``[-1, 3, H, W]`` of the network; -1 is free. It is checked against what the pipeline makes.
        model_name: the architecture, for people.
    """

    def __init__(
        self,
        backend: Engine,
        pipeline: Pipeline,
        classes: Sequence[str] | None,
        topk: int,
        input_shape: Sequence[int],
        model_name: str = "model",
    ) -> None:
        super().__init__(backend, classes, input_shape, model_name)
        self.pipeline = pipeline
        self.topk = topk

    @property
    def value_range(self) -> AnyRange:
        """What was made of samples of more than 8 bits, see ``decode_image``: how they are shown."""
        return self.pipeline.value_range

    def __call__(
        self,
        images: Images,
        batch_size: int | None = None,
        topk: int | None = None,
        channels: str = "rgb",
    ) -> list[Prediction] | Iterator[Prediction]:
        """Predicts images.

        Args:
            images: one image or many. An image is a path, the bytes of a file, a Pillow image, or an array of
                ``uint8`` or ``uint16``: ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]``. Many are a list, an
                array ``[N, H, W, C]``, or an iterator such as a generator, which may be endless.
            batch_size: how many run through the network at a time; 8, and of an iterator 1, unless told.
            topk: how many classes to list, if not as many as the predictor was made for.
            channels: order of the channels of arrays: ``rgb``, or ``bgr`` as OpenCV has them.

        Returns:
            One prediction for each image, in their order: a list, or for an iterator an iterator, which reads an image
            when its prediction is asked for. An unreadable file is logged by name and carries an ``error``; the others
            are not affected.

        Raises:
            UserError: ``topk`` or ``batch_size`` is below 1, what is no file is no image either, or the pipeline makes
                inputs that the network does not take.
        """

        if topk is not None and topk < 1:
            raise UserError(f"topk must be at least 1, got {topk}")

        def fill(predictions: list[Prediction], inputs: list[np.ndarray]) -> None:
            with self._lock:
                probabilities = softmax(self.backend.run(np.stack(inputs)))
            for prediction, scores in zip(predictions, probabilities, strict=True):
                prediction.class_ids = [int(index) for index in np.argsort(-scores, kind="stable")[: topk or self.topk]]
                prediction.labels = [self.label(index) for index in prediction.class_ids]
                prediction.scores = [float(scores[index]) for index in prediction.class_ids]

        found = in_order(images, batch_size, channels, Prediction, self.prepare, fill)
        return found if is_stream(images) else list(found)

    def prepare(self, image: ImageSource, name: str) -> np.ndarray:
        """Makes one model input ``float32`` ``[3, H, W]``; see ``prepare_input``."""
        return prepare_input(self.pipeline, image, name, self.input_shape[1:])


@dataclass
class DetectionPrediction:
    """The detections in one image, best first; empty, with the reason in ``error``, if the image was unreadable.

    Attributes:
        name: path or number of the image.
        boxes: ``float32`` ``[n, 4]``: x1, y1, x2, y2 in pixels of the image. They may reach a little beyond its edge.
        scores: ``float32`` ``[n]``, 0 to 1.
        labels: ``int64`` ``[n]``, class numbers from 0.
        identities: of the objects, ``int64`` ``[n]``, from 1, and 0 for a box that shows none yet; None where nothing
            is tracked.
        height, width: of the image, 0 if it was unreadable.
        error: why the image could not be read.
    """

    name: str
    boxes: np.ndarray = field(default_factory=lambda: np.zeros([0, 4], np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros([0], np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros([0], np.int64))
    height: int = 0
    width: int = 0
    error: str | None = None
    identities: np.ndarray | None = None

    def where(self, kept: np.ndarray) -> DetectionPrediction:
        """Returns the same with the boxes that a mask ``[n]`` keeps."""
        values = {name: getattr(self, name) for name in ("boxes", "scores", "labels", "identities")}
        return replace(self, **{name: value[kept] for name, value in values.items() if value is not None})


def tracked(found: Iterable[DetectionPrediction], tracker: Tracker) -> Iterator[DetectionPrediction]:
    """Gives boxes the numbers of their objects; leaves out those of low score that show no known object."""
    for prediction in found:
        if prediction.error is None:
            boxes, scores, labels = prediction.boxes, prediction.scores, prediction.labels
            prediction.identities = tracker.update(boxes, scores, labels)
            prediction = prediction.where((prediction.identities > 0) | tracker.is_high(scores, labels))
        yield prediction


class DetectionPredictor(_AnyPredictor):
    """Prepares images, runs the network and reads boxes from its outputs.

    Threads may share one: the network runs for one of them at a time.

    Args:
        backend: runs the network.
        prepare: makes a model input of an image and its name; raises ``ImageError`` if it cannot be read.
        classes: names of the classes; None shows their numbers.
        class_num: how many classes there are.
        input_shape: ``[-1, 3, H, W]`` of the network; -1 is free. It is checked against what ``prepare`` makes.
        form: what the outputs of the network mean.
        model_name: the architecture, for people.
        thresholds: the recommended ones, where the weights were evaluated.
    """

    def __init__(
        self,
        backend: Engine,
        prepare: DetectionPipeline,
        classes: Sequence[str] | None,
        class_num: int,
        input_shape: Sequence[int],
        form: OutputForm,
        model_name: str = "model",
        thresholds: Thresholds | None = None,
    ) -> None:
        super().__init__(backend, classes, input_shape, model_name)
        self.thresholds = thresholds
        self.class_num = class_num
        self.form = form
        # How frames are shown: what raises the contrast of ``uint8`` RGB ``[H, W, 3]`` (or None), and what was made of
        # samples of more than 8 bits, see ``decode_image``.
        self.enhance, self.value_range = prepare.enhancement, prepare.value_range
        self._prepare = prepare

    def __call__(
        self,
        images: Images,
        batch_size: int | None = None,
        threshold: float | str | None = None,
        class_agnostic: bool = False,
        channels: str = "rgb",
        track: bool = False,
        tile: int | None = None,
        overlap: float = OVERLAP,
    ) -> list[DetectionPrediction] | Iterator[DetectionPrediction]:
        """Finds objects.

        Args:
            images, batch_size, channels: see ``Predictor``; with ``track``, the frames of one video in their order.
            threshold: boxes with a lower score are left out; those below the model's own threshold are never there.
                ``"recommended"``: that of each class with the highest F1 on the evaluation set. None leaves out none,
                with ``track`` those below ``TRACKED_THRESHOLD``.
            class_agnostic: of boxes that overlap too much, and are not left out by the threshold, the best alone stays,
                whatever their classes.
            track: give objects numbers that they keep from frame to frame, see ``tracking.Tracker``. Boxes that show a
                known object then stay down to a score of ``LOWEST_SCORE``.
            tile: cut pictures into tiles of so many pixels a side, ``batch_size`` of which run at a time, and merge
                their boxes, see ``tiles.merge``. A picture that is no larger is one tile: nothing changes for it.
            overlap: share of a side that neighbouring tiles have in common, at least; as wide as the largest object, so
                that a tile shows it whole.

        Returns:
            One prediction for each image, in their order: a list, or for an iterator an iterator, which reads an image
            when its prediction is asked for. An unreadable file is logged by name and carries an ``error``; the others
            are not affected.

        Raises:
            UserError: what is no file is no image either, the operators make inputs that the network does not take,
                there are no recommended thresholds, or the model has no NMS.
        """
        limits = self.limits((TRACKED_THRESHOLD if track else 0.0) if threshold is None else threshold)
        kept, nms = np.minimum(limits, LOWEST_SCORE) if track else limits, self.form.selection
        if class_agnostic and not isinstance(nms, NmsSettings):
            raise UserError(
                f"class_agnostic: changes the NMS, and {self.model_name} has none: it gives each object one box"
            )
        prepare: Callable[[Any, str], Any] = self.prepare
        at_a_time = batch_size
        if tile is not None:
            windows(1, 1, tile, overlap)  # what is out of range is told now
            prepare = partial(self._tiled, tile, overlap, batch_size or BATCH_SIZE)
            at_a_time = 1 if batch_size is None else min(batch_size, 1)
            # What the configuration says was done in each tile.
            class_agnostic |= isinstance(nms, NmsSettings) and nms.class_agnostic

        def fill(predictions: list[DetectionPrediction], inputs: list[Any]) -> None:
            found = self.detect(inputs) if tile is None else [tiled.rows for tiled in inputs]
            for prediction, prepared, rows in zip(predictions, inputs, found, strict=True):
                best = rows[rows[:, 1] >= kept[rows[:, 0].astype(np.int64)]]
                if class_agnostic:
                    best = suppress_across_classes(best, nms)
                best = best[np.argsort(-best[:, 1], kind="stable")]
                prediction.labels = best[:, 0].astype(np.int64)
                prediction.scores, prediction.boxes = best[:, 1].copy(), best[:, 2:].copy()
                prediction.height, prediction.width = prepared.height, prepared.width

        found = in_order(images, at_a_time, channels, DetectionPrediction, prepare, fill)
        if track:
            found = tracked(found, Tracker(limits))
        return found if is_stream(images) else list(found)

    def limits(self, threshold: float | str) -> np.ndarray:
        """Returns the lowest score of each class, ``[class_num]``; see ``__call__``.

        Raises:
            UserError: there are no recommended thresholds.
        """
        if threshold != RECOMMENDED:
            return np.full(self.class_num, threshold_of(threshold))
        if self.thresholds is None:
            raise UserError(
                f"{self.model_name}: no recommended thresholds are known: evaluate its weights with tools/eval.py, "
                "then export them with tools/export_model.py"
            )
        return self.thresholds.limits()

    def detect(self, inputs: Sequence[Prepared]) -> list[np.ndarray]:
        """Runs one batch of prepared images of one shape.

        Returns:
            For each image ``float32`` ``[n, 6]``: class, score, x1, y1, x2, y2 in pixels of the image.
        """
        images = np.stack([prepared.pixels for prepared in inputs])
        scale_factors = np.stack([prepared.scale_factor for prepared in inputs])
        with self._lock:
            outputs = self.backend.detect(images, scale_factors)
        return self.form.rows(outputs, inputs)

    def _tiled(self, tile: int, overlap: float, most: int, image: ImageSource, name: str) -> Tiled:
        """Finds the objects of a picture by its tiles, ``most`` of which run at a time; raises as :meth:`prepare`."""
        pixels = self._prepare.decode(image, name)
        height, width = pixels.shape[:2]
        places = windows(width, height, tile, overlap)
        found: list[np.ndarray] = []
        for start in range(0, len(places), most):
            parts = [pixels[place.y : place.y + place.height, place.x : place.x + place.width]
                     for place in places[start : start + most]]  # fmt: skip
            found += self.detect([self.prepare(part, name) for part in parts])
        return Tiled(merge(found, places, width, height), height, width)

    def prepare(self, image: ImageSource, name: str) -> Prepared:
        """Makes one model input.

        Raises:
            ImageError: the image cannot be read.
            UserError: the result is not what the network takes.
        """
        prepared = self._prepare(image, name)
        operators, keys = "Resize in TestReader.sample_transforms", "target_size, keep_ratio: false"
        check_shape(prepared.pixels, self.input_shape[1:], name, operators, keys)
        return prepared


def threshold_of(value: float | str, name: str = "threshold") -> float | str:
    """Returns a score threshold: a number from 0 to 1, or ``"recommended"``; ``name`` is what messages call it."""
    if value == RECOMMENDED:
        return RECOMMENDED
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise UserError(f"{name} must be a number from 0 to 1 or '{RECOMMENDED}', got {value!r}")
    return number
