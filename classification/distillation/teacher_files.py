"""Which weights teach, found and compared with the configuration before anything slow. Loads no Paddle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from classification.config import TEACHER, Config
from classification.sections import ArchSettings
from ppcls_ext.arch.registry import architecture_parameters
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from ppcls_ext.weights import class_names_of_weights, find_weights

# Arguments that change nothing in evaluation mode.
ONLY_IN_TRAINING = ("drop_path_rate",)


@dataclasses.dataclass(frozen=True)
class FoundTeacher:
    """A teacher whose weights are there.

    Attributes:
        arch: its name and arguments; those that the configuration leaves out are the checkpoint's.
        file: its weight file.
        sha256: checksum of the file.
        class_names: names of its classes, where a checkpoint tells them.
    """

    arch: ArchSettings
    file: Path
    sha256: str
    class_names: list[str] | None


def find_teacher(config: Config) -> FoundTeacher | None:
    """Finds the teacher's weights; ``None`` without the section ``Distillation``.

    Raises:
        UserError: they are not there, or they are a checkpoint of another network than the configuration says,
            or the teacher's classes are not as many as the student's.
    """
    if config.distillation is None:
        return None
    arch = config.distillation.teacher
    try:
        file = find_weights(str(arch.pretrained))
    except UserError as error:
        raise UserError(config.document.problem(f"{TEACHER}.pretrained", str(error))) from error
    saved = _saved_arch(file)
    if saved is not None:
        arch = _completed(config, arch, saved, file.parent)
    if arch.class_num != config.arch.class_num:
        message = f"the teacher has {arch.class_num} classes, the student {config.arch.class_num} (Arch.class_num)"
        raise UserError(config.document.problem(f"{TEACHER}.class_num", f"{message}; they must be the same"))
    return FoundTeacher(arch, file, sha256_of(file), class_names_of_weights(file))


def _saved_arch(file: Path) -> dict[str, Any] | None:
    """Returns name and arguments of the network that a checkpoint belongs to; ``None`` for a weight file by itself."""
    state = file.with_name("state.json")
    if file.name not in ("model.pdparams", "ema.pdparams") or not state.is_file():
        return None
    try:
        arch = json.loads(state.read_text(encoding="utf-8")).get("arch")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{state}: damaged ({error})") from error
    return arch if isinstance(arch, dict) and isinstance(arch.get("arguments"), dict) else None


def _completed(config: Config, arch: ArchSettings, saved: dict[str, Any], folder: Path) -> ArchSettings:
    """Returns ``arch`` with the arguments of its checkpoint, which those of the configuration must not contradict."""
    if saved.get("name") != arch.name:
        message = f"{folder} is a checkpoint of {saved.get('name')}, not of {arch.name}"
        raise UserError(config.document.problem(f"{TEACHER}.name", message))
    parameters = architecture_parameters(arch.name)
    for name, value in arch.arguments.items():
        default = parameters[name].default if name in parameters else ...
        before = saved["arguments"].get(name, default)
        # A default that the source does not state as a literal is unknown.
        if before is ... or name in ONLY_IN_TRAINING or _as_json(value) == _as_json(before):
            continue
        message = f"{folder} was trained with {before}, here it is {value}"
        if name == "class_num":
            message = f"{folder} was trained with {before} classes, the student has {value} (Arch.class_num)"
        raise UserError(config.document.problem(f"{TEACHER}.{name}", message))
    return dataclasses.replace(arch, arguments={**saved["arguments"], **arch.arguments})


def _as_json(value: Any) -> Any:
    """Returns ``value`` as it comes back from a checkpoint, where tuples are lists."""
    return json.loads(json.dumps(value, default=str))
