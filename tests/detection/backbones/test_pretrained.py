"""Weights of classifiers, ours and the paper's, as weights of a backbone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from detection import toolkit
from ppcls_ext import build_model
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.reference import Reference
from tests.support.seeded import seed_weights, seeded_array

IMAGES = seeded_array("images", (2, 3, 32, 64))


def make(pretrained: Any, name: str = "EConvNeXt", **arguments: Any) -> Any:
    toolkit.register()
    from detection import backbone as module

    backbone = getattr(module, name)(pretrained=pretrained, **arguments)
    backbone.eval()
    return backbone


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """The weights of a classifier for five classes."""
    model = build_model("EConvNeXt_mini", class_num=5)
    seed_weights(model)
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def features(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the stages of that classifier give for :data:`IMAGES`."""
    model = build_model("EConvNeXt_mini", class_num=5)
    model.set_state_dict(arrays)
    model.eval()
    return [output.numpy() for output in model.forward_features(paddle.to_tensor(IMAGES))]


def body_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if name.startswith(("stem.", "stages."))}


def report_of(caplog: pytest.LogCaptureFixture) -> str:
    """The only line that loading wrote to the log."""
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("detection", "ppcls_ext"))]
    assert len(lines) == 1, lines
    return lines[0]


def test_classifier_of_ours(
    tmp_path: Path, arrays: dict, features: list, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "classifier.safetensors"
    write_weights(file, arrays)
    with caplog.at_level(logging.INFO):
        backbone = make(str(file), norm_output=False)
    for output, expected in zip(backbone(paddle.to_tensor(IMAGES)), features[1:], strict=True):
        np.testing.assert_array_equal(output.numpy(), expected)
    count = len(body_of(arrays))
    assert report_of(caplog) == (
        f"{file}: {count} weights loaded into EConvNeXt mini; left out: head, norm (6 weights)"
    )


@pytest.mark.portable
def test_checkpoint_of_the_paper(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = Reference("tiny")
    file = tmp_path / "paper.pdparams"
    write_weights(file, reference.weights)
    with caplog.at_level(logging.INFO):
        backbone = make(str(file), "CSPConvNeXt", arch="tiny")
    assert report_of(caplog).endswith("; start fresh: norms.0, norms.1, norms.2")
    assert "loaded into CSPConvNeXt tiny (names of the paper's repository); left out: " in caplog.text
    images = np.random.default_rng(1).normal(size=(2, 3, 64, 96)).astype(np.float32)
    outputs = backbone.forward_features(paddle.to_tensor(images))
    for output, expected in zip(outputs, reference.stages(images), strict=True):
        assert np.abs(output.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict) -> None:
    damaged = {name: value for name, value in arrays.items() if name != "stages.1.merge.conv.weight"}
    write_weights(tmp_path / "odd.pdparams", damaged)
    with pytest.raises(UserError, match="does not fit EConvNeXt with arch 'mini': 1 missing in the file: stages.1"):
        make(str(tmp_path / "odd.pdparams"))
    write_weights(tmp_path / "detector.pdparams", {f"backbone.{name}": value for name, value in arrays.items()})
    with pytest.raises(UserError, match="these are the weights of a detector; name them as pretrain_weights"):
        make(str(tmp_path / "detector.pdparams"))


def test_weights_of_a_network_that_is_cut_alike_load_and_others_are_refused(tmp_path: Path, arrays: dict) -> None:
    cut = {"depth_multiplier": 0.3333, "width_multiplier": 0.125}
    model = build_model("EConvNeXt_mini", class_num=5, **cut)
    seed_weights(model)
    write_weights(tmp_path / "cut.pdparams", model.state_dict())
    backbone = make(str(tmp_path / "cut.pdparams"), **cut)
    assert [shape.channels for shape in backbone.out_shape] == model.feature_channels[1:] == [24, 48, 96]
    for name, value in backbone.state_dict().items():
        assert name.startswith("norms.") or np.array_equal(value.numpy(), model.state_dict()[name].numpy()), name
    with pytest.raises(UserError, match="with arch 'mini': .*; arch and what cuts the network must be"):
        make(str(tmp_path / "cut.pdparams"), **{**cut, "width_multiplier": 0.25})
