"""Keys that do nothing here are named."""

from __future__ import annotations

from detection.configuration.checks import RunKeys, catalog
from detection.engine.ignored import IGNORED, ignored_keys


def test_what_is_switched_on_and_does_nothing_is_named() -> None:
    data = {"metric": "VOC", "use_xpu": True, "print_flops": False, "use_ema": True}
    assert ignored_keys(data) == ["use_xpu", "metric"]
    assert ignored_keys({"metric": "COCO"}) == []


def test_only_keys_that_a_configuration_may_have_are_listed() -> None:
    assert set(IGNORED) <= catalog().keys | RunKeys.model_fields.keys()
