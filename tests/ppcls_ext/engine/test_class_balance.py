"""Weights of classes, and epochs that show rare classes more often, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.engine.class_balance import class_sampling, class_weights, repeat_sampling
from ppcls_ext.engine.loader import EpochBatchSampler

NAMES = ["cat", "dog", "eel", "none"]
COUNTS = np.array([600, 300, 100, 0])


def test_weights_follow_the_counts_and_keep_the_size_of_the_loss() -> None:
    balanced = class_weights("balanced", NAMES, COUNTS)
    np.testing.assert_allclose(balanced, [1000 / (3 * 600), 1000 / (3 * 300), 1000 / (3 * 100), 1], rtol=1e-6)
    effective = class_weights("effective_number", NAMES, COUNTS)
    # (1 - b) / (1 - b^n), up to a factor.
    expected = [1 / (1 - 0.999**n) for n in (600, 300, 100)]
    np.testing.assert_allclose(effective[:3] / effective[0], np.array(expected) / expected[0], rtol=1e-5)
    for weights in (balanced, effective):
        assert (weights * COUNTS).sum() / COUNTS.sum() == pytest.approx(1)


def test_stated_weights_by_name_and_in_order() -> None:
    assert class_weights({"dog": 2, "none": 0}, NAMES, COUNTS).tolist() == [1, 2, 1, 0]
    assert class_weights({3: 2.5}, ["1", "2", "3"], COUNTS).tolist() == [1, 1, 2.5]
    assert class_weights({1: 2, "eel": 3}, NAMES, COUNTS).tolist() == [1, 2, 3, 1]
    assert class_weights([1, 2, 3, 4], NAMES, COUNTS).tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="no class 'dogg' .did you mean 'dog'.*: cat, dog, eel, none"):
        class_weights({"dogg": 2}, NAMES, COUNTS)
    with pytest.raises(ValueError, match="must have 4 numbers, one for each class, got 2"):
        class_weights([1, 2], NAMES, COUNTS)


@pytest.mark.parametrize(("kind", "shares"), [("full", [1, 1, 1]), ("square_root", [20**0.5, 4**0.5, 1])])
def test_class_sampling_draws_classes_by_a_power_of_their_counts(kind: str, shares: list[float]) -> None:
    labels = np.repeat([0, 1, 2], [200, 40, 10])
    factors, line = class_sampling(kind, labels, [*NAMES[:3], "none"])
    drawn = np.bincount(labels, factors)
    np.testing.assert_allclose(drawn / drawn.sum(), np.array(shares) / sum(shares))
    assert f"class_sampling {kind}: an epoch shows 250 images" in line and "eel" in line


def test_repeat_factors_of_lvis() -> None:
    # Of 100 images 80 show class 0, 20 class 1 and 5 class 2; image 0 shows classes 0 and 2, the last ones nothing.
    rows = np.concatenate([np.arange(80), np.arange(80), np.arange(60, 80), np.arange(5)])
    classes = np.repeat([0, 0, 1, 2], [80, 80, 20, 5])
    factors, line = repeat_sampling(0.4, rows, classes, 100, NAMES)
    assert factors[0] == pytest.approx((0.4 / 0.05) ** 0.5) and factors[70] == pytest.approx(2**0.5)
    assert factors[30] == factors[99] == 1
    assert f"an epoch shows {round(factors.sum())} images in place of 100" in line and "eel 2.83 (of 5)" in line


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_sampler_shows_each_sample_as_often_as_its_factor_says(world_size: int) -> None:
    factors = np.array([0.2, 2.3, 1.0, 0.5, 3.0] * 8)
    samplers = [
        EpochBatchSampler(40, 4, True, seed=3, rank=rank, world_size=world_size, factors=factors)
        for rank in range(world_size)
    ]
    counts = []
    for epoch in range(60):
        keys = []
        for sampler in samplers:
            sampler.set_position(epoch)
            batches = list(sampler)
            assert len(batches) == len(samplers[0]) == len(sampler)
            keys += sum(batches, [])
        assert len(keys) == 56
        # Each copy of a sample is told from the others, so that it is augmented otherwise.
        assert len({(key.index, key.copy) for key in keys}) == 56
        assert all((key.index, key.copy - 1) in {(one.index, one.copy) for one in keys} for key in keys if key.copy)
        counts.append(np.bincount([key.index for key in keys], minlength=40))
        assert (np.abs(counts[-1] - factors) < 1).all()
    np.testing.assert_allclose(np.mean(counts, axis=0), factors, atol=0.25)
    assert len({tuple(count) for count in counts}) == 60
