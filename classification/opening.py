"""Opens data sets: mistakes become one line with the dotted key. Compares the class names of different places."""

from __future__ import annotations

from typing import Any

from classification.config import Config, DataSettings
from classification.data.datasets import DATASETS, DatasetError, ImageDataset
from ppcls_ext.utils.errors import UserError

NO_DATA_HINT = "configs/quickstart.yaml trains without any download"


class UnavailableDataError(UserError):
    """A data set that is missing, empty or malformed; ``reason`` is the message without place and advice."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def open_dataset(config: Config, settings: DataSettings) -> ImageDataset:
    """Opens a data set; each line about a mistake begins with the place in the file and the dotted key.

    Raises:
        UnavailableDataError: it is missing, empty or malformed.
        UserError: an argument is out of range.
    """
    key = f"{settings.key}.dataset"
    try:
        return DATASETS[settings.dataset](**settings.dataset_arguments)
    except DatasetError as error:
        message = f"{error.message}; {NO_DATA_HINT}" if "does not exist" in error.message else error.message
        problem = config.document.problem(f"{key}.{error.argument}", message)
        raise UnavailableDataError(problem, error.message) from error
    except ValueError as error:
        raise UserError(refusal(config, key, settings.dataset_arguments, error)) from error


def refusal(config: Config, key: str, arguments: dict[str, Any], error: ValueError | AssertionError) -> str:
    """Returns the line about a constructor's error, which may begin with an argument's name."""
    name, separator, message = str(error).partition(": ")
    if separator and name in arguments:
        return config.document.problem(f"{key}.{name}", message)
    return config.document.problem(key, str(error) or f"these values are refused: {arguments}")


def check_same_classes(names: list[str] | None, place: str, others: list[str] | None, other_place: str) -> None:
    """Compares two lists of class names, where both are known.

    Args:
        names: class names by label at ``place``, or ``None`` where they are not known.
        place: what the message calls the first place, such as ``DataLoader.Train.dataset``.
        others: class names by label at ``other_place``.
        other_place: what it calls the second.

    Raises:
        UserError: they differ; the message names the first label that means something else.
    """
    if not names or not others or names == others:
        return
    for label in range(max(len(names), len(others))):
        name, other = (_name_at(known, label) for known in (names, others))
        if name != other:
            raise UserError(f"{other_place} and {place} name different classes: label {label} is {other} and {name}")


def _name_at(names: list[str], label: int) -> str:
    return f"'{names[label]}'" if label < len(names) else "nothing"
