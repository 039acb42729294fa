"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "---:", "c": ":---:"}


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], alignment: str | None = None) -> str:
    """Returns a Markdown table without a final newline.

    Args:
        columns: the heads of the columns.
        rows: the cells of each row, as many as there are columns; each is written as ``str`` gives it, ``None`` as
            an empty cell.
        alignment: a letter for each column, ``l``, ``r`` or ``c``; all to the left by default.

    Raises:
        ValueError: a row or the alignment has another number of entries than there are columns.
    """
    alignment = alignment or "l" * len(columns)
    lines = [columns, [_RULES[letter] for letter in alignment]]
    lines += [["" if cell is None else str(cell) for cell in row] for row in rows]
    if any(len(line) != len(columns) for line in lines):
        raise ValueError(f"every row needs {len(columns)} cells: {', '.join(columns)}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
