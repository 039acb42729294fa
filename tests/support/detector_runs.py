"""Small detector trainings for tests: 18 pictures of 96 x 80 pixels, 64 px, a few batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.frames import NAMES, Frames

NORMALIZE = {"NormalizeImage": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True}}
TRAIN_PART = {"name": "COCODataSet", "image_dir": "images", "allow_empty": True}
STEPS = 4


def make_frames(folder: Path, empty: bool = True) -> Frames:
    """Makes the pictures and annotations; with ``empty`` one picture of each part has no boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    frames = Frames(folder)
    if empty:
        for part in (frames.train, frames.val):
            part["annotations"] = [box for box in part["annotations"] if box["image_id"] != 2]
    frames.write()
    return frames


def run_config(folder: Path, frames: Frames, **changes: Any) -> Path:
    """Writes ``run.yml`` to ``folder``, which trains PP-YOLOE with E-ConvNeXt-mini on ``frames`` for 2 x 4 batches.

    Args:
        folder: receives the file and, below ``runs``, the run.
        frames: what to train on.
        **changes: values by dotted key with ``__`` for the dot, such as ``OptimizerBuilder__optimizer``.
    """
    evaluation = [{"Decode": {}}, {"Resize": {"target_size": [64, 64], "keep_ratio": False, "interp": 2}}, NORMALIZE]
    config: dict[str, Any] = {
        "architecture": "PPYOLOE", "metric": "COCO", "num_classes": len(NAMES), "use_gpu": False, "epoch": 2,
        "snapshot_epoch": 1, "log_iter": 2, "worker_num": 0, "save_dir": str(folder / "runs"), "seed": 4,
        "keep_checkpoints": 20, "norm_type": "bn", "use_ema": True, "ema_decay": 0.9,
        "ema_black_list": ["proj_conv.weight"], "depth_mult": 0.33, "width_mult": 0.25,
        "PPYOLOE": {"backbone": "EConvNeXt", "neck": "CustomCSPPAN", "yolo_head": "PPYOLOEHead", "post_process": None},
        "EConvNeXt": {
            "arch": "mini", "depth_multiplier": 0.1, "width_multiplier": 0.125, "return_idx": [1, 2, 3],
            "drop_path_rate": 0.2,
        },
        "CustomCSPPAN": {"out_channels": [384, 192, 96], "stage_num": 1, "block_num": 1, "act": "swish", "spp": True},
        "PPYOLOEHead": {
            "fpn_strides": [32, 16, 8], "static_assigner_epoch": 1,
            "static_assigner": {"name": "ATSSAssigner", "topk": 4},
            "assigner": {"name": "TaskAlignedAssigner", "topk": 13},
            "nms": {
                "name": "MultiClassNMS3", "nms_top_k": 100, "keep_top_k": 20, "score_threshold": 0.001,
                "nms_threshold": 0.6,
            },
        },
        "LearningRate": {
            "base_lr": 0.001,
            "schedulers": [
                {"name": "CosineDecay", "max_epochs": 2}, {"name": "LinearWarmup", "start_factor": 0.1, "steps": 3},
            ],
        },
        "OptimizerBuilder": {"regularizer": False, "optimizer": {"type": "AdamW", "weight_decay": 0.05}},
        "TrainDataset": {
            **TRAIN_PART, "dataset_dir": str(frames.root), "anno_path": "annotations/train.json",
            "data_fields": ["image", "gt_bbox", "gt_class", "is_crowd"],
        },
        "EvalDataset": {**TRAIN_PART, "dataset_dir": str(frames.root), "anno_path": "annotations/val.json"},
        "TrainReader": {
            "sample_transforms": [{"Decode": {}}, {"RandomCrop": {}}, {"RandomFlip": {}}],
            "batch_transforms": [
                {"BatchRandomResize": {
                    "target_size": [64, 96], "random_size": True, "random_interp": True, "keep_ratio": False,
                }},
                NORMALIZE, {"Permute": {}}, {"PadGT": {}}, {"LabelsToInt64": {}},
            ],
            "batch_size": 4, "shuffle": True, "drop_last": True,
        },
        "EvalReader": {"sample_transforms": [*evaluation, {"Permute": {}}], "batch_size": 4},
        "TestReader": {"sample_transforms": [*evaluation, {"Permute": {}}], "batch_size": 1},
    }  # fmt: skip
    return write_changed(folder, config, changes)


def write_changed(folder: Path, config: dict[str, Any], changes: dict[str, Any]) -> Path:
    """Writes ``run.yml`` to ``folder``: ``config`` with ``changes``, values by dotted key with ``__`` for the dot."""
    for key, value in changes.items():
        *path, name = key.split("__")
        section = config
        for part in path:
            section = section[part]
        section[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return file
