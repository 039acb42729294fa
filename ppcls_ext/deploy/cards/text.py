"""Text for cards: without paths of a machine, and without what Markdown would take for a command."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(r"^(?:/|~|\\\\|[A-Za-z]:[\\/])")
# Folders of an absolute path inside a longer text, such as ``table=/data/x.npy``.
_EMBEDDED = re.compile(r"(?<![\w./~:-])/(?:[\w.~-]+/)+")
_SPECIAL = re.compile(r"([\\`*{}\[\]<>|#~$])")


def shown_path(path: str | Path) -> str:
    """Returns a path as a card may name it: inside the working folder from there, elsewhere its last part only."""
    text = str(path).replace("\\", "/").rstrip("/")
    if _ABSOLUTE.match(text):
        # Links stay as they are called: checkpoints/best.
        absolute, here = Path(os.path.abspath(Path(text).expanduser())), Path.cwd()
        inside = text[0] in "/~" and absolute.is_relative_to(here) and absolute != here
        return absolute.relative_to(here).as_posix() if inside else text.rpartition("/")[2]
    text = _EMBEDDED.sub("", text)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return parts[-1] if ".." in parts else "/".join(parts)


def shown_value(value: Any) -> str:
    """Returns a value of a configuration as a card shows it, in YAML's way of writing on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {shown_value(each)}" for key, each in value.items())
    if isinstance(value, str):
        return (shown_path(value) if "/" in value or "\\" in value else value) or "''"
    if isinstance(value, Sequence):
        return f"[{', '.join(shown_value(each) for each in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_operator(entry: Any) -> str:
    """Returns an entry of a list of operators, ``{Name: {argument: value}}`` or a name, as code in Markdown."""
    text = shown_value(entry)
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, arguments = next(iter(entry.items()))
        inside = shown_value(arguments) if arguments else ""
        text = f"{name}({inside})" if inside else str(name)
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def escaped(text: Any) -> str:
    """Returns a name that other people chose, so that Markdown shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def percent(share: float) -> str:
    """Returns a share as percent with two digits."""
    return f"{100 * share:.2f}"


def rows_text(rows: Sequence[tuple[str, str]]) -> str:
    """Returns pairs of name and value as a Markdown list; empty values are left out."""
    return "\n".join(f"- **{name}**: {value}" for name, value in rows if value)
