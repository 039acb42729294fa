"""Tells what is installed, what is missing or of a refused version and why, and whether this machine can train.

    python tools/doctor.py          a table, the machine, what to mend
    python tools/doctor.py --json   the same for programs

Exit status: 0 when the machine can train, 2 otherwise. Works with any Python 3.10 or later that has pip.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppcls_ext.utils.command_line import run

CANNOT_TRAIN_STATUS = 2


def main() -> int:
    """Examines, prints, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    from ppcls_ext.utils.doctor import examine, report_text

    report = examine(os.environ)
    print(json.dumps(report, indent=2) if arguments.json else report_text(report))
    return 0 if report["can_train"] else CANNOT_TRAIN_STATUS


if __name__ == "__main__":
    run(main)
