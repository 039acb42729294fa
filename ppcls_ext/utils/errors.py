"""Errors that a user can mend, and the suggestion of the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# Share of letters that two names have in common, in their order, from which on one may be a slip of the other.
SIMILAR = 0.65


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
    """Returns up to ``count`` of the ``allowed`` names that ``name`` may have been meant as, best first."""
    by_folded_name: dict[str, str] = {}
    for candidate in allowed:
        by_folded_name.setdefault(candidate.lower(), candidate)
    similar = difflib.get_close_matches(name.lower(), by_folded_name, n=count, cutoff=SIMILAR)
    return [by_folded_name[match] for match in similar]


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Returns `` (did you mean 'size'?)`` for the name nearest to ``name``, or an empty string."""
    names = nearest_names(name, allowed, count=1)
    return f" (did you mean '{names[0]}'?)" if names else ""


class Interrupted(KeyboardInterrupt):
    """The run was interrupted and has been saved."""
