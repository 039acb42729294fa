"""Class names from different places, which must agree: a label means nothing else."""

from __future__ import annotations

from ppcls_ext.utils.errors import UserError


def check_same_classes(names: list[str] | None, place: str, others: list[str] | None, other_place: str) -> None:
    """Compares two lists of class names, where both are known.

    Args:
        names: class names by label at ``place``, or ``None`` where they are not known.
        place: what the message calls the first place, such as ``DataLoader.Train.dataset``.
        others: class names by label at ``other_place``.
        other_place: what it calls the second.

    Raises:
        UserError: they differ; the message names the first label that means something else.
    """
    if not names or not others or names == others:
        return
    for label in range(max(len(names), len(others))):
        name, other = (_name_at(known, label) for known in (names, others))
        if name != other:
            raise UserError(f"{other_place} and {place} name different classes: label {label} is {other} and {name}")


def _name_at(names: list[str], label: int) -> str:
    return f"'{names[label]}'" if label < len(names) else "nothing"
