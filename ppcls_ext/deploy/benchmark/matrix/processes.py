"""Processes that answer over pipes: with a time limit, and with the reason when they die."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[4]
# Libraries print notes of their own: the marker tells answers from them.
MARKER = b"ANSWER "
LONGEST_REASON = 400


class AnsweringProcess:
    """A module of ours that runs as a process of its own.

    Args:
        module: its full name; it writes each answer as a line of JSON after ``ANSWER``.
        arguments: of its command line.
        environment: is added to this process's.
    """

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._notes = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._notes,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": search_path, **(environment or {})},
        )
        self._waiting = b""

    def ask(self, question: str, seconds: float) -> Any:
        """Sends one line and returns the answer; see ``answer``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{question}\n".encode())
        except BrokenPipeError:
            raise UserError(self._death()) from None
        return self.answer(seconds)

    def answer(self, seconds: float) -> Any:
        """Waits for the next answer.

        Raises:
            UserError: the process died, says that it cannot go on, or is silent for ``seconds``.
        """
        until = time.monotonic() + seconds
        while True:
            line, separator, rest = self._waiting.partition(b"\n")
            if separator:
                self._waiting = rest
                if line.startswith(MARKER):
                    return self._checked(json.loads(line[len(MARKER) :]))
                continue
            self._waiting += self._read(until, seconds)

    def _checked(self, answer: Any) -> Any:
        if isinstance(answer, dict) and "error" in answer:
            raise UserError(str(answer["error"]))
        return answer

    def _read(self, until: float, seconds: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(max(until - time.monotonic(), 0)):
                raise UserError(f"no answer within {seconds:g} s")
        chunk = os.read(stdout.fileno(), 1 << 16)
        if not chunk:
            raise UserError(self._death())
        return chunk

    def _death(self) -> str:
        """Says how the process ended, with the last line that it wrote as an error."""
        status = self._process.wait()
        self._notes.seek(0)
        lines = [line.strip() for line in self._notes.read().decode(errors="replace").splitlines() if line.strip()]
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"the process ended with {how}" + (f": {lines[-1][:LONGEST_REASON]}" if lines else "")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()
        self._notes.close()


def run_once(
    module: str, arguments: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> Any:
    """Runs a module that gives one answer.

    Raises:
        UserError: see ``AnsweringProcess.answer``.
    """
    process = AnsweringProcess(module, arguments, environment)
    try:
        return process.answer(seconds)
    finally:
        process.close()
