"""How much a visitor may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from ppcls_ext.utils.errors import UserError

# Pillow itself refuses pictures of twice 2**30 / 4 / 3 pixels; a larger limit would promise what it does not keep.
LARGEST_MEGAPIXELS = 170


@dataclass(frozen=True)
class Limits:
    """What the server accepts; anything above is refused, not shortened.

    Attributes:
        megabytes: size of a picture's file, in units of 1,000,000 bytes.
        megapixels: width times height of a picture, read from its header before anything is decoded.
        uploads: requests whose pictures are in memory at a time; others wait.
        patience: seconds that a request waits for such a place before it is turned away.
        upload_seconds: time for sending a picture.
        connections: open at a time; more are turned away.
    """

    megabytes: float = 20.0
    megapixels: float = 50.0
    uploads: int = 8
    patience: float = 20.0
    upload_seconds: float = 60.0
    connections: int = 64

    def __post_init__(self) -> None:
        """Checks the values that a person sets.

        Raises:
            UserError: a limit is not positive, or larger than the decoder's own.
        """
        if not 0 < self.megabytes <= 1000:
            raise UserError(f"--max-megabytes must be above 0 and at most 1000, got {self.megabytes:g}")
        if not 0 < self.megapixels <= LARGEST_MEGAPIXELS:
            raise UserError(
                f"--max-megapixels must be above 0 and at most {LARGEST_MEGAPIXELS}, got {self.megapixels:g}"
            )

    @property
    def bytes(self) -> int:
        """Bytes of a picture's file at most."""
        return round(self.megabytes * 1e6)

    @property
    def pixels(self) -> int:
        """Pixels of a picture at most."""
        return round(self.megapixels * 1e6)
