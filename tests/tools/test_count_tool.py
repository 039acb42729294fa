"""The command line that writes the table of parameters and GFLOPs."""

from __future__ import annotations

import pytest

from tests.support.detection_configs import write_config
from tests.support.runs import ROOT, refusal, run_tool


def test_the_table_of_a_detector(tmp_path):
    result = run_tool("count.py", "-c", write_config(tmp_path))
    assert result.returncode == 0, result.stderr
    header, rule, row = result.stdout.splitlines()
    assert header.startswith("| configuration |")
    assert set(rule) <= set("|-: ")
    # PP-YOLOE-S with E-ConvNeXt-mini and two classes: a little less than with the eight of the sonar rows.
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "tiny"
    assert cells[5] == "22.74"
    assert cells[6:] == ["training", ""]


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_classifier_with_arguments():
    result = run_tool("count.py", "--model", "EConvNeXt_mini", "-o", "class_num=100", "csp=false", "--image-size", "32")
    assert result.returncode == 0, result.stderr
    header, _, row = result.stdout.splitlines()
    assert cells_of(header) == ["Arch", "image, px", "parameters, M", "FLOPs, G"]
    assert cells_of(row)[:2] == ["{name: EConvNeXt_mini, class_num: 100, csp: false}", "32"]
    # Far more than the 6.97 of the published form with as many classes, because blocks are twice as wide.
    assert 25 < float(cells_of(row)[2]) < 40


def test_the_path_from_convnext_to_econvnext():
    result = run_tool("count.py", "--path", "--image-size", "32", "-o", "depth_multiplier=0.3", "class_num=5")
    assert result.returncode == 0, result.stderr
    rows = [cells_of(line) for line in result.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [str(number) for number in range(8)]
    assert [rows[number][2] for number in (0, 5, 7)] == [
        "`{name: ConvNeXtV1_tiny}`", "`{name: EConvNeXt_mini}`", "`{name: EConvNeXt_tiny}`",
    ]  # fmt: skip
    # Cross-stage partial stages are what makes the difference.
    assert float(rows[3][3]) < 0.5 * float(rows[2][3])


def test_compound_scaling_prints_what_a_configuration_needs():
    result = run_tool(
        "count.py", "--model", "EConvNeXt_mini", "-o", "class_num=10", "--image-size", "64", "--phi", "0", "1",
        "--alpha", "1.5", "--beta", "1.25", "--gamma", "1.5",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    first, second = (cells_of(line) for line in lines[2:4])
    assert first[:4] == ["0", "1", "1", "64"]
    assert first[6] == "1.00"
    assert second[:4] == ["1", "1.5", "1.25", "96"]
    assert float(second[6]) > 2
    assert "Arch: {name: EConvNeXt_mini, class_num: 10}" in lines
    assert "Arch: {name: EConvNeXt_mini, class_num: 10, depth_multiplier: 1.5, width_multiplier: 1.25}" in lines
    assert lines[-1] == "Global: {image_shape: [3, 96, 96]}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "EConvNeXt_mini", "-o", "nrom=1"], "unknown argument 'nrom' (did you mean 'norm'?)"),
        (["--model", "ResNet50", "--phi", "1"], "ResNet50: cannot be scaled, it takes no depth_multiplier"),
        (["--model", "EConvNeXt_mini", "--phi", "1", "-o", "width_multiplier=2"], "-o width_multiplier: the scaling"),
        (["--model", "EConvNeXt_mini", "--phi", "50"], "phi 50: depth: must be from 0.01 to 16, got 9100"),
        (["--path", "-o", "csp=true"], "-o csp: is what the path itself changes"),
        (["--path", "--phi", "1"], "scaling needs --model NAME"),
    ],
)
def test_nonsense_is_one_line(words, message):
    assert message in refusal(ROOT, "count.py", *words)
