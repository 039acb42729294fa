"""A classifier and a detector, exported once and served on free ports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ppcls_ext.deploy.serve import DemoServer
from tests.support.serving import export_colours, export_tiny_detector, serving


@pytest.fixture(scope="package")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a classifier that names the strongest colour."""
    return export_colours(tmp_path_factory.mktemp("colours") / "export")


@pytest.fixture(scope="package")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a detector that finds something in the frames beside it (``../frames``)."""
    return export_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="package")
def colour_server(colours: Path) -> Iterator[DemoServer]:
    """Serves the classifier; pictures of 1 MB and of 1 megapixel at most."""
    with serving(colours, megabytes=1.0, megapixels=1.0) as server:
        yield server


@pytest.fixture(scope="package")
def detector_server(detector: Path) -> Iterator[DemoServer]:
    """Serves the detector."""
    with serving(detector) as server:
        yield server
