"""Texts of people in whatever encoding: what is read, what is guessed and said, what has to be stated."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import pytest

from ppcls_ext.utils import texts
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import write_json
from ppcls_ext.utils.texts import (
    VARIABLE,
    DamagedTextError,
    UnknownEncodingError,
    decode_text,
    read_text,
    shown_name,
    state_encoding,
)

TEXT = "海参\n海胆\nstarfish\n"
MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
         "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is stated, nothing has been guessed."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(texts, "_said", set())


@pytest.mark.parametrize("encoding", MARKS)
def test_a_mark_tells_the_encoding_and_zero_bytes_do(encoding):
    assert decode_text(MARKS[encoding] + TEXT.encode(encoding), "a.txt") == TEXT
    assert decode_text(f"<a>{TEXT}</a>".encode(encoding), "a.txt") == f"<a>{TEXT}</a>"
    # Whatever is declared or stated besides.
    state_encoding("big5")
    assert decode_text(MARKS[encoding] + TEXT.encode(encoding), "a.txt", "utf-16") == TEXT


def test_line_ends_of_every_system_and_no_others(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("a\r\nb\rc\n\u2028d\x0be".encode())
    assert read_text(file) == "a\nb\nc\n\u2028d\x0be"
    file.write_bytes(codecs.BOM_UTF8 + b"a 0\n" + codecs.BOM_UTF8 + b"b 1\n")
    assert read_text(file) == "a 0\nb 1\n"
    # DOS ends a text so.
    file.write_bytes("海参\r\n海胆\r\n\x1a".encode("gbk"))
    assert read_text(file) == "海参\n海胆\n"


def test_chinese_is_guessed_and_said_once_a_folder(tmp_path, caplog):
    # A single name is enough.
    names = ("海参", "海胆", "扇贝", "海星", "划痕", "缺陷", "轮胎", "鲍鱼", "行人", "香蕉", "摩托车")
    for number, name in enumerate(names):
        (tmp_path / f"{number}.txt").write_bytes(name.encode("gbk"))
        assert read_text(tmp_path / f"{number}.txt") == name
    assert len(caplog.records) == 1
    assert "0.txt is not UTF-8 and was read as gb18030" in caplog.text and "--encoding" in caplog.text
    assert decode_text("海参".encode("gbk"), "other/a.txt") == "海参" and len(caplog.records) == 2


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("cp1252", "ÄÖ\n"), ("cp949", "배\n"), ("euc_jp", "歩行者\n自転車\n"), ("big5", "船\n"), ("cp1251", "МОРЕ\n")],
)
def test_another_language_never_becomes_chinese_and_can_be_stated(encoding, text):
    with pytest.raises(UnknownEncodingError, match=r"classes\.txt: line 1 .*tried: UTF-8, gb18030.*--encoding"):
        decode_text(text.encode(encoding), "classes.txt")
    state_encoding(encoding)
    assert decode_text(text.encode(encoding), "classes.txt") == text
    # What is UTF-8 beyond doubt stays UTF-8.
    assert decode_text("ヒトデ 海参".encode(), "classes.txt") == "ヒトデ 海参"


def test_what_is_declared_is_not_believed_against_better_evidence():
    chinese = TEXT.encode("gbk")
    for declared in ("gb2312", "utf-8", "utf-16", "iso-8859-1", "klingon", None):
        assert decode_text(chinese, "a.xml", declared) == TEXT
        assert decode_text(TEXT.encode(), "a.xml", declared) == TEXT
    for text, encoding, declared in (
        ("한국", "euc-kr", "euc-kr"), ("café", "latin-1", "iso-8859-1"), ("犬", "iso2022_jp", "iso-2022-jp"),
        ("①㈱", "cp932", "shift_jis"),
    ):  # fmt: skip
        assert decode_text(text.encode(encoding), "a.xml", declared) == text


BY_CHANCE = ["虾", "图", "水母", "联通", "牛", "模漠", "图00.jpg", "a图.jpg", "fish虾", "虾\n蟹"]
LONE = ["蟹", "猫", "猫00.jpg 0", "鹿00.jpg", "路"]
WORDS = ["рыба", "café", "łódź", "Škoda", "été", "мама", "ψάρι", "нож\nвилка", "5 µm, 1 m², ±1°", "à côté", "c\u0327a",
         "海参", "ﬁ"]  # fmt: skip


def test_utf8_by_chance_is_chinese_and_words_stay_utf8(caplog):
    for text in BY_CHANCE:
        for declared in ("gb2312", "utf-8", None):
            assert decode_text(text.encode("gbk"), "a.xml", declared) == text
    assert "makes no sense as UTF-8 and was read as gb18030" in caplog.text
    for text in WORDS:
        for declared in ("utf-8", "gb2312", "big5", "iso-8859-1", None):
            assert decode_text(text.encode(), "a.yaml", declared) == text
    for text in LONE:
        data = text.encode("gbk")
        assert decode_text(data, "a.xml", "gb2312") == text
        # Russian letters are shown to detectors, too.
        assert decode_text(data, f"{text}/a.xml", "utf-8") == data.decode()
        assert "may be Chinese" in caplog.records[-1].message
    # Chinese or Korean, and no sense as UTF-8.
    with pytest.raises(UnknownEncodingError, match="may be Chinese or of another language"):
        decode_text("苹".encode("gbk"), "a.txt")


def test_a_stated_encoding_wins_unless_utf8_is_beyond_doubt(caplog):
    state_encoding("gb18030")
    for text in (*BY_CHANCE, *LONE, "cat猫", "谢谢"):
        assert decode_text(text.encode("gbk"), "a.txt", "utf-8") == text
    assert "may be UTF-8, too, and was read as gb18030" in caplog.text
    assert decode_text("海参".encode(), "a.txt") == "海参"
    assert "is not gb18030 and was read as UTF-8" in caplog.text
    # A mark is no other encoding.
    caplog.clear()
    state_encoding("utf-8-sig")
    assert decode_text("海参".encode(), "b/a.txt") == "海参" and not caplog.records
    # Words of single bytes are no UTF-8 by chance.
    state_encoding("cp1252")
    assert decode_text("café".encode(), "a.txt") == "café"
    state_encoding("utf-8")
    assert decode_text("苹".encode("gbk"), "a.txt") == "苹".encode("gbk").decode()
    state_encoding("cp949")
    with pytest.raises(UnknownEncodingError, match="neither UTF-8 nor cp949, as --encoding says"):
        decode_text(b"a \xff", "list.txt")
    for wrong in ("klingon", "base64"):
        with pytest.raises(UserError, match=f"--encoding {wrong}: unknown"):
            state_encoding(wrong)


def test_damage_is_told_from_an_unknown_encoding():
    for data, reason in (
        (TEXT.encode()[:-12] + b"\xff\n", "line 2 is damaged: the text is UTF-8"),
        (codecs.BOM_UTF16_LE + b"a\0b", "begins as UTF-16 but is damaged"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "holds zero bytes"),
    ):
        with pytest.raises(DamagedTextError, match=reason):
            decode_text(data, "list.txt")


def test_names_that_are_no_utf8_are_shown_and_written(tmp_path: Path):
    name = os.fsdecode("海参.png".encode("gbk"))
    assert shown_name(name) == "海参.png"
    assert shown_name(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    for plain in ("a.png", "é", "고양이.png"):
        assert shown_name(plain) == plain
    assert shown_name("\ud800") == "\\ud800"
    state_encoding("cp1252")
    assert shown_name(os.fsdecode(b"caf\xe9.png")) == "café.png"
    write_json(tmp_path / "report.json", {"file": name, "class": "海参"})
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert "海参" in text
    assert json.loads(text) == {"file": name, "class": "海参"}
