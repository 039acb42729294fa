"""12 bits in files of 16: one range in training, evaluation, export and prediction, found once and kept."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from classification.build import build_evaluation_dataset
from classification.check import check_config_data
from classification.config import load_config
from classification.evaluation import evaluate_config
from classification.task import train_config
from classification.trained import load_trained
from ppcls_ext.engine.environment import prepare_environment
from ppcls_ext.preprocess import depth
from ppcls_ext.runtime import load
from ppcls_ext.utils.errors import ConfigError, UserError
from tests.support.deep_files import twelve_bits, write_deep_folders
from tests.support.pictures import folder_config
from tests.support.runs import TINY

AUTO = "DataLoader.Train.dataset.transform_ops.0.DecodeImage.bits=auto"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data`` (12 bits), ``config.yaml`` without a word on bits, and ``run``, trained with ``AUTO``."""
    folder = tmp_path_factory.mktemp("depth")
    data = write_deep_folders(folder / "data")
    config = folder_config(folder, data, data, Arch={**TINY, "class_num": 2}, EMA=None, Global__epochs=1)
    train_config(load_config(config, [AUTO]))
    return folder


def config_of(run: Path, *changes: str) -> Path:
    best = run / "run" / "checkpoints" / "best"
    return load_config(run / "config.yaml", [f"Global.pretrained_model={best}", *changes])


def statements(file: Path) -> list[dict]:
    return list(depth.statements_in(yaml.safe_load(file.read_text(encoding="utf-8"))).values())


def test_the_run_and_its_checkpoints_hold_the_number_that_was_found(run: Path) -> None:
    for file in (run / "run" / "config.yaml", run / "run" / "checkpoints" / "best" / "config.yaml"):
        # Of training, evaluation and inference, though one of them asked.
        assert statements(file) == [{"bits": 12}] * 3


def test_the_export_prepares_pictures_as_the_training_did(run: Path, tmp_path: Path) -> None:
    trained = load_trained(config_of(run, AUTO))
    trained.export(tmp_path / "export")
    document = yaml.safe_load((tmp_path / "export" / "inference.yml").read_text(encoding="utf-8"))
    assert document["preprocess"][0]["DecodeImage"]["bits"] == 12
    deep, plain = tmp_path / "deep.png", tmp_path / "plain.png"
    Image.fromarray(twelve_bits(7)).save(deep)
    Image.fromarray((twelve_bits(7) >> 4).astype(np.uint8)).save(plain)
    for predictor in (trained.predictor(), load(tmp_path / "export", threads=1)):
        prepared = predictor.prepare(deep, "deep")
        assert np.array_equal(prepared, predictor.prepare(plain, "plain"))
        assert np.ptp(prepared) > 1
    # Another camera: a number for this time.
    ten = tmp_path / "ten.png"
    Image.fromarray(twelve_bits(7) >> 2).save(ten)
    assert np.array_equal(load(tmp_path / "export", threads=1, bits=10).prepare(ten, "ten"), prepared)
    reader = load_config(run / "run" / "config.yaml").train.operators[0]
    assert np.array_equal(reader(deep.read_bytes()), reader(plain.read_bytes()))


def test_evaluation_takes_the_number_of_the_weights(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    environment = prepare_environment("cpu", 0)
    with caplog.at_level(logging.INFO):
        stated = config_of(run, "DataLoader.Eval.dataset.transform_ops.0.DecodeImage.bits=12")
        evaluate_config(stated, environment)
        assert "was trained" not in caplog.text
        evaluate_config(config_of(run), environment)
        assert "bits: 12, as" in caplog.text
    weights = run / "run" / "checkpoints" / "best" / "model.pdparams"
    as_trained = config_of(run).as_trained(weights)
    assert as_trained.eval.operators[0].value_range == (0, 4096)
    # So have those who decode without the operators, such as the picture of the mistakes.
    assert build_evaluation_dataset(as_trained, weights=weights).value_range == (0, 4096)
    caplog.clear()
    # What the configuration states counts, but is doubted.
    other = config_of(run, "Infer.transforms.0.DecodeImage.bits=16").as_trained(weights)
    assert other.eval.operators[0].value_range == (0, 65536)
    assert "was trained with bits: 12" in caplog.text


def test_a_resumed_run_keeps_its_number(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_deep_folders(tmp_path / "data")
    Image.fromarray(twelve_bits(1) * 16).save(data / "class_0" / "99.png")
    place = f"image_root={data}"
    changes = [AUTO, f"DataLoader.Train.dataset.{place}", f"DataLoader.Eval.dataset.{place}", "Global.epochs=2"]
    config = load_config(run / "config.yaml", [*changes, f"Global.output_dir={tmp_path / 'run'}"])
    with caplog.at_level(logging.INFO):
        train_config(config, resume=str(run / "run" / "checkpoints" / "latest"))
    assert "bits: auto is bits: 12, as" in caplog.text
    assert statements(tmp_path / "run" / "config.yaml") == [{"bits": 12}] * 3


def test_weights_of_another_run_know_no_number_and_lists_that_differ_are_refused(run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pdparams"
    weights.write_bytes((run / "run" / "checkpoints" / "best" / "model.pdparams").read_bytes())
    with pytest.raises(UserError, match="bits: auto is found on the training set"):
        load_trained(load_config(run / "config.yaml", [AUTO, f"Global.pretrained_model={weights}"]))
    with pytest.raises(ConfigError, match="DecodeImage.bits: states bits: 16, but .* bits: auto"):
        config_of(run, AUTO, "Infer.transforms.0.DecodeImage.bits=16")


def test_the_check_warns_of_an_empty_range_and_sees_what_the_trainer_sees(run: Path) -> None:
    found = {one.kind: one for one in check_config_data(config_of(run)).findings}
    assert "state bits: 12" in found["value_range"].entries[0].note
    check = check_config_data(config_of(run, AUTO))
    assert {one.kind for one in check.findings} >= {"sixteen_bit"}
    assert not {one.kind for one in check.findings} & {"value_range", "black_image"}
