"""Device, rank and seeds of a process."""

from __future__ import annotations

import logging
import random

import numpy as np
import paddle
import pytest

from ppcls_ext.engine.environment import (
    Environment,
    choose_device,
    derive_seed,
    rank_from_environment,
    seed_everything,
    sum_over_ranks,
)

no_gpu = pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="has a GPU: nothing to fall back from")


@no_gpu
@pytest.mark.parametrize("wanted", ["gpu", "npu"])
def test_a_device_that_is_not_there_falls_back_to_the_cpu_in_one_line(caplog, wanted):
    with caplog.at_level(logging.INFO):
        assert choose_device(wanted) == "cpu"
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith(f"Global.device is '{wanted}', but Paddle ")
    assert caplog.records[0].getMessage().endswith(": running on the CPU")


def test_the_cpu_is_taken_without_a_word(caplog):
    with caplog.at_level(logging.INFO):
        assert choose_device("cpu") == "cpu"
    assert caplog.records == []


def test_rank_and_size_are_what_the_launcher_says(monkeypatch):
    monkeypatch.delenv("PADDLE_TRAINER_ID", raising=False)
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)
    assert rank_from_environment() == (0, 1)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "3")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "8")
    assert rank_from_environment() == (3, 8)


def test_the_first_rank_writes_and_a_gpu_is_recognised():
    assert Environment("gpu:1", 0, 2, 0).is_main
    assert not Environment("cpu", 1, 2, 0).is_main
    assert Environment("gpu:1", 0, 2, 0).on_gpu
    assert not Environment("cpu", 0, 1, 0).on_gpu


def test_seeds_depend_on_every_part_and_stay_the_same_for_ever():
    """A changed number would silently change every run that is resumed."""
    assert derive_seed(0, "batch", 0, 3, 17) == 459009808
    parts = [(seed, rank, epoch, step) for seed in (0, 1) for rank in (0, 1) for epoch in (0, 1) for step in range(50)]
    assert len({derive_seed(*part) for part in parts}) == len(parts)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert all(0 <= derive_seed(number) < 2**31 for number in range(200))


def test_one_seed_for_all_three_generators():
    def draw() -> list[float]:
        return [random.random(), float(np.random.random()), float(paddle.rand([1]))]

    seed_everything(5)
    first = draw()
    assert draw() != first
    seed_everything(5)
    assert draw() == first


def test_the_sum_over_one_process_is_what_it_was():
    assert sum_over_ranks(np.array([1.5, 2.0]), 1).tolist() == [1.5, 2.0]
