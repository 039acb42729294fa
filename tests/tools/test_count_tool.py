"""The command line that writes the table of parameters and GFLOPs."""

from __future__ import annotations

from tests.support.detection_configs import write_config
from tests.support.runs import run_tool


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


def test_a_wrong_configuration_is_one_line(tmp_path):
    result = run_tool("count.py", "-c", write_config(tmp_path, ("epoch: 3", "epcoh: 3")))
    assert result.returncode == 2
    assert "unknown key 'epcoh' (did you mean 'epoch'?)" in result.stderr
    assert "Traceback" not in result.stderr
