"""A label means the same class everywhere."""

from __future__ import annotations

import pytest

from classification.opening import check_same_classes
from ppcls_ext.utils.errors import UserError


@pytest.mark.parametrize(
    ("names", "others", "difference"),
    [
        (["a", "b", "c"], ["a", "c"], "label 1 is 'c' and 'b'"),
        (["a", "b"], ["b", "a"], "label 0 is 'b' and 'a'"),
        (["a", "b"], ["a", "b", "c"], "label 2 is 'c' and nothing"),
    ],
)
def test_the_first_difference_is_named(names, others, difference):
    with pytest.raises(UserError) as error:
        check_same_classes(names, "DataLoader.Train.dataset", others, "DataLoader.Eval.dataset")
    assert str(error.value) == (
        f"DataLoader.Eval.dataset and DataLoader.Train.dataset name different classes: {difference}"
    )


@pytest.mark.parametrize(("names", "others"), [(["a"], ["a"]), (None, ["a"]), (["a"], None), (None, None)])
def test_equal_or_unknown_names_pass(names, others):
    check_same_classes(names, "one", others, "other")
