"""Compares the outputs of an export with those of the model that it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppcls_ext.runtime.backends import Backend
from ppcls_ext.utils.errors import UserError

TOLERANCE = 1e-4


class Remembered:
    """Runs a backend once for each batch, however many artefacts are compared with it.

    Args:
        backend: what to run.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.computed_in = backend.computed_in
        self._outputs: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}

    def run(self, images: np.ndarray) -> np.ndarray:
        """``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""
        key = images.shape, hashlib.sha256(np.ascontiguousarray(images)).digest()
        if key not in self._outputs:
            self._outputs[key] = self.backend.run(images)
        return self._outputs[key]


def relative_error(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference of an image's outputs, relative to the largest expected output of that image.

    Args:
        outputs, expected: ``[N, C]``.

    Returns:
        The worst image's error; infinite where an output is no number or the shapes differ.
    """
    if outputs.shape != expected.shape or not (np.isfinite(outputs).all() and np.isfinite(expected).all()):
        return float("inf")
    difference = np.abs(outputs.astype(np.float64) - expected).max(axis=1)
    scale = np.abs(expected).max(axis=1)
    return float((difference / np.maximum(scale, np.finfo(np.float32).tiny)).max())


def decided(expected: np.ndarray, tolerance: float) -> np.ndarray:
    """Tells the images whose best class the model itself tells from the second by more than rounding can turn round.

    Args:
        expected: logits ``[N, C]``.
        tolerance: of ``relative_error``.

    Returns:
        ``bool`` ``[N]``; False everywhere for a single class.
    """
    if expected.shape[1] < 2:
        return np.zeros(len(expected), bool)
    best = np.sort(expected, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0] > tolerance * np.abs(expected).max(axis=1)


def verify(
    reference: Backend, candidates: Mapping[str, Backend], inputs: Mapping[str, np.ndarray], tolerance: float
) -> dict[str, Any]:
    """Runs every input through the reference and the candidates, one by one and as one batch.

    Args:
        reference: the model as trained.
        candidates: engines with the exported network, by a name for the report.
        inputs: prepared images ``float32`` ``[3, H, W]`` by name, all of one size.
        tolerance: largest ``relative_error`` that is accepted.

    Returns:
        What was measured: ``images``, ``tolerance``, and by candidate ``relative_error`` and ``top1_agreement``: the
        part of all comparisons in which the best class is the model's.

    Raises:
        UserError: a candidate differs by more, or names another class for an image about which the model is decided;
            the message names candidate, image and error.
    """
    errors: dict[str, float] = {}
    agreements: dict[str, list[bool]] = {name: [] for name in candidates}
    batch = np.stack(list(inputs.values()))
    runs = {name: image[np.newaxis] for name, image in inputs.items()} | {f"all {len(inputs)} images at once": batch}
    for run_name, images in runs.items():
        expected = reference.run(images)
        for name, candidate in candidates.items():
            outputs = candidate.run(images)
            error = relative_error(outputs, expected)
            if not error <= tolerance:
                raise UserError(
                    f"the export does not compute what the model computes: {name}, {run_name}: relative error "
                    f"{error:.1e}, allowed {tolerance:.0e}; nothing was written"
                )
            errors[name] = max(errors.get(name, 0.0), error)
            same = outputs.argmax(axis=1) == expected.argmax(axis=1)
            if not same[decided(expected, tolerance)].all():
                raise UserError(
                    f"the export does not decide as the model decides: {name}, {run_name}: another best class; "
                    "nothing was written"
                )
            agreements[name] += same.tolist()
    return {
        "images": list(inputs),
        "tolerance": tolerance,
        "relative_error": errors,
        "top1_agreement": {name: sum(same) / len(same) for name, same in agreements.items()},
    }
