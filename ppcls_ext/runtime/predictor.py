"""From images to named classes: the same steps whichever engine runs the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.preprocess import Pipeline
from ppcls_ext.runtime.batching import ImageSource, as_list, batches
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.runtime.contract import Backend


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
        for waiting, batch in batches(as_list(images), batch_size, predictions, Prediction, self.prepare):
            probabilities = softmax(self.backend.run(np.stack(batch)))
            for prediction, scores in zip(waiting, probabilities, strict=True):
                self._fill(prediction, scores, topk or self.topk)
        return predictions

    def prepare(self, image: ImageSource, name: str) -> np.ndarray:
        """Makes one model input ``float32`` ``[3, H, W]``; see ``prepare_input``."""
        return prepare_input(self.pipeline, image, name, self.input_shape[1:])

    def _fill(self, prediction: Prediction, scores: np.ndarray, topk: int) -> None:
        prediction.class_ids = [int(index) for index in np.argsort(-scores, kind="stable")[:topk]]
        prediction.labels = [self._label(index) for index in prediction.class_ids]
        prediction.scores = [float(scores[index]) for index in prediction.class_ids]

    def _label(self, index: int) -> str:
        return self.classes[index] if self.classes and index < len(self.classes) else str(index)
