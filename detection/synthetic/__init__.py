"""Synthetic frames of a forward-looking sonar, with exact boxes, for the quickstart and for tests."""

from __future__ import annotations

from detection.synthetic.dataset import write_synthetic
from detection.synthetic.scene import SyntheticFrame, synthetic_frame
from detection.synthetic.targets import CLASSES

__all__ = ["CLASSES", "SyntheticFrame", "synthetic_frame", "write_synthetic"]
