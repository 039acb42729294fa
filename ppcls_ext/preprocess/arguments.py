"""Arguments of image operators that several of them take."""

from __future__ import annotations

LARGEST_INTERPOLATION = 4
LARGEST_BYTE = 255


def height_and_width(size: int | list[int], argument: str) -> tuple[int, int]:
    """Returns height and width of a size that may be the side of a square; raises ``ValueError`` on anything else."""
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or any(number < 1 for number in pair):
        raise ValueError(f"{argument}: must be a positive number of pixels or [height, width], got {size}")
    return pair[0], pair[1]


def three_numbers(values: list[float], argument: str) -> list[float]:
    """Returns three numbers as ``float``; raises ``ValueError`` if there are not three."""
    if len(values) != 3:
        raise ValueError(f"{argument}: must be three numbers, got {values}")
    return [float(value) for value in values]


def colour(values: list[int] | None, argument: str, default: int) -> tuple[int, int, int]:
    """Returns a colour of three bytes, ``default`` thrice for ``None``; raises ``ValueError`` if it is none."""
    chosen = [default] * 3 if values is None else list(values)
    if len(chosen) != 3 or any(int(value) != value or not 0 <= value <= LARGEST_BYTE for value in chosen):
        raise ValueError(f"{argument}: must be three whole numbers from 0 to {LARGEST_BYTE}, got {values}")
    return int(chosen[0]), int(chosen[1]), int(chosen[2])


def interpolation(number: int) -> int:
    """Returns the number of an interpolation of OpenCV's that resizes; raises ``ValueError`` on any other."""
    if not 0 <= number <= LARGEST_INTERPOLATION:
        raise ValueError(f"interp: must be from 0 to {LARGEST_INTERPOLATION}, got {number}")
    return number
