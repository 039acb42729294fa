"""Frames of 12 bits: a detector's readers, its configuration and its export agree about the range of values."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.check.run import check_detection_data
from detection.configuration import load_config
from detection.task import with_settled_depth
from detection.toolkit import register
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.detection import build_detection_pipeline
from tests.support.deep_files import colour_files, grey_files, twelve_bits
from tests.support.detectors import tiny_config
from tests.support.frames import Frames

REST = [{"Resize": {"target_size": [32, 32], "keep_ratio": False}}, {"NormalizeImage": {}}, {"Permute": {}}]
COLOURS = colour_files(np.dstack([twelve_bits(5 + band) for band in range(3)]))
FILES = grey_files(twelve_bits(4)) | {f"{kind} in colours": data for kind, data in COLOURS.items()}


@pytest.mark.parametrize("kind", FILES)
def test_training_and_deployment_see_the_same_pixels(kind: str) -> None:
    from ppdet.data.reader import Compose

    register()
    operators = [{"Decode": {"bits": 12}}, *REST]
    trained = Compose(operators)({"image": FILES[kind]})["image"]
    deployed = build_detection_pipeline(operators)(FILES[kind]).pixels
    assert np.array_equal(trained, deployed)
    # What the range does not use would be nearly black.
    assert np.ptp(deployed) > 2


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A configuration without a word on bits, and frames of 12 bits."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    made = Frames(tmp_path / "data")
    made.write()
    for number, file in enumerate(sorted((tmp_path / "data" / "images").iterdir())):
        with Image.open(file) as image:
            width, height = image.size
        Image.fromarray(twelve_bits(number, width, height)).save(file)
    return tiny_config(tmp_path)


def test_the_number_is_found_when_training_starts(frames: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(frames, ["TrainReader.sample_transforms.0.Decode.bits=auto"])
    with caplog.at_level(logging.INFO):
        settled = with_settled_depth(config, None, seed=0)
    assert "bits: auto is bits: 12" in caplog.text
    assert list(depth.statements_in(settled.data).values()) == [{"bits": 12}] * 3
    caplog.clear()
    with_settled_depth(load_config(frames), None, seed=0)
    assert "state bits: 12 at the decode operator" in caplog.text


def test_the_check_sees_what_the_detector_sees(frames: Path) -> None:
    findings = check_detection_data(load_config(frames)).findings
    assert "state bits: 12" in next(one for one in findings if one.kind == "value_range").entries[0].note
    config = load_config(frames, ["TrainReader.sample_transforms.0.Decode.bits=auto"])
    findings = check_detection_data(config).findings
    assert not {one.kind for one in findings} & {"value_range", "black_image"}
