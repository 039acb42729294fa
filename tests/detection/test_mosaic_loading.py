"""Mosaics in batches: by the epoch on or off, the same for any number of workers and in any order, also in ppdet's own
reader; and a damaged picture among the four is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from detection.configuration import load_config
from detection.loaders import training_loader
from detection.toolkit import workspace
from ppcls_ext.engine.environment import Environment
from tests.support.detectors import NORMALIZE, make_frames, run_config

TRANSFORMS = [
    {"Decode": {}},
    {"MosaicPerspective": {"target_size": [64, 64], "fill_value": [0, 0, 0]}},
    {"RandomHSV": {}},
    {"RandomFlip": {}},
]
BATCH = [NORMALIZE, {"Permute": {}}, {"PadGT": {}}, {"LabelsToInt64": {}}]


def config_of(folder: Path, mosaic_epoch: int = 2, batch: int = 3) -> Any:
    reader = {"sample_transforms": TRANSFORMS, "batch_transforms": BATCH, "batch_size": batch, "shuffle": True,
              "drop_last": True, "mosaic_epoch": mosaic_epoch}  # fmt: skip
    return load_config(run_config(folder, make_frames(folder / "data"), TrainReader=reader))


def batches(
    config: Any, epoch: int, start: int = 0, workers: int = 0, seed: int = 3, rank: int = 0, world_size: int = 1
) -> list[dict]:
    """Returns the batches of an epoch from ``start`` on as arrays."""
    config.data["worker_num"] = workers
    with workspace(config):
        loader = training_loader(config, Environment("cpu", rank, world_size, seed))
        try:
            loader.sampler.set_position(epoch, start)
            return [{name: np.asarray(value) for name, value in batch.items()} for batch in loader]
        finally:
            loader.close()


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
        for one, other in zip(first, second, strict=True)
    )


def boxes_in(found: list[dict]) -> int:
    return int(sum(batch["pad_gt_mask"].sum() for batch in found))


def annotated(folder: Path) -> int:
    data = json.loads((folder / "data" / "annotations" / "train.json").read_text(encoding="utf-8"))
    return len(data["annotations"])


def test_mosaics_end_with_their_epoch(tmp_path):
    mixed, plain = config_of(tmp_path / "mixed", 2), config_of(tmp_path / "plain", -1)
    for epoch, is_mosaic in ((0, True), (1, True), (2, False), (3, False)):
        found = batches(mixed, epoch)
        assert all(batch["image"].shape == (3, 3, 64, 64) for batch in found)
        # Without mosaics the batches are those of a reader that has none.
        assert same(found, batches(plain, epoch)) is not is_mosaic
    # A mosaic shows the boxes of several pictures.
    assert boxes_in(batches(plain, 0)) == annotated(tmp_path / "plain")
    assert boxes_in(batches(mixed, 0)) > 1.3 * annotated(tmp_path / "mixed")


def test_batches_are_the_same_for_any_number_of_workers_and_after_a_resume(tmp_path):
    config = config_of(tmp_path)
    whole = batches(config, 1)
    assert same(whole, batches(config, 1, workers=2))
    assert same(whole[4:], batches(config, 1, start=4, workers=1))
    assert not same(whole, batches(config, 0))
    assert not same(whole, batches(config, 1, seed=4))


def test_ranks_share_the_mosaics_of_one_process(tmp_path):
    alone = batches(config_of(tmp_path / "alone", batch=6), 0)
    config = config_of(tmp_path / "ranks", batch=3)
    parts = [batches(config, 0, rank=rank, world_size=2) for rank in range(2)]
    for number, batch in enumerate(alone):
        for rank in range(2):
            assert np.array_equal(parts[rank][number]["image"], batch["image"][rank::2])


def test_a_damaged_picture_of_a_mosaic_is_named(tmp_path):
    config = config_of(tmp_path)
    damaged = tmp_path / "data" / "images" / "train_05.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    found = batches(config, 0)
    # It is in several mosaics, each of which is another one now, whole.
    assert all(batch["image"].shape == (3, 3, 64, 64) for batch in found)
    assert len({int(number) for batch in found for number in batch["bad"]}) == 1
    assert {str(cause) for batch in found for cause in batch["causes"]} == {
        "is truncated: a PNG picture that ends too early, after 40 bytes"
    }
    assert same(found, batches(config, 0, workers=2))


def test_ppdets_own_reader_makes_the_mosaics_too(tmp_path):
    """As PaddleDetection's trainer does it, which has begun to read an epoch when it tells the number of that."""
    from ppdet.core.workspace import create

    config = config_of(tmp_path, 1)
    with workspace(config):
        dataset = create("TrainDataset")()
        reader = create("TrainReader")(dataset, 0)
        most = []
        for epoch in range(3):
            dataset.set_epoch(epoch)
            found = [batch for batch in reader]
            assert all(tuple(batch["image"].shape) == (3, 3, 64, 64) for batch in found)
            most.append(max(float(batch["pad_gt_mask"].sum(axis=1).max()) for batch in found))
    # A picture has two boxes.
    assert most[0] > 2 and most[2] == 2
