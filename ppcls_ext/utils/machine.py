"""Resources of this computer or container (cores, memory, shared memory), of this process, and its rank."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 1024**3
# Limits of a container. psutil tells the whole machine's memory and cores, whatever the container may use of them.
CGROUP = Path("/sys/fs/cgroup")
# In version 2 and in version 1 of control groups: limit, memory in use, its parts and the beginning of their names.
CGROUP_MEMORY = (
    ("memory.max", "memory.current", "memory.stat", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
)
# A share of the cores: "150000 100000" is one core and a half.
CGROUP_CORES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
SHARED_MEMORY = Path("/dev/shm")
# Packages whose version decides how fast something runs.
MEASURED_PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "numpy", "opencv-python-headless", "pillow", "onnxruntime", "openvino",
    "paddle2onnx", "pycocotools", "faster-coco-eval",
)  # fmt: skip
# Those that a training uses beside them.
TRAINING_PACKAGES = (*MEASURED_PACKAGES, "paddleclas", "paddledet", "numba", "scipy")
# This trainer's workers share anonymous memory, but those of Paddle's own loader (PaddleClas, PaddleDetection) use
# /dev/shm. A batch of 64 images of 224 px is 37 MiB, and each worker prefetches two: below this, they die of SIGBUS.
ENOUGH_SHARED_MEMORY = GIB
SHARED_MEMORY_ADVICE = (
    "too little for the loader workers of PaddleClas and PaddleDetection (this trainer does not use it): "
    "start the container with --shm-size=8g or --ipc=host, or let them load with 0 workers"
)


@dataclass(frozen=True)
class Machine:
    """Resources that this process may use; sizes in bytes, None where there is no shared memory."""

    cores: int
    memory: int
    memory_available: int
    shared_memory: int | None = None
    shared_memory_free: int | None = None

    @property
    def shared_memory_advice(self) -> str:
        """One line on what to do about too little shared memory; empty when there is enough, or nothing known."""
        free = self.shared_memory_free
        return SHARED_MEMORY_ADVICE if free is not None and free < ENOUGH_SHARED_MEMORY else ""


def read_machine() -> Machine:
    """Reads the resources, within the limits of the container."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for most, used, parts, beginning in CGROUP_MEMORY:
        with contextlib.suppress(OSError, ValueError):  # No container, or no limit ("max").
            limit = int(_of_container(most))
            total, available = min(total, limit), min(available, limit)
            # Files that are kept in memory make way for whatever needs it.
            sizes = dict(line.split() for line in _of_container(parts).splitlines())
            cached = sum(int(sizes.get(f"{beginning}{part}_file", 0)) for part in ("active", "inactive"))
            available = max(min(available, limit - int(_of_container(used)) + cached), 0)
    shared = psutil.disk_usage(str(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else None
    return Machine(
        cores=available_cores(),
        memory=total,
        memory_available=available,
        shared_memory=None if shared is None else shared.total,
        shared_memory_free=None if shared is None else shared.free,
    )


def available_cores() -> int:
    """Returns the number of cores that this process may use: a container may have fewer than the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in CGROUP_CORES:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # No container, or no limit ("max").
            quota, period = map(int, " ".join(map(_of_container, files)).split())
            # Version 1 writes -1 for no limit.
            cores = min(cores, max(1, quota // period)) if quota > 0 else cores
    return cores


def _of_container(file: str) -> str:
    return (CGROUP / file).read_text(encoding="ascii")


def processor_name() -> str:
    """Returns the processor's name as the system knows it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def computed_on() -> str:
    """Returns what this process computes on: processor, cores that it may use, and threads that it was told to use."""
    threads = os.environ.get("OMP_NUM_THREADS") or available_cores()
    return f"{processor_name()}, cores: {available_cores()}, threads: {threads}"


def package_versions(packages: Sequence[str] = MEASURED_PACKAGES) -> dict[str, str]:
    """Returns the versions of Python and of those ``packages`` that are installed."""
    versions = {"Python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def machine_line() -> str:
    """Returns what figures were measured on: processor, cores that this process may use, versions of the packages."""
    versions = (f"{package} {version}" for package, version in package_versions().items())
    return ", ".join([processor_name(), f"{available_cores()} cores", *versions])


def source_version() -> dict[str, Any] | None:
    """Returns the ``commit`` of the checkout that this code stands in, and whether files were ``changed`` since.

    ``None`` where there is none (an installed package), or no git.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def memory_in_use() -> float:
    """Returns the memory that this process holds now, in MB."""
    import psutil

    return psutil.Process().memory_info().rss / 1e6


def peak_memory() -> float:
    """Returns the most memory that this process has held, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def rank_from_environment() -> tuple[int, int]:
    """Returns rank and number of processes as ``paddle.distributed.launch`` announces them; starts nothing."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0")), int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
