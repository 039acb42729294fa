"""Tables as text and as Markdown, and pages as Markdown."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_RULES = {"l": "---", "r": "---:"}


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], alignment: str | None = None) -> str:
    """Returns a Markdown table without a final newline.

    Args:
        columns: the heads of the columns.
        rows: the cells of each row, as many as there are columns; each is written as ``str`` gives it, ``None`` as
            an empty cell.
        alignment: a letter for each column, ``l`` or ``r``; all to the left by default.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """
    lines = [columns, [_RULES[letter] for letter in alignment or "l" * len(columns)]]
    lines += [["" if cell is None else str(cell) for cell in row] for row in rows]
    if any(len(line) != len(columns) for line in lines):
        raise ValueError(f"every row needs {len(columns)} cells: {', '.join(columns)}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def aligned(rows: Sequence[Sequence[str]], left: int, rules: Sequence[int] = (1,)) -> list[str]:
    """Returns the lines of a table for a terminal.

    Args:
        rows: the cells of each row, the head first.
        left: so many of the first columns are aligned to the left, the others to the right.
        rules: the rows before which a line is drawn.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        if number in rules:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        cells = (cell.ljust(width) if column < left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return lines


def render_markdown(
    package: str, template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """Returns a page made from a Jinja2 template of a package; several empty lines become one.

    Args:
        package, template: where the template is, and its file name.
        filters: for the template, besides Jinja2's own and ``table``, which is `markdown_table`.
        values: what the template shows.
    """
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined)
    environment.filters |= {"table": markdown_table, **(filters or {})}
    text = importlib.resources.files(package).joinpath(template).read_text(encoding="utf-8")
    return re.sub(r"\n{3,}", "\n\n", environment.from_string(text).render(**values)).strip() + "\n"
