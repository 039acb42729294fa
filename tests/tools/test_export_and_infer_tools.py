"""From a checkpoint to an export to predictions, through the command lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_ext.weights import write_weights
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO

TOOLS = Path(__file__).resolve().parents[2] / "tools"
CLASSES = [f"digit {index}" for index in range(10)]
NARROW = [[8] * 3, [8] * 3, [8] * 9, [8] * 3]
NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "order": ""}}


def run_tool(folder, name, *arguments):
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A configuration, a checkpoint whose averaged weights were the evaluated ones, and pictures to predict."""
    import paddle

    from ppcls_ext import build_model

    root = tmp_path_factory.mktemp("project")
    config = {
        "Global": {"device": "cpu", "image_shape": [3, 32, 32], "output_dir": "run"},
        "Arch": {"name": "EConvNeXt_mini", "class_num": 10, "expansion_channels": NARROW},
        "DataLoader": {
            "Eval": {"dataset": {"name": "ImageFolder", "image_root": "absent", "transform_ops": [NORMALIZE]}},
        },
        "Infer": {
            "transforms": [{"ResizeImage": {"size": 32}}, NORMALIZE, {"ToCHWImage": None}],
            "PostProcess": {"name": "Topk", "topk": 3},
        },
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint = root / "run" / "checkpoints" / "epoch_0001"
    for seed, name in ((1, "model"), (2, "ema")):
        paddle.seed(seed)
        model = build_model("EConvNeXt_mini", class_num=10, expansion_channels=NARROW)
        weights = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        weights["head.weight"] = weights["head.weight"] * 50
        write_weights(checkpoint / f"{name}.pdparams", weights)
    (checkpoint / "state.json").write_text(json.dumps({"evaluated_weights": "ema", "class_names": CLASSES}))
    (root / "photos" / "digit 1").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(3):
        pixels = generator.integers(0, 255, size=(40 + 9 * index, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / "digit 1" / f"{index}.png")
    (root / "photos" / "broken.png").write_bytes(b"not a picture")
    done = run_tool(root, "export_model.py", "-c", "config.yaml", "-o", WEIGHTS, "--output", "export")
    assert done.returncode == 0, done.stderr
    assert "relative error" in done.stdout
    return root


WEIGHTS = "Global.pretrained_model=run/checkpoints/epoch_0001"


def test_export_carries_the_class_names_of_the_checkpoint(project):
    document = yaml.safe_load((project / "export" / "inference.yml").read_text())
    assert document["classes"] == CLASSES
    assert document["preprocess"][0] == {"ResizeImage": {"size": 32}}
    assert document["model"] == {"name": "EConvNeXt_mini", "class_num": 10}


def test_export_and_weights_predict_the_same(project):
    shared = ["--input", "photos", "--json"]
    exported = run_tool(project, "infer.py", "--model", "export", *shared, "export.json", "--save", "sheet.png")
    assert exported.returncode == 0, exported.stderr
    eager = run_tool(project, "infer.py", "-c", "config.yaml", "-o", WEIGHTS, *shared, "eager.json", "--save", "each")
    assert eager.returncode == 0, eager.stderr
    first, second = (json.loads((project / name).read_text()) for name in ("export.json", "eager.json"))
    assert [record["file"] for record in first] == [record["file"] for record in second]
    for ours, theirs in zip(first, second, strict=True):
        assert ours["error"] == theirs["error"]
        assert [p["label"] for p in ours["predictions"]] == [p["label"] for p in theirs["predictions"]]
        assert [p["score"] for p in ours["predictions"]] == pytest.approx(
            [p["score"] for p in theirs["predictions"]], rel=1e-3
        )
    assert sum(record["error"] is not None for record in first) == 1
    assert all(record["predictions"][0]["label"] in CLASSES for record in first if not record["error"])
    assert "broken.png" in exported.stdout + exported.stderr
    assert "3 images predicted" in exported.stdout
    assert "1 unreadable and skipped" in exported.stdout
    assert Image.open(project / "sheet.png").width > 300
    assert sorted(file.name for file in (project / "each").iterdir()) == ["0.png", "1.png", "2.png"]


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_other_formats_predict_the_same(project):
    done = run_tool(
        project, "export_model.py", "-c", "config.yaml", "-o", WEIGHTS, "--output", "formats", "--format",
        "onnx,openvino", "--precision", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "inference.onnx, ONNX Runtime: relative error" in done.stdout
    assert "inference.xml, OpenVINO: relative error" in done.stdout
    assert done.stdout.count("(allowed 1e-04), same best class 100%, computed in float32") == 2
    found = {}
    for name, options in {
        "export": (), "formats": (), "openvino": ("--backend", "openvino", "--precision", "fp32", "--threads", "1"),
    }.items():  # fmt: skip
        model = "export" if name == "export" else "formats"
        arguments = ("--model", model, "--input", "photos", "--json", f"{name}.json", *options)
        done = run_tool(project, "infer.py", *arguments)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((project / f"{name}.json").read_text())
    for name in ("formats", "openvino"):
        for ours, theirs in zip(found[name], found["export"], strict=True):
            assert [p["label"] for p in ours["predictions"]] == [p["label"] for p in theirs["predictions"]]
            assert [p["score"] for p in ours["predictions"]] == pytest.approx(
                [p["score"] for p in theirs["predictions"]], rel=1e-3
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--precision", "bf16"), "'onnx' cannot be written in bf16; what works is paddle: fp32"),
        (("--max-drop", "0.5"), "--max-drop limits what int8 may lose: add int8 to --precision"),
        (("--precision", "int8"), "int8 is written for openvino only, not for paddle: add --format openvino"),
    ],
)
def test_what_cannot_be_written_is_one_clear_line(project, arguments, message):
    done = run_tool(project, "export_model.py", "-c", "config.yaml", "--output", "refused", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not (project / "refused").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --model DIR"),
        (("--model", "export", "-c", "config.yaml"), "give either --model DIR"),
        (("--model", "export"), "name images with --input"),
        (("-c", "config.yaml", "--backend", "openvino"), "--backend chooses how an export is run: it goes with"),
        (("--model", "export", "--input", "phots"), "--input phots: no such file or folder"),
        (("--model", "photos", "--input", "photos"), "not an export folder"),
        (("--model", "export", "--input", "photos", "--backend", "openvino"), "has nothing for openvino, it holds"),
        (("--model", "export", "--input", "photos", "--topk", "0"), "--topk must be at least 1"),
        (("--model", "export", "--input", "photos", "--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("--model", "export", "--input", "photos", "--json", "photos"), "error: photos: Is a directory"),
        (("--model", "export", "--input", "photos", "-o", "Global.seed=1"), "it goes with -c"),
        (("-c", "config.yaml", "--input", "photos"), "Global.pretrained_model: no weights are named"),
    ],
)
def test_mistakes_are_one_clear_line(project, arguments, message):
    done = run_tool(project, "infer.py", *arguments)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_only_unreadable_images_is_an_error(project):
    done = run_tool(project, "infer.py", "--model", "export", "--input", "photos/broken.png")
    assert done.returncode == 2
    assert "none of the 1 images could be read" in done.stderr
