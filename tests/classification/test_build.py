"""From settings to objects: mistakes that only show when data are opened or a picture goes through the network."""

from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace

import pytest

from classification.build import (
    UnavailableDataError,
    build_dataset,
    build_network,
    check_image_shape,
    check_same_classes,
    open_dataset,
    read_class_names,
)
from classification.config import load_config
from classification.prepare import write_samples
from classification.trained import load_trained
from ppcls_ext import build_model
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.runs import TINY, tiny_config, write_config


def config_of(folder, name=None, **changes):
    settings = tiny_config(folder / "run", **changes)
    if name is not None:
        settings["Arch"] = {"class_num": 10, "name": name}
    return load_config(write_config(folder, settings))


def test_data_that_are_not_there_are_needed_for_all_but_prediction(tmp_path, caplog):
    weights = tmp_path / "weights.pdparams"
    write_weights(weights, build_model(**TINY).state_dict())
    absent = {"name": "ImageFolder", "image_root": str(tmp_path / "absent")}
    config = config_of(tmp_path, DataLoader__Eval__dataset=absent, Global__pretrained_model=str(weights))
    for opening in (
        lambda: open_dataset(config, config.eval),
        lambda: build_dataset(config, config.eval),
        lambda: write_samples(config, "Eval", 3, tmp_path / "samples"),
    ):
        with pytest.raises(UnavailableDataError, match=r"Eval\.dataset\.image_root: .*absent does not exist"):
            opening()
    with caplog.at_level(logging.INFO):
        assert load_trained(config).class_names is None
    assert "absent does not exist): going on without it" in caplog.text


def test_only_training_speaks_of_synchronised_batch_norm(tmp_path, caplog):
    config = config_of(tmp_path, Arch__use_sync_bn=True)
    with caplog.at_level(logging.INFO):
        build_network(config)
        assert caplog.text == ""
        build_network(config, environment_on_gpu=False)
    assert "Arch.use_sync_bn needs a GPU" in caplog.text
    kinds = {type(layer).__name__ for layer in build_network(config, environment_on_gpu=True).sublayers()}
    assert "SyncBatchNorm" in kinds and "BatchNorm2D" not in kinds


def test_class_names_of_a_file_of_another_system(tmp_path):
    (tmp_path / "names.txt").write_bytes("0 海参\r\n2\t海 胆\r\n".encode("gb18030"))
    processing = SimpleNamespace(class_id_map_file=str(tmp_path / "names.txt"), delimiter=None)
    config = dataclasses.replace(config_of(tmp_path), postprocess=processing)
    assert read_class_names(config, None) == ["海参", "1", "海 胆"]


def test_class_names_that_differ_are_told_by_the_first_difference():
    names = ["a", "b", "c"]
    for others, difference in ((["a", "c"], "label 1 is 'c' and 'b'"), ([*names, "d"], "label 3 is 'd' and nothing")):
        with pytest.raises(UserError, match=f"Eval and Train name different classes: {difference}"):
            check_same_classes(names, "Train", others, "Eval")
    check_same_classes(names, "Train", names, "Eval")
    check_same_classes(names, "Train", None, "Eval")


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        (None, {"Arch__in_channels": 1}, r": its first convolution takes 1 channels, not 3$"),
        ("ViT_small_patch16_224", {}, r": Input image size \(32\*32\) doesn't match model \(224\*224\)\.$"),
        ("GoogLeNet", {}, r": they are too small, \S+ leaves nothing of them$"),
        ("VGG11", {}, "$"),
        (
            None, {"Arch__stem_stride": 4, "Global__image_shape": [3, 28, 28]},
            r": they are too small, its last stage needs 32 px; a smaller Arch\.stem_stride needs fewer$",
        ),
    ],
)  # fmt: skip
def test_a_shape_that_the_network_cannot_take_is_one_line(tmp_path, name, changes, reason):
    refusal = rf"Global\.image_shape: {name or 'EConvNeXt_mini'} cannot take images of shape \[.*\]{reason}"
    with pytest.raises(UserError, match=refusal) as told:
        build_network(config_of(tmp_path, name, **changes))
    assert "\n" not in str(told.value)


def test_the_check_leaves_a_new_network_in_training_mode_with_its_statistics(tmp_path):
    config, model = config_of(tmp_path), build_model(**{**TINY, "class_num": 7})
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    told = r"Arch\.class_num: .*outputs of shape \[1, 7\] for one image, expected \[1, 10\]"
    with pytest.raises(UserError, match=told):
        check_image_shape(config, model)
    assert all(layer.training for layer in model.sublayers(include_self=True))
    assert all((value.numpy() == before[name]).all() for name, value in model.state_dict().items())
