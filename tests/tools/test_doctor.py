"""tools/doctor.py: what it accepts and refuses, and what it says on machines where things are missing or broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.utils.doctor import (
    PackageFinding,
    PaddleFinding,
    Report,
    examine_package,
    examine_paddle,
    examine_toolkit,
)
from ppcls_ext.utils.doctor_rules import RULES, Rule, accepts, rules_for
from ppcls_ext.utils.doctor_text import report_lines
from ppcls_ext.utils.machine import GIB, Machine, read_machine

ROOT = Path(__file__).resolve().parents[2]
MACHINE = Machine(cores=2, memory=8 * GIB, memory_available=6 * GIB, shared_memory=4 * GIB, shared_memory_free=4 * GIB)


def rule_of(package: str) -> Rule:
    return next(rule for rule in rules_for("3.11.7") if rule.package == package)


def locked_versions() -> dict[str, str]:
    """Package -> version of the two lock files, for Python 3.11."""
    versions = {}
    for name in ("requirements.lock", "requirements-deploy.lock"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            requirement, _, marker = line.partition(";")
            if "==" in requirement and not line.startswith("#") and 'python_version >= "3.12"' not in marker:
                package, _, version = requirement.strip().partition("==")
                versions[package.lower()] = version
    return versions


def sound_report(**changes: object) -> Report:
    """A report of a machine on which everything is as the lock file wants it, with some changes."""
    packages = [
        PackageFinding(rule, rule.package, rule.install.partition("==")[2], "ok") for rule in rules_for("3.11.7")
    ]
    parts: dict = {
        "python": "3.11.7",
        "packages": packages,
        "paddle": PaddleFinding(version="3.2.2"),
        "machine": MACHINE,
    }
    return Report(**{**parts, **changes})


def with_version(package: str, version: str | None) -> Report:
    """A sound report but for one package."""
    packages = [
        examine_package(finding.rule, {package: version}.get) if finding.rule.package == package else finding
        for finding in sound_report().packages
    ]
    return sound_report(packages=packages)


@pytest.mark.parametrize(
    ("accepted", "version", "expected"),
    [
        (">=1.24,<2", "1.26.4", True),
        (">=1.24,<2", "2.0.0rc1", False),
        (">=1.24,<2", "1.9", False),
        ("==3.2.2", "3.2.2", True),
        ("==3.2.2", "3.2.2.post126", True),
        ("==3.2.2", "3.2.20", False),
        ("==3.2", "3.2.0", True),
        ("<3.12", "3.12.1", False),
        ("", "anything", True),
    ],
)
def test_ranges(accepted: str, version: str, expected: bool) -> None:
    assert accepts(accepted, version) is expected


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.python or accepts(rule.python, "3.11")])
def test_every_rule_accepts_and_recommends_the_locked_version(rule: Rule) -> None:
    version = locked_versions()[rule.package.lower()]
    assert rule.install == f"{rule.package}=={version}"
    assert accepts(rule.accepted, version)


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("paddlepaddle", "3.3.1"),
        ("paddlepaddle", "2.6.2"),
        ("numpy", "2.4.0"),
        ("pandas", "3.0"),
        ("setuptools", "84.0"),
    ],
)
def test_versions_that_the_design_refuses(package: str, version: str) -> None:
    finding = examine_package(rule_of(package), {package: version}.get)
    assert finding.state == "refused"
    text = "\n".join(report_lines(with_version(package, version)))
    assert f"{package} {version} is refused" in text
    assert finding.rule.reason in text
    assert f"pip install --no-deps {finding.rule.install}" in text


def test_gpu_build_of_paddle_serves_as_well() -> None:
    finding = examine_package(rule_of("paddlepaddle"), {"paddlepaddle-gpu": "3.2.2"}.get)
    assert (finding.state, finding.distribution) == ("ok", "paddlepaddle-gpu")


def test_only_what_training_needs_decides_whether_it_can_train() -> None:
    assert sound_report().can_train
    assert with_version("onnx", None).can_train
    assert with_version("pandas", "3.0").can_train
    assert not with_version("numpy", "2.4.0").can_train
    assert not with_version("rich", None).can_train
    assert not sound_report(python="3.13.0").can_train
    assert not sound_report(paddle=PaddleFinding("does not load")).can_train


def test_device_that_training_would_use() -> None:
    assert sound_report().as_dict()["paddle"]["device"] == "cpu"
    assert sound_report(paddle=PaddleFinding("", "3.2.2", True, 2)).as_dict()["paddle"]["device"] == "gpu"
    without_gpu = sound_report(paddle=PaddleFinding("", "3.2.2", True, 0))
    assert "no GPU answers" in "\n".join(report_lines(without_gpu))


def python_with(tmp_path: Path, paddle: str) -> str:
    """An interpreter for which ``import paddle`` runs the given source instead."""
    (tmp_path / "paddle.py").write_text(paddle, encoding="utf-8")
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("paddle", "problem"),
    [
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "libgomp.so.1: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL (the wheel needs a processor with AVX)"),
        ("import sys; sys.exit(3)", "status 3"),
    ],
)
def test_paddle_that_does_not_load_is_reported(tmp_path: Path, paddle: str, problem: str) -> None:
    finding = examine_paddle(python_with(tmp_path, paddle))
    assert problem in finding.problem
    assert finding.device is None


def test_paddle_that_hangs_is_given_up(tmp_path: Path) -> None:
    finding = examine_paddle(python_with(tmp_path, "import time; time.sleep(60)"), timeout=1)
    assert finding.problem == "did not load within 1 s"


def test_paddle_of_this_environment_loads() -> None:
    finding = examine_paddle()
    assert finding.problem == ""
    assert finding.device in ("cpu", "gpu")


def test_toolkit_checkouts(tmp_path: Path) -> None:
    marks = ("ppcls", "tools/train.py")
    assert examine_toolkit("PADDLECLAS_DIR", marks, {}).path is None
    assert "no ppcls" in examine_toolkit("PADDLECLAS_DIR", marks, {"PADDLECLAS_DIR": str(tmp_path)}).problem
    (tmp_path / "ppcls").mkdir()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").touch()
    assert examine_toolkit("PADDLECLAS_DIR", marks, {"PADDLECLAS_DIR": str(tmp_path)}).problem == ""


def test_limits_of_a_container_count(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n", encoding="ascii")
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{4 * GIB}\n", encoding="ascii")
    (group / "cpu.max").write_text("100000 100000\n", encoding="ascii")
    machine = read_machine(tmp_path)
    assert (machine.cores, machine.memory, machine.memory_available) == (1, 4 * GIB, 4 * GIB)
    (group / "memory.max").write_text("max\n", encoding="ascii")
    assert read_machine(tmp_path).memory == 16 * GIB


def test_machine_without_the_usual_files(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine.cores >= 1
    assert (machine.memory, machine.shared_memory, machine.shared_memory_advice) == (None, None, "")
    assert "unknown" in "\n".join(report_lines(sound_report(machine=machine)))


def test_little_shared_memory_brings_advice_but_no_refusal() -> None:
    docker = Machine(2, 8 * GIB, 6 * GIB, shared_memory=GIB // 16, shared_memory_free=GIB // 16)
    report = sound_report(machine=docker)
    assert "--shm-size" in "\n".join(report_lines(report))
    assert report.can_train


def test_command_line_agrees_with_its_json() -> None:
    command = [sys.executable, str(ROOT / "tools" / "doctor.py")]
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    as_text = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(as_json.stdout)
    assert as_json.returncode == as_text.returncode == (0 if report["can_train"] else 2)
    assert {entry["package"] for entry in report["packages"]} == {rule.package for rule in RULES}
    assert ("This machine can train" in as_text.stdout) is report["can_train"]


def test_works_where_nothing_is_installed() -> None:
    # -S leaves site-packages out: neither YAML nor numpy nor Paddle.
    result = subprocess.run(
        [sys.executable, "-S", str(ROOT / "tools" / "doctor.py")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr == ""
    assert "paddlepaddle: missing" in result.stdout
    assert "make setup" in result.stdout
