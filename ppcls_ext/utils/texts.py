"""Texts that people bring, in whatever encoding: one reader for lists, class files, JSON, XML and YAML.

What this project writes is UTF-8. What it reads may come from a Chinese Windows (GBK), from Excel or Notepad (UTF-16, a
byte-order mark), or say another encoding than it has. A guess is made for Chinese only, where the result is plausible,
and is always said; everything else has to be stated with ``--encoding``. charset-normalizer is no help: it judges pages
of prose, and class names are a few characters.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

# What --encoding states; in the environment, so that the processes that a command starts know it too.
VARIABLE = "PPCLS_EXT_TEXT_ENCODING"
# People and programs name the smaller encoding and write the larger one.
LARGER = {"utf-8-sig": "utf-8", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932"}
WESTERN = frozenset({"ascii", "iso8859-1", "cp1252"})
# Of two bytes for a character, which may be UTF-8 by chance; a text in an encoding of single bytes never is.
EAST_ASIAN = frozenset({"gb18030", "big5", "big5hkscs", "cp950", "cp949", "johab", "cp932", "euc_jp"})
# Bytes that are no UTF-8, as "surrogateescape" decodes them.
NO_UTF8 = re.compile("[\udc80-\udcff]")
THREE_BYTES = re.compile("[^\0-\u07ff]")

# Folders of texts, and what was guessed of their encoding: each is said once.
_said: set[tuple[str, str]] = set()
# Folder -> what the texts tell that belong together with those in it.
_sets: dict[str, Callable[[], bool | None]] = {}


class TextError(UserError):
    """A text that cannot be read; the message names it, ``reason`` is the message without the name."""

    def __init__(self, name: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{shown_name(name)}: {reason}")


class DamagedTextError(TextError):
    """A file that is damaged, or no text."""


class UnknownEncodingError(TextError):
    """A text whose encoding has to be stated."""


def state_encoding(encoding: str) -> str:
    """Takes what ``--encoding`` says: the encoding of all texts but those that are marked or surely UTF-8.

    Raises:
        UserError: there is no such encoding.
    """
    if _codec(encoding) is None:
        raise UserError(f"--encoding {encoding}: unknown; such as gb18030, big5, shift_jis, cp949, cp1252 or cp1251")
    os.environ[VARIABLE] = encoding
    return encoding


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a text file of a person; lines end in ``\\n`` alone.

    Raises:
        UnknownEncodingError: its encoding has to be stated.
        DamagedTextError: it is damaged, or no text.
        OSError: the file cannot be read.
    """
    return decode_text(Path(path).read_bytes(), os.fspath(path))


