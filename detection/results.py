"""What a results file says of the run of a detector besides what its log and its report hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from detection.configuration import DetectionConfig, load_config, open_part
from detection.configuration.short_keys import input_side
from detection.counting import count_multiply_adds, count_parts
from detection.evaluation.metrics import EVALUATION_VERSION
from detection.toolkit import build_model
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.results import checksum


def facts_of_run(config_file: Path) -> dict[str, Any]:
    """Returns the keys of `ppcls_ext.utils.results.Result` that the configuration of a run and its data tell.

    Raises:
        UserError: the configuration is wrong, states no size of the input, or its data are not there.
    """
    config = load_config(config_file)
    side = input_side(config.data.get("EvalReader")) or input_side(config.data.get("TestReader"))
    if side is None:
        raise UserError(f"{config_file}: neither EvalReader nor TestReader states the size of the input")
    model = build_model(config, pretrained=False)
    model.eval()
    return {
        "kind": "detector", "batch_size": config.data["TrainReader"].get("batch_size", 1), "input_size": [side, side],
        "evaluation": part_of(config, "Eval"), "training": part_of(config, "Train"),
        "evaluation_version": EVALUATION_VERSION, "parameters": count_parts(model).total,
        "multiply_adds": count_multiply_adds(model, side), "weights": "EMA" if config.run_keys.use_ema else "plain",
    }  # fmt: skip


def part_of(config: DetectionConfig, part: str) -> dict[str, Any]:
    """Returns name, counts and checksum of ``Train`` or ``Eval``, as they are trained and evaluated on."""
    coco = open_part(config, part)
    lines = [f"classes {json.dumps(sorted(coco.names))}"]
    for frame in coco.frames:
        boxes = sorted((coco.names[box.category], *(round(side, 2) for side in box.xywh), box.crowd)
                       for box in frame.boxes)  # fmt: skip
        lines.append(json.dumps([frame.name, boxes]))
    return {
        "name": Path(os.path.abspath(config.data[f"{part}Dataset"].get("dataset_dir") or ".")).name,
        "images": len(coco), "boxes": sum(len(frame.boxes) for frame in coco.frames), "sha256": checksum(lines),
    }  # fmt: skip
