"""``configs/finetune_folder.yaml`` on folders of one's own: one for both parts, or one for each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from classification.build import build_dataset, build_evaluation_dataset
from classification.config import load_config
from ppcls_ext.utils.errors import ConfigError
from tests.support.pictures import write_class_folders
from tests.support.runs import ROOT

FILE = ROOT / "configs" / "finetune_folder.yaml"


def counts(train: str | Path, evaluation: str | Path) -> list[int]:
    roots = {"Train": train, "Eval": evaluation}
    config = load_config(FILE, [f"DataLoader.{part}.dataset.image_root={root}" for part, root in roots.items()])
    training = build_dataset(config, config.train)
    return [len(training), len(build_evaluation_dataset(config, training))]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "train", images=10)


def test_one_folder_is_divided_whatever_it_is_called(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "link").symlink_to(train)
    monkeypatch.chdir(tmp_path)
    for name in (train, "train", "./train/../train/", tmp_path / "link"):
        with caplog.at_level("INFO"):
            assert counts(train, name) == [16, 4]
    assert "DataLoader.Train.dataset: 16 images of 20, the other 4 are held out" in caplog.text


def test_of_two_folders_all_images_are_used(train: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluation = write_class_folders(tmp_path / "val", images=3, first_seed=90)
    with caplog.at_level("INFO"):
        assert counts(train, evaluation) == [20, 6]
    assert "DataLoader.Eval.dataset: 6 images, all of the folder" in caplog.text


def test_folders_that_share_images_are_refused(train: Path, tmp_path: Path) -> None:
    write_class_folders(train / "val", images=2)
    with pytest.raises(ConfigError, match="Eval.dataset.image_root: .*/train/val lies in .*/train: images would be"):
        counts(train, train / "val")
    with pytest.raises(ConfigError, match="/train/val lies in"):
        counts(train / "val", train)
    name = sorted(os.listdir(train))[0]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / name).symlink_to(train / name)
    with pytest.raises(ConfigError, match="are one folder"):
        counts(train, tmp_path / "linked")