def decode_text(data: bytes, name: str, declared: str | None = None) -> str:
    """Decodes a text: by its byte-order mark, by what ``--encoding`` states or it declares, as UTF-8, as Chinese.

    UTF-8 that no other encoding gives by chance comes before what is stated or declared, and this is said: characters
    of three bytes, or anything where an encoding of single bytes is stated. Short Chinese may be UTF-8 by chance
    (``虾`` in GBK is ``Ϻ``): there a stated encoding wins, a declared one unless UTF-8 gives words, and else Chinese
    where UTF-8 gives letters of rare use. What may be either follows its set (:func:`belong_together`).

    Args:
        data, name: the text, and its file, for messages.
        declared: the encoding that the text names in itself, as XML does. It is not believed against better evidence.

    Raises:
        UnknownEncodingError: its encoding has to be stated.
        DamagedTextError: it is damaged, or no text.
    """
    text = _decode(data, name, declared)
    if "\0" in text:
        first = text.index("\0") + 1
        raise DamagedTextError(name, f"holds zero bytes (the first is character {first:,}): it is damaged, or no text")
    # DOS ends a text with Ctrl-Z.
    if text.rstrip().endswith("\x1a"):
        text = text[: text.rindex("\x1a")].rstrip("\x1a")
    # Marks that stand inside are left of texts that someone put together.
    text = text.replace("\ufeff", "")
    # As Python's text files do; splitlines() would split at a dozen of other characters, too.
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _decode(data: bytes, name: str, declared: str | None) -> str:
    # By a mark, or by zero bytes: a text begins with ASCII characters.
    encoding = json.detect_encoding(data)
    if encoding != "utf-8":
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            reason = f"begins as {encoding.upper().removesuffix('-SIG')} but is damaged at byte {error.start:,}"
            raise DamagedTextError(name, reason) from error
    stated = os.environ.get(VARIABLE)
    claimed = stated or declared
    codec = _codec(claimed)
    if codec == "utf-8" or (codec or "").startswith("utf") and not stated:
        codec = None
    as_claimed = _decoded(data, codec) if codec else None
    if data.isascii():
        # ISO 2022 is ASCII for whoever does not know its escapes.
        return as_claimed if as_claimed and codec.startswith("iso2022") else data.decode("ascii")
    as_utf8 = _decoded(data, "utf-8")
    if as_utf8 is None:
        if as_claimed is not None and (stated or not (codec in WESTERN and is_chinese(data))):
            return as_claimed
        if stated:
            raise UnknownEncodingError(name, f"is neither UTF-8 nor {stated}, as --encoding says")
        verdict, fault = is_chinese(data), "is not UTF-8"
    else:
        sense = _sense(as_utf8)
        by_chance = codec in EAST_ASIAN and not THREE_BYTES.search(as_utf8)
        if as_claimed is not None and by_chance and (stated or sense != "words"):
            if sense == "words":
                _note_guess(name, f"may be UTF-8, too, and was read as {claimed}, which is stated")
            return as_claimed
        if codec:
            _note_guess(name, f"is not {claimed} and was read as UTF-8")
            return as_utf8
        if stated or sense == "words":
            return as_utf8
        verdict, fault = is_chinese(data), "makes no sense as UTF-8"
        among_chinese = _is_among_chinese(name)
        if among_chinese is False and (verdict is False or sense == "lone"):
            if verdict is not False:
                _note_guess(name, "was read as UTF-8, but may be Chinese (gb18030)")
            return as_utf8
        if sense == "lone":
            verdict, fault = verdict is not False and among_chinese, "is among Chinese texts"
    if not (verdict or (verdict is None and _is_among_chinese(name))):
        raise _unknown_encoding(data, name, declared, verdict is None)
    _note_guess(name, f"{fault} and was read as gb18030 (Chinese)")
    return data.decode("gb18030")


def belong_together(files: Collection[Path]) -> None:
    """Takes texts as those of one set, before any is read, so that no class gets two names: if those that are no UTF-8
    are Chinese, looked at together, so are those that may be something else; if that is unclear, these are refused."""
    _sets.update(dict.fromkeys(map(os.path.dirname, files), cache(lambda: _are_chinese(files))))


def _is_among_chinese(name: str) -> bool | None:
    """Tells whether a text belongs to a set that is Chinese; ``None`` where this is unclear."""
    return _sets.get(os.path.dirname(name), lambda: False)()


def _are_chinese(files: Collection[Path]) -> bool | None:
    lines: set[bytes] = set()
    for file in files:
        data = b""
        # Whoever reads it says what is wrong with it.
        with contextlib.suppress(OSError):
            data = file.read_bytes()
        if data.isascii() or json.detect_encoding(data) != "utf-8":
            continue
        as_utf8 = _decoded(data, "utf-8")
        if (as_utf8 is None or _sense(as_utf8) == "odd") and is_chinese(data) is not False:
            lines.update(line for line in data.splitlines() if not line.isascii())
    return (is_chinese(b"\n".join(lines)) or None) if lines else False


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _codec(encoding: str | None) -> str | None:
    """Returns Python's name of an encoding of texts, the larger one of two that are mixed up; ``None`` if unknown."""
    try:
        found = codecs.lookup(encoding or "").name
        b"a".decode(found)
    except UnicodeError:
        # A single byte is too little for UTF-16.
        pass
    except LookupError:
        # Also of what decodes no text, such as base64.
        return None
    return LARGER.get(found, found)


