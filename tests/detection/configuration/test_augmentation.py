"""Readers in which a mosaic would never happen, or a letterbox would put boxes elsewhere, are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.configuration import load_config
from ppcls_ext.utils.errors import ConfigError
from tests.golden.make_detectors import CONFIGS
from tests.support.detection_configs import write_config

YOLOV10 = CONFIGS / "yolov10" / "yolov10_n_sonar.yml"
CROP = "- RandomCrop: {aspect_ratio: [0.5, 2.0]}"
MOSAIC = "- MosaicPerspective: {target_size: 64}"
NO_EPOCH = (
    "TrainReader.sample_transforms[1]: MosaicPerspective gets one sample only: set TrainReader.mosaic_epoch, the epoch "
    "from which it is off (-1: always)"
)


def problems_of(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(file, overrides)
    return error.value.problems


@pytest.mark.parametrize(
    ("operator", "epoch", "message"),
    [
        (MOSAIC, "", NO_EPOCH),
        (CROP, "mosaic_epoch: 3", "TrainReader.mosaic_epoch: needs MosaicPerspective in TrainReader.sample_transforms"),
        ("- RandomHSV: {hue: much}", "", "RandomHSV.hue: must be a number, got 'much'"),
    ],
)
def test_mosaics_that_would_not_happen(tmp_path, operator, epoch, message):
    file = write_config(tmp_path, (CROP, operator), ("batch_size: 2", f"batch_size: 2\n  {epoch}"))
    assert [line for line in problems_of(file) if message in line], problems_of(file)
    assert len(problems_of(file)) == 1


def test_a_letterbox_wants_an_architecture_that_knows_of_it(tmp_path):
    letterbox = "[{Decode: {}}, {LetterResize: {target_size: 64}}]"
    for reader in ("EvalReader", "TestReader"):
        found = problems_of(write_config(tmp_path), f"{reader}.sample_transforms={letterbox}")
        message = "LetterResize needs architecture: YOLOv10, which takes its padding back; PPYOLOE does not"
        assert len(found) == 1 and found[0].endswith(f"{reader}.sample_transforms[1]: {message}"), found
        assert load_config(YOLOV10, [f"{reader}.sample_transforms={letterbox}"])
    assert load_config(write_config(tmp_path), [f"TrainReader.sample_transforms={letterbox}"])


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ("[{Decode: {}}, {LetterResize: {target_size: 64}}, {Resize: {target_size: 64, keep_ratio: false}}]",
         "sample_transforms[2]: Resize cannot follow LetterResize, which gives the final size"),
        ("[{Decode: {}}, {MosaicPerspective: {target_size: 64}}]", "MosaicPerspective belongs to TrainReader"),
    ],
)  # fmt: skip
def test_evaluations_in_which_boxes_would_lie_elsewhere(operators, message):
    found = problems_of(YOLOV10, f"EvalReader.sample_transforms={operators}")
    assert len(found) == 1 and message in found[0], found
