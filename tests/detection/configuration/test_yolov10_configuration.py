"""What a configuration of YOLOv10 would have refused or ignored later is one line before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.configuration import load_config
from detection.toolkit import build_model
from ppcls_ext.utils.errors import ConfigError, UserError
from tests.support.detection_configs import TEXT, line_of

OWN = "YOLOv10: {backbone: YOLOv10Backbone, neck: YOLOv10Neck, yolo_head: YOLOv10Head}\nscale: N\n"
OTHER = """\
YOLOv10: {backbone: EConvNeXt, neck: YOLOv10Neck, yolo_head: YOLOv10Head}
EConvNeXt: {arch: mini}
YOLOv10Neck:
  depth_mult: 0.67
  cib: [F4, N4, N5]
"""


def write(folder: Path, network: str, *changes: tuple[str, str]) -> Path:
    """Writes the small configuration with YOLOv10 in place of PP-YOLOE, and ``(old, new)`` of ``changes`` replaced."""
    head, rest = TEXT[: TEXT.index("depth_mult")], TEXT[TEXT.index("LearningRate:") :]
    text = head.replace("architecture: PPYOLOE", "architecture: YOLOv10") + network + rest
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "tiny.yml"
    file.write_text(text, encoding="utf-8")
    return file


WIDTH = "must not be given, for it would change nothing: YOLOv10 is as wide as its scale or its backbone says"


@pytest.mark.parametrize(("network", "change", "line", "message"), [
    (OWN, ("scale: N", "scale: XL"), "scale: XL",
     "scale: must be one of N, S, M, B, L, X, got 'XL' (did you mean 'X'?)"),
    (OWN, ("scale: N", "scale: N\nwidth_mult: 0.75"), "width_mult", f"width_mult: {WIDTH}, got 0.75"),
    (OWN, ("scale: N", "scale: N\nYOLOv10Neck:\n  scale: S"), "scale: S",
     "YOLOv10Neck.scale: is S, but that of the backbone is N"),
    (OTHER, ("EConvNeXt: {", "scale: M\nEConvNeXt: {"), "scale",
     "scale: belongs to YOLOv10Backbone; with EConvNeXt leave it null, and give YOLOv10Neck.depth_mult and "
     "YOLOv10Neck.cib"),
    (OTHER, ("  depth_mult: 0.67\n", ""), "YOLOv10Neck",
     "YOLOv10Neck.depth_mult: is missing: a number above 0 is needed, for there is no scale"),
    (OTHER, ("[F4, N4, N5]", "[f4]"), "cib",
     "YOLOv10Neck.cib: must be places of F4, N4, N5, got 'f4' (did you mean 'F4'?)"),
    (OTHER, ("[F4, N4, N5]", "[F4]\n  large_kernel: [N5]"), "large_kernel",
     "YOLOv10Neck.large_kernel: N5 has no compact inverted block: it is not in cib"),
])  # fmt: skip
def test_a_mistake_is_one_line(
    tmp_path: Path, network: str, change: tuple[str, str], line: str, message: str
) -> None:
    file = write(tmp_path, network, change)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert len(error.value.problems) == 1, error.value.problems
    found = error.value.problems[0]
    assert message in found
    assert found.startswith(f"{file}:{line_of(file, line)}: ")


def test_a_backbone_without_its_scale_and_networks_that_are_right(tmp_path: Path) -> None:
    file = write(tmp_path, OWN, ("scale: N\n", ""))
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert error.value.problems == [f"{file}: missing key 'scale': YOLOv10Backbone needs one of N, S, M, B, L, X"]
    for network in (OWN, OTHER, OWN.replace("scale: N", "YOLOv10Backbone: {scale: S}\nscale: S")):
        assert load_config(write(tmp_path, network)).architecture == "YOLOv10"


def test_what_slips_past_the_configuration_is_refused_by_the_network(tmp_path: Path) -> None:
    """As under PaddleDetection's own command lines, which do not check configurations."""
    config = load_config(write(tmp_path, OWN))
    config.data["width_mult"] = 0.75
    with pytest.raises(UserError, match="tiny.yml: width_mult: must not be given, .* got 0.75"):
        build_model(config)


def test_another_head_is_refused_for_its_anchors_stand_in_another_order(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, OWN, ("yolo_head: YOLOv10Head", "yolo_head: PPYOLOEHead")))
    with pytest.raises(UserError, match="YOLOv10.yolo_head: must be YOLOv10Head or made from it, got PPYOLOEHead"):
        build_model(config)
