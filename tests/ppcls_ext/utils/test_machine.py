"""What a container may use, from made files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppcls_ext.runtime import backends
from ppcls_ext.utils.machine import available_cores, read_machine


def container(root: Path, cpu: str, memory: str) -> Path:
    group = root / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(cpu)
    (group / "memory.max").write_text(memory)
    (root / "proc").mkdir()
    (root / "proc" / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 6000 kB\n")
    return root


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1), ("50000 100000", 1), ("900000 100000", 3)])
def test_cores_keep_to_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2}, raising=False)
    root = container(tmp_path, quota, "max")
    assert available_cores(root) == cores
    assert read_machine(root).cores == cores


@pytest.mark.parametrize("quota", ["max 100000", "", "nonsense"])
def test_cores_without_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2}, raising=False)
    assert available_cores(container(tmp_path, quota, "max")) == 3


@pytest.mark.parametrize(("limit", "available"), [("max", 6000 * 1024), (str(1000 * 1024), 1000 * 1024)])
def test_memory_keeps_to_the_limit(tmp_path: Path, limit: str, available: int) -> None:
    assert read_machine(container(tmp_path, "max 100000", limit)).memory_available == available


def test_the_runtime_takes_its_threads_from_here() -> None:
    assert backends.available_cores is available_cores
