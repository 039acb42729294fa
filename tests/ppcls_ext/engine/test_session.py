"""Changes of a configuration, as programs state them."""

from __future__ import annotations

from pathlib import Path

import pytest

from classification import train
from ppcls_ext.engine.session import as_changes
from ppcls_ext.utils.errors import UserError


def test_a_section_is_changed_key_by_key():
    nested = {"Global": {"epochs": 1, "output_dir": Path("runs/a")}, "Optimizer.lr": {"learning_rate": 0.1}}
    changes = ["Optimizer.lr={\"learning_rate\": 0.1}", "Global.epochs=1", 'Global.output_dir="runs/a"']
    assert as_changes(nested) == changes
    assert as_changes("Global.epochs=1") == as_changes(["Global.epochs=1"]) == ["Global.epochs=1"]


def test_a_configuration_is_a_path():
    with pytest.raises(UserError, match="a configuration is the path of a YAML file, got dict"):
        train({"Global": {"epochs": 1}})
