"""A predictor that many requests may use at a time, and its answers as JSON holds them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

import ppcls_ext
from ppcls_ext.deploy.serve.limits import Limits
from ppcls_ext.deploy.serve.pictures import TYPES, examine, preview_of
from ppcls_ext.deploy.serve.refusal import RefusalError
from ppcls_ext.preprocess import ImageError
from ppcls_ext.runtime import BACKENDS, DetectionPredictor, Predictor, load
from ppcls_ext.utils.errors import suggestion

CLASSIFICATION, DETECTION = "classification", "detection"
DEFAULT_THRESHOLD = 0.3
ANSWERS = {"0": False, "1": True}


@dataclass(frozen=True)
class Question:
    """How a picture is to be answered.

    Attributes:
        topk: classifier: how many classes; None: as many as the export says.
        threshold: detector: boxes with a lower score are left out.
        preview: the answer holds the picture as a browser can show it.
    """

    topk: int | None = None
    threshold: float = DEFAULT_THRESHOLD
    preview: bool = False

    @classmethod
    def read(cls, values: Mapping[str, str], task: str) -> Question:
        """Reads the parameters of an address.

        Raises:
            RefusalError: 400, a parameter is unknown to the task, or its value is wrong.
        """
        allowed = ("topk" if task == CLASSIFICATION else "threshold", "preview")
        for name in values:
            if name not in allowed:
                raise _wrong(f"unknown parameter{suggestion(name, allowed)}; allowed: {', '.join(allowed)}")
        topk = threshold = None
        if "topk" in values:
            topk = int(values["topk"]) if values["topk"].isascii() and values["topk"].isdecimal() else 0
            if not 0 < topk < 10_000:
                raise _wrong("topk must be a whole number from 1 to 9999")
        if "threshold" in values:
            threshold = _number(values["threshold"])
            if not 0 <= threshold <= 1:
                raise _wrong("threshold must be a number from 0 to 1")
        if values.get("preview", "0") not in ANSWERS:
            raise _wrong("preview must be 0 or 1")
        return cls(topk, DEFAULT_THRESHOLD if threshold is None else threshold, ANSWERS[values.get("preview", "0")])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _wrong(message: str) -> RefusalError:
    return RefusalError(HTTPStatus.BAD_REQUEST, message)


class ServedModel:
    """Answers pictures one after the other, whoever asks.

    All work with pictures and the network happens in one thread of its own: an engine keeps a pool of threads, and
    Paddle's oneDNN its cached kernels, for every thread that ever called it, and here every
    visitor comes with a new one.

    Args:
        predictor: what ``ppcls_ext.runtime.load`` returned.
        limits: how large pictures may be.
    """

    def __init__(self, predictor: Predictor | DetectionPredictor, limits: Limits | None = None) -> None:
        self.predictor = predictor
        self.limits = limits or Limits()
        self.task = DETECTION if isinstance(predictor, DetectionPredictor) else CLASSIFICATION
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        backend: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        limits: Limits | None = None,
    ) -> ServedModel:
        """Loads an export.

        Args:
            folder: what ``tools/export_model.py`` wrote.
            backend: an engine; None takes the runtime's default.
            threads: threads of the network; None takes every core of this process.
            precision: of an export that holds several; None takes the first.
            limits: how large pictures may be.

        Raises:
            UserError: the folder is damaged or was changed, or the backend's package is missing.
        """
        model = cls(load(folder, backend=backend, threads=threads, precision=precision), limits)
        try:
            model.rehearse()
        except BaseException:
            model.close()
            raise
        return model

    def rehearse(self) -> None:
        """Predicts one black picture: the first visitor waits no longer than the next, and faults show at once.

        Raises:
            UserError: the export's preprocessing does not fit its network.
        """
        self._worker.submit(self.predictor, [np.zeros([96, 128, 3], np.uint8)]).result()

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread; what waits is not answered any more."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    @property
    def backend(self) -> str:
        """Name of the engine, as ``--backend`` takes it; the name of its class where it stands in no table."""
        class_name = type(self.predictor.backend).__name__
        return next((name for name, row in BACKENDS.items() if row.class_name == class_name), class_name)

    def describe(self) -> dict[str, Any]:
        """Returns what a visitor may know of the model: no paths, no checksums."""
        predictor = self.predictor
        description: dict[str, Any] = {
            "task": self.task,
            "name": predictor.model_name,
            "classes": predictor.classes,
            "input_shape": predictor.input_shape,
            "backend": self.backend,
            "computed_in": predictor.backend.computed_in,
            "version": ppcls_ext.__version__,
            "limits": {
                "megabytes": self.limits.megabytes,
                "megapixels": self.limits.megapixels,
                "types": list(TYPES),
            },
        }
        if isinstance(predictor, DetectionPredictor):
            return {
                **description,
                "class_num": predictor.class_num,
                "threshold": DEFAULT_THRESHOLD,
                "enhances": predictor.enhance is not None,
            }
        return {**description, "topk": predictor.topk}

    def answer(self, data: bytes, question: Question | None = None) -> dict[str, Any]:
        """Predicts one encoded picture; waits for those that came before.

        Returns:
            ``task``, ``model``, ``type`` of the picture, ``milliseconds`` of decoding, preparation and network; of a
            classifier ``predictions`` (``class_id, label, score``, best first); of a detector ``width, height`` and
            ``detections`` (``class_id, label, score, box``: x1, y1, x2, y2 in pixels of the upright picture); and
            ``preview``, a ``data:`` address, if it was asked for.

        Raises:
            RefusalError: the picture is empty, of an unknown type, too large or damaged, or the server is stopping.
            UserError: the export's preprocessing does not fit its network.
        """
        stopping = RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")
        try:
            work = self._worker.submit(self._answer, data, question or Question())
        except RuntimeError:
            raise stopping from None
        try:
            return work.result()
        except CancelledError:
            raise stopping from None

    def _answer(self, data: bytes, question: Question) -> dict[str, Any]:
        if not data:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "the picture is empty (0 bytes)")
        kind = examine(data, self.limits.pixels)
        started = time.perf_counter()
        result = self._detect(data, question) if self.task == DETECTION else self._classify(data, question)
        spent = 1000 * (time.perf_counter() - started)
        answer = {"task": self.task, "model": self.predictor.model_name, "type": kind, "milliseconds": round(spent, 1)}
        if question.preview:
            answer["preview"] = self._preview(data)
        return {**answer, **result}

    def _classify(self, data: bytes, question: Question) -> dict[str, Any]:
        (prediction,) = self.predictor([data], topk=question.topk)
        _check(prediction.error)
        ranking = zip(prediction.class_ids, prediction.labels, prediction.scores, strict=True)
        return {
            "predictions": [{"class_id": index, "label": label, "score": score} for index, label, score in ranking]
        }

    def _detect(self, data: bytes, question: Question) -> dict[str, Any]:
        (prediction,) = self.predictor([data], threshold=question.threshold)
        _check(prediction.error)
        found = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), strict=True)
        return {
            "width": prediction.width,
            "height": prediction.height,
            "detections": [
                {"class_id": index, "label": self.predictor.label(index), "score": score, "box": box}
                for index, score, box in found
            ],
        }

    def _preview(self, data: bytes) -> str:
        try:
            return preview_of(data, getattr(self.predictor, "enhance", None))
        except ImageError as error:
            raise _unreadable(error.cause) from error


def _check(error: str | None) -> None:
    if error is not None:
        raise _unreadable(error)


def _unreadable(cause: str) -> RefusalError:
    return RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the picture cannot be used: {' '.join(cause.split())}")
