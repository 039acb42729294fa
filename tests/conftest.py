"""What holds for every test."""

from __future__ import annotations

import logging

import pytest

from ppcls_ext.utils.log import PACKAGES


@pytest.fixture(autouse=True)
def fresh_logging() -> None:
    """Takes away what a tool set up that ran earlier in this process: ``caplog`` and standard output hear it, too."""
    for name in PACKAGES:
        package = logging.getLogger(name)
        for handler in package.handlers[:]:
            package.removeHandler(handler)
            handler.close()
        package.propagate = True
        package.setLevel(logging.NOTSET)
