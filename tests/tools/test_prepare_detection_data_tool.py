"""Raw detection data as the command line prepares it: what it says, its exit status, and that it needs no Paddle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.raw_data import (
    Prepared,
    box_entry,
    corners,
    image_entry,
    sides,
    write_coco,
    write_image,
    write_voc,
)
from tests.support.runs import run_tool


def raw_sonar(folder: Path) -> Path:
    for number in range(8):
        write_image(folder / "Images" / f"{number}.bmp", seed=number)
        write_voc(folder / "Annotations" / f"{number}.xml", corners("Human_Body", 5, 6, 25, 36))
    write_voc(folder / "Annotations" / "3.xml", sides("cube", -5, 6, 25, 36), sides("cylindr", 5, 6, 25, 36))
    (folder / "Annotations" / "4.xml").write_text("<annotation>")
    return folder


def test_sonar_from_raw_folder_to_summary(tmp_path: Path) -> None:
    raw = raw_sonar(tmp_path / "raw")
    output = tmp_path / "dataset" / "sonar"
    result = run_tool("prepare_data.py", "sonar", raw, "--classes", "sonar", "--output", output)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    for line in (
        "images: 8 found = 7 kept + 1 rejected + 0 left out",
        "boxes: 8 read = 6 kept + 1 repaired + 1 rejected",
        "boxes were written as xmin ymin xmax ymax (6), x y w h (2)",
        "class 'Human_Body' taken for 'human body' (6 boxes)",
        "repaired clipped_box: 1",
        "rejected malformed_xml: 2",
        "rejected unknown_class: 1",
        "  Annotations/3.xml: object 2 (cylindr): unknown class 'cylindr' (did you mean 'cylinder'?)",
        f"wrote {output} (images: 7 linked)",
    ):
        assert line in result.stdout.splitlines()
    prepared = Prepared(output)
    prepared.check()
    assert json.loads((output / "split.json").read_text())["seed"] == 0
    assert (output / "classes.txt").read_text().splitlines()[3] == "human body"
    again = run_tool("prepare_data.py", "sonar", raw, "--classes", "sonar", "--output", output)
    assert again.returncode == 2
    assert again.stderr == f"error: {output}: is a prepared data set already; give --overwrite to replace it\n"


def test_duo_and_imagefolder(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for part in ("train", "test"):
        write_image(raw / "DUO_pic" / part / f"{part}.jpg", seed=len(part))
        write_coco(
            raw / "DUO_ANN" / f"instances_{part}.json",
            [image_entry(1, f"{part}.jpg")],
            [box_entry(1, 1, category=5)],
            [{"id": 5, "name": "Starfish"}],
        )
    for command, classes in (("duo", ()), ("imagefolder", ("--classes", "duo"))):
        output = tmp_path / command
        result = run_tool("prepare_data.py", command, raw, *classes, "--output", output)
        assert result.returncode == 0, result.stdout + result.stderr
        prepared = Prepared(output)
        prepared.check()
        assert prepared.boxes("test.jpg") == [("starfish", [5, 5, 10, 10])]
        assert [entry["category_id"] for entry in prepared.parts["val"]["annotations"]] == [4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sonar", "MISSING", "--classes", "sonar"), "MISSING: no such folder\n"),
        (("sonar", "RAW"), "try --classes sonar\n"),
        (("sonar", "EMPTY", "--classes", "sonar"), "EMPTY: no image below this folder\n"),
        (("sonar", "RAW", "--classes", "sonar", "--split-files", "x", "y"), "neither here nor in RAW\n"),
        (("duo", "RAW"), "no annotations below this folder, neither COCO JSON nor (for imagefolder) XML\n"),
        (("imagefolder", "RAW", "--classes", "sonar", "--annotations", "no.json"), "neither here nor in RAW\n"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    raw = tmp_path / "RAW"
    for number in range(3):
        write_image(raw / f"{number}.png", seed=number)
        write_voc(raw / f"{number}.xml", corners("cube", 5, 6, 25, 36))
    (tmp_path / "EMPTY").mkdir()
    places = {name: str(tmp_path / name) for name in ("MISSING", "RAW", "EMPTY")}
    output = tmp_path / "prepared"
    result = run_tool(
        "prepare_data.py", *(places.get(argument, argument) for argument in arguments), "--output", output
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for name, place in places.items():
        message = message.replace(name, place)
    assert result.stderr.endswith(message)
    assert not output.exists()
