"""A tiny PP-YOLOE with random weights that finds something, and frames for it to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CLASSES = ["cube", "ball", "tyre"]
SIZE = 64


def tiny_config(folder: Path, **changes: Any) -> Path:
    """Writes ``tiny.yml`` to ``folder``: E-ConvNeXt-mini, width 0.25, 64 px, data in ``folder/data``."""
    normalize = {"NormalizeImage": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True}}
    operators = [
        {"Decode": {}},
        {"Resize": {"target_size": [SIZE, SIZE], "keep_ratio": False, "interp": 2}},
        normalize,
        {"Permute": {}},
    ]
    files = {"dataset_dir": str(folder / "data"), "image_dir": "images", "anno_path": "annotations/val.json"}
    content = {
        "architecture": "PPYOLOE",
        "metric": "COCO",
        "num_classes": len(CLASSES),
        "use_gpu": False,
        "epoch": 1,
        "save_dir": str(folder / "run"),
        "norm_type": "bn",
        "depth_mult": 0.33,
        "width_mult": 0.25,
        "TrainDataset": {"name": "COCODataSet", **files},
        "EvalDataset": {"name": "COCODataSet", **files},
        "PPYOLOE": {"backbone": "CSPResNet", "neck": "CustomCSPPAN", "yolo_head": "PPYOLOEHead", "post_process": None},
        "CSPResNet": {"layers": [1, 1, 1, 1], "return_idx": [1, 2, 3], "use_large_stem": True},
        "CustomCSPPAN": {"out_channels": [768, 384, 192], "stage_num": 1, "block_num": 1, "act": "swish", "spp": True},
        "PPYOLOEHead": {
            "fpn_strides": [32, 16, 8],
            "static_assigner_epoch": 1,
            "static_assigner": {"name": "ATSSAssigner", "topk": 9},
            "assigner": {"name": "TaskAlignedAssigner", "topk": 13},
            "nms": {
                "name": "MultiClassNMS3", "nms_top_k": 100, "keep_top_k": 50, "score_threshold": 0.05,
                "nms_threshold": 0.6,
            },
        },
        "LearningRate": {
            "base_lr": 0.001, "schedulers": [{"name": "CosineDecay", "max_epochs": 1, "use_warmup": False}],
        },
        "OptimizerBuilder": {"optimizer": {"type": "AdamW", "weight_decay": 0.05}},
        "TrainReader": {"sample_transforms": operators, "batch_transforms": [{"PadGT": {}}], "batch_size": 2},
        "EvalReader": {"sample_transforms": operators, "batch_size": 2},
        "TestReader": {"sample_transforms": operators, "batch_size": 1},
    }  # fmt: skip
    file = folder / "tiny.yml"
    file.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False), encoding="utf-8")
    return file


def make_lively(model: Any, seed: int = 3) -> None:
    """Gives a detector's last layers weights by which scores and boxes depend on the image."""
    generator = np.random.default_rng(seed)
    for layers, spread in ((model.yolo_head.pred_cls, 0.08), (model.yolo_head.pred_reg, 0.15)):
        for layer in layers:
            layer.weight.set_value(generator.normal(0, spread, layer.weight.shape).astype(np.float32))
    for layer in model.yolo_head.pred_cls:
        layer.bias.set_value(np.full(layer.bias.shape, -2.5, np.float32))


def draw_frames(folder: Path, sizes: list[tuple[int, int]], seed: int = 0) -> list[Path]:
    """Draws grey frames ``frame_0.png``, ... of ``(width, height)`` with bright spots; returns their files."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (width, height) in enumerate(sizes):
        rows, columns = np.mgrid[0:height, 0:width]
        pixels = generator.uniform(0, 60, size=(height, width))
        for _ in range(4):
            y, x, radius = generator.uniform(0, height), generator.uniform(0, width), generator.uniform(4, 20)
            pixels += 200 * (np.hypot(rows - y, columns - x) < radius)
        grey = np.clip(pixels, 0, 255).astype(np.uint8)
        files.append(folder / f"frame_{number}.png")
        Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2)).save(files[-1])
    return files
