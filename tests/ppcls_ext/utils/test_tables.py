"""Markdown tables."""

from __future__ import annotations

import pytest

from ppcls_ext.utils.tables import markdown_table


def test_a_table_has_heads_rules_and_cells():
    table = markdown_table(["model", "top-1"], [["mini", 78.3], ["tiny", None]], "lr")
    assert table.splitlines() == ["| model | top-1 |", "| --- | ---: |", "| mini | 78.3 |", "| tiny |  |"]
    assert markdown_table(["one"], []).splitlines() == ["| one |", "| --- |"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 cells: a, b"):
        markdown_table(["a", "b"], [["only one"]])
