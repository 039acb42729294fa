"""Compares the outputs of an export with those of the model that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppcls_ext.common.errors import UserError
from ppcls_ext.runtime.contract import Backend

TOLERANCE = 1e-4


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
        What was measured: ``images``, ``tolerance``, and ``relative_error`` by candidate.

    Raises:
        UserError: a candidate differs by more; the message names candidate, image and error.
    """
    errors: dict[str, float] = {}
    batch = np.stack(list(inputs.values()))
    runs = {name: image[np.newaxis] for name, image in inputs.items()} | {f"all {len(inputs)} images at once": batch}
    for run_name, images in runs.items():
        expected = reference.run(images)
        for name, candidate in candidates.items():
            error = relative_error(candidate.run(images), expected)
            if not error <= tolerance:
                raise UserError(
                    f"the export does not compute what the model computes: {name}, {run_name}: relative error "
                    f"{error:.1e}, allowed {tolerance:.0e}; nothing was written"
                )
            errors[name] = max(errors.get(name, 0.0), error)
    return {"images": list(inputs), "tolerance": tolerance, "relative_error": errors}
