"""Benchmarks that need detection: what they measure, and what they say when there is nothing to measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection import benchmarks
from detection.configuration import load_config
from ppcls_ext.runtime import read_description
from tests.support.coco import annotation, coco_data, write_coco
from tests.support.detectors import CLASSES, draw_frames, tiny_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "detection"


@pytest.mark.slow
def test_a_detector_is_exported_with_random_weights_and_counted(tmp_path):
    config = CONFIGS / "yolov10" / "yolov10_n_sonar.yml"
    counts = benchmarks.export_detector(str(config), 96, "paddle", "fp32", tmp_path / "export")
    assert counts["parameters"] > 2e6 and counts["multiply_adds"] > 5e7
    assert read_description(tmp_path / "export").input_shape == [-1, 3, 96, 96]


def write_data(folder: Path, images: int) -> None:
    names = draw_frames(folder / "data" / "images", [(96, 80)] * images)
    data = coco_data(images, CLASSES, [annotation(n, n, 1 + n % 3, [10, 10, 30, 20]) for n in range(1, images + 1)])
    for record, file in zip(data["images"], names, strict=True):
        record.update(file_name=file.name, width=96, height=80)
    write_coco(folder / "data" / "annotations" / "val.json", data)


def test_loading_with_each_number_of_workers(tmp_path, capfd):
    write_data(tmp_path, 7)
    dataset = {
        "name": "COCODataSet",
        "dataset_dir": str(tmp_path / "data"),
        "image_dir": "images",
        "anno_path": "annotations/val.json",
        "data_fields": ["image", "gt_bbox", "gt_class", "is_crowd"],
    }
    config = load_config(tiny_config(tmp_path, TrainDataset=dataset))
    result = benchmarks.measure_loading(config, rounds=2, images=100, workers=(0, 1))
    # Three batches of two, the seventh image fills none; the first batch only starts the clock.
    assert (result["batch_size"], result["rounds"], result["images"]) == (2, 2, 4)
    assert set(result["images_per_second"]) == {0, 1}
    assert all(0 < row["median"] <= row["best"] for row in result["images_per_second"].values())
    assert "loading annotations" not in capfd.readouterr().out
