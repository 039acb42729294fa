"""Mixing of batches: what is mixed, with which weight, how often."""

from __future__ import annotations

import numpy as np
import pytest

from classification.data.operators import CutmixOperator, MixupOperator, build_batch_operator


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(8)
    return np.broadcast_to(labels.astype(np.float32)[:, None, None, None], (8, 3, 20, 30)).copy(), labels


def test_mixup_is_the_weighted_mean_and_cutmix_weighs_by_the_share_that_stayed(batch: tuple) -> None:
    images, labels = batch
    before = images.copy()
    mixed, first, second, weight = MixupOperator(alpha=0.8)(images, labels, np.random.default_rng(0))
    assert np.array_equal(first, labels) and 0 <= weight <= 1 and mixed.dtype == np.float32
    expected = weight * first + (1 - weight) * second
    np.testing.assert_allclose(mixed, np.broadcast_to(expected[:, None, None, None], mixed.shape), atol=1e-5)
    for seed in range(3):
        mixed, first, second, weight = CutmixOperator(alpha=1.0)(images, labels, np.random.default_rng(seed))
        for number in np.flatnonzero(first != second):
            assert np.mean(mixed[number] == first[number]) == pytest.approx(weight)
            assert np.mean(mixed[number] == second[number]) == pytest.approx(1 - weight)
    assert np.array_equal(images, before)


def test_op_sampler_keeps_to_its_probabilities(batch: tuple[np.ndarray, np.ndarray]) -> None:
    nested = {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"alpha": 1.0, "prob": 0.3}}
    operator = build_batch_operator([{"OpSampler": nested}], "b")
    images, labels = batch
    generator = np.random.default_rng(0)
    counts = {"mixup": 0, "cutmix": 0, "neither": 0}
    for _ in range(2000):
        mixed, _first, second, weight = operator(images, labels, generator)
        if mixed is images:
            assert weight == 1.0 and np.array_equal(second, labels)
            counts["neither"] += 1
        else:
            counts["mixup" if np.any(mixed != np.round(mixed)) else "cutmix"] += 1
    assert list(counts.values()) == pytest.approx([1000, 600, 400], abs=110)
