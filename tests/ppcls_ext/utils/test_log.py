"""What reaches the terminal and the log file."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from ppcls_ext.utils.log import close_file, log_to_file, note_in_files, set_up_logging


def test_information_is_bare_and_the_rest_says_what_it_is(capsys):
    set_up_logging()
    set_up_logging()
    logger = logging.getLogger("classification.task")
    logger.info("epoch %d", 1)
    logger.warning("skipped %s", "a.jpg")
    logger.error("wrong")
    logger.debug("never shown")
    logging.getLogger("somebody.else").info("not ours")
    assert capsys.readouterr().out == "epoch 1\nwarning: skipped a.jpg\nerror: wrong\n"
    set_up_logging(quiet=True)
    logger.info("loaded")
    logger.warning("careful")
    assert capsys.readouterr().out == "warning: careful\n"


def test_the_file_gets_the_same_messages_with_times_and_is_appended_to(tmp_path, capsys):
    file = tmp_path / "train.log"
    for message in ("first run", "second run: ü"):
        set_up_logging()
        log_to_file(file)
        logging.getLogger("classification").info(message)
    note_in_files("it failed")
    set_up_logging()
    note_in_files("there is no file now")
    logging.getLogger("classification").info("not in the file")
    shown = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (.*)$", file.read_text(encoding="utf-8"), re.M)
    assert shown == ["INFO first run", "INFO second run: ü", "ERROR it failed"]
    assert capsys.readouterr().out == "first run\nsecond run: ü\nnot in the file\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk at hand")
def test_a_full_disk_is_said_once(capsys):
    set_up_logging()
    writer = log_to_file(Path("/dev/full"))
    for number in range(3):
        logging.getLogger("classification").info("line %d", number)
    close_file(writer)
    shown = capsys.readouterr()
    assert shown.out == "line 0\nline 1\nline 2\n"
    assert shown.err == "error: /dev/full: No space left on device; messages are lost there\n"
