"""Examines an installation: what is there, what is missing or of a refused version and why, and can it train?

Versions are read from the packages' metadata, so that nothing heavy is imported and nothing broken can break the
doctor; Paddle alone is imported, in a process of its own, because only that shows whether it loads on this machine.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ppcls_ext.utils.doctor_rules import ACCEPTED_PYTHON, REQUIRED_PURPOSES, Rule, accepts, rules_for
from ppcls_ext.utils.machine import Machine, read_machine

State = Literal["ok", "missing", "refused"]
PADDLE_TIMEOUT_SECONDS = 120
# The work folder is taken off the path: a folder named paddle in it is not what a tool would import.
_PADDLE_PROBE = """
import json, sys
sys.path[:] = [entry for entry in sys.path if entry]
import paddle
if float(paddle.ones([2, 2]).matmul(paddle.ones([2, 2])).sum()) != 8.0:
    raise SystemExit("paddle computes wrongly on this machine")
cuda = paddle.is_compiled_with_cuda()
print()
print(json.dumps({"version": paddle.__version__, "built_for_gpu": cuda,
                  "gpus": paddle.device.cuda.device_count() if cuda else 0}))
"""


@dataclass(frozen=True)
class PackageFinding:
    """What was found about one package: the rule, the distribution that is installed, and the verdict."""

    rule: Rule
    distribution: str
    version: str | None
    state: State

    @property
    def required(self) -> bool:
        """Whether training needs the package."""
        return self.rule.needed_for in REQUIRED_PURPOSES


@dataclass(frozen=True)
class PaddleFinding:
    """Whether Paddle loads and computes; ``problem`` is empty when it does."""

    problem: str = ""
    version: str | None = None
    built_for_gpu: bool = False
    gpus: int = 0

    @property
    def device(self) -> str | None:
        """The device that training would use: ``gpu``, ``cpu`` or None when Paddle does not load."""
        if self.problem:
            return None
        return "gpu" if self.gpus else "cpu"


@dataclass(frozen=True)
class ToolkitFinding:
    """An optional checkout of a toolkit, named by an environment variable."""

    variable: str
    path: str | None
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that the doctor found."""

    python: str
    packages: list[PackageFinding]
    paddle: PaddleFinding
    machine: Machine
    toolkits: list[ToolkitFinding] = field(default_factory=list)

    @property
    def python_accepted(self) -> bool:
        """Whether this Python is one that the lock file serves."""
        return accepts(ACCEPTED_PYTHON, self.python)

    @property
    def problems(self) -> list[str]:
        """What stands between this machine and training, a line each."""
        lines = [] if self.python_accepted else [f"Python {self.python}: accepted is {ACCEPTED_PYTHON}"]
        for finding in self.packages:
            if finding.required and finding.state != "ok":
                lines.append(f"{finding.distribution} {finding.version or ''}".rstrip() + f": {finding.state}")
        if self.paddle.problem:
            lines.append(f"paddle: {self.paddle.problem}")
        return lines

    @property
    def can_train(self) -> bool:
        """Whether the machine can train."""
        return not self.problems

    def as_dict(self) -> dict[str, object]:
        """The report as plain values, for ``--json``."""
        return {
            "can_train": self.can_train,
            "problems": self.problems,
            "python": {"version": self.python, "accepted": ACCEPTED_PYTHON, "ok": self.python_accepted},
            "packages": [
                {
                    "package": finding.rule.package,
                    "distribution": finding.distribution,
                    "version": finding.version,
                    "state": finding.state,
                    "accepted": finding.rule.accepted,
                    "reason": finding.rule.reason,
                    "needed_for": finding.rule.needed_for,
                    "remedy": finding.rule.remedy,
                }
                for finding in self.packages
            ],
            "paddle": {**asdict(self.paddle), "device": self.paddle.device},
            "machine": {**asdict(self.machine), "shared_memory_advice": self.machine.shared_memory_advice},
            "toolkits": [asdict(toolkit) for toolkit in self.toolkits],
        }


def installed_version(distribution: str) -> str | None:
    """Returns the version of an installed distribution, None when it is not there or its metadata are damaged."""
    try:
        # Damaged metadata have no version: None, although the annotation of importlib promises a string.
        return importlib.metadata.version(distribution) or None
    except (importlib.metadata.PackageNotFoundError, KeyError, OSError, ValueError):
        return None


def examine_package(rule: Rule, version_of: Callable[[str], str | None] = installed_version) -> PackageFinding:
    """Judges one package; of several that serve, one of an accepted version wins over one that is refused."""
    present = [(name, version_of(name)) for name in (rule.package, *rule.substitutes)]
    installed = [(name, version) for name, version in present if version is not None]
    for name, version in installed:
        if accepts(rule.accepted, version):
            return PackageFinding(rule, name, version, "ok")
    if installed:
        return PackageFinding(rule, *installed[0], "refused")
    return PackageFinding(rule, rule.package, None, "missing")


def examine_paddle(python: str = sys.executable, timeout: float = PADDLE_TIMEOUT_SECONDS) -> PaddleFinding:
    """Imports Paddle in a fresh process, multiplies two matrices, and asks for GPUs."""
    try:
        result = subprocess.run(
            [python, "-c", _PADDLE_PROBE],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return PaddleFinding(f"did not load within {timeout:g} s")
    except OSError as error:
        return PaddleFinding(f"could not be tried: {error}")
    if result.returncode < 0:
        return PaddleFinding(f"loading it ended the process with {_signal_name(-result.returncode)}")
    if result.returncode > 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        return PaddleFinding(f"does not load: {lines[-1].strip() if lines else f'status {result.returncode}'}")
    try:
        answer = json.loads(result.stdout.splitlines()[-1])
        return PaddleFinding("", str(answer["version"]), bool(answer["built_for_gpu"]), int(answer["gpus"]))
    except (IndexError, KeyError, TypeError, ValueError):
        return PaddleFinding("loads, but its answer could not be read")


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    # Paddle's wheels are built for AVX: older processors and some emulators stop here.
    return f"{name} (the wheel needs a processor with AVX)" if name == "SIGILL" else name


def examine_toolkit(variable: str, marks: tuple[str, ...], environment: Mapping[str, str]) -> ToolkitFinding:
    """Looks whether an environment variable names a checkout, known by the paths ``marks`` inside it."""
    value = environment.get(variable, "")
    if not value:
        return ToolkitFinding(variable, None)
    missing = [mark for mark in marks if not (Path(value) / mark).exists()]
    return ToolkitFinding(variable, value, f"no {missing[0]} in it" if missing else "")


def examine(environment: Mapping[str, str] | None = None) -> Report:
    """Examines this machine and this Python; never raises over what is missing or broken."""
    environment = os.environ if environment is None else environment
    python = platform.python_version()
    packages = [examine_package(rule) for rule in rules_for(python)]
    paddle_there = any(finding.rule.package == "paddlepaddle" and finding.version for finding in packages)
    return Report(
        python=python,
        packages=packages,
        paddle=examine_paddle() if paddle_there else PaddleFinding("not installed"),
        machine=read_machine(),
        toolkits=[
            examine_toolkit("PADDLECLAS_DIR", ("ppcls", "tools/train.py"), environment),
            examine_toolkit("PADDLEDET_DIR", ("ppdet", "tools/train.py"), environment),
        ],
    )
