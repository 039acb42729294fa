"""Batches are the same for any number of workers, and unreadable images do what they should."""

from __future__ import annotations

import logging
import mmap
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classification.data.datasets import Digits, ImageFolder
from classification.data.loader import build_loader
from classification.data.operators import TRAIN_OPERATORS, build_batch_operator
from ppcls_ext.engine import loader as workers
from ppcls_ext.engine.loader import EpochBatchSampler, Loader
from ppcls_ext.preprocess import build_operators
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.machine import Machine

NORMALIZE = {"NormalizeImage": {"order": ""}}
RECIPE = [
    {"RandCropImage": {"size": 24, "interpolation": "bicubic", "backend": "pil"}},
    {"RandFlipImage": {}},
    {"TimmAutoAugment": {"img_size": 24}},
    NORMALIZE,
    {"RandomErasing": {"EPSILON": 0.5, "mode": "pixel"}},
]
MIXING = [{"OpSampler": {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"alpha": 1.0, "prob": 0.4}}}]


def recipe_loader(sampler: EpochBatchSampler, dataset: Digits, num_workers: int, **options: Any) -> Loader:
    operators, mixing = build_operators(RECIPE, "t", TRAIN_OPERATORS), build_batch_operator(MIXING, "b")
    return build_loader(
        dataset, operators, mixing, sampler, seed=7, training=True, num_workers=num_workers, image_shape=(3, 24, 24),
        **options,
    )  # fmt: skip


def arrays_of(loader: Loader) -> list[dict[str, np.ndarray]]:
    batches = [{name: np.asarray(value) for name, value in batch.items()} for batch in loader]
    loader.close()
    return batches


def assert_same(first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]]) -> None:
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].dtype == right[name].dtype
            assert np.array_equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits("val")


@pytest.fixture(scope="module")
def reference(digits: Digits) -> list[dict[str, np.ndarray]]:
    sampler = EpochBatchSampler(len(digits), 32, shuffle=True, drop_last=True, seed=7)
    sampler.set_position(4)
    return arrays_of(recipe_loader(sampler, digits, 0))


@pytest.mark.parametrize(("num_workers", "use_shared_memory"), [(1, True), (2, False)])
def test_batches_do_not_depend_on_workers(
    digits: Digits, reference: list[dict[str, np.ndarray]], num_workers: int, use_shared_memory: bool
) -> None:
    sampler = EpochBatchSampler(len(digits), 32, shuffle=True, drop_last=True, seed=7)
    sampler.set_position(4)
    loader = recipe_loader(sampler, digits, num_workers, use_shared_memory=use_shared_memory)
    assert len(loader.slots) == (2 * num_workers if use_shared_memory else 0)
    assert_same(arrays_of(loader), reference)


def test_batches_have_the_promised_entries(digits: Digits, reference: list[dict[str, np.ndarray]]) -> None:
    batch = reference[0]
    assert (batch["image"].shape, batch["image"].dtype, batch["lam"].shape) == ((32, 3, 24, 24), np.float32, ())
    assert np.array_equal(batch["label"], digits.labels[batch["index"]])
    assert np.all(batch["bad"] == -1)
    assert sorted(batch["label_mixed"]) == sorted(batch["label"])
    assert any(batch["lam"] < 1 for batch in reference)


def test_a_loader_begins_in_the_middle_of_an_epoch_and_can_be_used_again(
    digits: Digits, reference: list[dict[str, np.ndarray]]
) -> None:
    sampler = EpochBatchSampler(len(digits), 32, shuffle=True, drop_last=True, seed=7)
    loader = recipe_loader(sampler, digits, 2)
    sampler.set_position(3)
    for batch in loader:
        assert not np.array_equal(batch["image"].numpy(), reference[0]["image"])
        break
    sampler.set_position(4, start_batch=6)
    assert_same(arrays_of(loader), reference[6:])
    assert_same(arrays_of(recipe_loader(sampler, digits, 0)), reference[6:])


def test_two_ranks_load_the_images_of_one_process(digits: Digits) -> None:
    operators = build_operators(RECIPE, "t", TRAIN_OPERATORS)

    def batches(batch_size: int, rank: int, world_size: int) -> list[dict[str, np.ndarray]]:
        sampler = EpochBatchSampler(len(digits), batch_size, True, True, 3, rank, world_size)
        return arrays_of(build_loader(digits, operators, None, sampler, seed=3, training=True))

    whole, first, second = batches(16, 0, 1), batches(8, 0, 2), batches(8, 1, 2)
    assert len(whole) == len(first) == len(second)
    for batch, left, right in zip(whole, first, second, strict=True):
        index = np.concatenate([left["index"], right["index"]])
        image = np.concatenate([left["image"], right["image"]])
        order, expected = np.argsort(index), np.argsort(batch["index"])
        assert np.array_equal(index[order], batch["index"][expected])
        assert np.array_equal(image[order], batch["image"][expected])


