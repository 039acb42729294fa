"""Small trainings of YOLOv10-N for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.detector_runs import write_changed


def write_run(folder: Path, data: Path, class_num: int, size: int, **changes: Any) -> Path:
    """Writes ``run.yml`` to ``folder``, which trains YOLOv10-N with AdamW and an average, two epochs of batches of 4.

    Args:
        folder: receives the file and, below ``runs``, the run.
        data: folder of the data set, with ``images`` and ``annotations/{train,val}.json``.
        class_num: number of classes.
        size: side in pixels of the network's input.
        **changes: values by dotted key with ``__`` for the dot.
    """
    scale = {"NormalizeImage": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "is_scale": True}}
    resize = {"Resize": {"target_size": [size, size], "keep_ratio": False, "interp": 2}}
    evaluation = [{"Decode": {}}, resize, scale, {"Permute": {}}]
    part = {"name": "COCODataSet", "dataset_dir": str(data), "image_dir": "images", "allow_empty": True}
    config: dict[str, Any] = {
        "architecture": "YOLOv10", "scale": "N", "metric": "COCO", "num_classes": class_num, "use_gpu": False,
        "epoch": 2, "snapshot_epoch": 1, "log_iter": 2, "worker_num": 0, "save_dir": str(folder / "runs"), "seed": 4,
        "keep_checkpoints": 20, "norm_type": "bn", "use_ema": True, "ema_decay": 0.9,
        "YOLOv10": {"backbone": "YOLOv10Backbone", "neck": "YOLOv10Neck", "yolo_head": "YOLOv10Head"},
        "LearningRate": {
            "base_lr": 0.001, "schedulers": [{"name": "CosineDecay", "max_epochs": 2, "use_warmup": False}],
        },
        "OptimizerBuilder": {"regularizer": False, "optimizer": {"type": "AdamW", "weight_decay": 0.0005}},
        "TrainDataset": {
            **part, "anno_path": "annotations/train.json", "data_fields": ["image", "gt_bbox", "gt_class", "is_crowd"],
        },
        "EvalDataset": {**part, "anno_path": "annotations/val.json"},
        "TrainReader": {
            "sample_transforms": [{"Decode": {}}, resize],
            "batch_transforms": [scale, {"Permute": {}}, {"PadGT": {}}, {"LabelsToInt64": {}}],
            "batch_size": 4, "shuffle": True, "drop_last": True,
        },
        "EvalReader": {"sample_transforms": evaluation, "batch_size": 4},
        "TestReader": {"sample_transforms": evaluation, "batch_size": 1},
    }  # fmt: skip
    return write_changed(folder, config, changes)
