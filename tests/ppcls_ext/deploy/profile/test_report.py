"""Pages, tables and charts of made-up profiles."""

from __future__ import annotations

import csv
import io
import json

import pytest
from PIL import Image

from ppcls_ext.deploy.profile.chart import draw_profiles
from ppcls_ext.deploy.profile.report import csv_text, json_value, markdown_page, write_report
from ppcls_ext.deploy.profile.result import ATTENTION, BETWEEN, DEPTHWISE, POINTWISE, LayerFigures, Profile


def profile(name: str, factor: float = 1.0) -> Profile:
    layers = (
        LayerFigures("stem", "Conv2D", DEPTHWISE, "stem", 1, (2, 8, 4, 4), 100, 1_000_000, 4_000_000, 1.0 * factor),
        LayerFigures("stages.0.a", "Linear", POINTWISE, "stage 1", 2, (2, 8), 3000, 9_000_000, 500_000, 6.0 * factor),
        LayerFigures("stages.0.b", "SE", ATTENTION, "stage 1", 1, (), 0, 0, 0, 2.0 * factor),
        LayerFigures("(network)", "Net", BETWEEN, "rest", 1, (), 0, 0, 0, 1.0 * factor),
    )
    return Profile(name, (3, 32, 32), 2, layers, 9.0 * factor)


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table after ``heading``, without its head."""
    lines = page[page.index(heading) :].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| ---"))
    table = lines[start + 1 :]
    end = next((index for index, line in enumerate(table) if not line.startswith("|")), len(table))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:end]]


def test_page_of_one_network():
    page = markdown_page([profile("net")], slowest=2)
    assert "eager mode" in page
    assert rows_of(page, "# Profile") == [
        ["net", "2 x 3 x 32 x 32", "0.00", "0.010", "4.5", "9.0", "10.0", "10 %"]
    ]
    stages = rows_of(page, "## net")
    # Two images of 9 M multiply-adds in 8 ms.
    assert stages[1] == ["stage 1", "8.00", "80 %", "9.0", "90 %", "2.2", "0.003", "0.50"]
    assert stages[-1][:3] == ["sum", "10.00", "100 %"]
    slowest = rows_of(page, "Slowest layers of net")
    assert [row[0] for row in slowest] == ["stages.0.a", "stages.0.b"]
    assert "Slowest" not in markdown_page([profile("net")], slowest=0)


def test_networks_stand_side_by_side():
    page = markdown_page([profile("one"), profile("two", 3.0)], slowest=0)
    assert ["stage 1", "8.0 (80 %)", "24.0 (80 %)"] in rows_of(page, "## Time by stage")
    assert [row[0] for row in rows_of(page, "## Time by kind")] == [DEPTHWISE, POINTWISE, ATTENTION, BETWEEN]


def test_every_layer_is_in_the_csv():
    rows = list(csv.DictReader(io.StringIO(csv_text([profile("one"), profile("two")]))))
    assert len(rows) == 8
    assert rows[5]["model"] == "two"
    assert rows[5]["name"] == "stages.0.a"
    assert rows[5]["flops"] == "9000000"
    assert rows[0]["output_shape"] == "2x8x4x4"


def test_json_holds_layers_and_sums():
    value = json.loads(json.dumps(json_value([profile("one")])))
    assert value["mode"] == "eager"
    (network,) = value["networks"]
    assert network["by_stage"]["stage 1"]["milliseconds"] == 8.0
    assert network["total"]["flops"] == sum(layer["flops"] for layer in network["layers"])


def test_four_files_are_written(tmp_path):
    profiles = [profile("one"), profile("two", 2.0)]
    written = write_report(profiles, "# page\n", tmp_path / "new" / "profile.md")
    assert [path.name for path in written] == ["profile.md", "profile.csv", "profile.json", "profile.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in written)
    picture = Image.open(written[3])
    assert picture.width > 1000
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    # The colours of the depthwise convolution and of stage 1.
    assert {(0xD6, 0x27, 0x28), (0xC6, 0xDB, 0xEF)} <= colours


def test_a_failing_disk_leaves_the_old_chart(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "profile.png"
    path.write_bytes(b"old")

    def fail(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        draw_profiles([profile("one")], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
