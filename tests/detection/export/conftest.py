"""One tiny detector for all tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.detectors import draw_frames, make_lively, tiny_config


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Frames of several sizes."""
    return draw_frames(tmp_path_factory.mktemp("frames"), [(100, 80), (64, 64), (200, 120)])


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny configuration, without its data."""
    from detection.configuration import load_config

    return load_config(tiny_config(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="session")
def model(config: Any) -> Any:
    """The detector of ``config``."""
    import paddle

    from detection.toolkit import build_model

    paddle.seed(0)
    network = build_model(config)
    make_lively(network)
    return network