def image_folder(root: Path, unreadable: set[int], count: int = 6) -> ImageFolder:
    (root / "class").mkdir()
    for number in range(count):
        path = root / "class" / f"{number}.png"
        if number in unreadable:
            path.write_bytes(b"" if number % 2 else b"\x89PNG\r\n\x1a\ncut..")
        else:
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return ImageFolder(str(root))


def plain_loader(dataset: ImageFolder, training: bool, num_workers: int, batch_size: int = 3) -> Loader:
    operators = build_operators(
        [{"NormalizeImage": {"scale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1], "order": ""}}], "t"
    )
    sampler = EpochBatchSampler(len(dataset), batch_size, equal_batches=training)
    return build_loader(dataset, operators, None, sampler, seed=0, training=training, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_replaces_unreadable_images(tmp_path: Path, num_workers: int) -> None:
    batches = arrays_of(plain_loader(image_folder(tmp_path, {1, 2, 5}), True, num_workers))
    assert [batch["index"].tolist() for batch in batches] == [[0, 3, 3], [3, 4, 0]]
    assert [batch["bad"].tolist() for batch in batches] == [[-1, 1, 2], [-1, -1, 5]]
    cut = "is truncated: a PNG picture that ends too early, after 13 bytes"
    empty = "the file is empty (0 bytes)"
    assert [batch["causes"].tolist() for batch in batches] == [[empty, cut], [empty]]
    assert [batch["image"][:, 0, 0, 0].tolist() for batch in batches] == [[0, 3, 3], [3, 4, 0]]


def test_evaluation_leaves_unreadable_images_out(tmp_path: Path) -> None:
    batches = arrays_of(plain_loader(image_folder(tmp_path, {0, 1, 2, 4}), False, 2))
    assert [batch["index"].tolist() for batch in batches] == [[], [3, 5]]
    assert [batch["bad"].tolist() for batch in batches] == [[0, 1, 2], [-1, 4, -1]]
    assert batches[0]["image"].shape == (0, 3, 1, 1)
    assert batches[1]["image"].shape == (2, 3, 8, 8)


def test_data_without_a_batch_stop_with_a_name(tmp_path: Path) -> None:
    dataset = image_folder(tmp_path, set())
    Image.new("RGB", (9, 8)).save(tmp_path / "class" / "1.png")
    loaders = {"images of one batch differ in size": plain_loader(dataset, False, 2)}
    (tmp_path / "damaged").mkdir()
    damaged = image_folder(tmp_path / "damaged", set(range(6)))
    loaders[r"0\.png and the 5 images after it cannot be used"] = plain_loader(damaged, True, 2)
    for message, loader in loaders.items():
        with pytest.raises(UserError, match=message):
            list(loader)
        loader.close()


def test_killed_worker_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    class Deadly(ImageFolder):
        def load(self, index: int) -> tuple[bytes, int]:
            os.kill(os.getpid(), signal.SIGKILL)
            return super().load(index)

    image_folder(tmp_path, set())
    loader = plain_loader(Deadly(str(tmp_path)), True, 1)
    for _ in range(2):
        with pytest.raises(UserError, match="worker was killed"):
            list(loader)
        assert sorted(loader.free_slots) == [0, 1]
    loader.close()


def test_training_leaves_data_in_memory_as_they_are() -> None:
    dataset = Digits("val")
    before = dataset.images.copy()
    operators = build_operators([{"RandomErasing": {"EPSILON": 1.0, "mode": "rand"}}, NORMALIZE], "t", TRAIN_OPERATORS)
    arrays_of(build_loader(dataset, operators, None, EpochBatchSampler(len(dataset), 100), seed=0, training=True))
    assert np.array_equal(dataset.images, before)


def test_too_little_shared_memory_falls_back_to_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(cores=2, memory=4000, memory_available=1000, shared_memory=None, shared_memory_free=None)
    monkeypatch.setattr(workers, "read_machine", lambda: machine)
    with caplog.at_level(logging.WARNING):
        batches = arrays_of(plain_loader(image_folder(tmp_path, set()), False, 2))
    assert sum((batch["index"].tolist() for batch in batches), []) == list(range(6))
    assert len(caplog.records) == 1
    assert "shared memory" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()


def test_images_larger_than_announced_go_through_pipes(tmp_path: Path) -> None:
    dataset = image_folder(tmp_path, set())
    sampler = EpochBatchSampler(len(dataset), 3, equal_batches=False)
    loader = build_loader(
        dataset, build_operators([NORMALIZE], "t"), None, sampler, seed=0, training=False, num_workers=1,
        image_shape=(3, 4, 4),
    )  # fmt: skip
    assert [len(slot) for slot in loader.slots] == [3 * 3 * 4 * 4 * 4] * 2
    assert all(isinstance(slot, mmap.mmap) for slot in loader.slots)
    assert [batch["image"].shape for batch in arrays_of(loader)] == [(3, 3, 8, 8)] * 2
