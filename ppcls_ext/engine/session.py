"""One call of a function such as ``classification.train``, from a command line, a program or a notebook.

Nothing of it stays in the process: a second call gives the same numbers as a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.utils.command_line import NOISE
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.log import PACKAGES, set_up_logging
from ppcls_ext.utils.machine import rank_from_environment
from ppcls_ext.utils.outputs import Output, claim_outputs, inputs_of

# Changes of a configuration: {"Global.epochs": 1}, or as after -o: ["Global.epochs=1"].
Overrides = Mapping[str, Any] | Sequence[str]


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Shows the messages of the call, unless the program has set up logging itself or a tool has done so already."""
    if not logging.getLogger().handlers and not logging.getLogger(PACKAGES[0]).handlers:
        set_up_logging(quiet=rank_from_environment()[0] != 0)
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextlib.contextmanager
def fresh_paddle() -> Iterator[None]:
    """Lets Paddle number parameters and moments from 0, as in a new process; afterwards it goes on where it was."""
    import paddle

    # Every thread but the main one begins in static mode.
    eager = contextlib.nullcontext() if paddle.in_dynamic_mode() else paddle.base.dygraph.guard()
    with eager, paddle.utils.unique_name.guard():
        yield


def claim_evaluation(
    config: Any, output: str | Path | None, panels: int | None, json: str | Path | None, overwrite: bool
) -> tuple[Path, Path | None]:
    """Claims what an evaluation writes: a folder, ``evaluation`` in that of the run unless given, and perhaps ``json``.

    Returns both as paths; ``config`` knows its document and the folder of the run.

    Raises:
        UserError: one of them must not be written, or ``panels`` is negative.
    """
    if panels is not None and panels < 0:
        raise UserError(f"--panels must not be negative, got {panels}")
    folder, file = Path(output or config.output_dir / "evaluation"), Path(json) if json else None
    outputs = [Output("--output", folder, "evaluation"), Output("--json", file)]
    claim_outputs(outputs, *inputs_of(config.document), overwrite)
    return folder, file


def as_changes(overrides: Overrides) -> list[str]:
    """Returns ``KEY=VALUE`` for each change; values of a mapping may be numbers, texts, paths, lists, None, ..."""
    if isinstance(overrides, str):
        return [overrides]
    if not isinstance(overrides, Mapping):
        return list(overrides)
    # A section is changed key by key and not replaced.
    nested = {key: value for key, value in overrides.items() if isinstance(value, Mapping) and value and "." not in key}
    inner = {f"{key}.{name}": value for key, section in nested.items() for name, value in section.items()}
    overrides = {key: value for key, value in overrides.items() if key not in nested} | inner
    # JSON is YAML; what it does not know is a number of NumPy or, like a path, a text.
    plain = {key: json.dumps(value, ensure_ascii=False, default=_plain) for key, value in overrides.items()}
    return [f"{key}={value}" for key, value in plain.items()]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
