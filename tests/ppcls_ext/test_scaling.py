"""Compound scaling: multipliers, image sizes, and what is refused."""

from __future__ import annotations

import pytest

from ppcls_ext.arch import counting
from ppcls_ext.arch.counting import count_model
from ppcls_ext.arch.scaling import Coefficients, Multipliers, check_scalable
from ppcls_ext.utils.errors import UserError


def test_multipliers_are_powers_of_the_coefficients():
    coefficients = Coefficients(alpha=1.2, beta=1.1, gamma=1.15)
    assert coefficients.at(0) == Multipliers(1, 1, 1)
    assert coefficients.at(1) == Multipliers(1.2, 1.1, 1.15)
    assert coefficients.at(3) == Multipliers(1.728, 1.331, 1.5209)
    assert coefficients.at(-1) == Multipliers(0.8333, 0.9091, 0.8696)


def test_arch_has_the_multipliers_that_are_not_one():
    arguments = {"class_num": 10}
    assert Multipliers(1.2, 1.0).architecture("X", arguments) == {
        "name": "X", "class_num": 10, "depth_multiplier": 1.2,
    }  # fmt: skip
    assert arguments == {"class_num": 10}


@pytest.mark.parametrize(
    ("base", "resolution", "stem_stride", "expected"),
    [(224, 1.15, 4, 256), (224, 1.32, 4, 288), (32, 1.15, 1, 40), (32, 1, 4, 32), (30, 1, 4, 30), (32, 0.1, 2, 16)],
)
def test_images_are_whole_positions_of_the_last_map(base, resolution, stem_stride, expected):
    assert Multipliers(resolution=resolution).image_size(base, stem_stride) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Coefficients(alpha=0.5), "^alpha: must be from 1 .does not grow. to 4, got 0.5"),
        (lambda: Coefficients(gamma=float("nan")), "^gamma: must be from 1"),
        (lambda: Coefficients().at(float("inf")), "^phi: must be a number from -100 to 100"),
        (lambda: Coefficients().at(50), "^phi 50: depth: must be from 0.01 to 16, got 9100"),
        (lambda: Coefficients(alpha=4, beta=4).at(-60), "^phi -60: depth: must be from 0.01 to 16, got 0"),
        (lambda: Multipliers(width=-1), "^width: must be from 0.01 to 16, got -1"),
        (lambda: Multipliers(resolution=16).image_size(224), "^resolution: images of 3584 px are too large"),
        (lambda: check_scalable("EConvNeXt_minni", {}), "unknown model 'EConvNeXt_minni'; did you mean EConvNeXt_mini"),
        (lambda: check_scalable("ResNet50", {}), "^ResNet50: cannot be scaled.*EConvNeXt_tiny do$"),
        (lambda: check_scalable("EConvNeXt_mini", {"width_multiplier": 2}), "^-o width_multiplier: the scaling"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_every_family_can_be_scaled():
    for name in ("EConvNeXt_small", "ConvNeXtV1_base", "ConvNeXtV2_atto"):
        check_scalable(name, {"class_num": 10})


def test_a_network_too_large_to_be_run_is_not_built(monkeypatch):
    monkeypatch.setattr(counting, "MOST_PARAMETERS", 7_000_000)
    with pytest.raises(UserError, match="EConvNeXt_mini: 0.0 billion parameters are too many to be run"):
        count_model("EConvNeXt_mini", {}, 32)


def test_images_that_leave_no_position_are_refused():
    with pytest.raises(UserError, match="ConvNeXtV2_atto: images of 16 px leave its last stage no position"):
        count_model("ConvNeXtV2_atto", {}, 16)
