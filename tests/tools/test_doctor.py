"""tools/doctor.py: what it accepts and refuses, and what it says on machines where things are missing or broken."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.utils import doctor
from ppcls_ext.utils.machine import GIB, Machine

TOOL = Path(__file__).resolve().parents[2] / "tools" / "doctor.py"
WORKING = {"problem": "", "version": "3.2.2", "built_for_gpu": False, "gpus": 0, "device": "cpu"}


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Examines a machine on which everything is as the lock files want it, with some changes."""
    def with_changes(paddle: dict[str, Any] = WORKING, python: str = "3.11.7", memory: int = 4 * GIB,
                     environment: dict[str, str] | None = None, **versions: str | None) -> dict[str, Any]:  # fmt: skip
        changed = {name.replace("_", "-"): version for name, version in versions.items()}
        locked = {requirement.name: doctor.locked(requirement.name).partition("==")[2]
                  for requirement, *_ in doctor.requirements()}  # fmt: skip
        monkeypatch.setattr(doctor, "installed_version", {**locked, **changed}.get)
        monkeypatch.setattr(doctor, "examine_paddle", lambda: paddle)
        monkeypatch.setattr(doctor, "read_machine", lambda: Machine(2, 8 * GIB, 6 * GIB, memory, memory))
        monkeypatch.setattr(doctor.platform, "python_version", lambda: python)
        return doctor.examine(environment or {})

    return with_changes


def test_a_sound_machine_can_train(examine: Any) -> None:
    report = examine()
    assert report["can_train"] and {each["state"] for each in report["packages"]} == {"ok"}
    text = doctor.report_text(report)
    assert text.endswith("This machine can train, on the CPU.")
    assert "mend" not in text and "REFUSED" not in text
    by_name = {each["package"]: each for each in report["packages"]}
    assert by_name["numpy"]["reason"].startswith("with numpy 2, paddle.flops")
    needed = {name: (each["needed_for"], each["required"]) for name, each in by_name.items()}
    assert needed["numpy"] == ("prediction", True) and needed["rich"] == ("training", True)
    assert needed["pandas"] == ("detection", False) and needed["onnx"] == ("deployment", False)


def test_versions_that_the_design_refuses(examine: Any) -> None:
    for package, version in (("paddlepaddle", "3.2.20"), ("numpy", "2.0.0rc1"), ("pandas", "3.0")):
        report = examine(**{package: version})
        (finding,) = [each for each in report["packages"] if each["state"] != "ok"]
        text = doctor.report_text(report)
        assert f"{package} {version} is refused" in text and finding["reason"] in text
        assert f"mend: python -m pip install --no-deps {package}==" in text
        assert report["can_train"] == (package == "pandas")


def test_two_packages_that_write_the_same_files_are_told(examine: Any) -> None:
    report = examine(opencv_python="4.11.0.86")
    text = doctor.report_text(report)
    assert report["can_train"] and "DOUBLED" in text
    assert "opencv-python-headless and opencv-python write the same files: keep one of them" in text
    assert "mend: python -m pip uninstall opencv-python; python -m pip install --no-deps --force-reinstall ope" in text


def test_only_what_training_needs_decides_whether_it_can_train(examine: Any) -> None:
    report = examine(onnx=None, memory=GIB // 16)
    text = doctor.report_text(report)
    assert report["can_train"]
    assert "optional, for deployment: python -m pip install --no-deps -r requirements-deploy.lock" in text
    assert "--shm-size" in text
    assert examine(rich=None)["problems"] == ["rich: missing"]
    assert not examine(python="3.13.0")["can_train"]
    assert not examine(paddle={**WORKING, "problem": "does not load", "device": None})["can_train"]


def test_gpu_build_of_paddle_and_the_device_that_training_would_use(examine: Any) -> None:
    two = examine(
        paddle={**WORKING, "built_for_gpu": True, "gpus": 2, "device": "gpu"}, paddlepaddle=None,
        paddlepaddle_gpu="3.2.2.post126",
    )  # fmt: skip
    text = doctor.report_text(two)
    assert two["can_train"] and "paddlepaddle-gpu        3.2.2.post126" in text and "device         gpu (2)" in text
    assert "no GPU answers" in doctor.report_text(examine(paddle={**WORKING, "built_for_gpu": True}))


def test_paddle_that_does_not_load_is_reported(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    for paddle, seconds, problem in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", 60, "SIGILL (the wheel needs a processor with AVX)"),
        ("import time; time.sleep(60)", 1, "did not load within 1 s"),
    ):
        (tmp_path / "paddle.py").write_text(paddle, encoding="utf-8")
        finding = doctor.examine_paddle(str(python), timeout=seconds)
        assert problem in finding["problem"] and finding["device"] is None


def test_command_line_agrees_with_its_json() -> None:
    as_json = subprocess.run([sys.executable, TOOL, "--json"], capture_output=True, text=True, check=False)
    report = json.loads(as_json.stdout)
    assert as_json.returncode == (0 if report["can_train"] else 2)
    assert report["paddle"]["problem"] == "" and report["paddle"]["device"] in ("cpu", "gpu")


def test_works_in_an_environment_that_holds_only_pip(tmp_path: Path) -> None:
    (tmp_path / "pip").symlink_to(importlib.metadata.distribution("pip").locate_file("pip"))
    command = f"import sys, runpy; sys.path.append({str(tmp_path)!r}); sys.argv = ['doctor.py']; "
    command += f"runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-S", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "")
    assert "paddlepaddle: missing" in result.stdout and "make setup" in result.stdout
