"""Raw sonar folders: both forms of boxes, any nesting, every fault repaired or rejected, and always listed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import (
    HEIGHT,
    SONAR_BLOCK,
    WIDTH,
    Prepared,
    corners,
    prepare,
    prepared,
    sides,
    write_image,
    write_voc,
)


def sound_folder(folder: Path, count: int = 6) -> Path:
    """A raw folder without faults: ``frame_0`` ... with a cube each."""
    for number in range(count):
        write_image(folder / "Images" / f"frame_{number}.png", seed=number)
        write_voc(folder / "BoxAnnotations" / f"frame_{number}.xml", corners("cube", 5, 6, 25, 36))
    return folder


def sonar(folder: Path, *arguments: str | Path) -> Prepared:
    return prepared("sonar", folder, "--classes", "cube,ball,human body", *arguments)


def test_a_class_called_by_a_hyphen_is_not_that_of_boxes_without_a_name(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("-", 5, 6, 25, 36), corners("", 30, 6, 50, 36))
    prepare("sonar", raw, "--classes", "cube,-", "--output", tmp_path / "prepared")
    result = Prepared(tmp_path / "prepared")
    assert result.boxes("frame_0.png") == [("-", [5, 6, 20, 30])]
    assert result.reasons("unknown_class") == ["BoxAnnotations/frame_0.xml: object 2 (no name): has no class name"]


def test_every_way_to_write_an_annotation(tmp_path: Path) -> None:
    """Both forms of boxes, the block of the sonar, names and sizes in a block of the file, spellings, encodings."""
    raw = sound_folder(tmp_path / "raw")
    for seed, name in enumerate(("mixed.bmp", "ping.bmp", "ping_17.png", "chinese.png", "empty.png"), start=50):
        write_image(raw / "Images" / name, seed=seed)
    folder = raw / "BoxAnnotations"
    objects = corners("Human_Body", 5, 6, 25, 36), sides("ball", 30, 6, 25, 36.5)
    write_voc(folder / "mixed.xml", *objects, filename="mixed.bmp", extra=SONAR_BLOCK)
    block = "<file><filename>ping.bmp</filename><width>99</width><height>98</height></file>"
    (folder / "0001.xml").write_text(f"<annotation>{block}{corners('CUBE', 5, 6, 25, 36)}</annotation>")
    write_voc(folder / "0017.xml", corners("humanbody", 5, 6, 25, 36), filename="C:\\data\\ping_17.png")
    text = f'<?xml version="1.0" encoding="gb2312"?><annotation>{corners("球", 1, 2, 11, 12)}</annotation>'
    (folder / "chinese.xml").write_bytes(text.encode("gb2312"))
    write_voc(folder / "empty.xml")
    (tmp_path / "names.txt").write_text("ball\n\ncube\nhuman body\n球\n", encoding="utf-8")
    result = sonar(raw, "--classes", tmp_path / "names.txt")
    assert result.report["classes"] == ["ball", "cube", "human body", "球"]
    assert result.boxes("mixed.bmp") == [("human body", [5, 6, 20, 30]), ("ball", [30, 6, 25, 36.5])]
    assert result.boxes("ping.bmp") == [("cube", [5, 6, 20, 30])]
    assert result.boxes("ping_17.png") == [("human body", [5, 6, 20, 30])]
    assert result.boxes("chinese.png") == [("球", [1, 2, 10, 10])]
    assert result.boxes("empty.png") == []
    assert result.report["box_forms"] == {"xmin ymin xmax ymax": 10, "x y w h": 1}
    images = {image["file_name"]: image for part in result.parts.values() for image in part["images"]}
    assert images["mixed.bmp"]["sonar"] == {
        "type": "Gemini 1200i",
        "version": 2.0,
        "range": 14.991,
        "azimuth": 120,
        "elevation": 12,
        "soundspeed": 1493.5,
        "frequency": 720,
    }
    assert "sonar" not in images["frame_0.png"]
    assert (images["mixed.bmp"]["width"], images["mixed.bmp"]["height"]) == (WIDTH, HEIGHT)
    assert "BoxAnnotations/0017.xml: belongs to ping_17.png, which it names" in result.reasons("paired_by_stated_name")
    assert result.reasons("size_disagrees") == [
        "BoxAnnotations/0001.xml: states 99x98, the picture has 64x48; boxes are those of the picture"
    ]
    respelled = [(entry["written"], entry["class"]) for entry in result.report["respelled_classes"]]
    assert sorted(respelled) == [("CUBE", "cube"), ("Human_Body", "human body"), ("humanbody", "human body")]
    assert result.report["boxes"] == {"input": 11, "kept": 11, "repaired": 0, "rejected": 0}


def test_same_names_in_two_folders_belong_to_the_annotations_beside_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for seed, (run, name) in enumerate((("first", "cube"), ("second", "ball"))):
        write_image(raw / run / "images" / "0.png", seed=seed)
        write_voc(raw / run / "xml" / "0.xml", corners(name, 5, 6, 25, 36))
    write_image(raw / "unlabelled" / "0.png", seed=77)
    result = sonar(raw)
    assert result.boxes("first__images__0.png") == [("cube", [5, 6, 20, 30])]
    assert result.boxes("second__images__0.png") == [("ball", [5, 6, 20, 30])]
    assert result.kinds("repaired") == {"duplicate_file_name": 2}
    assert result.reasons("no_annotation") == ["unlabelled/0.png: has no annotation file"]


# What the objects of an annotation are, what becomes of them, and a part of the reason that is listed.
BOX_FAULTS = {
    "clipped": (corners("ball", -5, 6, 25, 99), "repaired", "clipped_box", [0, 6, 25, 42], "-5 6 25 99 clipped"),
    "swapped": (corners("ball", 25, 36, 5, 6), "repaired", "swapped_corners", [5, 6, 20, 30], "25 36 5 6"),
    "outside": (corners("ball", 70, 6, 90, 36), "rejected", "box_outside", None, "outside the 64x48 picture"),
    "empty": (corners("ball", 5, 6, 5, 36), "rejected", "empty_box", None, "enclose nothing"),
    "word": (corners("ball", 5, "six", 25, 36), "rejected", "not_a_number", None, "ymin is 'six'"),
    "no box": ("<object><name>ball</name></object>", "rejected", "missing_coordinates", None, "has no <bndbox>"),
    "unknown class": (corners("bal", 5, 6, 25, 36), "rejected", "unknown_class", None, "(did you mean 'ball'?)"),
    "no class": (corners("", 5, 6, 25, 36), "rejected", "unknown_class", None, "has no class name"),
    "twice": (corners("cube", 30, 6, 50, 36), "rejected", "duplicate_box", None, "the same class and corners"),
}  # fmt: skip


def test_faulty_boxes(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw", count=3)
    for number, (fault, (text, *_)) in enumerate(BOX_FAULTS.items()):
        write_image(raw / "Images" / f"{fault}.png", seed=50 + number)
        write_voc(raw / "BoxAnnotations" / f"{fault}.xml", corners("cube", 30, 6, 50, 36), text)
    result = sonar(raw)
    for fault, (_, fate, kind, box, reason) in BOX_FAULTS.items():
        expected = [("cube", [30, 6, 20, 30])] + ([("ball", box)] if box else [])
        assert result.boxes(f"{fault}.png") == expected, fault
        (entry,) = [entry for entry in result.report["entries"] if entry["file"] == f"BoxAnnotations/{fault}.xml"]
        assert (entry["action"], entry["kind"]) == (fate, kind), fault
        assert entry["reason"].startswith("object 2 ") and reason in entry["reason"], fault
    rejected = sum(fate == "rejected" for _, fate, *_ in BOX_FAULTS.values())
    count = len(BOX_FAULTS)
    expected = {"input": 3 + 2 * count, "kept": 3 + count, "repaired": count - rejected, "rejected": rejected}
    assert result.report["boxes"] == expected


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]>'
    "<annotation><filename>&y;</filename></annotation>"
)
BAD_XML = {
    "truncated": ("<annotation><object><name>cube</name>", "line 1: no element found"),
    "empty": ("", "the file is empty"),
    "entities": (BOMB, "declares a document type or an entity"),
    "no annotation": ("<folder/>", "its root is <folder>, not <annotation>"),
    "deep": (f"<annotation><sonar>{'<a>' * 5000}{'</a>' * 5000}</sonar></annotation>", "is nested too deep"),
}


def test_frames_that_cannot_be_used(tmp_path: Path) -> None:
    """Malformed XML, a damaged picture, annotations without an image, images without annotations, and doubts."""
    raw = sound_folder(tmp_path / "raw", count=6 + len(BAD_XML))
    for number, (text, _) in enumerate(BAD_XML.values(), start=6):
        (raw / "BoxAnnotations" / f"frame_{number}.xml").write_text(text)
    damaged = raw / "Images" / "frame_1.png"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    write_voc(raw / "BoxAnnotations" / "ghost.xml", corners("cube", 5, 6, 25, 36), corners("ball", 5, 6, 25, 36))
    (raw / "Images" / "phone.heic").write_bytes(b"\0\0\0\x20ftypheic" + bytes(90))
    write_image(raw / "Images" / "bare.png", seed=90)
    # Nothing usable is left of it: it must not be taken for an empty frame.
    write_voc(raw / "BoxAnnotations" / "frame_2.xml", corners("anchor", 5, 6, 25, 36))
    write_voc(raw / "Old" / "frame_3.xml", corners("cube", 5, 6, 25, 36))
    write_voc(raw / "Old" / "frame_4.xml", corners("ball", 5, 6, 25, 36))
    write_image(raw / "Images" / "frame_5.bmp", seed=91)
    write_image(raw / "Images" / "frame_0.bmp", seed=92)
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("cube", 5, 6, 25, 36), filename="frame_0.bmp")
    write_image(raw / "Images" / "good.png", seed=93)
    objects = corners("cube", 5, 6, 80, 36), corners("ball", 5, 6, 80, 36)
    write_voc(raw / "BoxAnnotations" / "good.xml", *objects, size=(1280, 720))
    result = sonar(raw)
    assert sorted(result.names("train") + result.names("val")) == ["frame_0.bmp", "frame_3.png", "good.png"]
    lines = result.reasons("malformed_xml")
    for number, (_, reason) in enumerate(BAD_XML.values(), start=6):
        assert any(f"BoxAnnotations/frame_{number}.xml: " in line and reason in line for line in lines), reason
        assert f"Images/frame_{number}.png: its annotation file could not be read" in lines
    assert result.reasons("undecodable_image")[0].startswith("Images/frame_1.png: is truncated: a PNG pic")
    assert "left out (1 .heic): convert them" in result.reasons("photographs_not_read")[0]
    assert result.reasons("missing_image") == ["BoxAnnotations/ghost.xml: has no image"]
    assert "Images/bare.png: has no annotation file" in result.reasons("no_annotation")
    assert result.reasons("no_box_left") == ["Images/frame_2.png: none of its 1 boxes can be used"]
    assert result.reasons("two_annotations") == [
        "Old/frame_3.xml: says the same as BoxAnnotations/frame_3.xml",
        "Images/frame_4.png: has annotation files that differ: BoxAnnotations/frame_4.xml, Old/frame_4.xml",
    ]
    assert "Images/frame_5.bmp, Images/frame_5.png" in result.reasons("ambiguous_image")[0]
    assert result.reasons("size_disagrees")[0].startswith("BoxAnnotations/good.xml: states 1280x720")
    assert result.report["boxes"] == {"input": 12, "kept": 2, "repaired": 2, "rejected": 8}


def test_linked_folders_are_followed_and_names_that_are_no_utf8(tmp_path: Path) -> None:
    elsewhere = sound_folder(tmp_path / "elsewhere")
    name, expected = os.fsdecode("球".encode("gb2312")), "_xc7_xf2.png"
    try:
        (elsewhere / "Images" / "frame_1.png").rename(elsewhere / "Images" / f"{name}.png")
        (elsewhere / "BoxAnnotations" / "frame_1.xml").rename(elsewhere / "BoxAnnotations" / f"{name}.xml")
    except OSError:
        expected = "frame_1.png"  # This file system has UTF-8 names only.
    (tmp_path / "raw").mkdir()
    for folder in ("Images", "BoxAnnotations"):
        (tmp_path / "raw" / folder).symlink_to(elsewhere / folder)
    (elsewhere / "Images" / "loop").symlink_to(tmp_path / "raw")
    result = sonar(tmp_path / "raw")
    assert result.report["boxes"]["kept"] == 6
    assert result.boxes(expected) == [("cube", [5, 6, 20, 30])]
    assert not any(path.is_symlink() for path in (tmp_path / "prepared" / "images").iterdir())


def test_unlabelled_frames_become_a_test_part(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    for number in range(3):
        write_image(raw / "test_1" / f"frame_{number}.png", seed=40 + number)
    result = sonar(raw, "--include-unlabelled")
    assert result.names("test") == [f"test_1__frame_{number}.png" for number in range(3)]
    assert result.parts["test"]["annotations"] == []
    assert [category["name"] for category in result.parts["test"]["categories"]] == ["cube", "ball", "human body"]
    assert result.report["images"] == {"input": 9, "kept": 9, "rejected": 0, "left_out": 0}


def test_classes_must_be_given_and_are_suggested(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("human_body", 5, 6, 25, 36))
    with pytest.raises(UserError, match=r"holds cube \(5\), human_body \(1\); try --classes sonar"):
        prepare("sonar", raw, "--output", tmp_path / "prepared")
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("anchor", 5, 6, 25, 36))
    with pytest.raises(UserError, match="try --classes 'anchor,cube'"):
        prepare("sonar", raw, "--output", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_images_are_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = sound_folder(tmp_path / "raw")
    target, source = tmp_path / "prepared" / "images" / "frame_0.png", raw / "Images" / "frame_0.png"
    assert sonar(raw).report["placed"] == {"link": 6} and target.samefile(source)
    assert sonar(raw, "--images", "copy").report["placed"] == {"copy": 6} and not target.samefile(source)
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError(18, "Invalid cross-device link")))
    assert sonar(raw).report["placed"] == {"copy": 6} and target.read_bytes() == source.read_bytes()


def test_nested_subsets_of_the_training_frames(tmp_path: Path) -> None:
    """Whole scenes, each subset within the next; the validation frames and the ids are those of the whole set."""
    raw = sound_folder(tmp_path / "raw", count=20)
    for number in range(20):  # scenes of two equal frames
        write_image(raw / "Images" / f"frame_{number}.png", seed=number // 2)
    plain = sonar(raw).parts
    result = sonar(raw, "--subsets", "60", "30")
    train, some, few = (result.parts.pop(part) for part in ("train", "train_60", "train_30"))
    assert [train, result.parts.pop("val")] == [plain["train"], plain["val"]]
    assert not result.parts
    for smaller, larger, frames in ((few, some, 4), (some, train, 10)):
        assert len(smaller["images"]) == frames
        assert all(image in larger["images"] for image in smaller["images"])
        assert all(box in larger["annotations"] for box in smaller["annotations"])
        numbers = {int(image["file_name"][6:-4]) // 2 for image in smaller["images"]}
        assert len(numbers) == frames / 2
        assert {box["image_id"] for box in smaller["annotations"]} == {image["id"] for image in smaller["images"]}
    # As a source, such a set is its whole parts.
    again = {"import": (), "sonar": ("--classes", "cube"), "tile": ("--tile", WIDTH)}
    for command, arguments in again.items():
        prepare(command, result.folder, "--output", tmp_path / command, *arguments)
        files = (tmp_path / command / "annotations").glob("*.json")
        images = {file.stem: len(json.loads(file.read_text())["images"]) for file in files}
        assert images == {part: len(entries["images"]) for part, entries in plain.items()}, command


def test_only_a_prepared_folder_is_replaced_and_only_when_asked(tmp_path: Path) -> None:
    raw, output = sound_folder(tmp_path / "raw"), tmp_path / "prepared"
    arguments = ("sonar", raw, "--classes", "cube,ball", "--output", output)
    output.mkdir()
    (output / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not a prepared data set"):
        prepare(*arguments)
    prepare(*arguments, "--overwrite")
    assert (tmp_path / "prepared_before" / "precious.txt").read_text() == "mine"
    with pytest.raises(UserError, match="give --overwrite"):
        prepare(*arguments)
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("ball", 5, 6, 25, 36))
    assert sonar(raw).boxes("frame_0.png") == [("ball", [5, 6, 20, 30])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "sonr"), "did you mean 'sonar'"),
        (("--split-files", "a.txt", "b.txt", "--val-fraction", "0.3"), "exclude each other"),
        (("--classes", "anchor"), r"fewer than 2 frames .* \(BoxAnnotations/frame_0.xml: .*unknown class"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    raw = sound_folder(tmp_path / "raw")
    with pytest.raises(UserError, match=message):
        sonar(raw, *arguments)
    assert not (tmp_path / "prepared").exists()
