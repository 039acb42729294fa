"""Latency of several networks, measured by turns: what else a machine does then slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 3


def latency_by_turns(
    networks: Mapping[str, Callable[[], object]], rounds: int = 15, runs: int = 4
) -> dict[str, dict[str, float]]:
    """Times each network ``rounds`` times ``runs`` runs, the networks by turns.

    Returns:
        By name ``median_ms`` and ``p90_ms``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(rounds + 1):
        for name, run in networks.items():
            # The first turn warms up; in the others the first run refills the caches that the one before took.
            for number in range(WARM_UP if turn == 0 else runs + 1):
                start = time.perf_counter()
                run()
                if turn and number:
                    seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "median_ms": 1000 * statistics.median(values),
            "p90_ms": 1000 * statistics.quantiles(values, n=10)[-1],
        }
        for name, values in seconds.items()
    }
