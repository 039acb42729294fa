"""Class lists in their explicit order, and names matched whatever their case, spaces and underscores."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ppcls_ext.utils.errors import UserError, nearest_names, suggestion

# The order is the order of the category ids, from 1.
CLASS_SETS: dict[str, tuple[str, ...]] = {
    "sonar": ("cube", "ball", "cylinder", "human body", "tyre", "circle cage", "square cage", "metal bucket"),
    "duo": ("holothurian", "echinus", "scallop", "starfish"),
    "marine_debris": (
        "Bottle", "Can", "Chain", "Drink-carton", "Hook", "Propeller", "Shampoo-bottle", "Standing-bottle", "Tire",
        "Valve", "Wall",
    ),
}  # fmt: skip


def folded(name: str) -> str:
    """Returns what is left of a class name without case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def class_order(text: str) -> tuple[str, ...]:
    """Returns the class names that ``--classes`` means, in their order.

    Args:
        text: a name of :data:`CLASS_SETS`, names with commas between them, or a text file with one name a line.

    Raises:
        UserError: no such set or file, no class at all, or two names that only differ in case, spaces or underscores.
    """
    if text in CLASS_SETS:
        return CLASS_SETS[text]
    path = Path(text)
    if "," in text:
        names = [part.strip() for part in text.split(",")]
    elif path.is_file():
        names = _lines_of(path)
    elif path.suffix or "/" in text:
        raise UserError(f"--classes {text}: no such file")
    elif match := nearest_names(text, CLASS_SETS, count=1):
        raise UserError(f"--classes {text}: no such set of classes (did you mean '{match[0]}'?)")
    else:
        names = [text.strip()]
    return _checked(names, text)


def _lines_of(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"--classes {path}: not a text file in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def _checked(names: Sequence[str], text: str) -> tuple[str, ...]:
    if not names or not all(names):
        raise UserError(f"--classes {text}: holds an empty name")
    by_fold: dict[str, str] = {}
    for name in names:
        if folded(name) in by_fold:
            raise UserError(f"--classes {text}: '{by_fold[folded(name)]}' and '{name}' are the same name")
        by_fold[folded(name)] = name
    return tuple(names)


class ClassMatcher:
    """Finds the class that a name in an annotation means.

    Args:
        names: the classes in their order.

    Attributes:
        respelled: for each spelling that differs from the class's own, the class and how often it was met.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.respelled: Counter[tuple[str, str]] = Counter()
        self._by_fold = {folded(name): index for index, name in enumerate(self.names)}

    def index_of(self, name: str) -> int | None:
        """Returns the number of a class from 0, or ``None`` for a name that is no class."""
        index = self._by_fold.get(folded(name))
        if index is not None and name != self.names[index]:
            self.respelled[(name, self.names[index])] += 1
        return index

    def unknown(self, name: str) -> str:
        """Returns the reason to reject a name that is no class."""
        return f"unknown class '{name}'{suggestion(name, self.names)}"


def without_classes(found: Iterable[str], source: Path) -> UserError:
    """Returns the error for a missing ``--classes``: names what was found and the set or the list that would fit."""
    counts = Counter(found)
    if not counts:
        return UserError("--classes is missing, and the annotations name no class")
    folds = {folded(name) for name in counts}
    fits = [key for key, names in CLASS_SETS.items() if folds <= {folded(name) for name in names}]
    proposal = fits[0] if fits else "'" + ",".join(sorted(counts, key=str.casefold)) + "'"
    listing = ", ".join(f"{name} ({counts[name]})" for name in sorted(counts, key=str.casefold))
    return UserError(
        f"--classes is missing: the order of the classes must be explicit; {source} holds {listing}; "
        f"try --classes {proposal}"
    )
