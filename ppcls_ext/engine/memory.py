"""Memory of this process."""

from __future__ import annotations

import resource


def peak_memory() -> float:
    """Returns the most memory that this process has held, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def memory_in_use() -> float:
    """Returns the memory that this process holds now, in MB."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        pages = int(stream.read().split()[1])
    return pages * resource.getpagesize() / 1e6
