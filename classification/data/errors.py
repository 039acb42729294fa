"""Mistakes in a data set that the user can mend."""

from __future__ import annotations

from ppcls_ext.utils.errors import UserError


class DatasetError(UserError):
    """A data set that is missing, empty or malformed.

    Args:
        argument: name of the constructor argument that led there, for example ``image_root``; the caller puts the
            dotted path of the configuration before it.
        message: what is wrong, one line.
    """

    def __init__(self, argument: str, message: str) -> None:
        self.argument = argument
        self.message = message
        super().__init__(f"{argument}: {message}")

    def __reduce__(self) -> tuple[type[DatasetError], tuple[str, str]]:
        return type(self), (self.argument, self.message)
