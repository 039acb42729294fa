"""Whether sonar frames are enhanced alike wherever a configuration prepares them."""

from __future__ import annotations

import logging
from typing import Any

from detection.configuration.settings import DetectionConfig

logger = logging.getLogger(__name__)

OPERATOR = "SonarEnhance"


def warn_of_other_contrast(config: DetectionConfig, part: str) -> None:
    """Warns if ``part`` enhances sonar frames otherwise than training: nothing would fail, but little be found.

    Args:
        config: the configuration.
        part: ``Eval`` or ``Test``.
    """
    train, other = _enhancements(config, "Train"), _enhancements(config, part)
    if train is not None and other is not None and train != other:
        logger.warning(
            "%s: SonarEnhance differs: TrainReader has %s, %sReader has %s",
            config.path, train or "none", part, other or "none",
        )  # fmt: skip


def _enhancements(config: DetectionConfig, part: str) -> list[dict[str, Any]] | None:
    """Returns the arguments of the operator in a reader, ``[]`` if it has none; ``None`` if there are no transforms."""
    section = config.data.get(f"{part}Reader")
    steps = section.get("sample_transforms") if isinstance(section, dict) else None
    if not isinstance(steps, list):
        return None
    return [step[OPERATOR] or {} for step in steps if isinstance(step, dict) and OPERATOR in step]
