"""Learning rate and optimizer of a detection configuration, against PaddleDetection's and Paddle's signatures."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from detection.configuration.modules import Checker
from detection.configuration.signatures import Signature, signature_of
from ppcls_ext.arch.signatures import Parameters
from ppcls_ext.arch.sources import parse, relative_imports
from ppcls_ext.arch.toolkit import package_folder
from ppcls_ext.utils.errors import suggestion

_FILLED_IN = ("learning_rate", "parameters", "grad_clip", "model", "lr", "name")
_LAYER_DECAY = "AdamWDL"
_REGULARIZERS = ("L1", "L2")
_WARM_UPS = ("LinearWarmup", "ExpWarmup")


def check_learning_rate(checker: Checker, section: Any) -> None:
    """Checks ``LearningRate`` and its schedulers."""
    key = "LearningRate"
    checker.check_section(key, key, section)
    if not isinstance(section, dict):
        return
    rate = section.get("base_lr")
    if isinstance(rate, int | float) and not rate > 0:
        checker.problems.add(f"{key}.base_lr", f"must be positive, got {rate}")
    entries = section.get("schedulers")
    if entries is None:
        return
    if not isinstance(entries, list) or not entries:
        checker.problems.add(f"{key}.schedulers", f"must be a list of schedulers, got {entries!r}")
        return
    file = checker.catalog.modules[key]
    names = [node.name for node in parse(file).body if isinstance(node, ast.ClassDef) and _is_scheduler(node)]
    for index, entry in enumerate(entries):
        checker.check_named(f"{key}.schedulers[{index}]", entry, "scheduler", dict.fromkeys(names, file))
    first = entries[0]
    if isinstance(first, dict) and first.get("name") in _WARM_UPS:
        checker.problems.add(f"{key}.schedulers[0]", f"{first['name']} must stand second, behind the decay")
    elif len(entries) == 1 and isinstance(first, dict) and first.get("use_warmup", True):
        checker.problems.add(
            f"{key}.schedulers[0]", "needs a warm-up (LinearWarmup or ExpWarmup) after it, or use_warmup: false"
        )


def _is_scheduler(node: ast.ClassDef) -> bool:
    return any(isinstance(word, ast.Name) and word.id == "serializable" for word in node.decorator_list)


def check_optimizer(checker: Checker, section: Any) -> None:
    """Checks ``OptimizerBuilder``: what the optimizer of its ``type`` takes, so that no base's key leaks into it."""
    key = "OptimizerBuilder"
    checker.check_section(key, key, section)
    if not isinstance(section, dict):
        return
    if "optimizer" in section:
        _check_type(checker, f"{key}.optimizer", section["optimizer"])
    regularizer = section.get("regularizer")
    if regularizer and regularizer != "None":
        _check_regularizer(checker, f"{key}.regularizer", regularizer)


def _check_type(checker: Checker, key: str, optimizer: Any) -> None:
    if not checker.is_mapping(key, optimizer):
        return
    name = optimizer.get("type")
    classes = _paddle_optimizers()
    names = [*classes, _LAYER_DECAY]
    if not isinstance(name, str) or name not in names:
        near = suggestion(str(name), names)
        message = "missing argument 'type'" if name is None else f"unknown optimizer '{name}'{near}"
        checker.problems.add(key if name is None else f"{key}.type", f"{message}; allowed: {', '.join(names)}")
        return
    if name == _LAYER_DECAY:
        source, function = checker.catalog.folder / "optimizer" / "adamw.py", "build_adamwdl"
    else:
        source, function = classes[name], name
    signature = signature_of(source, function, annotated=False)
    if signature is None:
        return
    parameters: Parameters = {word: value for word, value in signature.parameters.items() if word not in _FILLED_IN}
    arguments = {word: value for word, value in optimizer.items() if word != "type"}
    if name not in ("AdamW", _LAYER_DECAY) and "weight_decay" in arguments:
        del arguments["weight_decay"]
        checker.problems.add(f"{key}.weight_decay", f"{name} takes its weight decay from OptimizerBuilder.regularizer")
    checker.check_call(key, Signature(parameters, frozenset()), arguments, extra=("param_groups",))


def _paddle_optimizers() -> dict[str, Path]:
    """Returns the optimizers of Paddle and their files; none if there is no Paddle here to look at."""
    folder = package_folder("paddle")
    if folder is None:
        return {}
    imported = relative_imports(folder / "optimizer" / "__init__.py")
    return {name: file for name, (file, _) in imported.items() if name[0].isupper() and name != "Optimizer"}


def _check_regularizer(checker: Checker, key: str, regularizer: Any) -> None:
    if not isinstance(regularizer, dict):
        checker.problems.add(key, f"must be false or {{type: L2, factor: 0.0005}}, got {regularizer!r}")
        return
    for word in regularizer.keys() - {"type", "factor"}:
        checker.problems.add(key, f"unknown argument '{word}'{suggestion(str(word), ('type', 'factor'))}")
    if regularizer.get("type") not in _REGULARIZERS:
        checker.problems.add(f"{key}.type", f"must be one of L1, L2, got {regularizer.get('type')!r}")
    factor = regularizer.get("factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool) or factor < 0:
        checker.problems.add(f"{key}.factor", f"must be a number of at least 0, got {factor!r}")
