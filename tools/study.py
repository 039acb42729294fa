"""Trains and compares the rows of a study: python tools/study.py configs/studies/cifar100.yaml [--jobs N]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_ext.utils.command_line import INTERRUPTED_STATUS, add_encoding_argument, add_overwrite_argument, run
from ppcls_ext.utils.errors import Interrupted, UserError

FAILED_STATUS = 1


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Train every row of a study with every seed, each in OUTPUT/ROW/seed_N, then compare them. The "
        "same command continues a study that was stopped; what is finished is not repeated."
    )
    add = parser.add_argument
    add("study", metavar="STUDY", help="YAML file of a study (configs/studies)")
    add("--rows", nargs="+", default=[], metavar="NAME", help="train these rows only")
    add("--jobs", type=int, default=1, metavar="N", help="runs side by side (1)")
    words = "change a key in the configuration of every row, such as DataLoader.Train.dataset.data_file=PATH"
    add("-o", "--override", action="extend", nargs="+", default=[], metavar="KEY.SUB=VALUE", help=words)
    add_encoding_argument(parser)
    add("--report-only", action="store_true", help="train nothing, compare what is there")
    add("--no-latency", action="store_true", help="do not measure the time of an image; an earlier figure stays")
    add("--threads", type=int, default=1, metavar="N", help="threads to measure it with (1)")
    add_overwrite_argument(parser)
    return parser.parse_args()


def main() -> int:
    """Trains and compares; returns the exit status."""
    arguments = parse_arguments()
    for option in ("jobs", "threads"):
        if getattr(arguments, option) < 1:
            raise UserError(f"--{option} must be at least 1, got {getattr(arguments, option)}")
    from classification import study as studies
    from classification.study_report import write_report
    from ppcls_ext.utils.log import set_up_logging
    from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

    study = studies.load_study(arguments.study, arguments.override)
    chosen = study.choose(arguments.rows)
    studies.refuse_other_study(study)
    runs = studies.runs_of(study, study.rows)
    # A run of the study is inside its folder, and looks for itself when it begins.
    found = [inputs_of(run.config.document) for run in runs]
    reads, searched = ([path for pair in found for path in pair[number]] for number in (0, 1))
    output = Output("output_dir", study.output_dir, "study")
    claim_outputs([output], [study.path, *reads], searched, arguments.overwrite)
    studies.refuse_changed_runs(runs, training=not arguments.report_only)
    set_up_logging()
    failures = []
    if not arguments.report_only:
        with studies.open_study(study):
            try:
                script = Path(__file__).resolve().parent / "train.py"
                failures = studies.train_runs([run for run in runs if run.row in chosen], script, arguments.jobs)
            except Interrupted as stop:
                print(stop)
                return INTERRUPTED_STATUS
    page = write_report(study, runs, None if arguments.no_latency else arguments.threads, failures)
    print(f"\n{page.read_text(encoding='utf-8')}\nwritten: {page} (and tables as CSV and pictures beside it)")
    for each, reason in failures:
        sys.stderr.write(f"error: {each.label}: {reason}\n")
    return FAILED_STATUS if failures else 0


if __name__ == "__main__":
    run(main)
