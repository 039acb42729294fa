"""How every command line ends: its status, one line for each mistake, no traceback for what a user can mend."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.utils.command_line import add_config_arguments, run
from ppcls_ext.utils.errors import ConfigError, UserError
from ppcls_ext.utils.texts import VARIABLE

TOOLS = Path(__file__).resolve().parents[3] / "tools"


def leave(main) -> int:
    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_the_status_is_what_main_returned_and_each_problem_is_one_line(capsys, monkeypatch):
    assert [leave(lambda: None), leave(lambda: 3)] == [0, 3]
    with monkeypatch.context() as patch:  # some job schedulers start programs without standard output
        patch.setattr(sys, "stdout", None)
        assert leave(lambda: 3) == 3
    assert leave(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert leave(raising(ConfigError(["a.yaml:1: A: wrong", "a.yaml:2: B: wrong"]))) == 2
    assert capsys.readouterr().err == "error: a.yaml:1: A: wrong\nerror: a.yaml:2: B: wrong\n"
    assert leave(raising(UserError("no such file"))) == 2
    assert capsys.readouterr().err == "error: no such file\n"


def test_a_path_that_cannot_be_used_is_a_users_problem(capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").write_text("")
    mistakes = {
        "folder: Is a directory": lambda: (tmp_path / "folder").write_text(""),
        "absent: No such file or directory": lambda: (tmp_path / "absent").read_text(),
    }
    for line, mistake in mistakes.items():
        assert leave(mistake) == 2
        assert capsys.readouterr().err == f"error: {tmp_path}/{line}\n"
    # Of the two files of a rename the user knows the second.
    assert leave(lambda: os.replace(tmp_path / "other", tmp_path / "folder")) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'folder'}: Is a directory\n"
    assert leave(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "locked.json"))) == 2
    assert capsys.readouterr().err == f"error: locked.json: {os.strerror(errno.ENOSPC)}\n"


def test_a_missing_package_is_one_line_and_a_missing_part_of_ours_a_traceback(capsys):
    def main() -> None:
        importlib.import_module("no_such_package.part")

    assert leave(main) == 2
    assert capsys.readouterr().err.startswith("error: package no_such_package is missing: install it")
    with pytest.raises(ModuleNotFoundError):
        run(lambda: importlib.import_module("ppcls_ext.no_such_part"))


def test_tools_say_so_where_no_package_is_installed():
    """``-S`` keeps Python from looking where packages are installed."""
    convert = ("convert_weights.py", "a.pdparams", "b.pdparams", "--model", "EConvNeXt_mini", "--from", "ours")
    for arguments in (("train.py", "-c", "absent.yaml"), convert):
        command = [sys.executable, "-S", str(TOOLS / arguments[0]), *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert re.fullmatch(r"error: package \w+ is missing: install it \(in a checkout: make setup\)\n", done.stderr)


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(OSError, match="Bad file descriptor"):
        run(raising(OSError(errno.EBADF, os.strerror(errno.EBADF))))
    with pytest.raises(PermissionError):
        run(raising(PermissionError(errno.EPERM, "a system call that names no file")))
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_a_terminal_without_utf8_stops_no_command(tmp_path):
    code = """
import logging, sys
from pathlib import Path
from ppcls_ext.utils.command_line import run
from ppcls_ext.utils.log import log_to_file, set_up_logging
def main():
    set_up_logging()
    log_to_file(Path(sys.argv[1]))
    print("\\u6d77\\u53c2 caf\\xe9 \\xb2")
    logging.getLogger("tools").warning("\\u6d77\\u80c6 \\udcba")
run(main)
"""
    for settings in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run.log")],
            capture_output=True, cwd=TOOLS.parent, env={**os.environ, **settings},
        )  # fmt: skip
        assert done.returncode == 0
        assert done.stderr == b""
        assert b"\\u6d77\\u53c2 caf\\xe9 \\xb2" in done.stdout
    assert "海胆 \\udcba" in (tmp_path / "run.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("speech", ["logger.info('line')", "print('line')"])
def test_a_reader_that_goes_away_is_no_error(speech):
    code = f"""
import logging
from ppcls_ext.utils.command_line import run
from ppcls_ext.utils.log import set_up_logging
logger = logging.getLogger("tools")
def main():
    set_up_logging()
    for _ in range(10000):
        {speech}
run(main)
"""
    talker = subprocess.Popen(
        [sys.executable, "-c", code], cwd=TOOLS.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    talker.stdout.readline()
    talker.stdout.close()
    assert (talker.stderr.read(), talker.wait()) == (b"", 0)
    talker.stderr.close()


def test_overrides_gather_and_the_encoding_of_texts_is_stated_for_all(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "")
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    arguments = parser.parse_args(["-c", "a.yaml", "-o", "A.b=1", "C=2", "-o", "D=3"])
    assert (arguments.config, arguments.override) == ("a.yaml", ["A.b=1", "C=2", "D=3"])
    parser.parse_args(["-c", "a.yaml", "--encoding", "cp949"])
    assert os.environ[VARIABLE] == "cp949"
    assert leave(lambda: parser.parse_args(["-c", "a.yaml", "--encoding", "klingon"])) == 2
    assert capsys.readouterr().err.startswith("error: --encoding klingon: unknown; such as gb18030")
