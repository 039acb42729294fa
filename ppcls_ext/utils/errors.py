"""Errors that a user can mend, and the suggestion of the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# Fewer letters begin or end too many names.
SHORTEST_PART = 4


class UserError(Exception):
    """A mistake that the person at the keyboard can mend.

    Command lines print it as ``error: ...`` without a traceback and leave with ``exit_status``.
    The message says what was wrong, where, and what is allowed.
    """

    exit_status = 2


class ConfigError(UserError):
    """All problems of one configuration, reported together.

    Args:
        problems: one line each, beginning with the place (file, line, dotted key).
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def nearest_names(name: str, allowed: Iterable[str], count: int = 3) -> list[str]:
    """Returns up to ``count`` of the ``allowed`` names that ``name`` may have been meant as, best first.

    These are names that a slip or two make of it, and names that it is the beginning or the end of, or the other way
    round (``drop_path``, ``drop_path_rate``).
    """
    by_folded_name: dict[str, str] = {}
    for candidate in allowed:
        by_folded_name.setdefault(candidate.lower(), candidate)
    folded = name.lower()
    similar = difflib.get_close_matches(folded, by_folded_name, n=len(by_folded_name) or 1, cutoff=0.4)
    meant = [match for match in similar if _is_part(folded, match) or _slips(folded, match) <= (len(folded) + 1) // 3]
    return [by_folded_name[match] for match in meant[:count]]


def _is_part(one: str, other: str) -> bool:
    """Tells whether the shorter of two names begins or ends the longer one, and is long enough to say something."""
    short, long = sorted((one, other), key=len)
    return len(short) >= SHORTEST_PART and (long.startswith(short) or long.endswith(short))


def _slips(one: str, other: str) -> int:
    """Returns how many letters must be exchanged, added, left out or swapped with the next to make one of the other."""
    # Row i, column j: what makes the first i letters of one of the first j of the other.
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, start=1):
        rows.append([i])
        for j, wanted in enumerate(other, start=1):
            steps = [rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (letter != wanted)]
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                steps.append(rows[i - 2][j - 2] + 1)
            rows[i].append(min(steps))
    return rows[-1][-1]


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Returns `` (did you mean 'size'?)`` for the name nearest to ``name``, or an empty string."""
    names = nearest_names(name, allowed, count=1)
    return f" (did you mean '{names[0]}'?)" if names else ""


class Interrupted(KeyboardInterrupt):
    """The run was interrupted and has been saved."""
