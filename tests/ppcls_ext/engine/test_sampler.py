"""Batches cover the data as they should, for one process and for several."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.engine.loader import EpochBatchSampler


def indices(sampler: EpochBatchSampler) -> list[list[int]]:
    return [[key.index for key in batch] for batch in sampler]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("length", [24, 29])
def test_ranks_together_make_the_batches_of_one_process(
    length: int, drop_last: bool, shuffle: bool, world_size: int
) -> None:
    one = indices(EpochBatchSampler(length, 4 * world_size, shuffle, drop_last, seed=5))
    ranks = [
        indices(EpochBatchSampler(length, 4, shuffle, drop_last, 5, rank, world_size)) for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    for number, parts in enumerate(zip(*ranks, strict=True)):
        assert len({len(part) for part in parts}) == 1  # else the average over the ranks is not that over the samples
        together = sum(parts, [])
        if number < len(one) - 1 or drop_last:
            assert sorted(together) == sorted(one[number])
        assert set(together) <= set(one[number])
    left_out = length - sum(len(batch) for batches in ranks for batch in batches)
    assert left_out == length % (4 * world_size if drop_last else world_size)


@pytest.mark.parametrize("length", [1, 8, 9])
@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_sees_every_sample_once(length: int, world_size: int) -> None:
    seen = []
    for rank in range(min(world_size, length)):
        sampler = EpochBatchSampler(length, 4, rank=rank, world_size=world_size, equal_batches=False)
        batches = indices(sampler)
        assert len(batches) == len(sampler)
        seen += sum(batches, [])
    assert sorted(seen) == list(range(length))


def test_order_changes_with_epoch_and_seed_only() -> None:
    sampler = EpochBatchSampler(40, 8, shuffle=True, seed=1)
    first = indices(sampler)
    assert indices(sampler) == first
    sampler.set_position(1)
    second = indices(sampler)
    assert second != first
    sampler.set_position(0)
    assert indices(sampler) == first
    assert indices(EpochBatchSampler(40, 8, shuffle=True, seed=2)) != first
    assert sorted(sum(second, [])) == list(range(40))


@pytest.mark.parametrize("factors", [None, np.full(40, 1.7)])
def test_start_in_the_middle_of_an_epoch(factors: np.ndarray | None) -> None:
    sampler = EpochBatchSampler(40, 8, shuffle=True, seed=1, factors=factors)
    count = 5 if factors is None else 9
    sampler.set_position(3)
    whole = list(sampler)
    assert (len(sampler), len(whole), whole[0][0].epoch) == (count, count, 3)
    for start in (2, count):
        sampler.set_position(3, start_batch=start)
        assert list(sampler) == whole[start:]


def test_too_few_samples_for_a_batch() -> None:
    with pytest.raises(ValueError, match="^batch_size: 10 samples do not fill a batch of 8 on 2"):
        EpochBatchSampler(10, 8, drop_last=True, world_size=2)
