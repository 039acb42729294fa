"""YOLOv10 from a checkpoint to an export, boxes, COCO figures and latencies, through the command lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.weights import write_weights
from tests.support.detectors import make_frames, make_yolov10_lively, yolov10_config
from tests.support.frames import NAMES
from tests.support.runs import output_of

CHECKPOINT = "weights=run/checkpoints/epoch_0001"
FRAMES = ("data/images/val_00.png", "data/images/val_01.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with a letterbox, evaluation data of 96 x 80 pixels, a checkpoint and its export at 64 pixels."""
    from detection.configuration import load_config
    from detection.toolkit import build_model

    root = tmp_path_factory.mktemp("project")
    make_frames(root / "data")
    model = build_model(load_config(yolov10_config(root)))
    make_yolov10_lively(model)
    checkpoint = root / "run" / "checkpoints" / "epoch_0001"
    write_weights(checkpoint / "model.pdparams", model.state_dict())
    (checkpoint / "state.json").write_text(json.dumps({"evaluated_weights": "model", "class_names": NAMES}))
    printed = output_of("export_model.py", "-c", "tiny.yml", "-o", CHECKPOINT, "--output", "export", folder=root)
    assert "YOLOv10 with YOLOv10Backbone N, 3 classes, 64 x 64 px, NMS: none needed" in printed
    return root


def found_in(project: Path, *arguments: Any) -> list[dict[str, Any]]:
    """Runs tools/infer.py and returns what it wrote as JSON."""
    options = ("--input", *FRAMES, "--threshold", "0.3", "--json", "found.json")
    output_of("infer.py", *arguments, *options, folder=project)
    return json.loads((project / "found.json").read_text())


def test_the_export_and_the_weights_find_the_same(project: Path) -> None:
    exported = found_in(project, "--model", "export", "--save", "drawn")
    trained = found_in(project, "-c", "tiny.yml", "-o", CHECKPOINT)
    assert sorted(file.name for file in (project / "drawn").iterdir()) == ["val_00.png", "val_01.png"]
    for ours, theirs in zip(exported, trained, strict=True):
        assert (ours["width"], ours["height"]) == (96, 80)
        assert len(ours["detections"]) == len(theirs["detections"]) > 0
        assert {one["label"] for one in ours["detections"]} <= set(NAMES)
        boxes, others = (np.array([one["box"] for one in found["detections"]]) for found in (ours, theirs))
        # Equal scores may change places.
        assert np.abs(boxes[:, None] - others[None]).max(axis=2).min(axis=1).max() < 0.1


def test_evaluation(project: Path) -> None:
    options = ("--output", "evaluation", "--panels", "1")
    output_of("eval.py", "-c", "tiny.yml", "-o", CHECKPOINT, *options, folder=project)
    counts = json.loads((project / "evaluation" / "figures.json").read_text())["counts"]
    # Each of the 84 anchors is a detection in each of the 6 images.
    assert (counts["images"], counts["detections"]) == (6, 6 * 84)
    assert (project / "evaluation" / "panels.png").is_file()
    detections = json.loads((project / "evaluation" / "detections.json").read_text())
    best = max(detections, key=lambda one: one["score"] if one["image_id"] == 1 else -1)
    found = found_in(project, "--model", "export")[0]["detections"][0]
    assert best["score"] == pytest.approx(found["score"], abs=1e-3)
    left, top, right, bottom = found["box"]
    np.testing.assert_allclose(best["bbox"], [left, top, right - left, bottom - top], atol=0.2)
