"""What holds for every test."""

from __future__ import annotations

import ctypes
import logging
import signal
from collections.abc import Iterator

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


class SignalStack(ctypes.Structure):
    """``stack_t`` of ``sigaltstack(2)``."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Lets a test raise SIGINT in its own process, whatever ran there earlier and however the tests were started.

    OpenVINO gives a thread another stack for signal handlers, which another thread may free; a shell starts what runs
    in the background with SIGINT ignored.
    """
    disabled = SignalStack(None, 2, 0)
    assert ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None) == 0
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
