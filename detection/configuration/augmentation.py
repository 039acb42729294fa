"""What belongs together in the readers of a detection configuration: a mosaic and its epochs, letterbox and YOLOv10."""

from __future__ import annotations

from typing import Any

from ppcls_ext.utils.config import Problems

MOSAICS = ("MosaicPerspective", "Mosaic")
# They move pictures and leave nothing that takes boxes back.
_TRAINING_ONLY = ("MosaicPerspective", "RandomPerspective")
_LETTERBOX = "LetterResize"
_BEHIND_NO_LETTERBOX = ("Resize", "Pad", "LetterResize")
# Architectures that take the padding of a letterbox back from what they find.
_KNOW_PADDING = ("YOLOv10",)
_NEVER = -1


def check_augmentation(data: dict[str, Any], problems: Problems) -> None:
    """Notes operators that would do nothing, or after which boxes would lie elsewhere without anything failing."""
    _check_mosaic(data, problems)
    architecture = data.get("architecture")
    for reader in ("EvalReader", "TestReader"):
        key = f"{reader}.sample_transforms"
        names = _operators(data, reader)
        for number, name in enumerate(names):
            if name in _TRAINING_ONLY:
                problems.add(f"{key}[{number}]", f"{name} belongs to TrainReader: boxes could not be taken back")
            if name in _BEHIND_NO_LETTERBOX and _LETTERBOX in names[:number]:
                problems.add(f"{key}[{number}]", f"{name} cannot follow {_LETTERBOX}, which gives the final size")
            if name == _LETTERBOX and architecture not in _KNOW_PADDING:
                message = f"{_LETTERBOX} needs architecture: {' or '.join(_KNOW_PADDING)}, which takes its padding back"
                problems.add(f"{key}[{number}]", f"{message}; {architecture} does not")


def _check_mosaic(data: dict[str, Any], problems: Problems) -> None:
    section = data.get("TrainReader")
    if not isinstance(section, dict):
        return
    names = _operators(data, "TrainReader")
    epoch = section.get("mosaic_epoch")
    key = "TrainReader.mosaic_epoch"
    if epoch is None:
        if MOSAICS[0] in names:
            problems.add(
                f"TrainReader.sample_transforms[{names.index(MOSAICS[0])}]",
                f"{MOSAICS[0]} gets one sample only: set {key}, the epoch from which it is off ({_NEVER}: always)",
            )
    elif isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < _NEVER:
        problems.add(key, f"must be an epoch, 0 for mosaics to the end or {_NEVER} for none, got {epoch!r}")
    elif epoch != _NEVER and not any(name in names for name in MOSAICS):
        problems.add(key, f"needs {MOSAICS[0]} in TrainReader.sample_transforms, which makes one image of several")


def _operators(data: dict[str, Any], reader: str) -> list[str]:
    """Returns the names of a reader's operators of single images, ``""`` for entries that are none."""
    section = data.get(reader)
    entries = section.get("sample_transforms") if isinstance(section, dict) else None
    return [next(iter(entry), "") if isinstance(entry, dict) else "" for entry in entries or []]
