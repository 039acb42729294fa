"""Opens the data sets of a configuration; what keeps one from being opened is a finding too."""

from __future__ import annotations

from pathlib import Path

from classification.config import Config, DataSettings
from classification.data.datasets import DATASETS, ImageDataset, ImageFolder
from classification.opening import UnavailableDataError, open_dataset
from ppcls_ext.check.findings import PART_WORDS, Entry, Finding, Severity
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import images_in


def sections_of(config: Config) -> dict[str, DataSettings]:
    """Returns the sections of ``DataLoader`` that are there, ``Train`` before ``Eval``.

    Raises:
        UserError: there is neither.
    """
    sections = {"Train": config.train, "Eval": config.eval}
    present = {part: settings for part, settings in sections.items() if settings is not None}
    if not present:
        raise UserError(f"{config.document.path}: has neither DataLoader.Train nor DataLoader.Eval: nothing to check")
    return present


def open_datasets(config: Config) -> tuple[dict[str, ImageDataset], list[Finding]]:
    """Opens what can be opened.

    Returns:
        The data sets by section, and a finding for each section that cannot be opened.

    Raises:
        UserError: the configuration names no data set, or an argument is out of range.
    """
    datasets: dict[str, ImageDataset] = {}
    findings = []
    for part, settings in sections_of(config).items():
        try:
            datasets[part] = open_dataset(config, settings)
        except UnavailableDataError as error:
            findings.append(_unopened(part, settings, str(error)))
    return datasets, findings


def _unopened(part: str, settings: DataSettings, message: str) -> Finding:
    empty = _empty_class_folders(settings)
    if empty:
        words = "class folder" if len(empty) == 1 else "class folders"
        summary = f"{len(empty)} {words} without images; the {PART_WORDS[part]} set was not examined further"
        return Finding(
            f"empty_folder_{PART_WORDS[part]}", Severity.ERROR, summary, [Entry(note=name) for name in empty]
        )
    summary = f"1 data set cannot be opened, so {PART_WORDS[part]} was not examined"
    return Finding(f"unopened_{PART_WORDS[part]}", Severity.ERROR, summary, [Entry(note=message)])


def _empty_class_folders(settings: DataSettings) -> list[str]:
    """Returns all class folders without images: the data set itself stops at the first."""
    root = Path(settings.dataset_arguments.get("image_root", ""))
    if DATASETS[settings.dataset] is not ImageFolder or not root.is_dir():
        return []
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [str(folder) for folder in folders if not images_in(folder)]
