"""Which stage of a network a layer belongs to: by its name where names tell, else by the stride of its outputs.

Loads no Paddle.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from ppcls_ext.deploy.profile.result import HEAD, NECK, REST, STEM

BACKBONE = "backbone."
STEM_NAME = re.compile(r"(stem\w*|patch_embed|conv_stem|downsample_layers\.0|conv1|bn1|max_?pool\w*)(\.|$)")
HEAD_NAME = re.compile(
    r"(head\w*|yolo_head|fc\d?|classifier\w*|norm|(global_?|adaptive_?)?(avg_?)?pool\w*|flatten|last_\w+)(\.|$)"
)
NECK_NAME = re.compile(r"neck(\.|$)")
NUMBERED = re.compile(r"(stages|layers|downsample_layers)\.(\d+)(\.|$)")
ALL_STAGES = {"0", "1", "2", "3"}
STAGE_OF_STRIDE = {1: STEM, 2: STEM, 4: "stage 1", 8: "stage 2", 16: "stage 3", 32: "stage 4"}


def assign_stages(shapes: Mapping[str, tuple[int, ...]], image_size: tuple[int, int]) -> dict[str, str]:
    """Returns the stage of each layer.

    Stages that have names (``stem``, ``stages.0`` to ``stages.3``, ``neck``, ``head``) go by them. Other networks are
    cut into units (``blocks.3``), and a unit is of stage k if most of its outputs have stride ``2 ** (k + 1)``, of the
    head if they have no positions.

    Args:
        shapes: layer name -> shape of its output (``[N, C, H, W]``, or ``[N, L, C]`` of tokens), empty if unknown.
        image_size: height and width of the images.
    """
    names = {name: name.removeprefix(BACKBONE) for name in shapes}
    # Numbers that are not those of four stages are of blocks.
    numbers: dict[str, set[str]] = {}
    for name in names.values():
        if match := NUMBERED.match(name):
            numbers.setdefault(match[1], set()).add(match[2])
    staged = {word for word, found in numbers.items() if found == ALL_STAGES}
    strides: dict[str, Counter[int]] = {}
    for name, shape in shapes.items():
        stride = _stride(shape, image_size)
        if stride in STAGE_OF_STRIDE:
            strides.setdefault(_unit(names[name]), Counter())[stride] += 1
    present = set(names.values())
    containers = {BACKBONE.removesuffix("."), *(name for name in present if f"{name}.0" in present)}
    stages = {}
    for name, short in names.items():
        counts = strides.get(_unit(short), Counter())
        stages[name] = _named_stage(short, staged) or _stage_of_strides(counts, bool(shapes[name]), short in containers)
    return stages


def _named_stage(name: str, staged: set[str]) -> str | None:
    if STEM_NAME.match(name):
        return STEM
    if NECK_NAME.match(name):
        return NECK
    match = NUMBERED.match(name)
    if match and match[1] in staged:
        return f"stage {int(match[2]) + 1}"
    if HEAD_NAME.match(name):
        return HEAD
    return None


def _stage_of_strides(counts: Counter[int], called: bool, container: bool) -> str:
    """Returns the stage of a layer that no name tells, from the strides of its unit."""
    if container or not called:
        return REST
    if not counts:
        return HEAD
    most = max(counts.values())
    return STAGE_OF_STRIDE[max(stride for stride, count in counts.items() if count == most)]


def _unit(name: str) -> str:
    """Returns the beginning of a name up to its first number (``blocks.3``), or its first word."""
    parts = name.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: number + 1])


def _stride(shape: tuple[int, ...], image_size: tuple[int, int]) -> int | None:
    """Returns the stride of an output, as a power of two; None if it has no positions."""
    positions = math.prod(shape[2:]) if len(shape) == 4 else shape[1] if len(shape) == 3 else 0
    if positions < 1:
        return None
    return 2 ** round(math.log2(math.prod(image_size) / positions) / 2)
