"""XML of unknown origin: no document types, no entities, no huge files."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

# The largest annotation file of a real data set is some hundred kilobytes.
LARGEST = 16 << 20
DEEPEST = 64


class XmlError(ValueError):
    """An XML file that cannot be used; the message says why, without the name of the file."""


def read_xml(path: Path) -> Element:
    """Reads an XML file.

    Raises:
        XmlError: the file is no XML, declares a document type or an entity, or is too large or too deep.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise XmlError(f"{size} bytes are too many for an annotation")
    data = path.read_bytes()
    if not data.strip():
        raise XmlError("the file is empty")
    return parse_xml(_in_unicode(data))


def _in_unicode(data: bytes) -> bytes:
    """Recodes what expat cannot read (it knows UTF-8, UTF-16, ASCII and Latin-1 only, but people use GBK)."""
    data = data.lstrip(b" \t\r\n")
    declared = re.match(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']", data)
    if declared is None:
        return data
    encoding = declared.group(1).decode("ascii")
    if encoding.lower() in ("utf-8", "utf8", "utf-16", "us-ascii", "iso-8859-1"):
        return data
    try:
        text = data.decode(encoding)
    except (LookupError, UnicodeDecodeError) as error:
        raise XmlError(f"its encoding '{encoding}' cannot be read") from error
    return re.sub(r"^<\?xml.*?\?>", "", text, count=1, flags=re.DOTALL).encode("utf-8")


def parse_xml(data: bytes) -> Element:
    """Parses XML; see :func:`read_xml`."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise XmlError(f"elements are nested more than {DEEPEST} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise XmlError("it declares a document type or an entity, which annotations do not need")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise XmlError(f"line {error.lineno}: {expat.ErrorString(error.code)}") from error
    return builder.close()
