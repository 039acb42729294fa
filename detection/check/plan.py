"""What a configuration says about its data, as far as a check wants to know it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.check.boxes import EvaluationSize
from detection.configuration import DetectionConfig
from ppcls_ext.check.findings import PART_WORDS
from ppcls_ext.preprocess.sonar import SonarEnhance, enhancement_of
from ppcls_ext.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class SetFiles:
    """Where a set lies.

    Attributes:
        folder: the folder that the file names in the annotations start from.
        annotations: the COCO annotation file.
        keeps_empty: whether images without boxes are used.
    """

    folder: Path
    annotations: Path
    keeps_empty: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be checked.

    Attributes:
        name: the configuration, as it is shown.
        sets: ``Train`` before ``Eval``, at least one of them.
        num_classes: outputs of the model.
        evaluation_size: the size that images have at the evaluation; ``None`` where the configuration sets none.
        enhance: raises the contrast of sonar frames; ``None`` shows images as they are.
    """

    name: str
    sets: Mapping[str, SetFiles]
    num_classes: int | None = None
    evaluation_size: EvaluationSize | None = None
    enhance: SonarEnhance | None = None


def plan_of(config: DetectionConfig) -> Plan:
    """Returns what is to be checked.

    Raises:
        UserError: the configuration names no annotation file for training or validation.
    """
    files = config.datasets
    sets = {}
    for part in PART_WORDS:
        annotations = files[part].annotations if part in files else None
        if annotations is not None:
            keeps_empty = bool(config.data[f"{part}Dataset"].get("allow_empty", False))
            sets[part] = SetFiles(files[part].image_dir, annotations, keeps_empty)
    if not sets:
        names = " nor ".join(f"{part}Dataset.anno_path" for part in PART_WORDS)
        raise UserError(f"{config.path}: has neither {names}: nothing to check")
    readers = [config.data.get(f"{part}Reader") or {} for part in ("Eval", "Train")]
    enhance = next(filter(None, (enhancement_of(reader.get("sample_transforms")) for reader in readers)), None)
    return Plan(str(config.path), sets, config.data.get("num_classes"), evaluation_size(config.data), enhance)


def evaluation_size(data: Mapping[str, Any]) -> EvaluationSize | None:
    """Returns the size to which the last resizing operator of ``EvalReader`` brings images."""
    reader = data.get("EvalReader") or {}
    steps = [*(reader.get("sample_transforms") or []), *(reader.get("batch_transforms") or [])]
    found = None
    for step in steps:
        for name, arguments in step.items() if isinstance(step, dict) else ():
            size = arguments.get("target_size") if isinstance(arguments, dict) else None
            if isinstance(size, int):
                size = [size, size]
            if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
                # A letterbox keeps the ratio by its nature; Resize does so unless it is told otherwise.
                keep_ratio = "Letter" in name or bool(arguments.get("keep_ratio", True))
                found = EvaluationSize(size[1], size[0], keep_ratio)
    return found
