"""Image operators of ours for ppdet's readers, named in YAML like its own: ``sample_transforms: [SonarEnhance: {...}]``.

Those that draw random numbers use NumPy's global generator, as ppdet's operators do; the loader seeds it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ppdet.data.transform
from ppdet.data.transform.operators import BaseOperator, register_op

from ppcls_ext.common.errors import UserError


class LabelsToInt64(BaseOperator):
    """Makes ``gt_class`` ``int64``; stands in ``batch_transforms``, behind ``PadGT``.

    ppdet's assigners add the labels to ``int64`` indices, and Paddle 3 refuses to mix the two types.
    """

    def __call__(self, samples: list[dict[str, Any]], context: Any = None) -> list[dict[str, Any]]:
        """Converts ``gt_class`` ``[N, 1]`` of each sample of the batch that has it."""
        for sample in samples:
            if "gt_class" in sample:
                sample["gt_class"] = np.asarray(sample["gt_class"]).astype(np.int64, copy=False)
        return samples


OPERATORS = (LabelsToInt64,)


def register() -> None:
    """Makes the operators known to ppdet's readers. May be called again.

    Raises:
        UserError: ppdet already has another operator of the same name.
    """
    for operator in OPERATORS:
        name = operator.__name__
        present = getattr(BaseOperator, name, None)
        if present is None:
            register_op(operator)
        elif present is not operator:
            raise UserError(f"ppdet already has another image operator '{name}' ({present.__module__})")
        # The readers look here, where the decorator alone does not put it.
        setattr(ppdet.data.transform, name, operator)
