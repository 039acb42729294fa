"""From images to named classes or to boxes: the same steps whichever engine runs the network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ppcls_ext.preprocess import ImageError, Pipeline
from ppcls_ext.preprocess.detection import Prepared
from ppcls_ext.preprocess.samples import AnyRange
from ppcls_ext.runtime.description import OutputForm, Thresholds
from ppcls_ext.runtime.nms import NmsSettings, suppress_across_classes
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)
RECOMMENDED = "recommended"
ImageSource = str | os.PathLike[str] | bytes | np.ndarray


class Backend(Protocol):
    """Runs a classifier.

    Attributes:
        computed_in: type of the numbers that it computes with: ``float32``, ``float16`` or ``bfloat16``.
    """

    computed_in: str

    def run(self, images: np.ndarray) -> np.ndarray:
        """``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""


class DetectionBackend(Protocol):
    """Runs a detector; ``computed_in`` as above."""

    computed_in: str

    def detect(self, images: np.ndarray, scale_factors: np.ndarray) -> Sequence[np.ndarray]:
        """Finds boxes.

        Args:
            images: ``float32`` ``[N, 3, H, W]``.
            scale_factors: ``float32`` ``[N, 2]``: height and width of the resized image, divided by those of the image;
                ignored by a network that does not take them.

        Returns:
            The outputs of the network in their order; ``OutputForm`` tells what they mean. Either detections:
            ``float32`` ``[N, k, 6]`` (class, score, x1, y1, x2, y2), or ``[M, 6]``, those of the first image first, and
            how many each image has, ``int32`` ``[N]``. Or all anchors: boxes ``[N, A, 4]`` and scores ``[N, C, A]``.
        """


