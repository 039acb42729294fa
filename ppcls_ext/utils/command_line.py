"""Entry of every command line: one clear line for a user's mistake, exit status 2, no traceback."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import warnings
from collections.abc import Callable

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.texts import state_encoding

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
# What a disk does to a user, wherever the program happens to write, ...
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# ... and what comes of a path that the user gave.
PATH_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip
OUR_PACKAGES = ("ppcls_ext", "classification", "detection", "tools")
# Paddle says these at import and at every first batch; they tell a user of our tools nothing.
NOISE = ("No ccache found", "When training, we now always track global mean and variance")


def run(main: Callable[[], int | None]) -> None:
    """Runs ``main`` and leaves the process with its status; shows each line of a :class:`UserError` as ``error: ...``.

    A disk or a path that cannot be used is such an error too, and a package that is not installed. Ctrl-C outside a
    part that handles it itself leaves with 130, as shells expect, and without a traceback.
    A terminal that lacks a character gets its number (``\\u6d77``).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        status = main()
        if sys.stdout is not None:  # some job schedulers start programs without any
            sys.stdout.flush()
    except UserError as error:
        _show(str(error))
        status = error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = INTERRUPTED_STATUS
    except BrokenPipeError:
        # The reader (head, less) closed the pipe: nothing is wrong, and nothing more can be said, at the exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in OUR_PACKAGES:
            raise
        status = _show(f"package {package} is missing: install it (in a checkout: make setup)")
    except OSError as error:
        # A rename names two files; the second is the one that the user knows.
        file = error.filename2 or error.filename
        if error.errno not in DISK_ERRORS and not (error.errno in PATH_ERRORS and file):
            raise
        status = _show(f"{file or 'cannot write'}: {error.strerror}")
    sys.exit(status or 0)


def _show(message: str) -> int:
    """Writes each line of a message as an error; returns the exit status."""
    for line in message.splitlines():
        sys.stderr.write(f"error: {line}\n")
    return USER_ERROR_STATUS


def add_overwrite_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--overwrite`` to a tool's parser; see ``ppcls_ext.utils.outputs``."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="write also where something stands that no tool of this project wrote; a folder there that would be "
        "replaced is kept under another name, and what the command reads is never replaced",
    )


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds ``-c CONFIG`` and ``-o KEY.SUB=VALUE`` to a tool's parser."""
    parser.add_argument("-c", "--config", required=required, metavar="CONFIG", help="YAML configuration file")
    parser.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY.SUB=VALUE",
        help="change a key of the configuration; VALUE is YAML (3, 4e-3, [1, 2], null); may be given several times",
    )
    add_encoding_argument(parser)


def add_encoding_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--encoding``, which counts for every text that the command and its processes read."""
    parser.add_argument(
        "--encoding",
        type=state_encoding,
        metavar="NAME",
        help="encoding of lists, annotations and other texts not surely UTF-8, such as gb18030, big5 or cp1252",
    )
