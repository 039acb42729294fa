"""Evaluation data that lack classes, and labels that do not begin at 0 or have gaps: numbers keep their meaning."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from classification.build import build_dataset, build_evaluation_dataset, open_dataset
from classification.check import check_config_data
from classification.compression import evaluation_of
from classification.config import load_config
from classification.evaluation import evaluate_config
from classification.task import train_config
from ppcls_ext.engine.environment import prepare_environment
from ppcls_ext.utils.errors import ConfigError, UserError
from ppcls_ext.weights import find_weights
from tests.support.pictures import folder_config, lines_of, list_config, write_class_folders
from tests.support.runs import TINY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes to train on, of which the second is missing in ``val``."""
    write_class_folders(tmp_path / "train", classes=3, images=8)
    write_class_folders(tmp_path / "val", classes=3, images=4, first_seed=500)
    shutil.rmtree(tmp_path / "val" / "class_1")
    return tmp_path


@pytest.mark.parametrize("left", ["missing", "no image"])
def test_a_validation_folder_without_a_class_takes_names_and_numbers_from_training(root: Path, left: str, caplog):
    if left == "no image":
        (root / "val" / "class_1").mkdir()
        (root / "val" / "class_1" / "notes.txt").write_text("none yet")
    narrow = {f"Arch__{key}": TINY[key] for key in ("depth_multiplier", "width_multiplier")}
    config = load_config(folder_config(root, root / "train", root / "val", 3, Global__epochs=1, **narrow))
    logging.getLogger("classification").propagate = True
    with caplog.at_level(logging.WARNING):
        report = train_config(config)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    (line,) = [message for message in warnings if "class_1" in message]
    assert line.startswith("DataLoader.Eval.dataset: no image of 1 of the 3 classes (class_1)")
    assert report["class_names"] == ["class_0", "class_1", "class_2"]
    assert build_evaluation_dataset(config).labels.tolist() == [0] * 4 + [2] * 4
    # With the names of the weights, and no training data, the figures are the same.
    shutil.rmtree(root / "train")
    best = root / "run/checkpoints/best"
    config = load_config(config.document.path, [f"Global.pretrained_model={best}"])
    figures = evaluate_config(config, prepare_environment("cpu", 0))
    assert figures["top1"] == report["history"][-1]["eval"]["top1"]
    # So has int8, whose accuracy is compared with it.
    perfect = [SimpleNamespace(error=None, class_ids=[label]) for label in [0] * 4 + [2] * 4]
    predictor = Mock(side_effect=lambda images, **_: perfect[: len(images)], classes=report["class_names"])
    assert evaluation_of(config).score(predictor) == 1


def test_what_only_the_validation_has_and_what_training_lacks_is_refused(root: Path):
    (root / "val" / "class_3").mkdir()
    config = load_config(folder_config(root, root / "train", root / "val", 3))
    with pytest.raises(UserError, match=r"Eval\.dataset\.image_root: .*class_3 is a class that the training data do"):
        build_evaluation_dataset(config, build_dataset(config, config.train))
    (root / "train" / "class_3").mkdir()
    with pytest.raises(UserError, match=r"Train\.dataset\.image_root: .*class_3 holds no images"):
        build_dataset(config, config.train)


def lists(root: Path, labels: dict[str, int], class_num: int, **relabel: bool) -> Path:
    """Writes lists of ``train`` and ``val`` with these labels, and a configuration that reads them."""
    parts = (lines_of(root / part, root, labels) for part in ("train", "val"))
    return list_config(root, *parts, class_num, **relabel)


FROM_ONE = {"class_0": 1, "class_1": 2, "class_2": 3}
SPARSE = {"class_0": 3, "class_1": 10, "class_2": 70}


def test_relabelled_lists_are_numbered_by_the_training_list(root: Path):
    """The validation list lacks the second label: by its own labels the third class would become the second."""
    config = load_config(lists(root, SPARSE, 3, Train=True, Eval=True))
    train = build_dataset(config, config.train)
    assert sorted(set(train.labels.tolist())) == [0, 1, 2]
    for training in (train, None):
        assert sorted(set(build_evaluation_dataset(config, training).labels.tolist())) == [0, 2]
    (root / "Eval.txt").write_text((root / "Eval.txt").read_text().replace(" 3\n", " 99\n"))
    with pytest.raises(UserError, match=r"Eval\.dataset\.cls_label_path: .* has the label 99, which the training"):
        build_evaluation_dataset(config, train)


def test_relabelling_one_list_only_is_refused(root: Path):
    told = r"DataLoader\.Eval\.dataset\.relabel: is False, but DataLoader\.Train\.dataset\.relabel is True: .*neither"
    with pytest.raises(ConfigError, match=told):
        load_config(lists(root, FROM_ONE, 4, Train=True))


def test_weights_are_evaluated_with_the_labels_that_they_were_trained_with(root: Path):
    narrow = [f"Arch.{key}={TINY[key]}" for key in ("depth_multiplier", "width_multiplier")]
    same = load_config(lists(root, FROM_ONE, 4, Train=True, Eval=True), ["Global.epochs=1", *narrow])
    train_config(same)
    weights = find_weights(root / "run" / "checkpoints" / "best")
    assert sorted(set(build_evaluation_dataset(same, weights=weights).labels.tolist())) == [0, 2]
    config = load_config(lists(root, FROM_ONE, 4), [f"Global.pretrained_model={weights}"])
    told = r"Eval\.dataset\.relabel: is False, but .* trained with True: .*use -o DataLoader\.Eval\..*relabel=True"
    with pytest.raises(UserError, match=told):
        evaluate_config(config, prepare_environment("cpu", 0))
    # The training list is not there: the checkpoint tells the numbers.
    (root / "Train.txt").unlink()
    assert sorted(set(build_evaluation_dataset(same, weights=weights).labels.tolist())) == [0, 2]


@pytest.mark.parametrize(
    ("labels", "what"), [(FROM_ONE, "begin at 1"), (SPARSE, r"have gaps \(3 labels up to 70\)")]
)
def test_labels_from_one_and_labels_with_gaps_name_the_option_that_reads_them(root: Path, labels, what: str):
    config = load_config(lists(root, labels, 3))
    largest = max(labels.values())
    message = rf"label \d+ of .* labels of the list {what}: relabel: True .* numbers them 0 to 2 \(Arch.class_num=3\)"
    with pytest.raises(UserError, match=rf"{message}; or use -o Arch.class_num={largest + 1}$"):
        build_dataset(config, config.train)
    notes = [entry.note for finding in check_config_data(config).findings
             if finding.kind == "label_outside" for entry in finding.entries]  # fmt: skip
    assert sum("relabel: True" in note for note in notes) == 2  # once a set
    assert open_dataset(config, config.train).label_order is None
