"""From settings to objects: mistakes that only show when data are opened, and batch norm over several GPUs."""

from __future__ import annotations

import logging

import pytest

from classification.build import build_dataset, build_network
from classification.config import load_config
from classification.opening import UnavailableDataError, check_same_classes, open_dataset
from classification.prepare import write_samples
from classification.trained import load_trained
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.runs import TINY, tiny_config, write_config


def config_of(folder, **changes):
    return load_config(write_config(folder, tiny_config(folder / "run", **changes)))


def openers(config, folder):
    """All that open ``DataLoader.Eval``."""
    return {
        "itself": lambda: open_dataset(config, config.eval),
        "training": lambda: build_dataset(config, config.eval),
        "samples": lambda: write_samples(config, "Eval", 3, folder / "samples"),
        "prediction": lambda: load_trained(config),
    }


@pytest.fixture
def weights(tmp_path):
    from ppcls_ext import build_model

    file = tmp_path / "weights.pdparams"
    write_weights(file, build_model(**TINY).state_dict())
    return str(file)


def test_an_argument_out_of_range_is_one_line_whoever_opens_the_data(tmp_path, weights):
    config = config_of(tmp_path, DataLoader__Eval__dataset__holdout=2.0, Global__pretrained_model=weights)
    expected = "DataLoader.Eval.dataset.holdout: must be above 0 and below 1, got 2.0"
    for name, opening in openers(config, tmp_path).items():
        with pytest.raises(UserError) as told:
            opening()
        assert str(told.value).endswith(expected), name


def test_data_that_are_not_there_are_needed_for_all_but_prediction(tmp_path, weights, caplog):
    absent = {"name": "ImageFolder", "image_root": str(tmp_path / "absent")}
    config = config_of(tmp_path, DataLoader__Eval__dataset=absent, Global__pretrained_model=weights)
    opening = openers(config, tmp_path)
    for name in ("itself", "training", "samples"):
        with pytest.raises(UnavailableDataError, match=r"Eval\.dataset\.image_root: .*absent does not exist"):
            opening[name]()
    with caplog.at_level(logging.INFO):
        assert opening["prediction"]().class_names is None
    assert "absent does not exist): going on without it" in caplog.text


def test_only_training_speaks_of_synchronised_batch_norm(tmp_path, caplog):
    config = config_of(tmp_path, Arch__use_sync_bn=True)
    with caplog.at_level(logging.INFO):
        build_network(config)
    assert caplog.text == ""
    with caplog.at_level(logging.INFO):
        build_network(config, environment_on_gpu=False)
    assert "Arch.use_sync_bn needs a GPU" in caplog.text
    kinds = {type(layer).__name__ for layer in build_network(config, environment_on_gpu=True).sublayers()}
    assert "SyncBatchNorm" in kinds
    assert "BatchNorm2D" not in kinds


@pytest.mark.parametrize(
    ("names", "others", "difference"),
    [
        (["a", "b", "c"], ["a", "c"], "label 1 is 'c' and 'b'"),
        (["a", "b"], ["a", "b", "c"], "label 2 is 'c' and nothing"),
    ],
)
def test_class_names_that_differ_are_told_by_the_first_difference(names, others, difference):
    with pytest.raises(UserError, match=f"Eval and Train name different classes: {difference}"):
        check_same_classes(names, "Train", others, "Eval")
    check_same_classes(names, "Train", names, "Eval")
    check_same_classes(names, "Train", None, "Eval")
