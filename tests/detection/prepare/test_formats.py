"""``prepare_data.py import`` and ``export``: formats of annotation tools, found by themselves; changes of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detection.synthetic import write_synthetic
from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import (
    HEIGHT,
    WIDTH,
    Prepared,
    box_entry,
    corners,
    frame,
    image_entry,
    prepare,
    prepared,
    write_coco,
    write_image,
    write_voc,
)

NAMES = ["cube", "ball", "tyre"]


def result_of(source: Path, *arguments: str | Path) -> Prepared:
    return prepared("import", source, *arguments)


def error_of(source: Path, *arguments: str | Path, command: str = "import") -> str:
    with pytest.raises(UserError) as caught:
        prepare(command, source, "--output", source.parent / "refused", *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_yolo(folder: Path, lines: dict[str, str], description: dict[str, Any] | None = None) -> Path:
    """Writes pictures ``images/...`` with the given text files in ``labels/...``; ``None`` writes no text file."""
    for number, (name, text) in enumerate(lines.items()):
        write_image(folder / f"{name}.png", seed=number)
        if text is not None:
            file = folder / f"{name.replace('images', 'labels')}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if description is not None:
        (folder / "data.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return folder


# Of a picture of 64x48: left 16, top 12, 32 wide, 24 high.
MIDDLE = "0.5 0.5 0.5 0.5"
LINES = {
    "images/train/a": f"0 {MIDDLE}\n2 0.25 0.25 0.25 0.25\n",
    # An outline, and a background without a text file.
    "images/train/b": "1 0.25 0.25 0.75 0.25 0.5 0.75\n",
    "images/train/c": None,
    "images/val/a": f"1 {MIDDLE}",
    "images/val/d": "",
}


@pytest.mark.parametrize(
    "description",
    [
        {"path": "../datasets/x", "train": "images/train", "val": "images/val", "names": NAMES},
        {"path": "/somewhere/else", "train": "lists/train.txt", "val": "lists/val.txt", "names": NAMES},
        {"train": "../raw, 2024/train.txt", "val": "val.txt", "names": NAMES},
        None,
    ],
)
def test_yolo(tmp_path: Path, description: dict[str, Any] | None) -> None:
    source = write_yolo(tmp_path / "raw, 2024", LINES, description)
    (source / "README.txt").write_text("1 2 3\nexported by somebody\n")
    (source / "captions").mkdir()
    (source / "captions" / "b.txt").write_text("a ball on the sea floor")
    (source / "lists").mkdir()
    for part in ("train", "val"):
        names = [f"./{name}.png" for name in LINES if f"/{part}/" in name]
        (source / "lists" / f"{part}.txt").write_text("\n".join(names))
        # As seen from the folder above, and from beside the source.
        above = {"train": source.name, "val": f"../{source.name}"}[part]
        (source / f"{part}.txt").write_text("\n".join(f"{above}/{name}" for name in names))
    if description is None:
        (source / "classes.txt").write_text("\n".join(NAMES))
    else:
        (source / "mkdocs.yml").write_text("emoji: !!python/name:material.extensions.emoji.to_svg\n")
    result = result_of(source)
    assert result.report["classes"] == NAMES
    assert sorted(result.names("train")) == ["b.png", "c.png", "images__train__a.png"]
    assert sorted(result.names("val")) == ["d.png", "images__val__a.png"]
    assert result.boxes("images__train__a.png") == [("cube", [16, 12, 32, 24]), ("tyre", [8, 6, 16, 12])]
    assert result.boxes("b.png") == [("ball", [16, 12, 32, 24])]
    assert result.boxes("c.png") == result.boxes("d.png") == []
    assert result.reasons("no_label_file") == ["all: 1 images have no text file: they show nothing"]


def test_a_yolo_file_whose_first_line_is_faulty_is_the_images_all_the_same(tmp_path: Path) -> None:
    faulty = ("0 0.5 0.5 0.5", "0 nan nan nan nan", "# by hand", "0,0.5,0.5,0.5")
    lines = {f"images/{number}": f"{line}\n1 {MIDDLE}\n" for number, line in enumerate(faulty)}
    result = result_of(write_yolo(tmp_path / "raw", {**lines, "images/a": f"0 {MIDDLE}"}, {"names": NAMES}))
    assert all(result.boxes(f"{number}.png") == [("ball", [16, 12, 32, 24])] for number in range(len(faulty)))
    assert result.kinds("rejected") == {"malformed_line": len(faulty)}
    assert not result.reasons("no_label_file")


def test_classes_that_are_called_by_numbers(tmp_path: Path) -> None:
    names = ["1", "2", "0", "10"]
    lines = {f"images/{number}": f"{number} {MIDDLE}" for number in range(len(names))}
    # A name stands in the file of its own where it is no number.
    source = write_yolo(tmp_path / "raw", {**lines, "images/x": f"cube {MIDDLE}"}, {"names": [*names, "cube"]})
    result = result_of(source)
    prepare("export", result.folder, "--to", "yolo", "--output", tmp_path / "out" / "yolo")
    for read in (result, result_of(tmp_path / "out" / "yolo")):
        found = [read.boxes(f"{number}.png")[0][0] for number in (*range(len(names)), "x")]
        assert found == read.report["classes"] == [*names, "cube"]


def test_mistakes_in_yolo_are_one_line(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "one", {"images/a": f"0 {MIDDLE}\n3 {MIDDLE}\n", "images/b": f"7 {MIDDLE}"})
    assert "neither data.yaml nor classes.txt" in error_of(source)
    message = error_of(source, "--classes", "cube,ball,tyre")
    assert f"{source / 'labels' / 'a.txt'}, line 2: class 3, but --classes names 0 cube, 1 ball, 2 tyre" in message
    assert message.endswith("(2 such boxes in all)")
    (source / "data.yaml").write_text("names: [A, '-', a_]")
    assert error_of(source).endswith("data.yaml: 'A' and 'a_' are the same name")
    assert "--from yolo and --annotations exclude" in error_of(source, "--from", "yolo", "--annotations", "x.json")
    source = write_yolo(tmp_path / "two", LINES, {"train": "a.txt", "val": "images/val", "names": NAMES})
    (source / "a.txt").write_text("pictures/a.png\n")
    assert error_of(source).endswith(f"data.yaml: train: a.txt names no image below {source}")
    pixels = {f"images/{name}": "0 32 24 32 24" for name in "ab"}
    source = write_yolo(tmp_path / "three", pixels, {"train": "images", "val": "images", "names": NAMES})
    assert "2 of 2 boxes hold numbers above 1" in error_of(source)
    result = result_of(source, "--no-normalised", "--val-fraction", "0.5")
    assert result.boxes("a.png") == [("cube", [16, 12, 32, 24])]
    (note,) = result.reasons("box_reading")
    assert note == "all: boxes are read as pixels: 2 of 2 fit their pictures"
    assert result.reasons("one_part") == [
        "data.yaml: training and validation are the same images, so they are split anew here"
    ]


def test_yolo_of_turned_photographs_counts_upright(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "raw", {"images/a": f"0 {MIDDLE}", "images/b": f"0 {MIDDLE}"}, {"names": NAMES})
    for name in "ab":
        exif = Image.Exif()
        exif[0x0112] = 6
        (source / "images" / f"{name}.png").unlink()
        Image.fromarray(frame(ord(name))).save(source / "images" / f"{name}.jpg", exif=exif)
        (source / "labels" / f"{name}.txt").write_text("0 0.25 0.5 0.5 0.5")
    assert result_of(source).boxes("a.jpg") == [("cube", [0, WIDTH / 4, HEIGHT / 2, WIDTH / 2])]
    # The same in the picture as it is stored, whose left is the upright one's top.
    assert result_of(source, "--turn-boxes").boxes("a.jpg") == [("cube", [HEIGHT / 4, 0, HEIGHT / 2, WIDTH / 2])]


def write_labelme(path: Path, picture: str, *shapes: dict[str, Any], **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": picture, "imageData": "AAAA",
            "imageWidth": WIDTH, "imageHeight": HEIGHT, **more}  # fmt: skip
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def test_labelme(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for number, name in enumerate(("a", "b", "海")):
        write_image(source / "pictures" / f"{name}.png", seed=number)
    shape = {"label": "cube", "shape_type": "rectangle", "points": [[30, 40], [10.5, 20]]}
    line = {"label": "x", "shape_type": "line", "points": [[1, 1], [9, 9]]}
    write_labelme(source / "json" / "1.json", "..\\pictures\\a.png", shape, line)
    outline = {"label": "ball", "shape_type": "polygon", "points": [[5, 5], [25, 6], [14, 30]]}
    circle = {"label": "ball", "shape_type": "circle", "points": [[40, 20], [43, 24]]}
    write_labelme(source / "json" / "b.json", "b.png", outline, circle)
    write_labelme(source / "json" / "海.json", "海.png")
    result = result_of(source, "--val-fraction", "0.5")
    assert result.report["classes"] == ["ball", "cube", "x"]
    assert result.boxes("a.png") == [("cube", [10.5, 20, 19.5, 20])]
    assert result.boxes("b.png") == [("ball", [5, 5, 20, 25]), ("ball", [35, 15, 10, 10])]
    assert result.boxes("海.png") == []
    assert result.kinds("rejected") == {"no_area": 1}


def test_cvat(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for number, name in enumerate("abcd"):
        write_image(source / "images" / f"{name}.png", seed=number)
    shapes = {
        "train\\a.png": '<box label="ball" xtl="10" ytl="8" xbr="30" ybr="28"><attribute name="x">1</attribute></box>'
        '<box label="cube" xtl="20" ytl="14" xbr="40" ybr="34" rotation="45"/>',
        "b.png": '<polygon label="ball" points="5.0,5.0;25.0,6.0;14.0,30.0"/><tag label="night"/>'
        '<ellipse label="ball" cx="32" cy="24" rx="10" ry="5" rotation="90"/><polyline label="cube" points="1,1;2,2"/>',
        "c.png": "",
    }
    images = "".join(
        f'<image id="{number}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{inner}</image>'
        for number, (name, inner) in enumerate(shapes.items())
    )
    labels = "".join(f"<label><name>{name}</name><attributes/></label>" for name in ("cube", "ball"))
    meta = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    (source / "annotations.xml").write_text(f"<annotations>{meta}{images}</annotations>", encoding="utf-8")
    result = result_of(source, "--val-fraction", "0.4")
    assert result.report["classes"] == ["cube", "ball"]
    assert result.boxes("a.png")[0] == ("ball", [10, 8, 20, 20])
    name, turned = result.boxes("a.png")[1]
    diagonal = 20 * 2**0.5
    np.testing.assert_allclose(turned, [30 - diagonal / 2, 24 - diagonal / 2, diagonal, diagonal])
    assert name == "cube"
    (_, outline), (_, ellipse) = result.boxes("b.png")
    assert outline == [5, 5, 20, 25]
    np.testing.assert_allclose(ellipse, [27, 14, 10, 20])
    assert result.boxes("c.png") == []
    assert result.kinds("rejected") == {"no_area": 1, "no_annotation": 1}
    assert result.report["images"] == {"input": 4, "kept": 3, "rejected": 0, "left_out": 1}


def test_roboflows_coco(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    group = {"id": 0, "name": "things", "supercategory": "none"}
    categories = [group, *({"id": n, "name": name, "supercategory": "things"} for n, name in enumerate(NAMES, 1))]
    categories.append({"id": 9, "name": "rare", "supercategory": "rare"})
    for number, part in enumerate(("train", "valid", "test")):
        name = f"{part}_png.rf.0123.png"
        write_image(source / part / name, seed=number)
        entry = box_entry(1, 0, category=number + 1)
        write_coco(source / part / "_annotations.coco.json", [image_entry(0, name)], [entry], categories)
        write_image(source / part / "more.png", seed=number + 9)
    result = result_of(source)
    assert result.report["classes"] == [*NAMES, "rare"]
    assert {part: len(result.names(part)) for part in result.parts} == {"train": 1, "val": 1, "test": 1}
    assert result.boxes("train_png.rf.0123.png") == [("cube", [5, 5, 10, 10])]
    files = [f"{part}/_annotations.coco.json" for part in ("test", "valid")]
    other = result_of(source, "--annotations", *files)
    assert [other.names(part) for part in ("train", "val")] == [["test_png.rf.0123.png"], ["valid_png.rf.0123.png"]]


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_round_trip(tmp_path: Path, form: str) -> None:
    """Splits, the order of the classes, images and boxes come back."""
    write_synthetic(tmp_path / "set", train=6, val=3, size=64, seed=4)
    file = tmp_path / "set" / "annotations" / "train.json"
    first = json.loads(file.read_text(encoding="utf-8"))
    first["annotations"][0]["bbox"] = [3.3, 4.7, 20.25, 17.9]
    file.write_text(json.dumps(first), encoding="utf-8")
    prepare("export", tmp_path / "set", "--to", form, "--output", tmp_path / "out" / form)
    result = result_of(tmp_path / "out" / form)
    for part in ("train", "val"):
        before = json.loads((tmp_path / "set" / "annotations" / f"{part}.json").read_text(encoding="utf-8"))
        after = result.parts[part]
        assert [entry["name"] for entry in after["categories"]] == [entry["name"] for entry in before["categories"]]
        assert sorted(result.names(part)) == sorted(entry["file_name"] for entry in before["images"])
        names = {entry["id"]: entry["name"] for entry in before["categories"]}
        for image in before["images"]:
            boxes = [entry for entry in before["annotations"] if entry["image_id"] == image["id"]]
            found = result.boxes(image["file_name"])
            assert [name for name, _ in found] == [names[entry["category_id"]] for entry in boxes]
            for (_, box), entry in zip(found, boxes, strict=True):
                np.testing.assert_allclose(box, entry["bbox"], atol=0.002)


def test_an_export_tells_what_it_cannot_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "set"
    for name, number in (("a.png", 1), ("a.jpg", 2), ("b.png", 3)):
        write_image(source / "images" / name, seed=number)
    entries = [box_entry(1, 1), box_entry(2, 1, iscrowd=1, box=(20, 20, 9, 9)), box_entry(3, 2)]
    images = [image_entry(1, "a.png"), image_entry(2, "a.jpg")]
    write_coco(source / "annotations" / "instances_train.json", images, entries)
    write_coco(source / "annotations" / "val_30.json", [image_entry(3, "b.png")], [box_entry(1, 3)])
    prepare("export", source, "--to", "yolo", "--output", tmp_path / "yolo")
    assert "1 boxes of crowds" in caplog.text
    assert "1 images that got another name" in caplog.text
    assert sorted(file.name for file in (tmp_path / "yolo").rglob("*.txt")) == ["a.txt", "a_2.txt", "b.txt"]
    prepare("export", source, "--to", "voc", "--output", tmp_path / "voc")
    assert result_of(tmp_path / "voc").report["boxes"]["kept"] == 4
    with pytest.raises(UserError, match="is no prepared data set"):
        prepare("export", tmp_path / "yolo", "--to", "voc", "--output", tmp_path / "x")


def test_classes_are_renamed_merged_and_dropped_by_every_reader(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for number, name in enumerate(("a", "b", "c")):
        write_image(source / f"{name}.png", seed=number)
    write_voc(source / "a.xml", corners("car", 5, 5, 20, 20), corners("Lorry", 30, 5, 50, 20))
    write_voc(source / "b.xml", corners("bike", 5, 5, 20, 20))
    write_voc(source / "c.xml", corners("sky", 5, 5, 20, 20))
    changes = ("--rename", "car=vehicle", "--rename", "lorry=vehicle", "--drop", "sky", "--val-fraction", "0.4")
    result = result_of(source, *changes)
    assert result.report["classes"] == ["bike", "vehicle"]
    assert [name for name, _ in result.boxes("a.png")] == ["vehicle", "vehicle"]
    assert result.boxes("c.png") == []
    renamed = [f"all: '{name}' is 'vehicle' (1 boxes)" for name in ("car", "Lorry")]
    assert result.reasons("renamed_class") == renamed
    assert result.reasons("dropped_class") == ["all: 'sky' (1 boxes)"]
    for classes in ("vehicle,bike", "car,sky,bike"):
        prepare("imagefolder", source, "--classes", classes, "--output", tmp_path / "old", "--overwrite", *changes)
        assert Prepared(tmp_path / "old").report["classes"] == ["vehicle", "bike"]
        assert [name for name, _ in Prepared(tmp_path / "old").boxes("a.png")] == ["vehicle", "vehicle"]
    for arguments, words in (
        (("--rename", "cra=vehicle"), "no class 'cra' (did you mean 'car'?); there are bike, car, Lorry, sky"),
        (("--rename", "car"), "must have the form OLD=NEW"),
        (("--drop", "car", "--drop", "lorry", "--drop", "bike", "--drop", "sky"), "raw: no class is left (all: 'car'"),
    ):
        assert words in error_of(source, *arguments)


def test_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "raw" / "a.png", seed=1)
    supervisely = json.dumps({"description": "", "tags": [], "size": {}, "objects": []})
    (tmp_path / "raw" / "a.json").write_text(supervisely, encoding="utf-8")
    message = error_of(tmp_path / "raw")
    assert "Supervisely JSON (a.json)" in message and "not read; export it there as COCO, YOLO or Pascal VOC" in message
