"""Scripts of toolkits: which checkout they belong to, and what is said when it does not load; on a made-up toolkit."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.toolkit_scripts import Toolkit, run_script


@pytest.fixture(autouse=True)
def own_interpreter_state(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


KIT = Toolkit("Kit", "madeupkit/core", "ours", lambda: importlib.import_module("madeupkit"))


def write(folder: Path, **files: str) -> Path:
    for name, text in {"madeupkit/__init__.py": "", "madeupkit/core/__init__.py": "", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "tools" / "train.py"


def test_a_script_runs_as_by_itself_with_the_checkout_first(tmp_path):
    text = "import sys, beside, madeupkit\nsys.exit(f'{sys.argv[1:]} {sys.path[0]} {__name__}')\n"
    script = write(tmp_path, **{"tools/train.py": text, "tools/beside.py": ""})
    with pytest.raises(SystemExit) as left:
        run_script(KIT, [str(script), "-c", "x.yaml"])
    assert str(left.value) == f"['-c', 'x.yaml'] {tmp_path} __main__"


def test_wrong_scripts_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("lonely.py").write_text("import json  # from madeupkit\n")
    for arguments, message in (
        ([], "no script given; usage: python -m ours PATH/TO/Kit"),
        (["lonely.py"], "script 'lonely.py' is not in a Kit checkout: .*madeupkit/core$"),
    ):
        with pytest.raises(UserError, match=message):
            run_script(KIT, arguments)
    assert run_script(KIT, ["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m ours")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("madeupkit/core/__init__.py", "import no_such_package.part\n", "needs the package 'no_such_package'"),
        ("tools/train.py", "import madeupkit.nowhere\n", "does not load on this machine: No module named 'mad"),
        ("madeupkit/core/__init__.py", "import math\nmath.no_such_alias\n", "module 'math' has no attribute"),
    ],
)
def test_what_a_checkout_lacks_is_named_in_one_line(tmp_path, monkeypatch, file, text, message):
    files = {"tools/train.py": "import madeupkit.core\n", file: text}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        run_script(KIT, [str(write(tmp_path, **files).relative_to(tmp_path))])
    assert f"the checkout {tmp_path}" in str(refusal.value)
    assert f"({file}, line {len(text.splitlines())})" in str(refusal.value)


def test_errors_of_the_script_itself_go_on(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_script(KIT, [str(write(tmp_path, **{"tools/train.py": "1 / 0\n"}))])
