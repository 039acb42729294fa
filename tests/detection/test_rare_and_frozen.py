"""Class weights, repeated images, frozen stages and learning rates by depth of detectors."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from detection.configuration import DetectionConfig, load_config
from detection.task import train_config
from ppcls_ext.utils.errors import ConfigError, UserError
from ppcls_ext.weights import read_weights
from tests.support.detectors import make_frames, run_config
from tests.support.runs import same_files

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")
CHANGES: dict[str, Any] = {
    "class_weights": {"tyre": 3}, "repeat_threshold": 0.9, "freeze_stages": 2, "freeze_epochs": 1, "layer_decay": 0.8,
    "save_steps": 2,
}  # fmt: skip
HELD = ("backbone.stem.", "backbone.stages.0.", "backbone.stages.1.")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_frames(tmp_path_factory.mktemp("rare"))


def config_of(folder: Path, data: Any, **changes: Any) -> DetectionConfig:
    return load_config(run_config(folder, data, **{**CHANGES, **changes}))


def test_a_run_with_all_of_it_says_so_holds_its_stages_and_resumes_to_the_same_bits(
    data: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        config = config_of(tmp_path / "whole", data)
        train_config(config)
    # Of 18 images, one of them empty, 11 or 12 show each class.
    assert "repeat_threshold 0.9: an epoch shows 22 images in place of 18" in caplog.text
    assert "freeze_stages without pretrain_weights freezes random weights (stem and stages 1 to 2)" in caplog.text
    assert "class_weights, as stated: tyre 3 (of " in caplog.text
    assert "learning-rate factors: stem 0.328, stage 1 0.41, stage 2 0.512, stage 3 0.64, stage 4 0.8, " in caplog.text
    assert "epoch 1: stem and stages 1 to 2 (" in caplog.text and "epoch 2: stem and stages 1 to 2 (" in caplog.text
    run = config.output_dir / "checkpoints"
    early, first, last = (
        read_weights(run / name / "model.pdparams") for name in ("epoch_0000_step_000002", "epoch_0001", "epoch_0002")
    )
    average = read_weights(run / "epoch_0001" / "ema.pdparams")
    held = [name for name in first if name.startswith(HELD)]
    assert all(np.array_equal(early[name], first[name]) and np.array_equal(average[name], first[name]) for name in held)
    moved = {name for name in held if not np.array_equal(first[name], last[name])}
    assert {"backbone.stem.0.conv.weight", "backbone.stages.1.entry.norm._mean"} <= moved

    resumed = config_of(tmp_path / "resumed", data, worker_num=1)
    target = resumed.output_dir / "checkpoints"
    shutil.copytree(run / "epoch_0001", target / "epoch_0001")
    train_config(resumed, "auto")
    assert same_files(run / "epoch_0002", target / "epoch_0002", ARRAYS) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"class_weights": {"tyer": 2}}, UserError, "class_weights: there is no class 'tyer' .did you mean 'tyre'"),
        ({"PPYOLOEHead__use_varifocal_loss": False}, UserError, "class_weights: needs PPYOLOEHead with use_varifocal"),
        ({"freeze_stages": None}, ConfigError, "freeze_epochs: needs freeze_stages"),
    ],
)
def test_mistakes_are_told_in_one_line(
    data: Any, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_config(config_of(tmp_path, data, **changes))


def binary_entropy(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -(targets * np.log(scores) + (1 - targets) * np.log(1 - scores))


def test_an_object_counts_as_much_as_its_class_in_both_heads() -> None:
    from ppdet.modeling.heads import PPYOLOEHead

    from detection.class_weights import weigh_classes
    from detection.yolov10.loss import Assignment, class_loss

    generator = np.random.default_rng(0)
    logits, weights = generator.normal(size=(2, 6, 3)).astype("float32"), np.array([1.0, 3.0, 0.5], "float32")
    scores = 1 / (1 + np.exp(-logits))
    # Anchors 1 and 4 of the first image learn classes 1 and 2.
    targets = np.zeros_like(logits)
    targets[0, 1, 1], targets[0, 4, 2] = 0.7, 0.4
    more = np.where(targets > 0, weights - 1, 0) * binary_entropy(scores, targets)

    positive, labels = paddle.to_tensor([1, 4]), paddle.to_tensor([1, 2])
    assignment = Assignment(positive, paddle.zeros([2, 4]), labels, paddle.to_tensor([0.7, 0.4]))
    found = class_loss(paddle.to_tensor(logits), assignment, weights)
    assert float(found) == pytest.approx((binary_entropy(scores, targets) + more).sum(), rel=1e-5)

    head = PPYOLOEHead(in_channels=[8], num_classes=3, fpn_strides=[8])
    given = [paddle.to_tensor(values.astype("float32")) for values in (scores, targets, targets > 0)]
    plain = float(head._varifocal_loss(*given))
    weigh_classes(head, weights)
    # Varifocal loss weighs an entropy at a positive anchor by its target.
    assert float(head._varifocal_loss(*given)) == pytest.approx(plain + (targets * more).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "groups"),
    [
        ("EConvNeXt", {"arch": "small", "width_multiplier": 0.0625}, [1, 1, 1, 9, 1]),
        ("YOLOv10Backbone", {"scale": "N"}, [1, 1, 1, 1, 1]),
    ],
)
def test_every_backbone_of_ours_knows_its_depth(name: str, arguments: dict[str, Any], groups: list[int]) -> None:
    from detection.configuration.checks import catalog

    backbone_class = catalog().modules[name]
    from detection.backbone import WITH_TRUNKS, trunk_of_backbone

    assert name in WITH_TRUNKS
    backbone = backbone_class(**arguments)
    trunk = trunk_of_backbone(backbone)
    assert trunk is not None
    names = [group for group, _ in trunk.groups()]
    stages = ["stem", "stage 1", "stage 2", "stage 3", "stage 4"]
    assert [sum(group.startswith(stage) for group in names) for stage in stages] == groups
    covered = [parameter.name for _, layers in trunk.groups() for layer in layers for parameter in layer.parameters()]
    # All but the norms of the outputs, each once.
    norms = getattr(backbone, "norms", None)
    outside = {parameter.name for parameter in norms.parameters()} if norms else set()
    assert len(covered) == len(set(covered))
    assert set(covered) == {parameter.name for parameter in backbone.parameters()} - outside
    first = [parameter.name for layer in trunk.first(4) for parameter in layer.parameters()]
    assert first == covered
