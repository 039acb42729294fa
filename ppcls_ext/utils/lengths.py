"""Lengths in a configuration that are shares of the run, such as a warm-up: they follow the number of epochs."""

from __future__ import annotations

import re
from collections.abc import Callable

from ppcls_ext.utils.config import Document, flatten


def follow_epochs(
    document: Document, key: str, lengths: re.Pattern[str], before: object,
    stated: Callable[[str], bool] = lambda name: False,
) -> None:  # fmt: skip
    """Scales the lengths of a configuration whose number of epochs has changed, and notes it in ``document.notes``.

    Args:
        document: the configuration; changed in place.
        key: dotted key of the number of epochs.
        lengths: matches the dotted keys of the lengths; those in its group ``whole`` stay whole numbers of at least 1,
            before the last epoch if they were. Lengths of 0 or less have a meaning of their own and stay.
        before: the epochs that the lengths were written for; nothing happens unless it is a whole number.
        stated: tells of a dotted key whether it was written for the present number of epochs.
    """
    values, changed = flatten(document.data), []
    now = values.get(key)
    if type(before) is not int or type(now) is not int or before == now or min(before, now) < 1:
        return
    for name, value in values.items():
        match = lengths.fullmatch(name)
        if match is None or type(value) not in (int, float) or value <= 0 or stated(name):
            continue
        scaled = float(f"{value * now / before:.6g}")
        if match["whole"]:
            scaled = max(1, round(min(scaled, now - 1) if value < before else scaled))
        if scaled != value:
            document.put(name, scaled)
            changed.append(f"{name} {value:g} -> {scaled:g}")
    if changed:
        document.notes.append(f"{key} {before} -> {now}: {', '.join(changed)}; set another length with -o KEY=VALUE")
