"""What a file is by its first bytes, whatever its name says: the cause in messages about files that cannot be read."""

from __future__ import annotations

import re
import struct
from collections import Counter
from pathlib import Path, PurePath
from typing import NamedTuple

from ppcls_ext.utils.image_files import files_in

# Pillow's readers that are let through, here and in the server. Some of its others start programs (EPS: Ghostscript),
# or know no signature and take for a picture what is none.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
# How many bytes :func:`what_is` looks at.
LOOKED_AT = 4096
RAW = "a raw photograph of a camera (DNG, NEF, CR2, ...)"
UNKNOWN = "a file of an unknown kind"
VIDEO = "a video"
# Tags of a TIFF file: what its first picture is (1: a small preview), and the version of DNG.
PREVIEW_TAG, DNG_TAG = 254, 50706


class Kind(NamedTuple):
    """What people call a kind of file, with an article; a regular expression of its first bytes; suffixes of names that
    fit it, empty where no picture is meant by any name."""

    words: str
    start: bytes
    suffixes: tuple[str, ...] = ()


READ = (
    Kind("a JPEG picture", rb"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    Kind("a PNG picture", rb"\x89PNG\r\n\x1a\n", (".png", ".apng")),
    Kind("a GIF picture", rb"GIF8[79]a", (".gif",)),
    Kind("a WebP picture", rb"RIFF.{4}WEBP", (".webp",)),
    Kind("a BMP picture", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", (".bmp", ".dib")),
    Kind("a TIFF picture", rb"II[*+]\0|MM\0[*+]", (".tif", ".tiff")),
    Kind("a PPM or PGM picture", rb"P[1-6][\s#]|P[fF]\s", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm")),
)
# Pictures that are not read: there are programs that convert them.
NOT_READ = (
    Kind("an AVIF picture", rb".{4}ftyp(?:avi[fs]|mif1.{4,64}avif)", (".avif",)),
    Kind("a HEIC picture", rb".{4}ftyp(?:hei|hev|mif1|msf1)", (".heic", ".heif", ".hif")),
    Kind("a JPEG 2000 picture", rb"\0\0\0\x0cjP  \r\n\x87\n|\xffO\xffQ", (".jp2", ".j2k", ".jpf", ".jpx", ".j2c")),
    Kind("a JPEG XL picture", rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\n", (".jxl",)),
    Kind("an icon", rb"\0\0[\x01\x02]\0[^\0]\0", (".ico", ".cur")),
    Kind("a Photoshop document", rb"8BPS", (".psd", ".psb")),
    Kind("an OpenEXR picture", rb"v/1\x01", (".exr",)),
    Kind("a Radiance picture", rb"#\?RADIANCE|#\?RGBE", (".hdr",)),
    Kind("a DirectDraw surface", rb"DDS ", (".dds",)),
    Kind("a DICOM picture", rb".{128}DICM", (".dcm", ".dicom")),
    Kind("a FITS picture", rb"SIMPLE  =", (".fits", ".fit")),
    Kind("a PostScript drawing", rb"%!PS|\xc5\xd0\xd3\xc6", (".eps", ".ps")),
    Kind("an SVG drawing", rb"\s*(?:<\?xml.*?|<!--.*?|<!DOCTYPE svg.*?)?<svg\b", (".svg",)),
    Kind(
        RAW, rb"II\*\0.{4}CR|IIU\0|IIR[OS]|MMOR|FUJIFILM|\0MRM|FOVb|.{4}ftypcrx",
        (".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw", ".x3f"),
    ),
)  # fmt: skip
OTHERS = (
    Kind("a Git LFS pointer, whose file was not fetched (git lfs pull)", rb"version https://git-lfs"),
    Kind("a git-annex pointer, whose file was not fetched (git annex get)", rb"[^\n]{0,200}annex/objects/"),
    Kind("a side file of macOS", rb"\0\x05\x16\x07"),
    Kind("an HTML page", rb"\s*(?:<!--.*?-->\s*)?<(?i:!doctype html|html|head|body|title|script|meta)\b"),
    Kind("an XML or HTML text", rb"\s*<[?!A-Za-z]"),
    Kind(VIDEO, rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI |\0\0\x01[\xb3\xba]|OggS|FLV\x01"),
    Kind("a sound", rb"RIFF.{4}WAVE|ID3|fLaC"),
    Kind("a PDF", rb"%PDF"),
    Kind("an archive", rb"PK[\x03\x05]|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar"),
    Kind("a NumPy array", rb"\x93NUMPY"),
    Kind("an HDF5 or MATLAB file", rb"\x89HDF|MATLAB 5"),
    Kind("a Windows shortcut", rb"L\0\0\0\x01\x14\x02\0"),
    Kind("a document of Office, or a Windows thumbnail store", rb"\xd0\xcf\x11\xe0"),
    Kind("a program", rb"MZ|\x7fELF|#!"),
    Kind("a JSON text", rb"\s*[\[{]\s*[\"\[{\d\]}]"),
    Kind("a text file", rb"(?:[\t\n\r\x20-\x7e]|[\xc2-\xf4][\x80-\xbf]+)+[\xc2-\xf4]?\Z"),
)
# Names under which photographs come, but of a kind that is not read.
PHOTOGRAPHS = frozenset(suffix for kind in NOT_READ[:4] for suffix in kind.suffixes) | set(NOT_READ[-1].suffixes)
_PATTERNS = [(kind, re.compile(kind.start, re.DOTALL)) for kind in (*NOT_READ, *READ, *OTHERS)]


def kind_of(data: bytes) -> Kind:
    """Returns the kind of a file by its first bytes (``LOOKED_AT`` are enough)."""
    if not data:
        return Kind("an empty file", b"")
    if not any(data[:LOOKED_AT]):
        return Kind("a file of zeros", b"")
    # A mark of UTF-8 before a text.
    start = data[:LOOKED_AT].removeprefix(b"\xef\xbb\xbf")
    found = next((kind for kind, pattern in _PATTERNS if pattern.match(start)), Kind(UNKNOWN, b""))
    if found.words == "a TIFF picture" and _is_raw(data):
        return next(kind for kind in NOT_READ if kind.words == RAW)
    return found


def what_is(data: bytes, name: str = "") -> str:
    """Tells in a few words what a file is by its first bytes: ``a GIF picture``, ``an HTML page``, ``an empty file``.

    If its ``name`` says otherwise, its suffix is added: ``a GIF picture named .png``.
    """
    kind, suffix = kind_of(data), PurePath(name).suffix.lower()
    is_known = any(suffix in other.suffixes for other in (*READ, *NOT_READ))
    if not is_known or suffix in kind.suffixes or not data:
        return kind.words
    words, whose, advice = kind.words.partition(", whose")
    return f"{words} named {suffix}{whose}{advice}"


def why_not_read(data: bytes, name: str = "") -> str:
    """Returns why a file that the decoder does not know is none that it reads, one line without its name."""
    kind = kind_of(data)
    if not data:
        return "the file is empty (0 bytes)"
    if kind in NOT_READ:
        return f"is {what_is(data, name)}, which is not read here: convert it to PNG or JPEG"
    if kind in READ:
        rare = " or whose samples are not read (such as floating-point ones of 64 bits)" if "TIFF" in kind.words else ""
        return f"is {what_is(data, name)} whose header is damaged{rare}"
    if kind.words == UNKNOWN:
        return "is not an image of a known format, or its header is damaged"
    return f"is no picture but {what_is(data, name)}"


def photographs_left_out(folder: Path) -> str:
    """Returns one line on the photographs in a folder and its sub-folders that are not read, empty if there are none.

    They would be passed over as any other file that is no image, and a class might lose most of its pictures so.
    """
    counts = Counter(path.suffix.lower() for path in files_in(folder, PHOTOGRAPHS))
    if not counts:
        return ""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return f"{folder}: photographs that are not read here are left out ({kinds}): convert them to PNG or JPEG"


def is_cut(data: bytes) -> bool:
    """Tells whether a picture ends before its format says that it does; False also where that cannot be told."""
    if data.startswith(b"\xff\xd8"):
        return data.rstrip(b"\0")[-2:] != b"\xff\xd9"
    if data.startswith(b"\x89PNG"):
        place = 8
        while place + 12 <= len(data):
            length, chunk = struct.unpack_from(">I4s", data, place)
            place += 12 + length
            if chunk == b"IEND":
                break
        else:
            return True
        return place > len(data)
    if data.startswith(b"RIFF") and len(data) >= 8:
        return struct.unpack_from("<I", data, 4)[0] + 8 > len(data)
    if data.startswith(b"BM") and len(data) >= 6:
        return struct.unpack_from("<I", data, 2)[0] > len(data)
    if data.startswith(b"GIF8"):
        return b";" not in data[-16:]
    return False


def _is_raw(data: bytes) -> bool:
    """Tells whether a TIFF file is a camera's raw one: its first picture is then but a small preview."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        if struct.unpack_from(f"{order}H", data, 2)[0] != 42:
            return False
        place = struct.unpack_from(f"{order}I", data, 4)[0]
        count = struct.unpack_from(f"{order}H", data, place)[0]
        entries = [struct.unpack_from(f"{order}HHI", data, place + 2 + 12 * number) for number in range(count)]
        values = {tag: data[place + 12 * n + 10 : place + 12 * n + 14] for n, (tag, _, _) in enumerate(entries)}
        preview = PREVIEW_TAG in values and struct.unpack(f"{order}I", values[PREVIEW_TAG])[0] & 1
    except struct.error:
        return False
    return DNG_TAG in values or bool(preview)
