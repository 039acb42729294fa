"""Chooses which groups of frames go to validation: the wanted share of all frames and of each class."""

from __future__ import annotations

import numpy as np

# Starts of the search; the best end counts.
STARTS = 8
MOST_STEPS = 20_000


def choose_validation(counts: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Chooses groups so that validation holds ``fraction`` of the frames and, as far as possible, of each class.

    From several random starts one group at a time changes sides, always the one that helps most, until none helps.

    Args:
        counts: ``int64`` ``[G, 1 + K]``: for each group its frames and its boxes of each class.
        fraction: wanted share of validation, above 0 and below 1.
        seed: chooses the starts.

    Returns:
        ``bool`` ``[G]``: true for validation. Neither side is empty if there are at least two groups.
    """
    generator = np.random.default_rng(seed)
    used = counts[:, counts.sum(axis=0) > 0].astype(np.float64)
    best, best_cost = None, np.inf
    for _ in range(STARTS):
        chosen = generator.random(len(counts)) < fraction
        chosen, cost = _improve(used, chosen, fraction)
        if cost < best_cost - 1e-12:
            best, best_cost = chosen, cost
    return best


def _improve(counts: np.ndarray, chosen: np.ndarray, fraction: float) -> tuple[np.ndarray, float]:
    cost = float(_cost(counts[chosen].sum(axis=0)[None], counts, fraction)[0])
    for _ in range(MOST_STEPS):
        signs = np.where(chosen, -1.0, 1.0)[:, None]
        costs = _cost(counts[chosen].sum(axis=0) + signs * counts, counts, fraction)
        step = int(costs.argmin())
        if costs[step] >= cost - 1e-12:
            break
        chosen[step] = not chosen[step]
        cost = float(costs[step])
    return chosen, cost


def _cost(held: np.ndarray, counts: np.ndarray, fraction: float) -> np.ndarray:
    """Returns how far from wanted validation sets are that hold ``held`` ``[S, C]`` frames and boxes: ``[S]``."""
    total = counts.sum(axis=0)
    squares = (held / total - fraction) ** 2
    # The share of frames weighs as much as all classes together.
    cost = squares[:, 1:].sum(axis=1) + max(counts.shape[1] - 1, 1) * squares[:, 0]
    # A class that one side lacks although it comes in two groups costs more than any imbalance.
    divisible = (counts > 0).sum(axis=0) > 1
    lacking = ((held == 0) | (held == total)) & divisible
    return cost + lacking.sum(axis=1)
