"""Small detectors for tests: configurations of PP-YOLOE and YOLOv10, frames to look at, weights that find something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.support.frames import NAMES as CLASSES
from tests.support.frames import Frames
from tests.support.seeded import seed_weights

SIZE = 64
NORMALIZE = {"NormalizeImage": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True}}
# YOLOv10's pixels: divided by 255, no more.
SCALE = {"NormalizeImage": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "is_scale": True}}
PLAIN = {"NormalizeImage": {**SCALE["NormalizeImage"], "norm_type": "none"}}
LETTERBOX = [{"Decode": {}}, {"LetterResize": {"target_size": [SIZE, SIZE]}}, PLAIN, {"Permute": {}}]
# Batches of an epoch of the runs below.
STEPS = 4


def _resized(normalize: dict[str, Any], size: int = SIZE) -> list[dict[str, Any]]:
    """Returns the operators of an evaluation at ``size`` pixels."""
    resize = {"Resize": {"target_size": [size, size], "keep_ratio": False, "interp": 2}}
    return [{"Decode": {}}, resize, normalize, {"Permute": {}}]


def _ppyoloe(channels: list[int], **nms: Any) -> dict[str, Any]:
    """Returns PP-YOLOE with the smallest CSPResNet; ``channels`` of the neck are times ``width_mult``."""
    return {
        "architecture": "PPYOLOE", "metric": "COCO", "num_classes": len(CLASSES), "use_gpu": False, "norm_type": "bn",
        "depth_mult": 0.33, "width_mult": 0.25,
        "PPYOLOE": {"backbone": "CSPResNet", "neck": "CustomCSPPAN", "yolo_head": "PPYOLOEHead", "post_process": None},
        "CSPResNet": {"layers": [1, 1, 1, 1], "return_idx": [1, 2, 3], "use_large_stem": True},
        "CustomCSPPAN": {"out_channels": channels, "stage_num": 1, "block_num": 1, "act": "swish", "spp": True},
        "PPYOLOEHead": {
            "fpn_strides": [32, 16, 8], "static_assigner_epoch": 1,
            "static_assigner": {"name": "ATSSAssigner", "topk": 4},
            "assigner": {"name": "TaskAlignedAssigner", "topk": 13},
            "nms": {"name": "MultiClassNMS3", "nms_top_k": 100, "nms_threshold": 0.6, **nms},
        },
        "OptimizerBuilder": {"regularizer": False, "optimizer": {"type": "AdamW", "weight_decay": 0.05}},
    }  # fmt: skip


def _write(file: Path, config: dict[str, Any], changes: dict[str, Any]) -> Path:
    """Writes ``config`` with ``changes``, values by dotted key with ``__`` for the dot."""
    for key, value in changes.items():
        *path, name = key.split("__")
        section = config
        for part in path:
            section = section[part]
        section[name] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return file


def tiny_config(folder: Path, **changes: Any) -> Path:
    """Writes ``tiny.yml`` to ``folder``: PP-YOLOE with the smallest CSPResNet, 64 px, data in ``folder/data``."""
    files = {"dataset_dir": str(folder / "data"), "image_dir": "images", "anno_path": "annotations/val.json"}
    readers = {"sample_transforms": _resized(NORMALIZE)}
    config = {
        **_ppyoloe([768, 384, 192], keep_top_k=50, score_threshold=0.05), "epoch": 1, "save_dir": str(folder / "run"),
        "TrainDataset": {"name": "COCODataSet", **files},
        "EvalDataset": {"name": "COCODataSet", **files},
        "LearningRate": {
            "base_lr": 0.001, "schedulers": [{"name": "CosineDecay", "max_epochs": 1, "use_warmup": False}],
        },
        "TrainReader": {**readers, "batch_transforms": [{"PadGT": {}}], "batch_size": 2},
        "EvalReader": {**readers, "batch_size": 2},
        "TestReader": {**readers, "batch_size": 1},
    }  # fmt: skip
    return _write(folder / "tiny.yml", config, changes)


def yolov10_config(folder: Path, **changes: Any) -> Path:
    """Writes ``tiny.yml`` to ``folder``: YOLOv10-N, 64 px, letterbox, data in ``folder/data``."""
    config = yaml.safe_load(tiny_config(folder).read_text(encoding="utf-8"))
    for key in ("PPYOLOE", "CSPResNet", "CustomCSPPAN", "PPYOLOEHead", "depth_mult", "width_mult"):
        del config[key]
    for reader in ("EvalReader", "TestReader"):
        config[reader]["sample_transforms"] = LETTERBOX
    config |= {"architecture": "YOLOv10", "scale": "N", "YOLOv10": {"backbone": "YOLOv10Backbone"}}
    return _write(folder / "tiny.yml", config, changes)


def make_frames(folder: Path, empty: bool = True) -> Frames:
    """Makes the pictures and annotations; with ``empty`` one picture of each part has no boxes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames = Frames(folder)
    if empty:
        for part in (frames.train, frames.val):
            part["annotations"] = [box for box in part["annotations"] if box["image_id"] != 2]
    frames.write()
    return frames


