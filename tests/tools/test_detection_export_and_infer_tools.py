"""From a detector's checkpoint to an export, boxes on pictures and COCO results, through the command lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

from detection.evaluation import evaluate_detections, write_evaluation
from ppcls_ext.utils.files import sha256_of
from ppcls_ext.weights import write_weights
from tests.support.coco import annotation, detection, write_coco
from tests.support.detectors import CLASSES, draw_frames, make_lively, tiny_config
from tests.support.runs import ROOT, output_of, refusal, run_here, run_tool

WEIGHTS = "weights=run/checkpoints/epoch_0001"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A configuration with evaluation data, a checkpoint, and a folder with a video and notes among the frames."""
    import paddle

    from detection.configuration import load_config
    from detection.toolkit import build_model

    root = tmp_path_factory.mktemp("project")
    config = load_config(tiny_config(root))
    paddle.seed(0)
    model = build_model(config)
    make_lively(model)
    checkpoint = root / "run" / "checkpoints" / "epoch_0001"
    write_weights(checkpoint / "model.pdparams", model.state_dict())
    write_weights(checkpoint / "ema.pdparams", model.state_dict())
    (checkpoint / "state.json").write_text(json.dumps({"evaluated_weights": "ema", "class_names": CLASSES}))
    sizes = [(100, 80), (64, 64), (200, 120)]
    files = draw_frames(root / "data" / "images", sizes)
    content = {
        "images": [
            {"id": 50 + number, "file_name": file.name, "width": width, "height": height}
            for number, (file, (width, height)) in enumerate(zip(files, sizes, strict=True))
        ],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
    }
    (root / "data" / "annotations").mkdir()
    (root / "data" / "annotations" / "val.json").write_text(json.dumps(content))
    judged = [annotation(1, 50, 1, [10, 10, 40, 40]), annotation(2, 51, 2, [10, 10, 40, 40])]
    file = write_coco(root / "judged.json", {**content, "annotations": judged})
    found = [detection(50, 1, [10, 10, 40, 40], 0.456789)]
    write_evaluation(
        root / "run" / "tiny" / "evaluation", evaluate_detections(file, found), panels=0,
        weights={"file": "ema.pdparams", "sha256": sha256_of(checkpoint / "ema.pdparams")},
    )  # fmt: skip
    (root / "clip.bin").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(range(256)))
    (root / "notes.txt").write_text("dive 7, good visibility")
    (root / "data" / "images" / "sound.wav").write_bytes(b"RIFF")
    options = ("-c", "tiny.yml", "-o", WEIGHTS, "image_size=96", "--output", "export")
    printed = output_of("export_model.py", *options, folder=root)
    assert "96 x 96 px, NMS: in the file" in printed
    assert "Paddle Inference, oneDNN off: " in printed
    return root


def test_an_export_is_compared_on_evaluation_images_and_takes_over_their_thresholds(project):
    from detection.configuration import load_config
    from detection.trained import load_trained

    document = yaml.safe_load((project / "export" / "inference.yml").read_text())
    assert document["classes"] == CLASSES
    assert document["preprocess"][1]["Resize"]["target_size"] == [96, 96]
    (artefact,) = document["artefacts"]
    assert "evaluation image 2" in artefact["verification"]["images"]
    assert "generated photo, dark" in artefact["verification"]["images"]
    # Of the very weights that were evaluated.
    thresholds = document["thresholds"]
    # Rounded down, so that the very detection stays; a class without a box or a find takes that of all.
    assert thresholds == {"overall": 0.456, "by_class": [0.456, None, None], "images": 3}
    written = ["--input", "data/images", "--threshold", "recommended", "--json", "recommended.json"]
    assert run_here(project, "infer.py", "--model", "export", *written)[0] == 0
    records = json.loads((project / "recommended.json").read_text())
    scores = [one["score"] for record in records for one in record["detections"]]
    assert scores and min(scores) >= 0.456
    trained = load_trained(load_config(project / "tiny.yml", [f"weights={project / 'run/checkpoints/epoch_0001'}"]))
    assert trained.predictor().thresholds.limits().tolist() == [0.456] * 3
    other = project / "other.pdparams"
    write_weights(other, {name: 2 * value for name, value in trained.model.state_dict().items()})
    trained.config.data["weights"] = str(other)
    thresholds, words = trained.recommended_thresholds()
    assert thresholds is None and "is of other weights" in words


def test_export_finds_and_draws_and_goes_on_past_other_files(project):
    done = run_tool(
        "infer.py", "--model", "export", "--input", "clip.bin", "data/images", "notes.txt",
        "--threshold", "0.1", "--json", "found.json", "--coco", "coco.json", "--save", "drawn",
        "--annotations", "data/annotations/val.json", folder=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 unreadable and skipped" in done.stdout
    assert "left out as no images: data/images/sound.wav" in done.stdout
    named = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if "skipped" in line]
    assert sum("clip.bin" in line for line in named) == 1
    assert sum("notes.txt" in line for line in named) == 1
    assert sorted(file.name for file in (project / "drawn").iterdir()) == [f"frame_{n}.png" for n in range(3)]
    records = json.loads((project / "found.json").read_text())
    assert [Path(record["file"]).name for record in records if record["error"]] == ["clip.bin", "notes.txt"]
    found = [one for record in records for one in record["detections"]]
    assert found
    assert all(one["label"] == CLASSES[one["class_id"]] and one["score"] >= 0.1 for one in found)
    results = json.loads((project / "coco.json").read_text())
    assert len(results) == len(found)
    assert {one["image_id"] for one in results} <= {50, 51, 52}
    line = refusal(project, "infer.py", "--model", "export", "--input", "clip.bin", "notes.txt")
    assert "none of the 2 images could be read" in line


def test_the_robots_program_of_the_docs(project):
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (program,) = re.findall(r'```python\n("""Prints the boxes of a camera or a video.*?)```', page, re.DOTALL)
    assert program.count("\n") <= 30
    (project / "robot.py").write_text(program, encoding="utf-8")
    frames = [cv2.imread(str(project / "data" / "images" / f"frame_{number}.png")) for number in (0, 1, 2)]
    writer = cv2.VideoWriter(str(project / "dive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 96))
    for frame in frames:
        writer.write(cv2.resize(frame, (96, 96)))
    writer.release()
    done = subprocess.run(
        [sys.executable, "robot.py", "export", "dive.mp4", "0.1"], cwd=project, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [re.fullmatch(r"frame (\d): (\w+) 0\.\d\d at( -?\d+){4}", line) for line in done.stdout.splitlines()]
    assert lines
    assert all(line is not None and line[2] in CLASSES for line in lines)
