"""A layout: how another code base names and shapes the weights of a network of ours, as a table of patterns."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights.array_forms import SAME, Form
from ppcls_ext.weights.names import first_of, shown

# A number in a name, "{stage}" or as a multiple and a sum, "{2*stage+1}"; "{part}" and "{name}" stand for text.
PLACE = re.compile(r"\{(?:(\d+)\*)?([a-z]+)(?:\+(\d+))?\}")
TEXT_PLACES = {"part": r"\w+", "name": ".+"}
# What wrappers of a model put before every name.
WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Row:
    """One kind of weight.

    Attributes:
        theirs: pattern of their name.
        ours: pattern of our name, with the same places.
        form: how it lies there.
    """

    theirs: str
    ours: str
    form: Form = SAME


@dataclass
class Conversion:
    """Converted weights by our names.

    Attributes:
        weights: the arrays.
        dropped: names of the source that have no counterpart.
        fresh: our names of weights that the source does not hold and that begin anew.
    """

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Names and forms of another code base.

    Attributes:
        title: whose they are, for messages.
        classes: our classes that it holds the weights of; empty for any model.
        rows: the kinds of weights; the first row that matches counts.
        read_only: further kinds, which are read but never written.
        unused: patterns of names that our models have no use for.
    """

    title: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    read_only: tuple[Row, ...] = ()
    unused: tuple[str, ...] = ()

    def to_ours(self, weights: Mapping[str, np.ndarray], label: str) -> Conversion:
        """Renames and reshapes ``weights``, without asking which model they fit.

        Args:
            weights: arrays by their names.
            label: names the source in messages.

        Raises:
            UserError: names are unknown, or two mean the same weight.
        """
        conversion, unknown = Conversion(), []
        for name, array in _unwrapped(weights).items():
            if any(re.fullmatch(pattern, name) for pattern in self.unused):
                conversion.dropped.append(name)
                continue
            match = _matching((*self.rows, *self.read_only), name, "theirs", "ours")
            if match is None:
                unknown.append(name)
                continue
            row, ours = match
            if ours in conversion.weights:
                raise UserError(f"{label}: holds {ours} twice, the second time as {shown(name)}")
            conversion.weights[ours] = row.form.read(array)
        if unknown:
            raise UserError(
                f"{label}: not a checkpoint of {self.title}, {len(unknown)} of {len(weights)} names are unknown: "
                f"{first_of(unknown)}"
            )
        return conversion

    def knows(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Returns whether all names are of this layout."""
        rows = (*self.rows, *self.read_only)
        return all(
            any(re.fullmatch(pattern, name) for pattern in self.unused) or _matching(rows, name, "theirs", "ours")
            for name in _unwrapped(weights)
        )

    def to_theirs(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Names and shapes weights of one of our models as this layout has them; the inverse of ``to_ours``.

        Raises:
            ValueError: the layout has no such weight.
        """
        converted = {}
        for name, array in weights.items():
            match = _matching(self.rows, name, "ours", "theirs")
            if match is None or match[0].form.write is None:
                raise ValueError(f"{self.title} has no weight for {name}")
            row, theirs = match
            converted[theirs] = row.form.write(array)
        return converted


def _unwrapped(weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Takes away what a wrapper put before every name."""
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            return _unwrapped({name.removeprefix(wrapper): array for name, array in weights.items()})
    return weights


def _matching(rows: Sequence[Row], name: str, source: str, target: str) -> tuple[Row, str] | None:
    """Returns the first row whose pattern ``source`` fits ``name``, and the name that its ``target`` gives then."""
    for row in rows:
        values = _values(getattr(row, source), name)
        if values is not None:
            return row, _filled(getattr(row, target), values)
    return None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    expression, end = "", 0
    for place in PLACE.finditer(pattern):
        expression += re.escape(pattern[end : place.start()])
        # Few digits: a longer number is no position in a network, and Python refuses thousands of them.
        expression += f"(?P<{place[2]}>{TEXT_PLACES.get(place[2], '0|[1-9][0-9]{0,3}')})"
        end = place.end()
    return re.compile(expression + re.escape(pattern[end:]))


def _values(pattern: str, name: str) -> dict[str, int | str] | None:
    """Returns what stands in the places of ``pattern`` if ``name`` fits it."""
    match = _expression(pattern).fullmatch(name)
    if match is None:
        return None
    values: dict[str, int | str] = {}
    for factor, place, summand in PLACE.findall(pattern):
        if place in TEXT_PLACES:
            values[place] = match[place]
            continue
        number, rest = divmod(int(match[place]) - int(summand or 0), int(factor or 1))
        if rest or number < 0:
            return None
        values[place] = number
    return values


def _filled(pattern: str, values: Mapping[str, int | str]) -> str:
    def text(place: re.Match[str]) -> str:
        value = values[place[2]]
        return value if isinstance(value, str) else str(int(place[1] or 1) * value + int(place[3] or 0))

    return PLACE.sub(text, pattern)
