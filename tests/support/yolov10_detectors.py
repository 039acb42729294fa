"""A small YOLOv10 with a letterbox whose boxes and scores depend on the image, as configurations name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.support.detectors import SIZE, tiny_config

# What belongs to PP-YOLOE alone.
FOREIGN = ("PPYOLOE", "CSPResNet", "CustomCSPPAN", "PPYOLOEHead", "depth_mult", "width_mult")
PLAIN = {"NormalizeImage": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "is_scale": True, "norm_type": "none"}}
LETTERBOX = [{"Decode": {}}, {"LetterResize": {"target_size": [SIZE, SIZE]}}, PLAIN, {"Permute": {}}]


def yolov10_config(folder: Path, **changes: Any) -> Path:
    """Writes ``tiny.yml`` to ``folder``: YOLOv10-N, 64 px, letterbox, data in ``folder/data``."""
    file = tiny_config(folder)
    content = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key not in FOREIGN}
    for reader in ("EvalReader", "TestReader"):
        content[reader]["sample_transforms"] = LETTERBOX
    content |= {"architecture": "YOLOv10", "scale": "N", "YOLOv10": {"backbone": "YOLOv10Backbone"}, **changes}
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def make_yolov10_lively(model: Any, seed: int = 3, class_spread: float = 3.0) -> None:
    """Gives a YOLOv10 weights by which scores, classes and boxes depend on the image.

    Wide networks need a smaller ``class_spread``, or all their best scores are 1.
    """
    from tests.support.seeded import seed_weights

    seed_weights(model)
    generator = np.random.default_rng(seed)
    # Distances of a few strides: the first bins are the likeliest.
    box_bias = np.tile(-0.4 * np.arange(16, dtype=np.float32), 4)
    branch = model.yolo_head.one_to_one
    for stacks, spread, bias in ((branch.classes, class_spread, -2.0), (branch.boxes, 0.6, box_bias)):
        for stack in stacks:
            layer = stack[-1]
            layer.weight.set_value(generator.normal(0, spread, layer.weight.shape).astype(np.float32))
            layer.bias.set_value(np.broadcast_to(bias, layer.bias.shape).astype(np.float32))
