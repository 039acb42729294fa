"""The benchmark of a detector's training data: what it measures, and what it says when there is nothing to measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.configuration import load_config
from detection.data.loading_benchmark import markdown_rows, run_loading_benchmark
from ppcls_ext.utils.errors import UserError
from tests.support.coco import annotation, coco_data, write_coco
from tests.support.detectors import CLASSES, draw_frames, tiny_config


def write_data(folder: Path, images: int) -> None:
    names = draw_frames(folder / "data" / "images", [(96, 80)] * images)
    data = coco_data(images, CLASSES, [annotation(n, n, 1 + n % 3, [10, 10, 30, 20]) for n in range(1, images + 1)])
    for record, file in zip(data["images"], names, strict=True):
        record.update(file_name=file.name, width=96, height=80)
    write_coco(folder / "data" / "annotations" / "val.json", data)


def dataset_section(folder: Path) -> dict:
    return {
        "name": "COCODataSet",
        "dataset_dir": str(folder / "data"),
        "image_dir": "images",
        "anno_path": "annotations/val.json",
        "data_fields": ["image", "gt_bbox", "gt_class", "is_crowd"],
    }


def test_rates_of_each_number_of_workers(tmp_path, capfd):
    write_data(tmp_path, 7)
    config = load_config(tiny_config(tmp_path, TrainDataset=dataset_section(tmp_path)))
    result = run_loading_benchmark(config, rounds=2, images=100, workers=(0, 1))
    # Three batches of two, the seventh image fills none; the first batch only starts the clock.
    assert (result["batch_size"], result["rounds"]) == (2, 2)
    assert result["images"] == 4
    assert set(result["images_per_second"]) == {0, 1}
    assert all(0 < row["median"] <= row["best"] for row in result["images_per_second"].values())
    assert [row[0] for row in markdown_rows(result)] == ["worker processes", "0 (a thread)", "1"]
    assert "loading annotations" not in capfd.readouterr().out


def test_missing_and_too_few_data(tmp_path):
    config = load_config(tiny_config(tmp_path))
    with pytest.raises(UserError, match=r"tiny.yml: TrainDataset.anno_path: .*val.json does not exist"):
        run_loading_benchmark(config)
    write_data(tmp_path, 2)
    with pytest.raises(UserError, match="too few images for two batches of 2"):
        run_loading_benchmark(config, workers=(0,))
