"""How every command line ends: its status, one line for each mistake, no traceback for what a user can mend."""

from __future__ import annotations

import argparse
import errno
import os

import pytest

from ppcls_ext.common.command_line import add_config_arguments, run
from ppcls_ext.common.errors import ConfigError, UserError


def leave(main) -> int:
    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3), (130, 130)])
def test_the_status_is_what_main_returned(returned, status):
    assert leave(lambda: returned) == status


def test_each_problem_is_one_line(capsys):
    assert leave(raising(ConfigError(["a.yaml:1: A: wrong", "a.yaml:2: B: wrong"]))) == 2
    assert capsys.readouterr().err == "error: a.yaml:1: A: wrong\nerror: a.yaml:2: B: wrong\n"
    assert leave(raising(UserError("no such file"))) == 2
    assert capsys.readouterr().err == "error: no such file\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_is_a_users_problem(capsys, number):
    assert leave(raising(OSError(number, os.strerror(number), "run/log.jsonl"))) == 2
    assert capsys.readouterr().err == f"error: run/log.jsonl: {os.strerror(number)}\n"


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(OSError, match="Bad file descriptor"):
        run(raising(OSError(errno.EBADF, os.strerror(errno.EBADF))))
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_interruption_leaves_as_shells_expect(capsys):
    assert leave(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_overrides_gather():
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    arguments = parser.parse_args(["-c", "a.yaml", "-o", "A.b=1", "C=2", "-o", "D=3"])
    assert (arguments.config, arguments.override) == ("a.yaml", ["A.b=1", "C=2", "D=3"])
    assert parser.parse_args(["-c", "a.yaml"]).override == []
