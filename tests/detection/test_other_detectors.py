"""E-ConvNeXt in detectors that PaddleDetection trains itself: configs/detection/other."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from detection.configuration import load_config
from detection.configuration.config import load_with_bases
from ppcls_ext.utils.config import load_config_file
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import read_weights
from tests.support.detectors import make_frames
from tests.test_configs import opening_comment
from tests.test_toolkit_plugins import ROOT, WORK, losses_of, make_checkout, real_script, run

FOLDER = ROOT / "configs" / "detection" / "other"
FILES = {file.stem: file for file in sorted(FOLDER.glob("*.yml")) if file.name[0] != "_"}
SIZE = 128


def test_they_say_what_they_are_and_our_own_tools_name_the_way():
    assert {load_with_bases(file).data["architecture"] for file in FILES.values()} == {
        "FasterRCNN", "RetinaNet", "PicoDet", "DETR",
    }  # fmt: skip
    for file in FILES.values():
        comment = opening_comment(file)
        assert all(f"\n{word}:" in comment for word in ("Command", "Hardware", "Expected")), file
        assert f"configs/detection/other/{file.name}" in comment
        assert yaml.safe_load(file.read_text(encoding="utf-8")) == load_config_file(file).data
    file = FILES["faster_rcnn_fpn_econvnext_mini"]
    with pytest.raises(UserError, match="only PPYOLOE and YOLOv10 .* got FasterRCNN; .*python -m detection .*train.py"):
        load_config(file)


def small_run(file: Path, folder: Path) -> Path:
    """Writes a configuration that trains two batches of four pictures, and evaluates, from one that is shipped."""
    frames = make_frames(folder / "data", empty=False)
    for part in (frames.train, frames.val):
        part["images"] = part["images"][:8]
        kept = {image["id"] for image in part["images"]}
        part["annotations"] = [box for box in part["annotations"] if box["image_id"] in kept]
    frames.write()
    data = copy.deepcopy(load_with_bases(file).data)
    data |= {"num_classes": len(frames.train["categories"]), "epoch": 1, "log_iter": 1, "use_gpu": False,
             "worker_num": 0, "save_dir": str(folder / "runs"), "snapshot_epoch": 1}  # fmt: skip
    if "eval_size" in data:
        data["eval_size"] = [SIZE, SIZE]
    data["EConvNeXt"] |= {"depth_multiplier": 0.1, "width_multiplier": 0.25}
    for part in ("Train", "Eval"):
        data[f"{part}Dataset"] |= {"dataset_dir": str(frames.root), "allow_empty": False}
        for operator in data[f"{part}Reader"]["sample_transforms"]:
            if "Resize" in operator:
                operator["Resize"]["target_size"] = [SIZE, SIZE]
    config = folder / "run.yml"
    config.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return config


SLOW = pytest.mark.slow
DETECTORS = [
    "picodet_csppan_econvnext_mini",
    pytest.param("faster_rcnn_fpn_econvnext_mini", marks=SLOW),
    pytest.param("retinanet_fpn_econvnext_mini", marks=SLOW),
    pytest.param("rtdetr_econvnext_mini", marks=SLOW),
]


@pytest.mark.parametrize("name", DETECTORS)
def test_it_trains_two_steps_and_evaluates(tmp_path, name):
    """By the scripts of a checkout where there is one; the wheel, which has no scripts, has no RT-DETR either."""
    config = small_run(FILES[name], tmp_path)
    if os.environ.get("PADDLEDET_DIR") or name.startswith("rtdetr"):
        script, arguments = real_script("PADDLEDET_DIR"), ["--eval"]
    else:
        script, arguments = make_checkout("detection", tmp_path / "checkout", WORK), ["train"]
    done = run(["-m", "detection", str(script), *arguments, "-c", str(config)], tmp_path)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    losses = losses_of(text, r"Epoch: \[\d+\] \[\d+/\d+\]")
    assert len(losses) == 2 and np.isfinite(losses).all(), text[-3000:]
    assert max(losses) < 100, "boxes are not where the head expects them"
    weights = read_weights(next((tmp_path / "runs").rglob("model_final.pdparams")))
    assert (weights["backbone.norms.0.weight"] != 1).any(), "the backbone has not learned"
