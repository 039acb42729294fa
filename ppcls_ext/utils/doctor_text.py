"""The doctor's report as lines for a terminal; plain text, since `rich` may be what is missing."""

from __future__ import annotations

from ppcls_ext.utils.doctor import PackageFinding, Report
from ppcls_ext.utils.doctor_rules import ACCEPTED_PYTHON, PURPOSES, Purpose
from ppcls_ext.utils.machine import GIB

_HEADINGS = ("package", "installed", "accepted", "state", "needed to")
# From this many problems on, one command for all is better advice than one for each.
_MANY = 4
_MEND_ALL = "mend all: make setup, then use .venv/bin/python (or python -m pip install --no-deps -r requirements.lock)"


def report_lines(report: Report) -> list[str]:
    """Returns the whole report: table, machine, what to mend, verdict."""
    return [
        *_package_table(report),
        "",
        *_machine_lines(report),
        "",
        *_remedy_lines(report),
        *_verdict_lines(report),
    ]


def _package_table(report: Report) -> list[str]:
    python_state = "ok" if report.python_accepted else "REFUSED"
    rows = [_HEADINGS, ("Python", report.python, ACCEPTED_PYTHON, python_state, "do anything")]
    for finding in report.packages:
        rule = finding.rule
        state = finding.state
        if state != "ok":
            state = state.upper() if finding.required or state == "refused" else "not there"
        rows.append((finding.distribution, finding.version or "-", rule.accepted, state, PURPOSES[rule.needed_for]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _machine_lines(report: Report) -> list[str]:
    machine, paddle = report.machine, report.paddle
    if paddle.problem:
        device = f"none (paddle: {paddle.problem})"
    elif paddle.gpus:
        device = f"gpu ({paddle.gpus})"
    else:
        device = "cpu" + ("; paddlepaddle-gpu is installed, but no GPU answers" if paddle.built_for_gpu else "")
    shared = f"{_gib(machine.shared_memory)}, {_gib(machine.shared_memory_free)} free"
    lines = [
        f"device         {device}",
        f"cores          {machine.cores}",
        f"memory         {_gib(machine.memory)}, {_gib(machine.memory_available)} available",
        f"shared memory  {shared}" + (f": {machine.shared_memory_advice}" if machine.shared_memory_advice else ""),
    ]
    for toolkit in report.toolkits:
        state = "not set (optional: a checkout to run our models in)" if toolkit.path is None else toolkit.path
        lines.append(f"{toolkit.variable:14} {state}" + (f": {toolkit.problem}" if toolkit.problem else ""))
    return lines


def _remedy_lines(report: Report) -> list[str]:
    wrong = [finding for finding in report.packages if _is_worth_a_line(finding)]
    lines = [_complaint(finding) for finding in wrong if finding.state == "refused"]
    if len(wrong) >= _MANY:
        lines.append(_MEND_ALL)
    else:
        lines += [f"mend: {finding.rule.remedy}" for finding in wrong]
    for purpose in _absent_options(report):
        lock = "requirements-deploy.lock" if purpose == "deploy" else "requirements.lock"
        lines.append(f"optional, to {PURPOSES[purpose]}: python -m pip install --no-deps -r {lock}")
    return [*lines, ""] if lines else []


def _is_worth_a_line(finding: PackageFinding) -> bool:
    return finding.state == "refused" or (finding.state == "missing" and finding.required)


def _complaint(finding: PackageFinding) -> str:
    rule = finding.rule
    return f"{finding.distribution} {finding.version} is refused (accepted: {rule.accepted}): {rule.reason}"


def _absent_options(report: Report) -> list[Purpose]:
    absent = [f.rule.needed_for for f in report.packages if f.state == "missing" and not f.required]
    return [purpose for purpose in PURPOSES if purpose in absent]


def _verdict_lines(report: Report) -> list[str]:
    if report.can_train:
        assert report.paddle.device is not None
        return [f"This machine can train, on the {report.paddle.device.upper()}."]
    return ["This machine cannot train yet:", *(f"  {problem}" for problem in report.problems)]


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"
