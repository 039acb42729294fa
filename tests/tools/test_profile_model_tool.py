"""The command line of the profiler."""

from __future__ import annotations

import json

import pytest

from tests.support.detection_configs import write_config
from tests.support.runs import refusal, run_tool, small_config
from tests.support.runs import write_config as write_classifier

TOOL = "profile_model.py"


def test_two_networks_are_profiled_and_written(tmp_path):
    page = tmp_path / "profile.md"
    result = run_tool(
        TOOL, "--model", "ConvNeXtV2_atto", "EConvNeXt_mini", "-o", "class_num=10", "--size", "32", "48", "--batch",
        "2", "--repeats", "1", "--layers", "3", "--output", page,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert page.read_text() in result.stdout
    assert "eager mode" in result.stdout
    networks = json.loads(page.with_suffix(".json").read_text())["networks"]
    assert [network["name"] for network in networks] == ["ConvNeXtV2_atto", "EConvNeXt_mini"]
    assert networks[0]["image_shape"] == [3, 32, 48]
    assert networks[0]["layers"][0]["output_shape"] == [2, 40, 8, 12]
    assert page.with_suffix(".csv").is_file()
    assert page.with_suffix(".png").is_file()


def test_configurations_of_both_worlds_are_profiled(tmp_path):
    classifier = write_classifier(tmp_path, small_config(tmp_path / "run"), "digits.yaml")
    detector = write_config(tmp_path)
    result = run_tool(TOOL, "-c", classifier, detector, "--size", "64", "--repeats", "1", "--layers", "0")
    assert result.returncode == 0, result.stderr
    rows = [line.split(" | ") for line in result.stdout.splitlines() if " x 64 x 64 | " in line]
    assert [(row[0].strip("| "), row[1]) for row in rows] == [
        ("digits", "1 x 3 x 64 x 64"), ("tiny", "1 x 3 x 64 x 64"),
    ]  # fmt: skip
    assert "| neck |  |" in result.stdout, "a classifier with a neck"
    assert "Slowest" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "EConvNeXt_mni"], "unknown model 'EConvNeXt_mni'; did you mean EConvNeXt_mini"),
        (["--model", "EConvNeXt_mini", "-o", "clas_num=3"], "unknown argument 'clas_num' (did you mean 'class_num'?)"),
        (["--model", "EConvNeXt_mini", "-o", "class_num"], "-o class_num: must have the form ARGUMENT=VALUE"),
        (["--model", "EConvNeXt_mini", "--size", "0"], "--size must be one or two positive numbers, got 0"),
        (["--model", "EConvNeXt_mini", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["--model", "EConvNeXt_mini", "--output", "page.html"], "--output must end in .md, got page.html"),
        (["-c", "none.yaml"], "none.yaml"),
        (["-c", "a.yaml", "--model", "ResNet18", "-o", "class_num=3"], "-o goes with --model (arguments) or with -c"),
        ([], "name networks with --model NAME ... or with -c CONFIG ..."),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    assert message in refusal(tmp_path, TOOL, *arguments)
