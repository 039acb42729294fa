"""Opens data sets, for whoever needs one: mistakes become one line with the dotted key. Loads no Paddle."""

from __future__ import annotations

from typing import Any

from classification.config import Config, DataSettings
from classification.data.datasets import DATASETS, ImageDataset
from classification.data.errors import DatasetError
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
