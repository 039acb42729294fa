"""Annotations and lists in the encodings and with the names of other systems, prepared or as they are."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from detection.annotations import Ledger
from detection.coco import AnnotationFileError, open_coco
from detection.evaluation.boxes import read_ground_truth
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.texts import VARIABLE
from tests.support.raw_data import box_entry, corners, image_entry, prepared, write_image, write_voc

DECLARED = '<?xml version="1.0" encoding="{}"?>'


@pytest.fixture(autouse=True)
def fresh(monkeypatch, caplog):
    """Nothing is stated."""
    monkeypatch.setenv(VARIABLE, "")
    logging.getLogger("ppcls_ext").propagate = True
    caplog.set_level(logging.INFO)


def annotated(source: Path, names: list[str], encodings: list[tuple[str, str]]) -> Path:
    """One image and XML file for each way to declare and to write, with a box of each class."""
    for number, (declaration, encoding) in enumerate(encodings):
        write_image(source / f"{number}.png", seed=number)
        objects = "".join(corners(name, 5 + 9 * place, 6, 12 + 9 * place, 30) for place, name in enumerate(names))
        text = f"{declaration}\r\n<annotation><filename>{number}.png</filename>{objects}</annotation>"
        (source / f"{number}.xml").write_bytes(text.encode(encoding))
    return source


def test_xml_in_every_encoding_that_tells_itself_or_is_chinese(tmp_path, caplog):
    ways = [
        (DECLARED.format("gb2312"), "gbk"), (DECLARED.format("utf-8"), "gb18030"), ("", "gbk"), ("", "utf-8-sig"),
        (DECLARED.format("gb2312"), "utf-8"), (DECLARED.format("utf-16"), "utf-16"), ("\n", "utf-8"),
        (DECLARED.format("big5"), "utf-8"), ("<?xml version=1.0?>", "utf-8"),
    ]  # fmt: skip
    names = ["海参", "海胆"]
    source = annotated(tmp_path / "raw", names, ways)
    (tmp_path / "classes.txt").write_bytes("海胆\r\n海参\r\n".encode("gbk"))
    result = prepared("imagefolder", source, "--classes", tmp_path / "classes.txt")
    assert result.report["classes"] == ["海胆", "海参"]
    assert result.kinds("rejected") == {}
    for number in range(len(ways)):
        assert sorted(name for name, _ in result.boxes(f"{number}.png")) == sorted(names)
    # Once for the list of classes, and once for the folder.
    assert len([record for record in caplog.records if "was read as gb18030" in record.message]) == 2


def test_short_chinese_follows_its_folder_and_is_never_mixed(tmp_path):
    # One class a file, the unclear ones first and in a folder of their own.
    names = ["蟹", "锚", "螺", "球", "渔网", "轮子", "海胆", "海星", "扇贝", "海参"]
    for number, name in enumerate(names):
        folder = tmp_path / "raw" / ("a" if number < 6 else "b")
        write_image(folder / f"{number}.png", seed=number)
        write_voc(folder / f"{number}.xml", corners(name, 5, 6, 25, 36))
        (folder / f"{number}.xml").write_bytes((folder / f"{number}.xml").read_text("utf-8").encode("gbk"))
    assert sorted(prepared("import", tmp_path / "raw").report["classes"]) == sorted(names)
    # What tells nothing of itself and is no UTF-8 leaves the rest unclear.
    source = annotated(tmp_path / "unclear", ["蟹"], [("", "gbk")])
    annotated(source / "b", ["苹"], [("", "gbk")])
    with pytest.raises(UserError, match=r"\.xml: line \d .*--encoding"):
        prepared("import", source)


def test_korean_is_refused_until_it_is_stated(tmp_path):
    source = annotated(tmp_path / "raw", ["해삼", "불가사리"], [("", "cp949"), (DECLARED.format("utf-8"), "cp949")])
    with pytest.raises(UserError, match=r"0\.xml: line \d .*tried: UTF-8, gb18030.*--encoding"):
        prepared("imagefolder", source, "--classes", "해삼,불가사리")
    result = prepared("imagefolder", source, "--classes", "해삼,불가사리", "--encoding", "cp949")
    assert result.report["boxes"]["kept"] == 4


def test_split_lists_of_other_systems(tmp_path):
    source = tmp_path / "raw"
    names = ["é 1", "b", "C", "海参"]
    for number, name in enumerate(names):
        write_image(source / f"{name}.png", seed=number)
        write_voc(source / f"{name}.xml", corners("cube", 5, 6, 25, 36))
    accent = unicodedata.normalize("NFD", "é")
    train = f"D:\\data\\b.png\r\n{accent}%201.png\r\n"
    (tmp_path / "train.txt").write_bytes(train.encode("utf-16"))
    (tmp_path / "val.txt").write_bytes("c.PNG\r海参.png\r".encode("gbk"))
    lists = "--split-files", tmp_path / "train.txt", tmp_path / "val.txt"
    result = prepared("imagefolder", source, "--classes", "cube", *lists)
    assert sorted(result.names("train")) == ["b.png", "é 1.png"]
    assert sorted(result.names("val")) == ["C.png", "海参.png"]
    assert result.kinds("noted")["listed_in_other_spelling"] == 3


def test_annotations_paired_without_case_and_form_of_accents(tmp_path):
    source = tmp_path / "raw"
    for number, (image, annotation) in enumerate((("A.PNG", "a"), (unicodedata.normalize("NFD", "é.png"), "é"))):
        write_image(source / image, seed=number)
        write_voc(source / "xml" / f"{annotation}.xml", corners("cube", 5, 6, 25, 36))
    write_image(source / "b c.png", seed=3)
    write_voc(source / "xml" / "3.xml", corners("cube", 5, 6, 25, 36), filename="file:///C:/x/b%20c.png")
    write_image(source / "D.png", seed=4)
    stated = "<path>C:\\x\\d.PNG</path>"
    write_voc(source / "xml" / "4.xml", corners("cube", 5, 6, 25, 36), extra=stated)
    # An archive of macOS and a NAS leave these behind.
    write_voc(source / "__MACOSX" / "xml" / "._a.xml", corners("ball", 1, 2, 9, 9))
    write_image(source / "xml" / "@eaDir" / "a.png", seed=5)
    result = prepared("imagefolder", source, "--classes", "cube")
    assert result.report["images"] == {"input": 4, "kept": 4, "rejected": 0, "left_out": 0}
    assert result.kinds("noted")["other_spelling"] == 2
    assert result.kinds("repaired")["paired_by_stated_name"] == 2


def test_names_beyond_ascii_where_the_system_is_ascii(tmp_path):
    source = tmp_path / "raw"
    for number, name in enumerate(("海参é.png", "b.png")):
        write_image(source / name, seed=number)
        write_voc(source / f"{Path(name).stem}.xml", corners("cube", 5, 6, 25, 36))
    output = tmp_path / "prepared"
    command = [sys.executable, "tools/prepare_data.py", "imagefolder", source, "--classes", "cube", "--output", output]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=os.environ | ascii_only, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (output / "images").iterdir()) == ["b.png", "海参é.png"]


STATED = {
    "images\\b c.PNG": "b c.png", "d%20e.png": "d e.png", "C:\\x\\images\\海参.png": "海参.png",
    "file:///y/f.png": "f.png", unicodedata.normalize("NFD", "é.png"): "é.png", "./g.png": "g.png",
}  # fmt: skip


def test_training_and_evaluation_read_what_preparation_reads(tmp_path):
    content = {
        "images": [image_entry(number, name) for number, name in enumerate(STATED, start=1)],
        "annotations": [box_entry(number, number) for number in range(1, len(STATED) + 1)],
        "categories": [{"id": 1, "name": "海参"}],
    }
    file = tmp_path / "a.json"
    file.write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-16-le"))
    for seed, name in enumerate(STATED.values()):
        write_image(tmp_path / "images" / name, seed=seed)
    coco = open_coco(file, tmp_path / "images", Ledger())
    assert coco.names == ["海参"]
    assert [frame.image for frame in coco.frames] == [tmp_path / "images" / name for name in STATED.values()]
    assert all(frame.boxes for frame in coco.frames)
    assert read_ground_truth(file).names == ["海参"]
    write_image(tmp_path / "images" / "B C.png", seed=9)
    with pytest.raises(AnnotationFileError, match=r"a\.json: images.b c\.PNG is not in .*B C\.png and b c\.png are"):
        open_coco(file, tmp_path / "images", Ledger())
    file.write_bytes(json.dumps({"categories": "해삼"}, ensure_ascii=False).encode("cp949"))
    with pytest.raises(AnnotationFileError, match=r"a\.json: line 1 .*--encoding"):
        open_coco(file, tmp_path / "images", Ledger())