def batches(
    images: ImageSource | Sequence[ImageSource] | np.ndarray,
    batch_size: int,
    predictions: list[Any],
    empty: Callable[[str], Any],
    prepare: Callable[[ImageSource, str], Any],
    shape: Callable[[Any], tuple[int, ...]] = np.shape,
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Gives batches of prepared images, all of one shape, with the still empty predictions that they belong to.

    Args:
        images: one image, a list of them, or an array ``[N, H, W, 3]``.
        batch_size: how many at most are in a batch.
        predictions: gets a prediction for every image, in their order; an unreadable one is logged by name, carries
            its ``error``, and is in no batch.
        empty: makes a prediction of a name.
        prepare: makes a model input of an image and its name; ``shape`` gives the shape of that input.

    Raises:
        UserError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(images, (str, bytes, os.PathLike)) or (isinstance(images, np.ndarray) and images.ndim == 3):
        images = [images]
    waiting: list[Any] = []
    inputs: list[Any] = []
    for number, image in enumerate(images):
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {number}"
        predictions.append(empty(name))
        try:
            prepared = prepare(image, name)
        except ImageError as error:
            logger.warning("skipped %s", error)
            predictions[-1].error = error.cause
            continue
        if inputs and (len(inputs) == batch_size or shape(inputs[0]) != shape(prepared)):
            yield waiting, inputs
            waiting, inputs = [], []
        waiting.append(predictions[-1])
        inputs.append(prepared)
    if inputs:
        yield waiting, inputs


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
    if any(size not in (-1, got) for size, got in zip(expected, prepared.shape, strict=True)):
        raise UserError(
            f"{name}: preprocessing gives shape {list(prepared.shape)}, the model takes {list(expected)}; "
            "let ResizeImage and CropImage in Infer.transforms give that size (Global.image_shape)"
        )
    return np.ascontiguousarray(prepared, dtype=np.float32)


class Predictor:
    """Prepares images, runs the network and names the best classes.

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
        backend: Backend,
        pipeline: Pipeline,
        classes: Sequence[str] | None,
        topk: int,
        input_shape: Sequence[int],
        model_name: str = "model",
    ) -> None:
        self.backend = backend
        self.pipeline = pipeline
        self.classes = list(classes) if classes else None
        self.topk = topk
        self.input_shape = list(input_shape)
        self.model_name = model_name

    @property
    def value_range(self) -> AnyRange:
        """What was made of samples of more than 8 bits, see ``decode_image``: how they are shown."""
        return self.pipeline.value_range

    def __call__(
        self, images: ImageSource | Sequence[ImageSource] | np.ndarray, batch_size: int = 8, topk: int | None = None
    ) -> list[Prediction]:
        """Predicts images.

        Args:
            images: paths, encoded files, or RGB arrays ``uint8`` ``[H, W, 3]``; one of them, a list, or an array
                ``[N, H, W, 3]``.
            batch_size: how many run through the network at a time.
            topk: how many classes to list, if not as many as the predictor was made for.

        Returns:
            One prediction for each image, in their order. An unreadable one is logged by name and carries an ``error``;
            the others are not affected.

        Raises:
            UserError: the pipeline makes inputs that the network does not take.
        """
        predictions: list[Prediction] = []
        for waiting, batch in batches(images, batch_size, predictions, Prediction, self.prepare):
            probabilities = softmax(self.backend.run(np.stack(batch)))
            for prediction, scores in zip(waiting, probabilities, strict=True):
                prediction.class_ids = [int(index) for index in np.argsort(-scores, kind="stable")[: topk or self.topk]]
                prediction.labels = [self.label(index) for index in prediction.class_ids]
                prediction.scores = [float(scores[index]) for index in prediction.class_ids]
        return predictions

    def prepare(self, image: ImageSource, name: str) -> np.ndarray:
        """Makes one model input ``float32`` ``[3, H, W]``; see ``prepare_input``."""
        return prepare_input(self.pipeline, image, name, self.input_shape[1:])

    def label(self, number: int) -> str:
        """Returns the name of class ``number``, or the number where names are unknown."""
        return self.classes[number] if self.classes and number < len(self.classes) else str(number)


@dataclass
class DetectionPrediction:
    """The detections in one image, best first; empty, with the reason in ``error``, if the image was unreadable.

    Attributes:
        name: path or number of the image.
        boxes: ``float32`` ``[n, 4]``: x1, y1, x2, y2 in pixels of the image. They may reach a little beyond its edge.
        scores: ``float32`` ``[n]``, 0 to 1.
        labels: ``int64`` ``[n]``, class numbers from 0.
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


class DetectionPredictor:
    """Prepares images, runs the network and reads boxes from its outputs.

    Args:
        backend: runs the network.
        prepare: makes a model input of an image and its name; raises ``ImageError`` if it cannot be read.
        classes: names of the classes; None shows their numbers.
        class_num: how many classes there are.
        input_shape: ``[-1, 3, H, W]`` of the network; -1 is free. It is checked against what ``prepare`` makes.
        form: what the outputs of the network mean.
        model_name: the architecture, for people.
        enhance: turns ``uint8`` RGB ``[H, W, 3]`` into the same with more contrast: how nearly black frames are shown.
        value_range: what was made of samples of more than 8 bits, see ``decode_image``: how they are shown.
        thresholds: the recommended ones, where the weights were evaluated.
    """

    def __init__(
        self,
        backend: DetectionBackend,
        prepare: Callable[[ImageSource, str], Prepared],
        classes: Sequence[str] | None,
        class_num: int,
        input_shape: Sequence[int],
        form: OutputForm,
        model_name: str = "model",
        enhance: Callable[[np.ndarray], np.ndarray] | None = None,
        value_range: AnyRange = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.backend = backend
        self.thresholds = thresholds
        self.classes = list(classes) if classes else None
        self.class_num = class_num
        self.input_shape = list(input_shape)
        self.form = form
        self.model_name = model_name
        self.enhance = enhance
        self.value_range = value_range
        self._prepare = prepare

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | np.ndarray,
        batch_size: int = 8,
        threshold: float | str = 0.0,
        class_agnostic: bool = False,
    ) -> list[DetectionPrediction]:
        """Finds objects.

        Args:
            images: paths, encoded files, or RGB arrays ``uint8`` ``[H, W, 3]``; one of them, a list, or an array
                ``[N, H, W, 3]``.
            batch_size: how many run through the network at a time.
            threshold: boxes with a lower score are left out; those below the model's own threshold are never there.
                ``"recommended"``: that of each class with the highest F1 on the evaluation set.
            class_agnostic: of boxes that overlap too much the best alone stays, whatever their classes.

        Returns:
            One prediction for each image, in their order. An unreadable one is logged by name and carries an ``error``;
            the others are not affected.

        Raises:
            UserError: the operators make inputs that the network does not take, there are no recommended thresholds,
                or the model has no NMS.
        """
        limits, nms = self.limits(threshold), self.form.selection
        if class_agnostic and not isinstance(nms, NmsSettings):
            raise UserError(
                f"class_agnostic: changes the NMS, and {self.model_name} has none: it gives each object one box"
            )
        predictions: list[DetectionPrediction] = []
        groups = batches(
            images, batch_size, predictions, DetectionPrediction, self.prepare, lambda one: one.pixels.shape
        )
        for waiting, inputs in groups:
            for prediction, prepared, rows in zip(waiting, inputs, self.detect(inputs), strict=True):
                if class_agnostic:
                    rows = suppress_across_classes(rows, nms)
                best = rows[rows[:, 1] >= limits[rows[:, 0].astype(np.int64)]]
                best = best[np.argsort(-best[:, 1], kind="stable")]
                prediction.labels = best[:, 0].astype(np.int64)
                prediction.scores, prediction.boxes = best[:, 1].copy(), best[:, 2:].copy()
                prediction.height, prediction.width = prepared.height, prepared.width
        return predictions

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
        return self.form.rows(self.backend.detect(images, scale_factors), inputs)

    def prepare(self, image: ImageSource, name: str) -> Prepared:
        """Makes one model input.

        Raises:
            ImageError: the image cannot be read.
            UserError: the result is not what the network takes.
        """
        prepared = self._prepare(image, name)
        shape, expected = list(prepared.pixels.shape), self.input_shape[1:]
        if any(size not in (-1, got) for size, got in zip(expected, shape, strict=True)):
            raise UserError(
                f"{name}: preprocessing gives shape {shape}, the model takes {expected}; "
                "let Resize in TestReader.sample_transforms give that size (target_size, keep_ratio: false)"
            )
        return prepared

    def label(self, number: int) -> str:
        """Returns the name of class ``number``, or the number where names are unknown."""
        return self.classes[number] if self.classes and number < len(self.classes) else str(number)


def threshold_of(value: float | str, name: str = "threshold") -> float | str:
    """Returns a score threshold: a number from 0 to 1, or ``"recommended"``; ``name`` is what messages call it.

    Raises:
        UserError: it is something else.
    """
    if value == RECOMMENDED:
        return RECOMMENDED
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise UserError(f"{name} must be a number from 0 to 1 or '{RECOMMENDED}', got {value!r}")
    return number
