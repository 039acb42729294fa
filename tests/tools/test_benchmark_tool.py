"""The command line of the benchmarks."""

from __future__ import annotations

import json

import pytest

from tests.support.deployment import small_classifier
from tests.support.runs import refusal, run_tool

TOOL = "benchmark.py"


def test_startup_writes_markdown_and_json(tmp_path):
    done = run_tool(TOOL, "startup", "--rounds", "1", "--output", "results/bench.md", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results" / "bench.md").read_text()
    assert "| train.py --help |" in page
    assert page.strip() in done.stdout
    seconds = json.loads((tmp_path / "results" / "bench.json").read_text())["startup"]["seconds"]
    assert set(seconds) == {"train.py --help", "train.py, error in the configuration"}


def test_coco_evaluation_is_compared_with_pycocotools(tmp_path):
    options = ("--rounds", "1", "--detections", "800", "--output", "bench.md")
    done = run_tool(TOOL, "coco", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "bench.md").read_text()
    assert "| pycocotools |" in page
    assert "800 synthetic detections in 20 images" in page
    assert json.loads((tmp_path / "bench.json").read_text())["coco"]["largest_difference"] < 5e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["models", "--model", "EConvNeXt_minni"], "error: --model EConvNeXt_minni: unknown model"),
        (["models", "--batch", "1", "0"], "error: --batch must be at least 1, got 0"),
        (["startup", "--output", "bench.json"], "error: --output bench.json: must end in .md"),
        (["operators"], "error: operators: name models or exports with --model NAME|DIR ..."),
        (["detection", "--model", "x", "--threads", "1", "2"], "error: detection: --threads takes one number, got 2"),
        (["detection-data"], "error: detection-data: name a detection configuration with -c"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(tmp_path, options, message):
    assert refusal(tmp_path, TOOL, *options).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_could_measure_nothing_is_an_error(tmp_path):
    from ppcls_ext.deploy.export import export_classifier

    description = export_classifier(
        small_classifier(), tmp_path / "export", model_name="small", class_num=4, image_shape=[3, 32, 32],
        preprocess=[{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}],
    )  # fmt: skip
    weights = description.folder / "inference.pdiparams"
    weights.write_bytes(weights.read_bytes()[:-4] + b"lost")
    done = run_tool(TOOL, "models", "--model", "export", "--quick", "--output", "bench.md", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: models: nothing could be measured")
    assert "inference.pdiparams" in (tmp_path / "bench.md").read_text(encoding="utf-8")
