"""Examines an installation: what is installed, missing or of a refused version and why, and can it train?

Accepted versions, their reasons and purposes are read from ``requirements.txt`` and ``requirements-deploy.txt``,
commands that mend from the lock files. Versions come from the packages' metadata, so that nothing broken can break the
doctor; Paddle alone is imported, in a process of its own, because only that shows whether it loads on this machine.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

try:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
except ModuleNotFoundError:  # A fresh environment holds only pip, which brings its own copy.
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.specifiers import SpecifierSet

from ppcls_ext.utils.machine import GIB, read_machine
from ppcls_ext.utils.tables import aligned

ROOT = Path(__file__).resolve().parents[2]
FILES = ("requirements.txt", "requirements-deploy.txt")
ACCEPTED_PYTHON = ">=3.10,<3.13"
# Packages that bring the same modules.
SUBSTITUTES = {
    "paddlepaddle": ("paddlepaddle-gpu",),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
CHECKOUTS = {"PADDLECLAS_DIR": "ppcls", "PADDLEDET_DIR": "ppdet"}
# The work folder is taken off the path: a folder named paddle in it is not what a tool would import.
PADDLE_PROBE = """
import json, sys
sys.path[:] = [entry for entry in sys.path if entry]
import paddle
if float(paddle.ones([2, 2]).matmul(paddle.ones([2, 2])).sum()) != 8.0:
    raise SystemExit("paddle computes wrongly on this machine")
gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
print(json.dumps({"version": paddle.__version__, "built_for_gpu": paddle.is_compiled_with_cuda(), "gpus": gpus}))
"""


def requirements() -> Iterator[tuple[Requirement, str, str, bool]]:
    """Yields every requirement of this Python with its reason, its purpose, and whether training needs it.

    The purpose is the heading above it (``# -- detection``, the file's first line if it has none), the reason the
    comment lines right above it. Training needs what stands up to the end of the section ``training``.
    """
    for file in FILES:
        needed, purpose, comments = file == FILES[0], "deployment", []
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if line.startswith("# -- "):
                needed = needed and purpose != "training"
                purpose, comments = re.split(r"[,(]", line[5:])[0].strip(), []
            elif line.startswith("#"):
                comments.append(line.lstrip("# "))
            elif not line.strip():
                comments = []
            else:
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate():
                    yield requirement, " ".join(comments), purpose, needed


def locked(name: str) -> str:
    """Returns ``name==version`` as a lock file of this Python has it."""
    lines = [line for file in FILES for line in (ROOT / file).with_suffix(".lock").read_text("utf-8").splitlines()]
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    pin = next(pin for pin in pins if pin.name == name and (pin.marker is None or pin.marker.evaluate()))
    return f"{pin.name}{pin.specifier}"


def installed_version(distribution: str) -> str | None:
    """Returns the version of an installed distribution, None when it is not there or its metadata are damaged."""
    try:
        return importlib.metadata.version(distribution) or None
    except (importlib.metadata.PackageNotFoundError, KeyError, OSError, ValueError):
        return None


def examine_packages() -> list[dict[str, Any]]:
    """Judges every requirement; of several packages that serve, an accepted version wins over a refused one."""
    findings = []
    for requirement, reason, purpose, needed in requirements():
        names = (requirement.name, *SUBSTITUTES.get(requirement.name, ()))
        installed = {name: version for name in names if (version := installed_version(name))}
        # A post-release or a build for CUDA (3.2.2.post126) is its release.
        good = [name for name, version in installed.items() if requirement.specifier.contains(
            re.sub(r"(\.post|\+).*", "", version), prereleases=True)]  # fmt: skip
        name = next(iter([*good, *installed]), requirement.name)
        state = "missing" if not installed else "refused" if not good else "ok"
        remedy = f"python -m pip install --no-deps {locked(requirement.name)}"
        if state == "ok" and len(installed) > 1:
            state, reason = "doubled", f"{' and '.join(installed)} write the same files"
            others = " ".join(other for other in installed if other != name)
            remedy = f"python -m pip uninstall {others}; python -m pip install --no-deps --force-reinstall "
            remedy += f"{name}=={installed[name]}"
        findings.append({
            "package": requirement.name, "distribution": name, "version": installed.get(name),
            "state": state,
            "accepted": ",".join(sorted(map(str, requirement.specifier), reverse=True)),
            "reason": reason, "needed_for": purpose, "required": needed,
            "remedy": remedy,
        })  # fmt: skip
    return findings


def examine_paddle(python: str = sys.executable, timeout: float = 120) -> dict[str, Any]:
    """Imports Paddle in a fresh process, multiplies two matrices, and counts GPUs; ``problem`` is empty if it works."""
    finding = {"problem": "", "version": None, "built_for_gpu": False, "gpus": 0, "device": None}
    try:
        result = subprocess.run(
            [python, "-c", PADDLE_PROBE], capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {**finding, "problem": f"did not load within {timeout:g} s"}
    if result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        # Paddle's wheels are built for AVX: older processors and some emulators stop here.
        advice = " (the wheel needs a processor with AVX)" if name == "SIGILL" else ""
        return {**finding, "problem": f"loading it ended the process with {name}{advice}"}
    if result.returncode > 0:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        return {**finding, "problem": f"does not load: {lines[-1] if lines else f'status {result.returncode}'}"}
    found = json.loads(result.stdout.splitlines()[-1])
    return {**finding, **found, "device": "gpu" if found["gpus"] else "cpu"}


def examine(environment: Mapping[str, str]) -> dict[str, Any]:
    """Examines this machine and this Python; returns the report as plain values, what ``--json`` prints.

    ``problems`` stand between this machine and training, a line each; ``machine`` is None without psutil; ``toolkits``
    are the checkouts that environment variables name.
    """
    version = platform.python_version()
    accepted = SpecifierSet(ACCEPTED_PYTHON).contains(version, prereleases=True)
    packages = examine_packages()
    there = any(each["package"] == "paddlepaddle" and each["version"] for each in packages)
    paddle = examine_paddle() if there else {"problem": "not installed", "device": None, "gpus": 0}
    problems = [] if accepted else [f"Python {version}: accepted is {ACCEPTED_PYTHON}"]
    problems += [
        " ".join(filter(None, (each["distribution"], each["version"]))) + f": {each['state']}"
        for each in packages if each["required"] and each["state"] in ("missing", "refused")
    ]  # fmt: skip
    problems += [f"paddle: {paddle['problem']}"] if paddle["problem"] else []
    toolkits = []
    for variable, package in CHECKOUTS.items():
        path = environment.get(variable)
        missing = [mark for mark in (package, "tools/train.py") if path and not (Path(path) / mark).exists()]
        toolkits.append({"variable": variable, "path": path, "problem": f"no {missing[0]} in it" if missing else ""})
    try:
        machine = read_machine()
    except ModuleNotFoundError:
        machine = None
    return {
        "can_train": not problems, "problems": problems, "packages": packages, "paddle": paddle, "toolkits": toolkits,
        "python": {"version": version, "accepted": ACCEPTED_PYTHON, "ok": accepted},
        "machine": machine and {**vars(machine), "shared_memory_advice": machine.shared_memory_advice},
    }  # fmt: skip


def report_text(report: Mapping[str, Any]) -> str:
    """Returns a report for people: table, machine, what to mend, verdict. Plain text: `rich` may be what is missing."""
    python, paddle, machine = report["python"], report["paddle"], report["machine"]
    rows = [("package", "installed", "accepted", "state", "needed for")]
    rows.append(("Python", python["version"], python["accepted"], "ok" if python["ok"] else "REFUSED", "everything"))
    wrong, lines = [], []
    for each in report["packages"]:
        state = each["state"]
        if state in ("refused", "doubled") or (state == "missing" and each["required"]):
            wrong.append(each)
            state = state.upper()
        rows.append((each["distribution"], each["version"] or "-", each["accepted"], state, each["needed_for"]))
        if each["state"] == "refused":
            complaint = f"{each['distribution']} {each['version']} is refused (accepted: {each['accepted']})"
            lines.append(f"{complaint}: {each['reason']}")
        elif each["state"] == "doubled":
            lines.append(f"{each['reason']}: keep one of them")
    if len(wrong) > 3:  # One command for all is better advice than one for each.
        lines.append("mend all: make setup, then use .venv/bin/python "
                     "(or python -m pip install --no-deps -r requirements.lock)")  # fmt: skip
    else:
        lines += [f"mend: {each['remedy']}" for each in wrong]
    absent = dict.fromkeys(
        each["needed_for"] for each in report["packages"] if each["state"] == "missing" and not each["required"]
    )
    for purpose in absent:
        lock = "requirements-deploy.lock" if purpose == "deployment" else "requirements.lock"
        lines.append(f"optional, for {purpose}: python -m pip install --no-deps -r {lock}")
    table = aligned(rows, left=len(rows[0]), rules=())
    device = f"none (paddle: {paddle['problem']})" if paddle["problem"] else paddle["device"]
    if paddle.get("built_for_gpu"):
        device += f" ({paddle['gpus']})" if paddle["gpus"] else "; paddlepaddle-gpu is installed, but no GPU answers"
    facts = {"device": device}
    if machine:
        facts |= {"cores": machine["cores"]}
        for key, free, word in (("memory", "memory_available", "available"),
                                ("shared_memory", "shared_memory_free", "free")):  # fmt: skip
            if machine[key] is not None:
                text = f"{machine[key] / GIB:.1f} GiB, {machine[free] / GIB:.1f} GiB {word}"
                advice = machine["shared_memory_advice"] if key == "shared_memory" else ""
                facts[key.replace("_", " ")] = text + (f": {advice}" if advice else "")
    for each in report["toolkits"]:
        path = each["path"] or "not set (optional: a checkout to run our models in)"
        facts[each["variable"]] = path + (f": {each['problem']}" if each["problem"] else "")
    machine_lines = [f"{name:14} {value}" for name, value in facts.items()]
    verdict = [f"This machine can train, on the {paddle['device'].upper()}."] if report["can_train"] else [
        "This machine cannot train yet:", *(f"  {problem}" for problem in report["problems"])]  # fmt: skip
    return "\n".join([*table, "", *machine_lines, "", *lines, *([""] if lines else []), *verdict])
