"""What a detection configuration may name: PaddleDetection's modules, image operators, data sets and run-time keys,
and ours, found in source text. Nothing is imported, so that an error is reported at once."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppcls_ext.arch.toolkit import package_folder
from ppcls_ext.utils.errors import UserError

_CLASS = re.compile(r"^((?:@[^\n]*\n)*)class\s+(\w+)", re.MULTILINE)
_REGISTERED = re.compile(r"^@(?:workspace\.)?register\b", re.MULTILINE)
_OPERATOR = re.compile(r"^@register_\w*ops?\b", re.MULTILINE)
_SERIALIZABLE = re.compile(r"^@serializable\b", re.MULTILINE)
_SHARED = re.compile(r"__shared__\s*=\s*\[([^\]]*)\]")
_QUOTED = re.compile(r"['\"](\w+)['\"]")
# How PaddleDetection reads a key of the run: cfg.name, cfg['name'], cfg.get('name'), 'name' in cfg.
_KEY_READ = re.compile(
    r"\b(?:cfg|config)\.(?!get\b)([a-z_]\w*)\b(?!\()|\b(?:cfg|config)\[\s*['\"](\w+)['\"]"
    r"|\b(?:cfg|config)\.get\(\s*['\"](\w+)['\"]|['\"](\w+)['\"]\s+(?:not\s+)?in\s+(?:self\.)?(?:cfg|config)\b"
)
# Read by PaddleDetection's own command lines, which are no part of the package, or written by its configurations
# for anchors.
_COMMAND_LINE_KEYS = {
    "find_unused_parameters", "pretrain_student_weights", "pretrain_teacher_weights", "pretrain_weights", "ssod_method",
    "use_cot", "use_gpu", "use_mlu", "use_npu", "use_xpu", "weights", "worker_num", "eval_height", "eval_width",
    "eval_size", "image_height", "image_width", "image_size", "slim_method", "ema_skip_names",
}  # fmt: skip
_OUR_KEYS = {"scale", "seed", "keep_checkpoints", "eval_interval"}
# Where each of our classes that a configuration may name stands; public classes need no decorator there.
_OUR_FOLDER = Path(__file__).resolve().parents[1]
_OUR_MODULES = (
    "backbones", "nms.py", "yolov10/network.py", "yolov10/loss.py", "yolov10/head.py",
)  # fmt: skip
_OUR_OPERATORS = ("data/operators.py",)


@dataclass(frozen=True)
class Catalog:
    """Names, and the file in which each is defined.

    Attributes:
        modules: classes that may have a section, or be named in one (``PPYOLOEHead``, ``ATSSAssigner``).
        operators: what may stand in ``sample_transforms`` and ``batch_transforms``.
        datasets: what may stand in ``TrainDataset.name``.
        keys: known top-level keys that are no sections of a class.
        folder: PaddleDetection's package.
    """

    modules: dict[str, Path]
    operators: dict[str, Path]
    datasets: dict[str, Path]
    keys: frozenset[str]
    folder: Path


def is_ours(file: Path) -> bool:
    """Says whether a class of this project stands in ``file``; its annotations can be relied on."""
    return file.is_relative_to(_OUR_FOLDER)


def find_catalog() -> Catalog:
    """Returns the catalogue of the PaddleDetection that Python would import: a checkout on the path, else the wheel.

    Raises:
        UserError: there is none.
    """
    folder = package_folder("ppdet")
    if folder is None or not (folder / "core" / "workspace.py").is_file():
        raise UserError("PaddleDetection is not installed; pip install --no-deps paddledet==2.6.0")
    return _catalog(folder)


@functools.cache
def _catalog(folder: Path) -> Catalog:
    catalog = Catalog({}, {}, {}, frozenset(), folder)
    keys = set(_COMMAND_LINE_KEYS | _OUR_KEYS)
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        parts = file.relative_to(folder).parts
        for decorators, name in _CLASS.findall(text):
            if _OPERATOR.search(decorators):
                catalog.operators[name] = file
            elif _REGISTERED.search(decorators):
                catalog.modules[name] = file
            if parts[:2] == ("data", "source") and _SERIALIZABLE.search(decorators):
                catalog.datasets[name] = file
        for names in _SHARED.findall(text):
            keys.update(_QUOTED.findall(names))
        if parts[0] in ("engine", "utils", "core", "slim", "optimizer"):
            keys.update(name for groups in _KEY_READ.findall(text) for name in groups if name)
    for file, name in _our_classes(_OUR_MODULES):
        catalog.modules[name] = file
    for file, name in _our_classes(_OUR_OPERATORS):
        catalog.operators[name] = file
    return Catalog(catalog.modules, catalog.operators, catalog.datasets, frozenset(keys - set(dir(dict))), folder)


def _our_classes(places: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    for place in places:
        path = _OUR_FOLDER / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []:
            for _, name in _CLASS.findall(file.read_text(encoding="utf-8")):
                if not name.startswith("_"):
                    yield file, name
