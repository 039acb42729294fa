"""Splits: by lists, by seed with alike frames together and classes balanced; always written down."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from detection.prepare.split import BLOCK, LARGEST_SHARE, THRESHOLDS, group_frames, look_of
from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import Prepared, corners, frame, prepared, write_image, write_voc

SEQUENCES, LENGTH = 10, 4


def sequences(folder: Path) -> Path:
    """Ten sequences of four frames that hardly move; names and order tell nothing of the sequence."""
    order = np.random.default_rng(3).permutation(SEQUENCES * LENGTH)
    for name, number in enumerate(order.tolist()):
        sequence, step = divmod(number, LENGTH)
        path = folder / "Images" / f"{name:03d}.png"
        write_image(path, seed=sequence, shift=step)
        objects = [corners("cube" if sequence % 2 else "ball", 5, 6, 25, 36)]
        objects += [corners("tyre", 30, 6, 50, 36)] if sequence in (4, 7) else []
        write_voc(folder / "Annotations" / f"{name:03d}.xml", *objects)
    return folder


def sequence_of(name: str) -> int:
    order = np.random.default_rng(3).permutation(SEQUENCES * LENGTH)
    return int(order[int(Path(name).stem)]) // LENGTH


def split(raw: Path, *arguments: str | Path) -> Prepared:
    return prepared("sonar", raw, "--classes", "cube,ball,tyre", *arguments)


def test_seeded_split_keeps_sequences_together_and_balances_classes(tmp_path: Path) -> None:
    result = split(sequences(tmp_path / "raw"))
    sides = {part: {sequence_of(name) for name in result.names(part)} for part in ("train", "val")}
    assert sides["train"] | sides["val"] == set(range(SEQUENCES))
    assert sides["train"] & sides["val"] == set()
    # The class that comes in two sequences only is on both sides, and the share of frames is the wanted one.
    assert {part: result.report["parts"][part]["boxes_by_class"]["tyre"] for part in sides} == {"train": 4, "val": 4}
    assert len(result.names("val")) == 8
    assert result.split["groups"] == SEQUENCES and result.split["largest_group"] == LENGTH
    names = {part: [Path(name).name for name in result.split["parts"][part]] for part in sides}
    assert names == {part: result.names(part) for part in sides}
    assert result.reasons("alike_across_the_split") == []


def test_same_seed_same_split_and_written_lists_give_it_again(tmp_path: Path) -> None:
    raw = sequences(tmp_path / "raw")
    splits = [split(raw, "--seed", str(seed)).names("val") for seed in (1, 2, 0, 0)]
    assert splits[2] == splits[3]
    assert any(split != splits[2] for split in splits)
    lists = [tmp_path / "prepared" / "split" / f"{part}.txt" for part in ("train", "val")]
    assert split(raw, "--split-files", *lists).names("val") == splits[3]


def write_lists(folder: Path, train: list[str], val: list[str]) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    for name, lines in (("train.txt", train), ("val.txt", val)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / "train.txt", folder / "val.txt"


def test_split_by_lists_in_the_source_folder(tmp_path: Path) -> None:
    raw = sequences(tmp_path / "raw")
    # The ways to name a frame: stem, file, path with and without suffix; a label may follow.
    train = ["000", "001.png", "Images/002.png", "Images/003 1", *[f"{number:03d}" for number in range(4, 30)]]
    write_lists(raw, [*train, "", "005"], [f"{number:03d}" for number in range(30, 39)] + ["missing"])
    result = split(raw, "--split-files", "train.txt", "val.txt")
    assert result.names("train") == [f"{number:03d}.png" for number in range(30)]
    assert result.names("val") == [f"{number:03d}.png" for number in range(30, 39)]
    assert result.split["method"] == "files"
    assert result.reasons("listed_twice") == ["train.txt: lists 005 twice"]
    assert result.reasons("listed_but_missing") == ["val.txt: lists missing, which is no annotated frame of the source"]
    assert result.reasons("in_no_list") == ["Images/039.png: no split file lists it"]
    assert result.report["images"] == {"input": 40, "kept": 39, "rejected": 0, "left_out": 1}
    # Sequences were torn apart, and the report says so.
    assert "validation frames look nearly the same as a training frame" in result.reasons("alike_across_the_split")[0]


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for run in ("a", "b"):
        write_image(raw / run / "0.png", seed=ord(run))
        write_voc(raw / run / "0.xml", corners("cube", 5, 6, 25, 36))
    lists = write_lists(tmp_path / "lists", ["a/0"], ["0"])
    with pytest.raises(UserError, match=r"0 means several frames \(a/0.png, b/0.png\)"):
        split(raw, "--split-files", *lists)
    lists = write_lists(tmp_path / "lists", ["a/0", "b/0"], ["b/0.png"])
    with pytest.raises(UserError, match="b/0.png is also listed for train"):
        split(raw, "--split-files", *lists)
    lists = write_lists(tmp_path / "lists", ["a/0"], ["b/0.png"])
    assert split(raw, "--split-files", *lists).names("val") == ["b__0.png"]
    write_image(raw / "a" / "0.png", seed=ord("b"))
    with pytest.raises(UserError, match="all 2 frames look nearly the same"):
        split(raw)


def test_frames_that_are_all_alike_take_memory_by_their_number_not_by_their_pairs() -> None:
    looks = np.random.default_rng(0).standard_normal((1, 1024)) + np.zeros((3 * BLOCK, 1))
    looks = (looks / np.linalg.norm(looks, axis=1, keepdims=True)).astype(np.float32)
    tracemalloc.start()
    groups, _ = group_frames(looks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not groups.any()
    assert peak < 100e6, f"{peak / 1e6:.0f} MB; all pairs take 20 bytes each"


def test_threshold_rises_where_a_scene_hardly_changes() -> None:
    generator = np.random.default_rng(0)
    base = frame(1).astype(np.float32)
    pictures = []
    for _ in range(6):
        change = 30 * generator.standard_normal((6, 8, 1)).astype(np.float32)
        change = np.kron(change, np.ones((8, 8, 1), dtype=np.float32))
        pictures += [np.clip(base + 0.15 * change, 0, 255).astype(np.uint8)] * 3
    looks = np.stack([look_of(picture) for picture in pictures])
    assert (looks @ looks.T).min() > THRESHOLDS[0]
    groups, threshold = group_frames(looks)
    assert threshold > THRESHOLDS[0]
    assert np.bincount(groups).max() <= LARGEST_SHARE * len(looks)
