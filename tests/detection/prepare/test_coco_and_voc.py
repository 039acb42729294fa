"""DUO and general folders: layouts, classes brought into order, every fault of a COCO file listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import (
    Prepared,
    box_entry,
    corners,
    image_entry,
    prepare,
    prepared,
    write_coco,
    write_image,
    write_voc,
)

# As some copies of DUO have them: ids from 0, another order.
DUO_CATEGORIES = [
    {"id": 0, "name": "starfish", "supercategory": "x"},
    {"id": 7, "name": "Echinus"},
    {"id": 9, "name": "holothurian"},
    {"id": 2, "name": "scallop"},
]
LAYOUTS = {
    "official": ("images/{0}/{1}.jpg", "annotations/instances_{0}.json"),
    "pic and ann": ("DUO_pic/{0}/{1}.jpg", "DUO_ANN/instances_{0}.json"),
    "together": ("{0}/{1}.jpg", "{0}/_annotations.coco.json"),
}


def write_duo(folder: Path, layout: str) -> Path:
    """A little DUO; the same base names in both parts."""
    image, annotations = LAYOUTS[layout]
    for part, numbers in (("train", (1, 2, 3)), ("test", (1, 2))):
        for number in numbers:
            write_image(folder / image.format(part, number), seed=number + 10 * (part == "test"))
        entries = [image_entry(10 * number, f"{number}.jpg") for number in numbers]
        boxes = [box_entry(1, 10, category=0), box_entry(2, 10, category=7), box_entry(3, 20, category=9)]
        write_coco(folder / annotations.format(part), entries, boxes, DUO_CATEGORIES)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_duo_layouts(tmp_path: Path, layout: str) -> None:
    source = write_duo(tmp_path / "raw", layout)
    result = prepared("duo", source)
    assert result.report["classes"] == ["holothurian", "echinus", "scallop", "starfish"]
    first = LAYOUTS[layout][0]
    for part, seen in (("train", "train"), ("val", "test")):
        names = {name: result.boxes(name) for name in result.names(part)}
        target = first.format(seen, 1).replace("/", "__")
        assert names[target] == [("starfish", [5, 5, 10, 10]), ("echinus", [5, 5, 10, 10])]
        assert (source / first.format(seen, 1)).read_bytes() == (result.folder / "images" / target).read_bytes()
    assert [len(result.names(part)) for part in ("train", "val")] == [3, 2]
    assert sorted(result.parts) == ["train", "val"]
    assert result.split["method"] == "source"
    assert result.report["images"]["left_out"] == 0
    assert result.reasons("other_count") == [
        "train: 3 images; DUO as published has 6671",
        "val: 2 images; DUO as published has 1111",
    ]


def test_annotations_may_lie_beside_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_duo(tmp_path / "raw", "pic and ann")
    monkeypatch.chdir(tmp_path)
    files = [Path("raw/DUO_ANN") / f"instances_{part}.json" for part in ("train", "test")]
    prepare("duo", Path("raw/DUO_pic"), "--output", tmp_path / "prepared", "--annotations", *files)
    result = Prepared(tmp_path / "prepared")
    result.check()
    assert [result.names(part) for part in ("train", "val")] == [
        ["train__1.jpg", "train__2.jpg", "3.jpg"], ["test__1.jpg", "test__2.jpg"],
    ]  # fmt: skip


def test_a_part_without_a_file_or_with_two(tmp_path: Path) -> None:
    source = write_duo(tmp_path / "raw", "official")
    (source / "annotations" / "instances_test.json").rename(tmp_path / "test.json")
    with pytest.raises(UserError, match="no usable annotation file for test; known layouts"):
        prepared("duo", source)
    (tmp_path / "test.json").rename(source / "annotations" / "instances_test.json")
    old = source / "annotations" / "train_old.json"
    old.write_bytes((source / "annotations" / "instances_train.json").read_bytes())
    with pytest.raises(UserError, match="are for train; choose with --annotations"):
        prepared("duo", source)
    files = ("annotations/train_old.json", "annotations/instances_test.json")
    assert len(prepared("duo", source, "--annotations", *files).names("train")) == 3


def coco_folder(folder: Path, images: Sequence[Any] = (), annotations: Sequence[Any] = ()) -> Path:
    """Eight images, and one COCO file that tells no part."""
    for number in range(8):
        write_image(folder / "pictures" / f"{number}.png", seed=number)
    entries = [image_entry(number, f"{number}.png") for number in range(8)]
    boxes = [box_entry(number, number) for number in range(8)]
    write_coco(folder / "labels.json", [*entries, *images], [*boxes, *annotations])
    return folder


def imagefolder(source: Path, *arguments: str | Path) -> Prepared:
    return prepared("imagefolder", source, "--classes", "ball,cube", *arguments)


@pytest.mark.parametrize("form", ["one file", "three files"])
def test_parts_that_coco_files_tell(tmp_path: Path, form: str) -> None:
    source, parts = tmp_path / "raw", {"train2017": 1, "val2017": 2, "test": 3}
    entries = [image_entry(number, f"{number}.png", split=part.rstrip("2017")) for part, number in parts.items()]
    for entry, (part, number) in zip(entries, parts.items(), strict=True):
        write_image(source / part / f"{number}.png", seed=number)
        if form == "three files":
            write_coco(source / "annotations" / f"instances_{part}.json", [entry], [box_entry(1, number)])
    if form == "one file":
        write_coco(source / "all.json", entries, [box_entry(number, number) for number in parts.values()])
    result = imagefolder(source)
    expected = {"train": ["1.png"], "val": ["2.png"], "test": ["3.png"]}
    assert {part: result.names(part) for part in result.parts} == expected


def test_one_coco_file_keeps_metadata_and_crowds_and_takes_no_image_outside(tmp_path: Path) -> None:
    extra = box_entry(20, 0, box=(1, 1, 5, 5), iscrowd=1, segmentation=[[1, 1, 6, 1, 6, 6]])
    write_image(tmp_path / "outside.png", seed=99)
    source = coco_folder(tmp_path / "raw", [image_entry(51, "../../outside.png")], [extra])
    text = (source / "labels.json").read_text().replace('"id": 0, "file', '"sonar": {"range": 5}, "id": 0, "file')
    (source / "labels.json").write_text(text)
    result = imagefolder(source, "--val-fraction", "0.25")
    assert [len(result.names(part)) for part in ("train", "val")] == [6, 2]
    assert result.report["box_forms"] == {"COCO bbox x y w h": 9}
    images = {image["file_name"]: image for part in result.parts.values() for image in part["images"]}
    assert images["0.png"]["sonar"] == {"range": 5}
    assert sum(entry["iscrowd"] for part in result.parts.values() for entry in part["annotations"]) == 1
    assert result.kinds("noted") == {"outlines_left_out": 1}
    assert "outside.png is not there" in result.reasons("missing_image")[0]


def test_image_in_both_parts_stays_in_validation_only(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    for number in range(3):
        write_image(source / "images" / f"{number}.png", seed=number)
    for part, numbers in (("train", (0, 1)), ("val", (1, 2))):
        entries = [image_entry(number, f"{number}.png") for number in numbers]
        write_coco(source / f"{part}.json", entries, [box_entry(number, number) for number in numbers])
    result = imagefolder(source)
    assert (result.names("train"), result.names("val")) == (["0.png"], ["1.png", "2.png"])
    assert result.reasons("in_two_parts") == ["images/1.png: is in train and in val; kept in val only"]
    assert result.report["boxes"] == {"input": 4, "kept": 3, "repaired": 0, "rejected": 1}


def voc_folder(folder: Path) -> Path:
    for number in range(6):
        write_image(folder / "JPEGImages" / f"{number}.jpg", seed=number)
        write_voc(folder / "Annotations" / f"{number}.xml", corners("cube", 5, 6, 25, 36), filename=f"{number}.jpg")
    return folder


def test_voc_folder_with_its_lists(tmp_path: Path) -> None:
    source = voc_folder(tmp_path / "raw")
    for name, numbers in {"trainval": "0 1 2 3", "test": "4 5"}.items():
        path = source / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(numbers.replace(" ", "\n"))
    result = imagefolder(source)
    assert (result.names("train"), result.names("val")) == ([f"{n}.jpg" for n in range(4)], ["4.jpg", "5.jpg"])
    # Beside a validation list, that of the test may name what nobody annotated.
    for old, new in (("trainval", "train"), ("test", "val")):
        (path.parent / f"{old}.txt").rename(path.parent / f"{new}.txt")
    write_image(source / "JPEGImages" / "6.jpg", seed=6)
    path.write_text("6")
    result = prepared("import", source)
    assert {part: len(result.names(part)) for part in result.parts} == {"train": 4, "val": 2}
    assert result.reasons("listed_but_missing") == ["test.txt: lists 6, which is no annotated frame of the source"]


@pytest.mark.parametrize("roots", [("set/images", "set/labels/xml"), ("", "xml")])
def test_trees_that_mirror_each_other(tmp_path: Path, roots: tuple[str, str]) -> None:
    """The same names in every folder: each annotation belongs to the image at the same place, or to none."""
    source, size = tmp_path / "raw", 5
    for camera, count in (("cam1", size), ("cam2", size + 1)):
        for number in range(count):
            write_image(source / roots[0] / camera / f"i{number}.jpg", seed=number + 20 * count)
            box = corners("cube", 5, 6, 20 + count, 36)
            write_voc(source / roots[1] / camera / f"i{number}.xml", box, filename=f"i{number}.jpg")
    (source / roots[0] / "cam1" / "i0.jpg").unlink()
    result = imagefolder(source)
    assert result.report["images"]["kept"] == 2 * size
    (reason,) = result.reasons("missing_image")
    assert "cam1/i0.xml: has no image: " in reason and reason.endswith("cam2/i0.xml")
    boxes = {name: result.boxes(name) for part in ("train", "val") for name in result.names(part)}
    for name, ((_, (_, _, width, _)),) in boxes.items():
        assert width == (15 + size if "cam1" in name else 16 + size), name


def test_a_coco_file_that_ends_too_early(tmp_path: Path) -> None:
    write_image(tmp_path / "raw" / "0.png", seed=0)
    (tmp_path / "raw" / "labels.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"labels.json: is truncated: it ends in the middle.*line 1, column"):
        imagefolder(tmp_path / "raw")
    assert not (tmp_path / "prepared").exists()
