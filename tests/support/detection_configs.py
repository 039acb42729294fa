"""A small detection configuration that tests change, and the data set that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from ppcls_ext.utils.files import write_json

TEXT = """\
# a detector for tests
architecture: PPYOLOE
metric: COCO
num_classes: 2
epoch: 3
depth_mult: 0.33
width_mult: 0.5
PPYOLOE:
  backbone: EConvNeXt
  neck: CustomCSPPAN
  yolo_head: PPYOLOEHead
EConvNeXt:
  arch: mini
CustomCSPPAN: {out_channels: [768, 384, 192], stage_num: 1, block_num: 3, act: swish, spp: true}
PPYOLOEHead:
  static_assigner: {name: ATSSAssigner, topk: 9}
  nms: {name: MultiClassNMS3, nms_top_k: 1000}
LearningRate:
  base_lr: 0.001
  schedulers:
    - {name: CosineDecay, max_epochs: 3}
    - {name: LinearWarmup, steps: 5}
OptimizerBuilder:
  regularizer: {type: L2, factor: 0.0005}
  optimizer: {type: Momentum, momentum: 0.9}
TrainDataset:
  name: COCODataSet
  dataset_dir: data
  image_dir: images
  anno_path: train.json
EvalDataset:
  name: COCODataSet
  dataset_dir: data
  image_dir: images
  anno_path: val.json
TrainReader:
  sample_transforms:
    - Decode: {}
    - RandomCrop: {aspect_ratio: [0.5, 2.0]}
  batch_transforms:
    - PadGT: {}
    - LabelsToInt64: {}
  batch_size: 2
EvalReader:
  sample_transforms:
    - Decode: {}
TestReader:
  inputs_def: {image_shape: [3, 64, 64]}
  sample_transforms:
    - Decode: {}
"""


def write_config(folder: Path, *changes: tuple[str, str], name: str = "tiny.yml") -> Path:
    """Writes :data:`TEXT` with each ``(old, new)`` of ``changes`` replaced, which must be there once."""
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def line_of(file: Path, start: str) -> int:
    """Returns the number of the only line of ``file`` that begins with ``start`` after its indentation."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines, start=1) if line.strip().startswith(start)]
    assert len(found) == 1, f"{start!r} begins {len(found)} lines"
    return found[0]


def coco(part: str, names: list[str], images: int = 2) -> dict[str, Any]:
    """Returns a COCO object with one box in each of ``images`` images ``<part>_<number>.png``."""
    return {
        "images": [
            {"id": n, "file_name": f"{part}_{n}.png", "width": 64, "height": 48} for n in range(1, images + 1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [4.0, 5.0, 20.0, 10.0], "area": 200.0, "iscrowd": 0,
             "segmentation": []}
            for n in range(1, images + 1)
        ],
    }  # fmt: skip


def write_data(folder: Path, names: tuple[str, ...] = ("cube", "ball")) -> Path:
    """Writes the images and annotations that :data:`TEXT` names below ``folder``; returns the data set's folder."""
    root = folder / "data"
    (root / "images").mkdir(parents=True)
    for part in ("train", "val"):
        data = coco(part, list(names))
        write_json(root / f"{part}.json", data)
        for image in data["images"]:
            Image.new("RGB", (64, 48)).save(root / "images" / image["file_name"])
    return root
