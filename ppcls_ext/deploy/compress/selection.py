"""Which hidden channels stay. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppcls_ext.utils.errors import UserError, suggestion

CRITERIA = ("taylor", "magnitude")


def check_criterion(criterion: str) -> None:
    """Raises a UserError for a criterion that there is not."""
    if criterion not in CRITERIA:
        hint = suggestion(criterion, CRITERIA)
        raise UserError(f"--criterion: unknown '{criterion}'{hint}; allowed: {', '.join(CRITERIA)}")

def check_selection(ratio: Sequence[float], multiple: int, stages: int) -> None:
    """Checks what a user asked for.

    Raises:
        UserError: a ratio is not within [0, 1), their number is neither one nor that of stages, or the multiple is low.
    """
    if len(ratio) not in (1, stages):
        raise UserError(f"--ratio: must be one number, or {stages}, one for each stage, got {len(ratio)}")
    for number in ratio:
        if not 0 <= number < 1:
            raise UserError(f"--ratio: must be at least 0 and below 1, got {number:g}")
    if multiple < 1:
        raise UserError(f"--multiple: must be at least 1, got {multiple}")


def choose_channels(
    importance: Sequence[np.ndarray], stages: Sequence[int], ratio: Sequence[float], multiple: int = 8
) -> list[np.ndarray]:
    """Chooses the most important channels.

    Args:
        importance: of the channels of each block, comparable between the blocks that are ranked together.
        stages: the stage of each block.
        ratio: share of the channels to remove. One number ranks the channels of all blocks together, so that some
            blocks lose more than others; one number for each stage ranks those of each stage.
        multiple: the width of a block that loses channels is rounded to the nearest multiple, at least one, as the
            kernels of processors work on so many at a time. A ratio of 0 leaves a block as it is.

    Returns:
        For each block the numbers of the channels that stay, rising.

    Raises:
        UserError: see ``check_selection``.
    """
    check_selection(ratio, multiple, 1 + max(stages))
    shares = list(ratio) * (1 + max(stages)) if len(ratio) == 1 else list(ratio)
    # Blocks with the same key are ranked together.
    keys = [0] * len(stages) if len(ratio) == 1 else list(stages)
    chosen: list[np.ndarray] = [np.empty(0, int)] * len(stages)
    for key in dict.fromkeys(keys):
        blocks = [number for number, other in enumerate(keys) if other == key]
        lost = _lost_by_block([importance[number] for number in blocks], shares[stages[blocks[0]]])
        for number, count in zip(blocks, lost, strict=True):
            width = _rounded(len(importance[number]), count, multiple)
            # Stable, so that equal channels are chosen alike on every machine.
            best = np.argsort(-importance[number], kind="stable")[:width]
            chosen[number] = np.sort(best)
    return chosen


def _lost_by_block(importance: Sequence[np.ndarray], share: float) -> list[int]:
    """Returns how many channels each block has among the least important ``share`` of all."""
    owners = np.repeat(np.arange(len(importance)), [len(each) for each in importance])
    order = np.argsort(np.concatenate(importance), kind="stable")
    removed = owners[order[: int(share * len(order))]]
    return np.bincount(removed, minlength=len(importance)).tolist()


def _rounded(width: int, lost: int, multiple: int) -> int:
    if lost == 0:
        return width
    nearest = int((width - lost) / multiple + 0.5) * multiple
    return min(max(nearest, multiple), width)
