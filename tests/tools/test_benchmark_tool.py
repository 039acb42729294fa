"""The command line of the benchmarks."""

from __future__ import annotations

import json

import pytest

from tests.support.deployment import small_classifier
from tests.support.runs import run_tool


def run(folder, *options):
    return run_tool("benchmark.py", *options, folder=folder)


@pytest.mark.parametrize(
    ("part", "line"),
    [("startup", "| train.py --help |"), ("coco", "| pycocotools |")],
)  # fmt: skip
def test_a_part_writes_markdown_and_json(tmp_path, part, line):
    done = run(tmp_path, part, "--rounds", "1", "--detections", "400", "--output", "results/bench.md")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results" / "bench.md").read_text()
    assert line in page and page.strip() in done.stdout
    assert json.loads((tmp_path / "results" / "bench.json").read_text())[part]["seconds"]


@pytest.mark.slow
def test_the_inference_engines_are_compared(tmp_path):
    done = run(tmp_path, "inference", "--size", "64", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "| EConvNeXt_mini | 64 | paddle | fp32 | 2 | 1 |" in done.stdout
    assert "as fast as the mean-pooled form (" in done.stdout


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
    done = run(tmp_path, *options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_could_measure_nothing_is_an_error(tmp_path):
    from ppcls_ext.deploy.export import export_classifier

    description = export_classifier(
        small_classifier(), tmp_path / "export", model_name="small", class_num=4, image_shape=[3, 32, 32],
        preprocess=[{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}],
    )  # fmt: skip
    weights = description.folder / "inference.pdiparams"
    weights.write_bytes(weights.read_bytes()[:-4] + b"lost")
    done = run(tmp_path, "models", "--model", "export", "--quick", "--output", "bench.md")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: models: nothing could be measured")
    assert "inference.pdiparams" in (tmp_path / "bench.md").read_text(encoding="utf-8")
