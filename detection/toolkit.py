"""PaddleDetection's workspace, opened for one configuration at a time.

ppdet keeps every registered class and every loaded configuration in one global dictionary and merges each further
configuration into it, so a second one in the same process would inherit from the first. Here each configuration finds
the dictionary as it was after registration, and leaves it so.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from detection.configuration.config import PARTS
from detection.geometry import READING_KEYS
from detection.registration import register
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    import paddle

    from detection.configuration import DetectionConfig

logger = logging.getLogger(__name__)

# What the constructors of ppdet raise on values that they cannot use.
REFUSALS = (AssertionError, AttributeError, FileNotFoundError, IndexError, KeyError, TypeError, ValueError)
_ARGUMENT = re.compile(r"[A-Za-z]\w*(?:\.\w+)+")


@contextlib.contextmanager
def workspace(config: DetectionConfig) -> Iterator[Any]:
    """Opens ppdet's workspace with ``config`` in it, and restores what was there before.

    Yields:
        ppdet's configuration (its ``AttrDict``), as its ``Trainer`` and ``create`` want it.
    """
    register()
    from ppdet.core.workspace import global_config, merge_config

    before = {key: _snapshot(value) for key, value in global_config.items()}
    try:
        data = copy.deepcopy(config.data)
        for part in PARTS:
            # What is said about the boxes is ours: ppdet gets the boxes read.
            for key in READING_KEYS if isinstance(data.get(f"{part}Dataset"), dict) else ():
                data[f"{part}Dataset"].pop(key, None)
        merge_config(data)
        global_config["filename"] = config.path.stem
        yield global_config
    finally:
        _restore(global_config, before)


def build_model(config: DetectionConfig, pretrained: bool = True) -> paddle.nn.Layer:
    """Builds the detector of ``config``: an architecture of ppdet (``model(batch)`` -> losses, or boxes in evaluation).

    Without ``pretrained`` the backbone's file of that name is not loaded: where the weights of the whole detector
    follow, it is not needed, and may be gone since the training.

    Raises:
        UserError: a part of the model refuses its arguments.
    """
    with workspace(config) as settings, refusals(config):
        return create_model(config, settings, pretrained)


def create_model(config: DetectionConfig, settings: Any, pretrained: bool = True) -> paddle.nn.Layer:
    """As `build_model`, in the open `workspace` of the configuration, which gave ``settings``."""
    from ppdet.core.workspace import create

    backbone = (settings.get(config.architecture) or {}).get("backbone")
    section = settings.get(backbone) if isinstance(backbone, str) else None
    if not pretrained and isinstance(section, dict) and section.get("pretrained"):
        section["pretrained"] = None
    model = create(config.architecture)
    _activations_as_layers(model)
    return model


def _activations_as_layers(model: paddle.nn.Layer) -> None:
    """Puts layers in the place of swish functions, which ppdet hides in closures: the fast CPU kernels know layers."""
    from paddle import nn

    for layer in model.sublayers():
        act = vars(layer).get("act")
        if inspect.isfunction(act) and inspect.getclosurevars(act).nonlocals.get("fn") is nn.functional.swish:
            del layer.act
            layer.act = nn.Swish()


@contextlib.contextmanager
def refusals(config: DetectionConfig) -> Iterator[None]:
    """Turns what ppdet's constructors raise on values that they cannot use into one line.

    They check little, so a wrong value ends in whatever Python raises where it is used first. What a class of ours
    refuses begins with its name and the argument, and gets the place of that in the file.
    """
    try:
        yield
    except REFUSALS as error:
        logger.debug("refused by PaddleDetection", exc_info=error)
        reason = " ".join(str(error).split()) or "no reason given"
        key, _, message = reason.partition(": ")
        if _ARGUMENT.fullmatch(key):
            # Several classes may share what stands at the top.
            document, shared = config.document, key.rpartition(".")[2]
            is_shared = key not in document.lines and shared in document.lines
            raise UserError(document.problem(shared if is_shared else key, message)) from error
        if not isinstance(error, ValueError | AssertionError):
            reason = f"PaddleDetection cannot build this: {type(error).__name__}: {reason}"
        raise UserError(f"{config.path}: {reason}") from error


@contextlib.contextmanager
def std_without_type_warning() -> Iterator[None]:
    """While open, ``Tensor.std`` divides by a number of the tensor's own type; the result has the same bits.

    Paddle's divides two int64 for that number, and warns in each training of the type that comes out ("got different
    data type, run type promotion automatically"): PP-YOLOE's ATSS assigner takes the deviation of overlaps.
    """
    import paddle

    before = paddle.Tensor.std

    def std(x: paddle.Tensor, axis: int | None = None, keepdim: bool = False) -> paddle.Tensor:
        total = paddle.pow(x - x.mean(axis, keepdim=True), 2).sum(axis, keepdim=keepdim)
        return paddle.sqrt(total / paddle.to_tensor(x.size // total.size - 1, dtype=x.dtype))

    paddle.Tensor.std = std
    try:
        yield
    finally:
        paddle.Tensor.std = before


def quiet_toolkit() -> None:
    """Keeps the messages of what is loaded of ppdet to warnings: what matters is said by us."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "ppdet":
            logging.getLogger(name).setLevel(logging.WARNING)


def _snapshot(value: Any) -> tuple[Any, dict[str, Any] | None]:
    """A section of the workspace: the object itself and, if it is a dictionary, its content."""
    # The schema of a class stands in attributes, which configurations do not change; its keys they do.
    return value, copy.deepcopy(dict(value)) if isinstance(value, dict) else None


def _restore(target: dict[str, Any], before: dict[str, tuple[Any, dict[str, Any] | None]]) -> None:
    target.clear()
    for key, (value, content) in before.items():
        if content is not None:
            value.clear()
            value.update(content)
        target[key] = value