def _unknown_encoding(data: bytes, name: str, declared: str | None, unclear: bool) -> TextError:
    if b"\0" in data:
        return DamagedTextError(name, "holds zero bytes: it is damaged, or no text")
    lossy = data.decode("utf-8", "surrogateescape")
    first = NO_UTF8.search(lossy)
    line = lossy.count("\n", 0, first.start()) + 1 if first else 1
    if _is_damaged_utf8(data):
        strange = len(NO_UTF8.findall(lossy))
        return DamagedTextError(name, f"line {line} is damaged: the text is UTF-8, but for {strange} bytes")
    claim = f"{declared} (declared), " if declared and _codec(declared) != "utf-8" else ""
    why = "may be Chinese or of another language" if unclear else "cannot be read"
    way = "state its encoding with --encoding (gb18030, big5, cp949, shift_jis, cp1252, ...)"
    return UnknownEncodingError(name, f"line {line} {why} (tried: {claim}UTF-8, gb18030 (Chinese)); {way}")


def _note_guess(name: str, words: str) -> None:
    place = os.path.dirname(name), words
    if place not in _said:
        _said.add(place)
        rest = "other such files of its folder are read the same way. If that is wrong, name it with --encoding"
        logger.warning("%s %s; %s", shown_name(name), words, rest)


# Chinese or not

# The commonest characters of Chinese, of Japanese and traditional Chinese, and syllables of Korean: the same bytes are
# one of each in GBK, EUC-JP, Big5 and cp949.
COMMON_CHINESE = frozenset(
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定"
    "行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其"
    "些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建"
    "月公无系军很情者最立代想已通并提直题程展五果料象员位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知较"
    "将组见计别她手角期根论运农指几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压世"
    "金增争油思术极交受联认六共收证改清己美再采转更单风切打白教速花带安场身车例真具万每目至达走示议声报完类八离名确才"
    "虾蟹猫狗牛鸟母狮鹿鸡猪羊驴贝桥楼树花草砖漏霉煤"
    "科张信马节话米整空元集温传土许步群广石记段研界拉林装影算低持音布复容儿深难近千周素技备半青列感团毛快型眼江参鱼船"
)
COMMON_ELSEWHERE = {
    "cp949": frozenset(
        "이다는에의을가고지하를한로사은어서기리나자도대시아스그인정보부수들제만라전과장해여일있상원주으니세야신오면것마동구"
        "조적거때유경비위관개공말안성연모회소중선방생무내년치간문발진실미국게분히입요저트드할려았었없습까했던와러물양재계우"
        "속민식른남화바금영차단더두명산용후강포결운학호약점체반본등외날음건출업행집목심질추터당군통작론교레르프크카타파코토"
        "노버디티피키린네배새돌불꽃닭람름몸눈손길빛별책삼조류복해상어족표번번호좌우앞뒤좋많말씀절감검갑병변별석설활환황혼"
    ),
    "euc_jp": frozenset(
        "日一国年大十二本中長出三時行見月分後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川千水半男"
        "西電校語土木聞食車何南万毎白天母火右読友左休父雨人者動物転自信号機傷陥亀裂泡海魚貝船飛建道路犬牛馬鳥猫花石虫足"
        "手目口耳力事社会業方地場的体発対関性成全定員部主理作用新通実化表度運線面正無文開画像検査工屋台品質不良穴欠異常"
    ),
    "big5": frozenset(
        "的一是不了人我在有他這為之大來以個中上們到說國和地也子時道出而要於就下得可你年生自會那後能對著事其裡所去行過家"
        "十用發天如然作方成者多日都三小軍二無同麼經法當起與好看學進種將還分此心前面又定見只主沒公從車輛船貓狗魚鳥馬牛羊"
        "豬雞橋樓門路燈樹花草蟲蟹蝦參海水火山石木金土紅黃藍綠黑白機電腳手口目耳頭"
    ),
}
# Letters that words of today are written with, of those that take two bytes in UTF-8.
EVERYDAY = re.compile(
    "[\0-\x7fªºµ\u00c0-\u0137\u0139-\u0148\u014a-\u017e\u01a0\u01a1\u01af\u01b0\u0218-\u021b"
    "\u0386-\u03ce\u0400-\u045f\u0490\u0491\u0531-\u0586\u05d0-\u05ea\u0620-\u064a]+"
)


