"""From a checkpoint to an export to predictions, through the command lines."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_ext.weights import read_weights, write_weights
from tests.support.runs import output_of, refusal, run_here, run_tool

CLASSES = [f"digit {index}" for index in range(10)]
SMALL = {"name": "EConvNeXt_mini", "class_num": 10, "depth_multiplier": 0.1, "width_multiplier": 0.125}
NORMALIZE = {"NormalizeImage": {"scale": "1.0/255.0", "order": ""}}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A configuration, a checkpoint whose averaged weights were the evaluated ones, and pictures to predict."""
    import paddle

    from ppcls_ext import build_model

    root = tmp_path_factory.mktemp("project")
    config = {
        "Global": {"device": "cpu", "image_shape": [3, 32, 32], "output_dir": "run"},
        "Arch": SMALL,
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
        model = build_model(**SMALL)
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
    printed = output_of("export_model.py", "-c", "config.yaml", "-o", WEIGHTS, "--output", "export", folder=root)
    assert "relative error" in printed
    return root


WEIGHTS = "Global.pretrained_model=run/checkpoints/epoch_0001"


def test_export_and_weights_predict_the_same(project):
    shared = ["--input", "photos", "--json"]
    exported = run_tool(
        "infer.py", "--model", "export", *shared, "export.json", "--save", "sheet.png", folder=project
    )
    assert exported.returncode == 0, exported.stderr
    options = ("-c", "config.yaml", "-o", WEIGHTS, *shared, "eager.json", "--save", "each")
    output_of("infer.py", *options, folder=project)
    first, second = (json.loads((project / name).read_text()) for name in ("export.json", "eager.json"))
    assert [record["file"] for record in first] == [record["file"] for record in second]
    assert [record["error"] for record in first] == [record["error"] for record in second]
    for key in ("label", "score"):
        ours, theirs = ([one[key] for each in records for one in each["predictions"]] for records in (first, second))
        assert ours == (theirs if key == "label" else pytest.approx(theirs, rel=1e-3))
    assert sum(record["error"] is not None for record in first) == 1
    assert all(record["predictions"][0]["label"] in CLASSES for record in first if not record["error"])
    assert "broken.png" in exported.stdout + exported.stderr
    assert "3 images predicted" in exported.stdout
    assert "1 unreadable and skipped" in exported.stdout
    assert Image.open(project / "sheet.png").width > 300
    assert sorted(file.name for file in (project / "each").iterdir()) == ["0.png", "1.png", "2.png"]


def test_weights_explain_themselves_and_describe_images(project):
    wanted = ("--explain", "digit 3", "--save", "why", "--embeddings", "features.npz", "--neighbours", "near.png")
    status, errors = run_here(project, "infer.py", "-c", "config.yaml", "-o", WEIGHTS, "--input", "photos", *wanted)
    assert status == 0, errors
    assert sorted(file.name for file in (project / "why").iterdir()) == ["0.png", "1.png", "2.png"]
    with np.load(project / "features.npz") as arrays:
        features, files, labels = arrays["features"], arrays["files"], arrays["labels"]
    assert (features.dtype, features.shape[0]) == (np.float32, 3)
    assert files.tolist() == [f"photos/digit 1/{index}.png" for index in range(3)]
    assert labels.tolist() == ["digit 1"] * 3
    # What the classifier makes of the features are its probabilities.
    weights = read_weights(project / "run/checkpoints/epoch_0001/ema.pdparams")
    logits = features @ weights["head.weight"] + weights["head.bias"]
    run_here(project, "infer.py", "-c", "config.yaml", "-o", WEIGHTS, "--input", "photos", "--json", "again.json")
    records = [record for record in json.loads((project / "again.json").read_text()) if not record["error"]]
    for row, record in zip(logits, records, strict=True):
        assert record["predictions"][0]["score"] == pytest.approx(1 / np.exp(row - row.max()).sum(), rel=1e-4)
    first = (project / "features.npz").read_bytes()
    again = ("--input", "photos", "--embeddings", "features.npz")
    run_here(project, "infer.py", "-c", "config.yaml", "-o", WEIGHTS, *again)
    assert (project / "features.npz").read_bytes() == first
    with Image.open(project / "near.png") as sheet:
        assert sheet.height > 3 * 200 and sheet.width > 3 * 200


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("export_model.py", "--format onnx --precision bf16", "'onnx' cannot be written in bf16; what works is paddle"),
        ("export_model.py", "--precision int8", "int8 is written for openvino and onnx, not for paddle: change"),
        ("infer.py", "", "give either --model DIR"),
        ("infer.py", "--model export --input phots", "--input phots: no such file or folder"),
        ("infer.py", "--model export --input photos --backend openvino", "has nothing for openvino, it holds"),
        ("infer.py", "--model export --input photos/broken.png", "broken.png: is no picture but a text file named"),
        ("infer.py", "--model export --input photos --save why --explain", "--explain needs weights (-c CONFIG -o"),
        ("infer.py", "-c config.yaml --tile 64 --neighbours a.png", "--neighbours looks at whole pictures: leave out"),
        ("infer.py", f"-c config.yaml -o {WEIGHTS} --input photos --save why --explain digit1", "mean 'digit 1'"),
    ],
)
def test_mistakes_are_one_clear_line(project, tool, arguments, message):
    config = ["-c", "config.yaml", "--output", "refused"] if tool == "export_model.py" else []
    assert message in refusal(project, tool, *config, *arguments.split())
    assert not (project / "refused").exists()


def test_a_long_narrow_picture(project):
    """What the crop keeps is predicted; without a crop the limit holds, and the option moves it."""
    Image.new("RGB", (2000, 1)).save(project / "strip.png")
    config = yaml.safe_load((project / "config.yaml").read_text())
    short, crop = {"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 32}}
    for name, operators in (("whole", [short]), ("cropped", [short, crop])):
        config["Infer"]["transforms"] = [*operators, NORMALIZE, {"ToCHWImage": None}]
        (project / f"{name}.yaml").write_text(yaml.safe_dump(config))
    arguments = ["infer.py", "-o", WEIGHTS, "--input", "strip.png", "-c"]
    message = refusal(project, *arguments, "whole.yaml")
    assert "strip.png: would be resized to 512000 x 256 pixels; at most 64 megapixels are made" in message
    assert "at most 0.1 megapixels" in refusal(project, *arguments, "cropped.yaml", "--max-resized-megapixels", "0.1")
    assert "1 image predicted" in output_of(*arguments, "cropped.yaml", folder=project)
