"""The data that an int8 classifier is calibrated and judged on."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from classification.config import load_config
from classification.quantization import calibration_images, evaluation_of
from ppcls_ext.utils.errors import UserError

FINE_TUNING = Path(__file__).resolve().parents[2] / "configs" / "finetune_folder.yaml"


@pytest.fixture
def config(tmp_path: Path):
    """Ten pictures of each of two classes, as a configuration names them."""
    for shade, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = np.full([8, 8, 3], 200 * shade + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    keys = [f"DataLoader.{part}.dataset.image_root={tmp_path}" for part in ("Train", "Eval")]
    return load_config(FINE_TUNING, [*keys, "Global.device=cpu"])


def test_calibration_takes_images_of_all_classes_and_leaves_out_what_cannot_be_read(config, tmp_path: Path) -> None:
    assert [Path(name).parent.name for name, _ in calibration_images(config, "train", 4)].count("dark") == 2
    images = calibration_images(config, "train", 1000)
    for file in (tmp_path / "dark").iterdir():
        file.unlink()
    assert {Path(name).parent.name for name, _ in images} == {"light"}


def test_a_data_set_that_is_not_there_is_told_before_the_first_image_is_asked_for(config, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "dark")
    shutil.rmtree(tmp_path / "light")
    with pytest.raises(UserError):
        calibration_images(config, "train", 6)


def test_accuracy_counts_the_images_that_can_be_read(config, tmp_path: Path) -> None:
    evaluation = evaluation_of(config)
    assert (evaluation.metric, evaluation.images) == ("top1", 4)

    def always_light(images: list[bytes], **_: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(error=None, class_ids=[1]) for _ in images]

    assert evaluation.score(always_light) == 0.5
    for file in (tmp_path / "dark").iterdir():
        file.unlink()
    assert evaluation.score(always_light) == 1.0