def is_chinese(data: bytes) -> bool | None:
    """Tells whether bytes are plausible as Chinese in gb18030, and are no UTF-8.

    Returns:
        ``None`` where they are, but are as plausible in an encoding of another language.
    """
    text = None if _is_damaged_utf8(data) else _decoded(data, "gb18030")
    # Each character once: files may be large.
    characters = {character for character in text or "" if not character.isascii()}
    # By their first bytes in GB 2312: symbols and full-width letters, then the 3755 characters of daily use by their
    # sound, then 3008 others by their radicals. Kana, Greek and what GB 2312 lacks is foreign.
    codes = [character.encode("gb2312", "ignore") for character in characters]
    hanzi = [code for code in codes if code and code[0] >= 0xB0]
    usual = sum(code[0] < 0xD8 for code in hanzi)
    foreign = sum(not code or 0xA4 <= code[0] < 0xB0 for code in codes)
    # Western words in GBK are characters that nobody uses, Japanese ones too; Big5 gives private characters and kana.
    if not usual or 2 * usual < len(hanzi) or foreign > 0.05 * len(hanzi):
        return False
    common = len(characters & COMMON_CHINESE)
    for encoding, others in COMMON_ELSEWHERE.items():
        if sum(code.decode(encoding, "ignore") in others for code in hanzi) > common:
            return None
    # Two letters of a Western, Greek or Cyrillic word are a usual character, too, if both are capitals; of these the
    # letters begin at 0xC0, but for the Russian yo.
    letters = all(byte >= 0xC0 or byte in (0xA8, 0xB8) for code in hanzi for byte in code)
    return None if letters and 2 * common <= len(hanzi) else True


def _is_damaged_utf8(data: bytes) -> bool:
    """Tells whether a text is UTF-8 but for some bytes: by characters of three bytes, which no other encoding has."""
    lossy = data.decode("utf-8", "surrogateescape")
    foreign, bad = len(re.findall("[^\0-\x7f]", lossy)), len(NO_UTF8.findall(lossy))
    return 0 < bad < foreign - bad and re.search("[\u0800-\udc7f\ue000-\U0010ffff]", lossy) is not None


def _sense(text: str) -> str:
    """Tells how a text reads as UTF-8: as ``words``, or, where its characters take two bytes, perhaps by chance.

    ``odd`` are letters of rare use, as GBK gives them by chance (``水母`` is ``ˮĸ``); ``lone`` is a single letter or
    sign, such as ``з``, which is ``蟹``.
    """
    if THREE_BYTES.search(text):
        return "words"
    # An accent belongs to the letter before it, as macOS writes them. Each run once: files may be large.
    runs = set(re.findall(r"[^\W\d_¹²³¼½¾]+|[^\0-\x7f]", unicodedata.normalize("NFC", text)))
    runs = {run for run in runs if not run.isascii()}
    odd = {run for run in runs if _is_odd(run)}
    words = {run for run in runs - odd if len(run) > 1}
    if odd and len(odd) >= len(words):
        return "odd"
    return "lone" if runs and not words else "words"


def _is_odd(run: str) -> bool:
    """Tells whether a run of letters, or a sign, is one that UTF-8 gives by chance only."""
    if not run.isalpha():
        return run >= "\u0100"
    # No language has words of a single letter of the longer Latin alphabets.
    if len(run) == 1 and "\u0100" <= run < "\u0250":
        return True
    # Hebrew and Arabic have no capitals.
    is_cased = run.islower() or run.isupper() or run.istitle() or run.lower() == run.upper()
    return not is_cased or EVERYDAY.fullmatch(run) is None


def shown_name(name: str) -> str:
    """Returns a file name as a person can read it.

    One that is no UTF-8 is read as ``--encoding`` says, as Chinese if that is plausible, or its bytes are spelt out.
    """
    if name.isascii():
        return name
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a character, as a broken JSON file may state.
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
    for encoding in ("utf-8", os.environ.get(VARIABLE), "gb18030" if is_chinese(data) else None):
        with contextlib.suppress(UnicodeDecodeError):
            if encoding:
                return data.decode(encoding)
    return data.decode("utf-8", "backslashreplace")
