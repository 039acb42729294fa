"""Raw sonar folders: both forms of boxes, any nesting, every fault repaired or rejected, and always listed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppcls_ext.utils.errors import UserError
from tests.support.raw_data import (
    HEIGHT,
    SONAR_BLOCK,
    WIDTH,
    Prepared,
    corners,
    prepare,
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


def prepared(folder: Path, *arguments: str | Path) -> Prepared:
    output = folder.parent / "prepared"
    prepare("sonar", folder, "--classes", "cube,ball,human body", "--output", output, *arguments)
    result = Prepared(output)
    result.check()
    return result


def test_both_forms_of_boxes_and_the_sonar_block(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_image(raw / "Images" / "mixed.bmp", seed=50)
    write_voc(
        raw / "BoxAnnotations" / "mixed.xml",
        corners("cube", 5, 6, 25, 36),
        sides("ball", 30, 6, 25, 36.5),
        filename="mixed.bmp",
        extra=SONAR_BLOCK,
    )
    result = prepared(raw)
    assert result.boxes("mixed.bmp") == [("cube", [5, 6, 20, 30]), ("ball", [30, 6, 25, 36.5])]
    assert result.report["box_forms"] == {"xmin ymin xmax ymax": 7, "x y w h": 1}
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
    assert result.report["boxes"] == {"input": 8, "kept": 8, "repaired": 0, "rejected": 0}


@pytest.mark.parametrize(
    "nesting", ["{0}.png {0}.xml", "a/JPEGImages/{0}.png a/Annotations/{0}.xml", "b/{0}.png {0}.xml"]
)
def test_images_and_annotations_in_any_nesting(tmp_path: Path, nesting: str) -> None:
    image, annotation = nesting.split()
    for number in range(4):
        write_image(tmp_path / "raw" / image.format(number), seed=number)
        write_voc(tmp_path / "raw" / annotation.format(number), corners("cube", 5, 6, 25, 36))
    result = prepared(tmp_path / "raw")
    assert result.report["boxes"]["kept"] == 4
    assert sorted(result.names("train") + result.names("val")) == [f"{number}.png" for number in range(4)]


def test_same_names_in_two_folders_belong_to_the_annotations_beside_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for run in ("first", "second"):
        for number in range(3):
            write_image(raw / run / "images" / f"{number}.png", seed=number + 10 * (run == "second"))
            write_voc(raw / run / "xml" / f"{number}.xml", corners("cube" if run == "first" else "ball", 5, 6, 25, 36))
    write_image(raw / "unlabelled" / "0.png", seed=77)
    result = prepared(raw)
    assert result.boxes("first__images__0.png") == [("cube", [5, 6, 20, 30])]
    assert result.boxes("second__images__0.png") == [("ball", [5, 6, 20, 30])]
    assert result.kinds("repaired") == {"duplicate_file_name": 6}
    assert result.reasons("no_annotation") == ["unlabelled/0.png: has no annotation file"]


# What the objects of an annotation are, what becomes of them, and a part of the reason that is listed.
BOX_FAULTS = {
    "clipped": (corners("ball", -5, 6, 25, 99), "repaired", "clipped_box", [0, 6, 25, 42], "-5 6 25 99 clipped"),
    "swapped": (corners("ball", 25, 36, 5, 6), "repaired", "swapped_corners", [5, 6, 20, 30], "25 36 5 6"),
    "negative side": (sides("ball", 25, 36, -20, -30), "repaired", "swapped_corners", [5, 6, 20, 30], "25 36 5 6"),
    "outside": (corners("ball", 70, 6, 90, 36), "rejected", "box_outside", None, "outside the 64x48 picture"),
    "mistyped": (corners("ball", 5, 6, 2500, 36), "rejected", "box_outside", None, "leave 2% of the box inside"),
    "touching the edge": (corners("ball", 63.5, 6, 90, 36), "rejected", "box_outside", None, "outside the 64x48"),
    "empty": (corners("ball", 5, 6, 5, 36), "rejected", "empty_box", None, "enclose nothing"),
    "word": (corners("ball", 5, "six", 25, 36), "rejected", "not_a_number", None, "ymin is 'six'"),
    "nan": (corners("ball", 5, 6, "nan", 36), "rejected", "not_a_number", None, "xmax is 'nan'"),
    "huge": (sides("ball", 5, 6, "9" * 400, 36), "rejected", "not_a_number", None, "w is '999"),
    "no box": ("<object><name>ball</name></object>", "rejected", "missing_coordinates", None, "has no <bndbox>"),
    "half a box": (
        "<object><name>ball</name><bndbox><xmin>1</xmin></bndbox></object>",
        "rejected", "missing_coordinates", None, "its <bndbox> holds xmin",
    ),
    "unknown class": (corners("bal", 5, 6, 25, 36), "rejected", "unknown_class", None, "(did you mean 'ball'?)"),
    "no class": (corners("", 5, 6, 25, 36), "rejected", "unknown_class", None, "has no class name"),
    "twice": (corners("cube", 30, 6, 50, 36), "rejected", "duplicate_box", None, "the same class and corners"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BOX_FAULTS)
def test_faulty_boxes(tmp_path: Path, fault: str) -> None:
    text, fate, kind, box, reason = BOX_FAULTS[fault]
    raw = sound_folder(tmp_path / "raw", count=3)
    write_image(raw / "Images" / "faulty.png", seed=50)
    write_voc(raw / "BoxAnnotations" / "faulty.xml", corners("cube", 30, 6, 50, 36), text)
    result = prepared(raw)
    expected = [("cube", [30, 6, 20, 30])] + ([("ball", box)] if box else [])
    assert result.boxes("faulty.png") == expected
    assert result.report["boxes"] == {"input": 5, "kept": 4, "repaired": 0, "rejected": 0} | {fate: 1}
    assert result.kinds(fate) == {kind: 1}
    (line,) = result.reasons(kind)
    assert line.startswith("BoxAnnotations/faulty.xml: object 2 ") and reason in line


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]>'
    "<annotation><filename>&y;</filename></annotation>"
)
BAD_XML = {
    "truncated": ("<annotation><object><name>cube</name>", "line 1: no element found"),
    "empty": ("", "the file is empty"),
    "entities": (BOMB, "declares a document type or an entity"),
    "external": ('<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation/>', "declares a document type"),
    "deep": ("<annotation>" + "<a>" * 100 + "</a>" * 100 + "</annotation>", "nested more than 64 deep"),
    "other": ("<html><body/></html>", "its root is <html>"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "encoding 'klingon' cannot be read"),
}


@pytest.mark.parametrize("fault", BAD_XML)
def test_malformed_xml_rejects_its_frame(tmp_path: Path, fault: str) -> None:
    text, reason = BAD_XML[fault]
    raw = sound_folder(tmp_path / "raw")
    (raw / "BoxAnnotations" / "frame_2.xml").write_text(text)
    result = prepared(raw)
    lines = result.reasons("malformed_xml")
    assert len(lines) == 2
    assert lines[0].startswith("BoxAnnotations/frame_2.xml: ") and reason in lines[0]
    assert lines[1] == "Images/frame_2.png: its annotation file could not be read"
    assert "frame_2.png" not in result.names("train") + result.names("val")
    assert result.report["images"] == {"input": 6, "kept": 5, "rejected": 1, "left_out": 0}


def test_xml_in_a_chinese_encoding_is_read(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    text = '<?xml version="1.0" encoding="gb2312"?><annotation>' + corners("球", 1, 2, 11, 12) + "</annotation>"
    (raw / "BoxAnnotations" / "frame_0.xml").write_bytes(text.encode("gb2312"))
    output = tmp_path / "prepared"
    prepare("sonar", raw, "--classes", "cube,球", "--output", output)
    assert Prepared(output).boxes("frame_0.png") == [("球", [1, 2, 10, 10])]


def test_name_and_size_in_a_file_block(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_image(raw / "Images" / "ping.bmp", seed=60)
    block = "<file><filename>ping.bmp</filename><width>99</width><height>98</height></file>"
    text = f"<annotation>{block}{corners('ball', 5, 6, 25, 36)}</annotation>"
    (raw / "BoxAnnotations" / "0001.xml").write_text(text)
    result = prepared(raw)
    assert result.boxes("ping.bmp") == [("ball", [5, 6, 20, 30])]
    assert "states 99x98" in result.reasons("size_disagrees")[0]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    sound_folder(tmp_path / "elsewhere")
    (tmp_path / "raw").mkdir()
    for name in ("Images", "BoxAnnotations"):
        (tmp_path / "raw" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "raw" / "Images" / "loop").symlink_to(tmp_path / "raw")
    result = prepared(tmp_path / "raw")
    assert result.report["boxes"]["kept"] == 6
    assert not any(path.is_symlink() for path in (tmp_path / "prepared" / "images").iterdir())


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw", count=3)
    name = os.fsdecode("球".encode("gb2312"))
    try:
        (raw / "Images" / "frame_1.png").rename(raw / "Images" / f"{name}.png")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (raw / "BoxAnnotations" / "frame_1.xml").rename(raw / "BoxAnnotations" / f"{name}.xml")
    result = prepared(raw)
    assert result.boxes("_xc7_xf2.png") == [("cube", [5, 6, 20, 30])]


def test_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    whole = (raw / "Images" / "frame_1.png").read_bytes()
    (raw / "Images" / "frame_1.png").write_bytes(whole[: len(whole) // 2])
    result = prepared(raw)
    assert result.kinds("rejected") == {"undecodable_image": 1}
    assert result.reasons("undecodable_image")[0].startswith("Images/frame_1.png: ")
    assert result.report["images"]["rejected"] == 1
    assert result.report["boxes"] == {"input": 6, "kept": 5, "repaired": 0, "rejected": 1}


def test_size_that_disagrees_with_the_picture(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_voc(raw / "BoxAnnotations" / "frame_1.xml", corners("cube", 5, 6, 80, 36), size=(1280, 720))
    result = prepared(raw)
    assert result.reasons("size_disagrees") == ["BoxAnnotations/frame_1.xml: states 1280x720, the picture has 64x48"]
    assert result.boxes("frame_1.png") == [("cube", [5, 6, 59, 30])]
    assert result.kinds("repaired") == {"size_disagrees": 1, "clipped_box": 1}
    assert result.reasons("boxes_may_be_scaled")[0].startswith("all: 1 of 6 boxes reach beyond pictures")


def test_annotation_without_image_and_image_without_annotation(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_voc(raw / "BoxAnnotations" / "ghost.xml", corners("cube", 5, 6, 25, 36), corners("ball", 5, 6, 25, 36))
    write_image(raw / "Images" / "bare.png", seed=40)
    result = prepared(raw)
    assert result.reasons("missing_image") == ["BoxAnnotations/ghost.xml: has no image"]
    assert result.reasons("no_annotation") == ["Images/bare.png: has no annotation file"]
    assert result.report["boxes"] == {"input": 8, "kept": 6, "repaired": 0, "rejected": 2}
    assert result.report["images"] == {"input": 7, "kept": 6, "rejected": 0, "left_out": 1}


def test_unlabelled_frames_become_a_test_part(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    for number in range(3):
        write_image(raw / "test_1" / f"frame_{number}.png", seed=40 + number)
    result = prepared(raw, "--include-unlabelled")
    assert result.names("test") == [f"test_1__frame_{number}.png" for number in range(3)]
    assert result.parts["test"]["annotations"] == []
    assert [category["name"] for category in result.parts["test"]["categories"]] == ["cube", "ball", "human body"]
    assert result.report["images"] == {"input": 9, "kept": 9, "rejected": 0, "left_out": 0}


def test_two_annotation_files_of_one_image(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_voc(raw / "Old" / "frame_0.xml", corners("cube", 5, 6, 25, 36))
    write_voc(raw / "Old" / "frame_1.xml", corners("ball", 5, 6, 25, 36))
    result = prepared(raw)
    assert result.reasons("two_annotations") == [
        "Old/frame_0.xml: says the same as BoxAnnotations/frame_0.xml",
        "Images/frame_1.png: has annotation files that differ: BoxAnnotations/frame_1.xml, Old/frame_1.xml",
    ]
    assert result.boxes("frame_0.png") == [("cube", [5, 6, 20, 30])]
    assert "frame_1.png" not in result.names("train") + result.names("val")
    assert result.report["boxes"] == {"input": 8, "kept": 5, "repaired": 0, "rejected": 3}


def test_two_images_that_one_annotation_may_mean(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    for number in (0, 1):
        write_image(raw / "Images" / f"frame_{number}.bmp", seed=number)
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("cube", 5, 6, 25, 36), filename="frame_0.bmp")
    result = prepared(raw)
    assert result.boxes("frame_0.bmp") == [("cube", [5, 6, 20, 30])]
    assert result.kinds("rejected") == {"no_annotation": 3, "ambiguous_image": 1}
    assert "frame_1.bmp, frame_1.png" in result.reasons("ambiguous_image")[0]


def test_annotation_paired_by_the_name_that_it_states(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_image(raw / "Images" / "ping_17.png", seed=60)
    write_voc(raw / "BoxAnnotations" / "0017.xml", corners("ball", 5, 6, 25, 36), filename="C:\\data\\ping_17.png")
    result = prepared(raw)
    assert result.boxes("ping_17.png") == [("ball", [5, 6, 20, 30])]
    assert result.reasons("paired_by_stated_name") == [
        "BoxAnnotations/0017.xml: belongs to ping_17.png, which it names"
    ]


def test_frame_whose_boxes_are_all_rejected_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("anchor", 5, 6, 25, 36))
    write_voc(raw / "BoxAnnotations" / "frame_1.xml")
    result = prepared(raw)
    assert result.kinds("rejected") == {"unknown_class": 1, "no_box_left": 1}
    names = result.names("train") + result.names("val")
    assert "frame_0.png" not in names and "frame_1.png" in names
    assert sum(part["images_without_boxes"] for part in result.report["parts"].values()) == 1


def test_class_names_are_matched_whatever_their_spelling(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    for number, name in enumerate(("Human_Body", "humanbody", "human body", "CUBE")):
        write_voc(raw / "BoxAnnotations" / f"frame_{number}.xml", corners(name, 5, 6, 25, 36))
    result = prepared(raw)
    assert [result.boxes(f"frame_{number}.png")[0][0] for number in range(4)] == ["human body"] * 3 + ["cube"]
    assert sorted((entry["written"], entry["class"]) for entry in result.report["respelled_classes"]) == [
        ("CUBE", "cube"),
        ("Human_Body", "human body"),
        ("humanbody", "human body"),
    ]
    assert result.report["boxes"]["kept"] == 6


def test_classes_must_be_given_and_are_suggested(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("human_body", 5, 6, 25, 36))
    with pytest.raises(UserError, match=r"holds cube \(5\), human_body \(1\); try --classes sonar"):
        prepare("sonar", raw, "--output", tmp_path / "prepared")
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("anchor", 5, 6, 25, 36))
    with pytest.raises(UserError, match="try --classes 'anchor,cube'"):
        prepare("sonar", raw, "--output", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_images_are_linked_or_copied(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    prepared(raw)
    target = tmp_path / "prepared" / "images" / "frame_0.png"
    assert os.path.samefile(target, raw / "Images" / "frame_0.png")
    result = prepared(raw, "--images", "copy", "--overwrite")
    assert not os.path.samefile(target, raw / "Images" / "frame_0.png")
    assert target.read_bytes() == (raw / "Images" / "frame_0.png").read_bytes()
    assert result.report["placed"] == {"copy": 6}


def test_images_are_copied_where_the_disk_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    result = prepared(sound_folder(tmp_path / "raw"))
    assert result.report["placed"] == {"copy": 6}


def test_only_a_prepared_folder_is_replaced_and_only_when_asked(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than a prepared data set"):
        prepared(raw, "--overwrite")
    (tmp_path / "prepared" / "precious.txt").unlink()
    prepared(raw)
    with pytest.raises(UserError, match="give --overwrite"):
        prepared(raw)
    write_voc(raw / "BoxAnnotations" / "frame_0.xml", corners("ball", 5, 6, 25, 36))
    assert prepared(raw, "--overwrite").boxes("frame_0.png") == [("ball", [5, 6, 20, 30])]


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = sound_folder(tmp_path / "raw")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detection.prepare.write.write_json", fail)
    with pytest.raises(OSError, match="No space"):
        prepared(raw)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_many_swapped_corners_are_doubted(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    for number in range(3):
        write_voc(raw / "BoxAnnotations" / f"frame_{number}.xml", corners("cube", 40, 30, 10, 8))
    assert prepared(raw).reasons("corners_may_be_sizes") == [
        "all: 3 of 6 boxes had swapped corners: do the tags hold x y w h after all?"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "sonr"), "did you mean 'sonar'"),
        (("--classes", "cube,Cube"), "'cube' and 'Cube' are the same name"),
        (("--classes", "cube,,ball"), "holds an empty name"),
        (("--classes", "missing.txt"), "missing.txt: no such file"),
        (("--val-fraction", "0"), "--val-fraction must be above 0 and below 1, got 0"),
        (("--val-fraction", "nan"), "--val-fraction must be above 0 and below 1, got nan"),
        (("--seed", "-1"), "--seed must not be negative"),
        (("--split-files", "a.txt", "b.txt"), "--split-files a.txt: no such file"),
        (("--split-files", "a.txt", "b.txt", "--val-fraction", "0.3"), "exclude each other"),
        (
            ("--classes", "anchor"),
            r"fewer than 2 frames with a usable box \(BoxAnnotations/frame_0.xml: .*unknown class",
        ),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(sound_folder(tmp_path / "raw"), *arguments)
    assert not (tmp_path / "prepared").exists()


def test_output_inside_the_source_is_refused(tmp_path: Path) -> None:
    raw = sound_folder(tmp_path / "raw")
    with pytest.raises(UserError, match="must lie apart from the source"):
        prepared(raw, "--output", raw / "prepared")


def test_classes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ball\n\ncube\n")
    result = prepared(sound_folder(tmp_path / "raw"), "--classes", tmp_path / "names.txt")
    assert result.report["classes"] == ["ball", "cube"]
