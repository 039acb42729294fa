"""What a container may use, from made files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppcls_ext.utils import machine
from ppcls_ext.utils.machine import available_cores, memory_in_use, peak_memory, read_machine


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2}, raising=False)
    return tmp_path


def test_cores_keep_to_the_quota(container: Path) -> None:
    for quota, cores in (("150000 100000", 1), ("50000 100000", 1), ("900000 100000", 3), ("max 100000", 3), ("", 3)):
        (container / "cpu.max").write_text(quota)
        assert available_cores() == read_machine().cores == cores
    (container / "cpu.max").unlink()
    (container / "cpu").mkdir()
    (container / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in ((150000, 1), (200000, 2), (-1, 3)):
        (container / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert available_cores() == cores


def test_memory_keeps_to_the_limit(container: Path) -> None:
    whole = read_machine()
    assert 0 < whole.memory_available <= whole.memory
    assert 10 < memory_in_use() <= 1.01 * peak_memory()
    (container / "memory.max").write_text("max\n")
    assert read_machine().memory == whole.memory
    (container / "memory.max").write_text("1000\n")
    assert (read_machine().memory, read_machine().memory_available) == (1000, 1000)
    # Files that are cached make way.
    (container / "memory.current").write_text("900\n")
    (container / "memory.stat").write_text("anon 600\ninactive_file 200\nactive_file 100\n")
    assert read_machine().memory_available == 400
    (container / "memory.max").unlink()
    (container / "memory").mkdir()
    for name, text in (("limit_in_bytes", "2000"), ("usage_in_bytes", "1900"), ("stat", "total_inactive_file 500")):
        (container / "memory" / f"memory.{name}").write_text(text)
    assert (read_machine().memory, read_machine().memory_available) == (2000, 600)


def test_no_shared_memory_is_no_error(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", container / "shm")
    assert (read_machine().shared_memory, read_machine().shared_memory_advice) == (None, "")
