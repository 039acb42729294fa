"""Names that stand in foreign files, made fit for one line of a message."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_NAME = 100
SHOWN_NAMES = 4


def shown(name: object) -> str:
    """Returns ``name`` as text without line breaks or control characters, cut to a length that can be read."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def first_of(names: Iterable[object], count: int = SHOWN_NAMES) -> str:
    """Returns the first ``count`` names in one line."""
    listed = list(names)
    return ", ".join(map(shown, listed[:count])) + (", ..." if len(listed) > count else "")
