"""What YOLOv10 refuses of a configuration, or would ignore, is one line with its place in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.configuration import load_config
from detection.toolkit import build_model
from ppcls_ext.utils.errors import UserError
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


@pytest.mark.parametrize(("network", "change", "line", "message"), [
    (OWN, ("scale: N", "scale: XL"), "scale: XL",
     "scale: must be one of N, S, M, B, L, X, got 'XL' (did you mean 'X'?)"),
    # A base for PP-YOLOE has one.
    (OWN, ("scale: N", "scale: N\nwidth_mult: 0.75"), "width_mult", "width_mult: must not be given, "),
    (OWN, ("scale: N", "scale: N\nYOLOv10Neck:\n  scale: S"), "scale: S",
     "YOLOv10Neck.scale: S takes [128, 256, 512] channels, the backbone gives [64, 128, 256]; with another backbone"),
    # As wide as each other, but not as deep.
    (OWN, ("scale: N", "scale: L\nYOLOv10Neck:\n  scale: B"), "scale: B",
     "YOLOv10Neck.scale: is B, but that of the backbone is L"),
    (OTHER, ("  depth_mult: 0.67\n", ""), "YOLOv10Neck", "YOLOv10Neck.depth_mult: is missing"),
    (OTHER, ("[F4, N4, N5]", "[f4]"), "cib",
     "YOLOv10Neck.cib: must be a list, each entry one of F4, N4, N5 or null, got ['f4']"),
    (OTHER, ("[F4, N4, N5]", "[F4]\n  large_kernel: [N5]"), "large_kernel",
     "YOLOv10Neck.large_kernel: N5 has no compact inverted block: it is not in cib"),
])  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(
    tmp_path: Path, network: str, change: tuple[str, str], line: str, message: str
) -> None:
    file = write(tmp_path, network, change)
    with pytest.raises(UserError) as error:
        build_model(load_config(file))
    assert str(error.value).startswith(f"{file}:{line_of(file, line)}: {message}")


def test_networks_that_are_right_and_another_head_whose_anchors_stand_in_another_order(tmp_path: Path) -> None:
    for network in (OWN, OTHER, OWN.replace("scale: N", "YOLOv10Backbone: {scale: S}\nscale: S")):
        assert build_model(load_config(write(tmp_path, network))).neck.strides == [8, 16, 32]
    config = load_config(write(tmp_path, OWN, ("yolo_head: YOLOv10Head", "yolo_head: PPYOLOEHead")))
    with pytest.raises(UserError, match="YOLOv10.yolo_head: must be YOLOv10Head or made from it, got PPYOLOEHead"):
        build_model(config)
