"""Checks every section of a detection configuration; all problems are reported together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from detection.configuration.augmentation import check_augmentation
from detection.configuration.catalog import Catalog, find_catalog
from detection.configuration.keys import KEYS, REQUIRED_SECTIONS, check_keys
from detection.configuration.modules import Checker
from detection.configuration.optimizers import check_learning_rate, check_optimizer
from detection.configuration.readers import check_dataset, check_reader
from detection.configuration.yolov10 import check_yolov10
from ppcls_ext.utils.config import Document, Problems
from ppcls_ext.utils.errors import suggestion

_ANCHORED = re.compile(r"^(\w+)\s*:\s+&\w", re.MULTILINE)


def check_document(document: Document) -> None:
    """Checks keys, sections, operators, optimizer and what is missing.

    Raises:
        ConfigError: all that is wrong, one line each.
        UserError: there is no PaddleDetection to look at.
    """
    problems = Problems(document)
    catalog = find_catalog()
    checker = Checker(catalog, problems)
    check_keys(document.data, problems)
    check_yolov10(document.data, problems)
    check_augmentation(document.data, problems)
    unknown = []
    for name, value in document.data.items():
        if name in catalog.modules:
            _check_section(checker, name, value)
        elif name not in KEYS and name not in catalog.keys:
            unknown.append(name)
    helpers = _anchored_keys(document) if unknown else set()
    for name in unknown:
        if name not in helpers:
            problems.add("", f"unknown key '{name}'{suggestion(str(name), _known_names(catalog))}")
    architecture = document.data.get("architecture")
    if isinstance(architecture, str) and architecture not in catalog.modules:
        problems.add("architecture", f"unknown class '{architecture}'{suggestion(architecture, catalog.modules)}")
    problems.raise_any()


def _check_section(checker: Checker, name: str, value: Any) -> None:
    file = checker.catalog.modules[name]
    if name == "LearningRate":
        check_learning_rate(checker, value)
    elif name == "OptimizerBuilder":
        check_optimizer(checker, value)
    elif file == checker.catalog.folder / "data" / "reader.py":
        check_reader(checker, name, value)
    elif file == checker.catalog.folder / "data" / "source" / "dataset.py":
        check_dataset(checker, name, value)
    else:
        checker.check_section(name, name, value)


def _known_names(catalog: Catalog) -> list[str]:
    """Returns what may stand at the top, the usual first: of two names that resemble a mistake, the first is named."""
    return list(dict.fromkeys([*KEYS, *REQUIRED_SECTIONS, *catalog.modules, *sorted(catalog.keys)]))


def _anchored_keys(document: Document) -> set[str]:
    """Returns top-level keys that exist for their YAML anchor (``eval_size: &eval_size [640, 640]``)."""
    files = {line.rpartition(":")[0] for line in document.lines.values()}
    texts = [Path(name).read_text(encoding="utf-8") for name in sorted(files) if name and Path(name).is_file()]
    return {name for text in texts for name in _ANCHORED.findall(text)}
