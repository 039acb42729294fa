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


def test_memory_keeps_to_the_limit(container: Path) -> None:
    whole = read_machine()
    assert 0 < whole.memory_available <= whole.memory
    assert 10 < memory_in_use() <= 1.01 * peak_memory()
    (container / "memory.max").write_text("max\n")
    assert read_machine().memory == whole.memory
    (container / "memory.max").write_text("1000\n")
    assert (read_machine().memory, read_machine().memory_available) == (1000, 1000)


def test_no_shared_memory_is_no_error(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", container / "shm")
    assert (read_machine().shared_memory, read_machine().shared_memory_advice) == (None, "")
