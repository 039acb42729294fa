"""What a machine has: cores, memory, shared memory. Linux; whatever cannot be read is None, never an error."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3
# Packages whose version decides how fast something runs.
MEASURED_PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "numpy", "opencv-python-headless", "pillow", "onnxruntime", "openvino",
    "paddle2onnx", "pycocotools", "faster-coco-eval",
)  # fmt: skip
# This trainer's workers share anonymous memory, but those of Paddle's own loader (PaddleClas, PaddleDetection) use
# /dev/shm. A batch of 64 images of 224 px is 37 MiB, and each worker prefetches two: below this, they die of SIGBUS.
ENOUGH_SHARED_MEMORY = GIB
SHARED_MEMORY_ADVICE = (
    "too little for the loader workers of PaddleClas and PaddleDetection (this trainer does not use it): "
    "start the container with --shm-size=8g or --ipc=host, or let them load with 0 workers"
)


@dataclass(frozen=True)
class Machine:
    """Resources of this computer (or container); sizes in bytes, None where unknown."""

    cores: int
    memory: int | None
    memory_available: int | None
    shared_memory: int | None
    shared_memory_free: int | None

    @property
    def shared_memory_advice(self) -> str:
        """One line on what to do about too little shared memory; empty when there is enough, or nothing known."""
        free = self.shared_memory_free
        return SHARED_MEMORY_ADVICE if free is not None and free < ENOUGH_SHARED_MEMORY else ""


def read_machine(root: Path = Path("/")) -> Machine:
    """Reads the resources.

    Args:
        root: folder that holds ``proc``, ``sys`` and ``dev``; another one than ``/`` is for tests.
    """
    sizes = _memory_sizes(root / "proc" / "meminfo")
    limit = _number(root / "sys" / "fs" / "cgroup" / "memory.max")
    total = _smallest(sizes.get("MemTotal"), limit)
    shared, shared_free = _file_system(root / "dev" / "shm")
    return Machine(
        cores=available_cores(root),
        memory=total,
        memory_available=_smallest(sizes.get("MemAvailable"), total),
        shared_memory=shared,
        shared_memory_free=shared_free,
    )


def available_cores(root: Path = Path("/")) -> int:
    """Returns the number of cores that this process may use: a container may have fewer than the machine.

    Args:
        root: folder that holds ``sys``; another one than ``/`` is for tests.
    """
    quota_file = root / "sys" / "fs" / "cgroup" / "cpu.max"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        # A container may be given a share of the cores: "150000 100000" is one core and a half.
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def processor_name() -> str:
    """Returns the processor's name as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_line() -> str:
    """Returns what figures were measured on: processor, cores that this process may use, versions of the packages."""
    parts = [processor_name(), f"{available_cores()} cores", f"Python {platform.python_version()}"]
    for package in MEASURED_PACKAGES:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


def _memory_sizes(path: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            number = value.split()[:1]
            if number and number[0].isdigit():
                sizes[name] = int(number[0]) * 1024
    except (OSError, UnicodeDecodeError):
        return {}
    return sizes


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _file_system(path: Path) -> tuple[int | None, int | None]:
    try:
        status = os.statvfs(path)
    except OSError:
        return None, None
    return status.f_frsize * status.f_blocks, status.f_frsize * status.f_bavail


def _smallest(*sizes: int | None) -> int | None:
    known = [size for size in sizes if size is not None]
    return min(known) if known else None


def rank_from_environment() -> tuple[int, int]:
    """Returns rank and number of processes as ``paddle.distributed.launch`` announces them; starts nothing."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0")), int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
