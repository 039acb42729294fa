"""A YOLOv10 run that was interrupted between mosaics ends with the same bits as one that was not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from detection.configuration import DetectionConfig, load_config
from detection.engine.run import train_config
from tests.support.detector_runs import STEPS, make_frames, run_config
from tests.support.runs import same_files

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")
READER = {
    "sample_transforms": [
        {"Decode": {}}, {"MosaicPerspective": {"target_size": 64, "degrees": 5.0}}, {"RandomHSV": {}},
        {"RandomFlip": {}},
    ],
    "batch_transforms": [
        {"NormalizeImage": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "norm_type": "none"}}, {"Permute": {}},
        {"PadGT": {}}, {"LabelsToInt64": {}},
    ],
    "batch_size": 4, "shuffle": True, "drop_last": True, "mosaic_epoch": 1,
}  # fmt: skip
DETECTOR = {"architecture": "YOLOv10", "scale": "N", "ema_decay_type": "exponential"}


def config_of(folder: Path, data: Path, workers: int) -> DetectionConfig:
    """Two epochs, of which the first sees mosaics; a checkpoint before the last batch of each."""
    changes: dict[str, Any] = {"TrainReader": READER, "save_steps": STEPS - 1, "eval_interval": 2}
    file = run_config(folder, make_frames(data), worker_num=workers, **changes)
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name in [name for name in settings if name in ("depth_mult", "width_mult") or name.startswith("PPYOLOE")]:
        del settings[name]
    file.write_text(yaml.safe_dump({**settings, **DETECTOR}), encoding="utf-8")
    return load_config(file)


def test_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = config_of(tmp_path / "whole", tmp_path / "data", workers=0)
    train_config(whole)
    resumed = config_of(tmp_path / "resumed", tmp_path / "data", workers=2)
    checkpoint = f"epoch_0000_step_{STEPS - 1:06d}"
    first, second = (config.output_dir / "checkpoints" for config in (whole, resumed))
    shutil.copytree(first / checkpoint, second / checkpoint)
    train_config(resumed, "auto")
    assert same_files(first / "epoch_0002", second / "epoch_0002", ARRAYS) == []
