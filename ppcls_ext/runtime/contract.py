"""What an engine must offer to run an exported network."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Backend(Protocol):
    """Runs a network; constructed as ``Backend(description, threads, onednn)``."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """``float32`` ``[N, 3, H, W]`` -> logits ``float32`` ``[N, class_num]``."""
