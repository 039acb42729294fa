"""Golden numbers of the detectors in ``configs/detection``: what must not change by accident.

After a change that is meant to alter a network, write them anew and look at the difference before committing it:

    python -m tests.golden.make_detectors tests/golden/detectors.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.configuration import DetectionConfig, load_config
from detection.counting import PUBLISHED_GFLOPS, count_gflops, count_parts
from detection.toolkit import build_model
from ppcls_ext.utils.files import write_json

if TYPE_CHECKING:
    import paddle

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "detection"
# Side of the picture on which strides are measured.
PROBE = 64


def detector_configs() -> list[Path]:
    """Returns the configurations that are complete, not those that others name in ``_BASE_``; without those of
    ``other``, which PaddleDetection's own tools run, and that of own data, which has the number of their classes."""
    files = sorted(file for file in CONFIGS.rglob("*.yml") if file.stem != "finetune")
    files = [file for file in files if file.parent.name not in ("datasets", "other")]
    return [file for file in files if "_" not in (file.name[0], file.parent.name[0])]


def golden_numbers(config: DetectionConfig, with_gflops: bool) -> dict[str, Any]:
    """Returns classes, strides (of the backbone and of the head), trainable parameters and, if asked for, GFLOPs."""
    model = build_model(config)
    head = model.yolo_head
    numbers: dict[str, Any] = {
        "classes": int(head.num_classes),
        "backbone_strides": backbone_strides(model),
        "head_strides": [int(stride) for stride in (getattr(head, "fpn_strides", None) or head.strides)],
        "parameters": count_parts(model)._asdict(),
    }
    if with_gflops:
        numbers["gflops"] = round(count_gflops(config), 4)
    return numbers


def backbone_strides(model: paddle.nn.Layer) -> list[int]:
    """Returns what the backbone announces or, as PaddleDetection's ConvNeXt announces nothing, what its maps have."""
    strides = [shape.stride for shape in model.backbone.out_shape]
    if None not in strides:
        return [int(stride) for stride in strides]
    import paddle

    with paddle.no_grad():
        maps = model.backbone({"image": paddle.zeros([1, 3, PROBE, PROBE])})
    return [PROBE // int(feature.shape[2]) for feature in maps]


def main() -> None:
    """Writes the golden numbers of all detectors to a JSON file; GFLOPs of those that have a published figure."""
    parser = argparse.ArgumentParser(description="Write the golden numbers of the detectors.")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    rows = {}
    for file in detector_configs():
        name = str(file.relative_to(CONFIGS).with_suffix(""))
        rows[name] = golden_numbers(load_config(file), with_gflops=file.stem in PUBLISHED_GFLOPS)
    write_json(arguments.file, rows)


if __name__ == "__main__":
    main()
