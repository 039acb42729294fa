"""Every detector in the tree builds; its classes, strides, parameters and GFLOPs are those of the published tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detection.configuration import load_config
from detection.counting import PUBLISHED_GFLOPS, count_gflops, published_form
from tests.golden.make_detectors import CONFIGS, detector_configs, golden_numbers

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "detectors.json").read_text(encoding="utf-8"))
# The published compute, as far as its rule gives it: for S with E-ConvNeXt-mini the paper prints 20.56 instead.
# By the rule both YOLOv10-L rows give 120.4 (120.43 with 8 classes, 120.41 with 4); the paper prints 120.
BY_RULE = {
    "ppyoloe/ppyoloe_s_cspresnet_sonar": 17.36,
    "ppyoloe/ppyoloe_s_econvnext_mini_sonar": 22.86,
    "ppyoloe/ppyoloe_l_cspresnet_sonar": 110.1,
    "ppyoloe/ppyoloe_l_econvnext_tiny_sonar": 82.56,
    "yolov10/yolov10_l_sonar": 120.4,
    "yolov10/yolov10_m_convnext_tiny_sonar": 94.34,
    "yolov10/yolov10_m_econvnext_tiny_sonar": 69.94,
    "yolov10/yolov10_l_duo": 120.4,
    "yolov10/yolov10_l_econvnext_tiny_duo": 78.00,
}
NAMES = {file.relative_to(CONFIGS).with_suffix("").as_posix(): file for file in detector_configs()}


def test_every_detector_has_golden_numbers():
    assert set(GOLDEN) == set(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_it_builds_with_its_classes_strides_and_parameters(name):
    config = load_config(NAMES[name])
    numbers = golden_numbers(config, with_gflops=False)
    golden = {key: value for key, value in GOLDEN[name].items() if key != "gflops"}
    assert numbers == golden
    assert numbers["classes"] == config.num_classes
    # PP-YOLOE's head sees the neck's maps from coarse to fine; both must speak of the same ones.
    assert numbers["backbone_strides"] == [8, 16, 32]
    assert numbers["head_strides"] == ([8, 16, 32] if config.architecture == "YOLOv10" else [32, 16, 8])
    parts = numbers["parameters"]
    assert parts["total"] == parts["backbone"] + parts["neck"] + parts["head"]


@pytest.mark.parametrize("name", sorted(BY_RULE))
def test_gflops_are_the_published_ones(name):
    gflops = count_gflops(load_config(CONFIGS / f"{name}.yml"))
    assert gflops == pytest.approx(BY_RULE[name], rel=0.0005 if name.startswith("yolov10") else 0.005)
    assert gflops == pytest.approx(GOLDEN[name]["gflops"], abs=1e-3)
    published = PUBLISHED_GFLOPS[name.rpartition("/")[2]]
    if name.endswith("ppyoloe_s_econvnext_mini_sonar"):
        assert published == 20.56, "not reproducible: the table prints it beside ours"
    else:
        # PaddleDetection's own table says 110.07 for L, the paper 110.7: that is 0.52 % more than ours.
        assert gflops == pytest.approx(published, rel=0.0055)


@pytest.mark.parametrize("name", ["ppyoloe/ppyoloe_s_econvnext_mini_sonar", "yolov10/yolov10_n_sonar"])
def test_the_count_from_small_pictures_is_that_of_a_full_one(name, monkeypatch):
    config = load_config(CONFIGS / f"{name}.yml")
    from_small = count_gflops(config)
    # Without a common rule among the three, the picture of full size itself is counted.
    monkeypatch.setattr("detection.counting._fitted", lambda counts: None)
    assert count_gflops(config) == from_small


def test_the_two_forms_differ_where_branches_merge():
    config = load_config(CONFIGS / "ppyoloe" / "ppyoloe_s_cspresnet_sonar.yml")
    assert published_form(config) == "official"
    assert count_gflops(config, "training") < count_gflops(config, "official"), "8 classes against 80"
    assert config.num_classes == 8, "counting leaves the configuration alone"
    with pytest.raises(ValueError, match="form: must be one of training, official"):
        count_gflops(config, "deployed")
