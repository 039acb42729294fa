"""From images to boxes: the same steps whichever engine runs the network, with suppression inside it or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.preprocess.detection import Prepared
from ppcls_ext.runtime.batching import ImageSource, as_list, batches
from ppcls_ext.runtime.outputs import OutputForm
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.runtime.contract import DetectionBackend


@dataclass
class DetectionPrediction:
    """What was found in one image, the best first; empty, with the reason in ``error``, if the image was unreadable.

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
    ) -> None:
        self.backend = backend
        self.classes = list(classes) if classes else None
        self.class_num = class_num
        self.input_shape = list(input_shape)
        self.form = form
        self.model_name = model_name
        self.enhance = enhance
        self._prepare = prepare

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | np.ndarray,
        batch_size: int = 8,
        threshold: float = 0.0,
    ) -> list[DetectionPrediction]:
        """Finds objects.

        Args:
            images: paths, encoded files, or RGB arrays ``uint8`` ``[H, W, 3]``; one of them, a list, or an array
                ``[N, H, W, 3]``.
            batch_size: how many run through the network at a time.
            threshold: boxes with a lower score are left out; those below the model's own threshold are never there.

        Returns:
            One prediction for each image, in their order. An unreadable one is logged by name and carries an ``error``;
            the others are not affected.

        Raises:
            UserError: the operators make inputs that the network does not take.
        """
        predictions: list[DetectionPrediction] = []
        groups = batches(
            as_list(images), batch_size, predictions, DetectionPrediction, self.prepare, lambda one: one.pixels.shape
        )
        for waiting, inputs in groups:
            for prediction, prepared, rows in zip(waiting, inputs, self.detect(inputs), strict=True):
                best = rows[rows[:, 1] >= threshold]
                best = best[np.argsort(-best[:, 1], kind="stable")]
                prediction.labels = best[:, 0].astype(np.int64)
                prediction.scores, prediction.boxes = best[:, 1].copy(), best[:, 2:].copy()
                prediction.height, prediction.width = prepared.height, prepared.width
        return predictions

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
