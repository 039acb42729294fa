"""VOC-like annotation files: objects with boxes in either form, the stated size, the sonar block."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from detection.prepare.records import RawBox
from detection.prepare.xml_files import XmlError, read_xml

LARGEST_NUMBER = 1e9
# Tags of a box and what they are called in a report; the first form whose tags are all there counts.
FORMS = (
    (("xmin", "ymin", "xmax", "ymax"), "xmin ymin xmax ymax", True),
    (("x", "y", "w", "h"), "x y w h", False),
    (("x", "y", "width", "height"), "x y width height", False),
    (("x1", "y1", "x2", "y2"), "x1 y1 x2 y2", True),
)


@dataclass
class VocAnnotation:
    """What one annotation file holds.

    Attributes:
        filename: base name of the image that it names; empty if none.
        folder: base name of the folder that it states for the image; empty if none.
        boxes: its objects.
        size: width and height that it states.
        metadata: ``{"sonar": {...}}`` if there is such a block.
    """

    filename: str
    folder: str
    boxes: list[RawBox]
    size: tuple[int, int] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_voc(path: Path) -> VocAnnotation:
    """Reads a VOC-like file.

    Raises:
        XmlError: it is no XML or no annotation.
        OSError: it cannot be read.
    """
    root = read_xml(path)
    if root.tag.lower() != "annotation":
        raise XmlError(f"its root is <{root.tag}>, not <annotation>")
    sonar = _child(root, "sonar")
    # Some sonar sets have a block <file> with what else stands in <filename> and <size>.
    file = _child(root, "file")
    file = root if file is None else file
    return VocAnnotation(
        filename=_last_part(_text(root, "filename") or _text(file, "filename")),
        folder=_last_part(_text(root, "folder")),
        boxes=[_box(element) for element in root if element.tag.lower() == "object"],
        size=_size(root, "size") or _size(root, "file"),
        metadata={} if sonar is None else {"sonar": _block(sonar)},
    )


def _child(element: Element, tag: str) -> Element | None:
    return next((child for child in element if child.tag.lower() == tag), None)


def _text(element: Element, tag: str) -> str:
    child = _child(element, tag)
    return "" if child is None or child.text is None else child.text.strip()


def _last_part(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _size(root: Element, tag: str) -> tuple[int, int] | None:
    block = _child(root, tag)
    if block is None:
        return None
    width, height = (number(_text(block, tag)) for tag in ("width", "height"))
    return None if width is None or height is None else (round(width), round(height))


def number(text: str) -> float | None:
    """Returns a finite number of ordinary size, or ``None``."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < LARGEST_NUMBER else None


def _block(element: Element) -> Any:
    """Returns a block as nested dictionaries; numbers become numbers; tags that repeat become lists."""
    if len(element) == 0:
        text = (element.text or "").strip()
        value = number(text)
        return text if value is None else int(value) if value.is_integer() and text.lstrip("+-").isdigit() else value
    result: dict[str, Any] = {}
    for child in element:
        value = _block(child)
        if child.tag in result:
            before = result[child.tag]
            result[child.tag] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            result[child.tag] = value
    return result


def _box(element: Element) -> RawBox:
    name = _text(element, "name")
    block = _child(element, "bndbox")
    if block is None:
        return RawBox(name, None, "", ("missing_coordinates", "has no <bndbox>"))
    texts = {child.tag.lower(): (child.text or "").strip() for child in block}
    fitting = [form for form in FORMS if all(tag in texts for tag in form[0])]
    if not fitting:
        return RawBox(name, None, "", ("missing_coordinates", f"its <bndbox> holds {', '.join(texts) or 'nothing'}"))
    tags, form, corners = fitting[0]
    values = [number(texts[tag]) for tag in tags]
    for tag, value in zip(tags, values, strict=True):
        if value is None:
            return RawBox(name, None, form, ("not_a_number", f"{tag} is '{texts[tag]}', not a number"))
    first_x, first_y, second_x, second_y = values
    if not corners:
        second_x, second_y = first_x + second_x, first_y + second_y
    flags = {tag: 1 for tag in ("difficult", "truncated") if _text(element, tag) == "1"}
    return RawBox(name, (first_x, first_y, second_x, second_y), form, None, flags)
