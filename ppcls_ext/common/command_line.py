"""What every command line does alike: one clear line for a user's mistake, exit status 2, no traceback."""

from __future__ import annotations

import argparse
import errno
import sys
import warnings
from collections.abc import Callable

from ppcls_ext.common.errors import UserError

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
# What a disk does to a user, wherever the program happens to write.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Paddle says these at import and at every first batch; they tell a user of our tools nothing.
NOISE = ("No ccache found", "When training, we now always track global mean and variance")


def run(main: Callable[[], int | None]) -> None:
    """Runs ``main`` and leaves the process with its status; shows each line of a :class:`UserError` as ``error: ...``.

    A full or read-only disk is such an error too. Ctrl-C outside a part that handles it itself leaves with 130,
    as shells expect, and without a traceback.
    """
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        status = main()
    except UserError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"error: {line}\n")
        status = USER_ERROR_STATUS
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = INTERRUPTED_STATUS
    except BrokenPipeError:
        # The reader (head, less) closed the pipe: nothing is wrong, and nothing more can be said.
        sys.stderr.close()
        status = 0
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        sys.stderr.write(f"error: {error.filename or 'cannot write'}: {error.strerror}\n")
        status = USER_ERROR_STATUS
    sys.exit(status or 0)


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
