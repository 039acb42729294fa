"""Weights that a fresh run begins with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection.configuration import load_config
from detection.engine.start import load_start
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.detectors import tiny_config


def test_weights_of_a_backbone_alone(tmp_path: Path) -> None:
    """As PaddleDetection publishes those of CSPResNet: without the prefix, and with what a detector has not."""
    from detection.toolkit import build_model

    file = tmp_path / "backbone.pdparams"
    config = load_config(tiny_config(tmp_path), [f"pretrain_weights={file}"])
    model = build_model(config)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    backbone = {
        name.removeprefix("backbone."): value + 1 for name, value in before.items() if name.startswith("backbone.")
    }
    write_weights(file, {**backbone, "fc.weight": np.zeros((2, 2), dtype="float32")})
    load_start(config, model)
    for name, value in model.state_dict().items():
        expected = backbone[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        np.testing.assert_array_equal(value.numpy(), expected, err_msg=name)
    first = next(iter(backbone))
    write_weights(file, {name: value for name, value in backbone.items() if name != first})
    with pytest.raises(UserError, match=f"nor its backbone alone.*1 missing in the file: backbone.{first}"):
        load_start(config, model)
