"""Constructors as schema: what fits an annotation, what is converted, and what is said where it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest

from ppcls_ext.utils.signature import REQUIRED, Limits, Parameter, check_arguments, convert, parameters_of


class Resize:
    def __init__(
        self, size: int | list[int], ratio: float = 1.0, mode: Literal["a", "b"] = "a", *, name: str | None = None
    ) -> None:
        self.size = size

    def method(self, untyped, **others: int):
        """Has a parameter without annotation, and takes any other."""


def check(arguments: dict[str, Any], supplied: Sequence[str] = ()):
    return check_arguments(parameters_of(Resize), arguments, supplied)


def test_parameters_of_a_class():
    parameters = parameters_of(Resize)
    assert list(parameters) == ["size", "ratio", "mode", "name"]
    assert parameters["size"] == Parameter("size", int | list[int], REQUIRED)
    assert parameters["name"].default is None
    assert parameters_of(Resize(1).method) == {"untyped": Parameter("untyped", Any, REQUIRED)}


def test_all_problems_come_at_once():
    converted, problems = check({"sise": 4, 5: 2, "ratio": "much", "mode": "c", "name": "x"})
    assert converted == {"name": "x"}
    assert problems == [
        ("", "unknown argument 'sise' (did you mean 'size'?); allowed: size, ratio, mode, name"),
        ("", "unknown argument '5'; allowed: size, ratio, mode, name"),
        ("ratio", "must be a number, got 'much' (str)"),
        ("mode", "must be one of a, b, got 'c'"),
        ("", "missing argument 'size'"),
    ]


def test_what_the_program_supplies_may_not_be_named_and_is_not_missing():
    fitting = {"size": 4, "ratio": "1.0/4.0", "mode": "b", "name": None}
    assert check(fitting) == ({**fitting, "ratio": 0.25}, [])
    assert check({}, supplied=["size"]) == ({}, [])
    _, problems = check({"size": 1}, supplied=["size"])
    assert problems == [("", "unknown argument 'size'; allowed: ratio, mode, name")]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, float, 3.0),
        ("4e-3", float, 0.004),
        (None, float | None, None),
        ("1/2", str | float, "1/2"),
        ([1, "1/2"], list[float], [1.0, 0.5]),
        ([0.1, 1], tuple[float, float], (0.1, 1.0)),
        ({"a": 1}, Mapping[str, Any], {"a": 1}),
        ([1, 2], int | list[int], [1, 2]),
    ],
)
def test_values_that_fit(value, annotation, expected):
    result = convert(value, annotation)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (1.5, Annotated[float, Limits(ge=0, le=1)], "must be at least 0 and at most 1, got 1.5"),
        (3.0, int, "must be a whole number, got 3.0 (float)"),
        ("1/0", float, "must be a number, got '1/0' (str)"),
        ("1e999", float, "must be a finite number, got inf"),
        ([1, "a"], list[float], "entry 1: must be a number, got 'a' (str)"),
        ([1], tuple[float, float], "must be a list of 2 entries (a number, a number), got [1] (list)"),
        ("bicubik", Literal["bicubic", "pil"], "must be one of bicubic, pil, got 'bicubik' (did you mean 'bicubic'?)"),
        ([1], int | str, "must be a whole number or a text, got [1] (list)"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(value, annotation, message):
    with pytest.raises(ValueError, match=".") as error:
        convert(value, annotation)
    assert str(error.value).startswith(message)