def _run(folder: Path, data: Path, evaluation: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what every run has: 18 pictures of 96 x 80 pixels, 2 epochs of 4 batches, a moving average."""
    part = {"name": "COCODataSet", "dataset_dir": str(data), "image_dir": "images", "allow_empty": True}
    return {
        "use_gpu": False, "metric": "COCO", "epoch": 2, "snapshot_epoch": 1, "log_iter": 2, "worker_num": 0,
        "save_dir": str(folder / "runs"), "seed": 4, "keep_checkpoints": 20, "norm_type": "bn", "use_ema": True,
        "ema_decay": 0.9,
        "TrainDataset": {
            **part, "anno_path": "annotations/train.json", "data_fields": ["image", "gt_bbox", "gt_class", "is_crowd"],
        },
        "EvalDataset": {**part, "anno_path": "annotations/val.json"},
        "TrainReader": {"batch_size": 4, "shuffle": True, "drop_last": True},
        "EvalReader": {"sample_transforms": evaluation, "batch_size": 4},
        "TestReader": {"sample_transforms": evaluation, "batch_size": 1},
    }  # fmt: skip


def run_config(folder: Path, frames: Frames, **changes: Any) -> Path:
    """Writes ``run.yml`` to ``folder``, which trains PP-YOLOE with a narrow E-ConvNeXt on ``frames``, 2 x 4 batches.

    Args:
        folder: receives the file and, below ``runs``, the run.
        frames: what to train on.
        **changes: values by dotted key with ``__`` for the dot, such as ``OptimizerBuilder__optimizer``.
    """
    config = _ppyoloe([384, 192, 96], keep_top_k=20, score_threshold=0.001)
    config |= _run(folder, frames.root, _resized(NORMALIZE))
    config |= {
        "ema_black_list": ["proj_conv.weight"],
        "EConvNeXt": {
            "arch": "mini", "depth_multiplier": 0.1, "width_multiplier": 0.125, "return_idx": [1, 2, 3],
            "drop_path_rate": 0.2,
        },
        "LearningRate": {
            "base_lr": 0.001,
            "schedulers": [
                {"name": "CosineDecay", "max_epochs": 2}, {"name": "LinearWarmup", "start_factor": 0.1, "steps": 3},
            ],
        },
    }  # fmt: skip
    config["PPYOLOE"]["backbone"] = "EConvNeXt"
    del config["CSPResNet"]
    config["TrainReader"] |= {
        "sample_transforms": [{"Decode": {}}, {"RandomCrop": {}}, {"RandomFlip": {}}],
        "batch_transforms": [
            {"BatchRandomResize": {
                "target_size": [64, 96], "random_size": True, "random_interp": True, "keep_ratio": False,
            }},
            NORMALIZE, {"Permute": {}}, {"PadGT": {}}, {"LabelsToInt64": {}},
        ],
    }  # fmt: skip
    return _write(folder / "run.yml", config, changes)


def yolov10_run_config(folder: Path, data: Path, class_num: int, size: int, **changes: Any) -> Path:
    """Writes ``run.yml`` to ``folder``, which trains YOLOv10-N with AdamW and an average, two epochs of batches of 4.

    Args:
        folder: receives the file and, below ``runs``, the run.
        data: folder of the data set, with ``images`` and ``annotations/{train,val}.json``.
        class_num: number of classes.
        size: side in pixels of the network's input.
        **changes: values by dotted key with ``__`` for the dot.
    """
    decode, resize, scale, permute = _resized(SCALE, size)
    config = _run(folder, data, [decode, resize, scale, permute]) | {
        "architecture": "YOLOv10", "scale": "N", "num_classes": class_num,
        "YOLOv10": {"backbone": "YOLOv10Backbone", "neck": "YOLOv10Neck", "yolo_head": "YOLOv10Head"},
        "LearningRate": {
            "base_lr": 0.001, "schedulers": [{"name": "CosineDecay", "max_epochs": 2, "use_warmup": False}],
        },
        "OptimizerBuilder": {"regularizer": False, "optimizer": {"type": "AdamW", "weight_decay": 0.0005}},
    }  # fmt: skip
    config["TrainReader"] |= {
        "sample_transforms": [decode, resize],
        "batch_transforms": [scale, permute, {"PadGT": {}}, {"LabelsToInt64": {}}],
    }
    return _write(folder / "run.yml", config, changes)


def make_lively(model: Any, seed: int = 3) -> None:
    """Gives the last layers of a PP-YOLOE weights by which scores and boxes depend on the image."""
    generator = np.random.default_rng(seed)
    for layers, spread in ((model.yolo_head.pred_cls, 0.08), (model.yolo_head.pred_reg, 0.15)):
        for layer in layers:
            layer.weight.set_value(generator.normal(0, spread, layer.weight.shape).astype(np.float32))
    for layer in model.yolo_head.pred_cls:
        layer.bias.set_value(np.full(layer.bias.shape, -2.5, np.float32))


def make_yolov10_lively(model: Any, seed: int = 3, class_spread: float = 3.0) -> None:
    """Gives a YOLOv10 weights by which scores, classes and boxes depend on the image.

    Wide networks need a smaller ``class_spread``, or all their best scores are 1.
    """
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
