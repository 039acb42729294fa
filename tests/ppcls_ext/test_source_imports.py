"""Signatures from source text follow imports by full name, within a package and to packages beside it."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from ppcls_ext.arch.signatures import parameters_of_source
from ppcls_ext.arch.sources import find_definition
from ppcls_ext.utils.signature import REQUIRED

FILES = {
    "kit/__init__.py": "",
    "kit/base.py": "class Base:\n    def __init__(self, size, depth=3, **kwargs):\n        pass\n",
    "kit/parts/__init__.py": "",
    "kit/parts/net.py": (
        "from kit.base import Base\n"
        "from beside.words import Word, Echo\n"
        "from numpy import ndarray\n"
        "class Net(Base):\n"
        "    def __init__(self, word: Word = 'a', echo: Echo = None, array: ndarray = None, **kwargs):\n"
        "        super(Net, self).__init__(size=4, **kwargs)\n"
        "class Plain(Base):\n"
        "    pass\n"
    ),
    "beside/__init__.py": "",
    "beside/words.py": (
        "from typing import Literal\n"
        "from kit.parts.net import Echo\n"
        "Word = Literal['a', 'b']\n"
    ),
}  # fmt: skip


@pytest.fixture
def net_file(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "kit" / "parts" / "net.py"


def test_a_base_class_that_is_imported_by_its_full_name(net_file):
    parameters = parameters_of_source(find_definition(net_file, "Net"))
    assert set(parameters) == {"word", "echo", "array", "depth"}
    assert parameters["depth"].default == 3
    plain = parameters_of_source(find_definition(net_file, "Plain"))
    assert {name: parameter.default for name, parameter in plain.items()} == {"size": REQUIRED, "depth": 3}


def test_an_annotation_that_is_imported(net_file):
    parameters = parameters_of_source(find_definition(net_file, "Net"))
    assert parameters["word"].annotation == Literal["a", "b"]
    assert parameters["array"].annotation is Any


def test_names_that_two_files_import_from_each_other_say_nothing(net_file):
    assert find_definition(net_file, "Echo") is None
