"""Operators of ours in ppdet's readers."""

from __future__ import annotations

import numpy as np
import pytest

from detection.toolkit import register
from ppcls_ext.common.errors import UserError


@pytest.fixture(autouse=True)
def registered():
    register()


def sample_with(boxes: int) -> dict:
    return {
        "image": np.zeros([3, 8, 8], np.float32),
        "gt_bbox": np.zeros([boxes, 4], np.float32),
        "gt_class": np.ones([boxes, 1], np.int32),
    }


@pytest.mark.parametrize("counts", [(2, 1), (0, 3), (0, 0)])
def test_readers_give_labels_of_64_bits(counts):
    from ppdet.data.reader import BatchCompose

    batch = BatchCompose([{"PadGT": {}}, {"LabelsToInt64": {}}])([sample_with(count) for count in counts])
    assert np.asarray(batch["gt_class"]).dtype == np.int64
    assert np.asarray(batch["gt_class"]).shape == (2, max(counts), 1)


def test_batches_without_labels_pass():
    from ppdet.data.reader import BatchCompose

    batch = BatchCompose([{"LabelsToInt64": {}}])([{"image": np.zeros([3, 8, 8], np.float32)}])
    assert set(batch) == {"image"}


def test_registration_may_be_repeated_but_replaces_nothing(monkeypatch):
    from ppdet.data import transform
    from ppdet.data.transform.operators import BaseOperator

    register()
    assert transform.LabelsToInt64 is BaseOperator.LabelsToInt64

    monkeypatch.setattr(BaseOperator, "LabelsToInt64", type("LabelsToInt64", (), {}))
    with pytest.raises(UserError, match="already has another image operator 'LabelsToInt64'"):
        register()
