"""Reads the sections that describe a network: ``Arch``, and the teacher of a distillation. Loads no Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from classification.config_parts import Reader
from classification.sections import ArchSettings
from ppcls_ext.arch.catalog import architecture_parameters
from ppcls_ext.utils.signature import parameters_of

# Keys of Arch that are the trainer's, not the model's.
TRAINER_KEYS = ("use_sync_bn", "pretrained")
INSTEAD = "give a file with Global.pretrained_model=PATH instead"


def read_arch(
    reader: Reader,
    section: Any,
    class_num: int | None,
    key: str = "Arch",
    own_keys: Sequence[str] = TRAINER_KEYS,
    instead: str = INSTEAD,
) -> ArchSettings:
    """Returns the checked section; what is wrong with it is noted, and a model then stands in for it.

    Args:
        reader: gathers the problems.
        section: what the file says.
        class_num: number of classes where the section names none.
        key: dotted key of the section.
        own_keys: which of the trainer's keys may stand here.
        instead: what is said to those who ask for a download.
    """
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        reader.problems.add(f"{key}.name", "must name the model, such as EConvNeXt_mini")
        return ArchSettings("EConvNeXt_mini")
    section = dict(section)
    name = section.pop("name")
    own_parameters = {word: value for word, value in parameters_of(ArchSettings).items() if word in own_keys}
    own = {word: section.pop(word) for word in own_keys if word in section}
    own = reader.arguments(own_parameters, own, key)
    try:
        parameters = architecture_parameters(name)
    except ValueError as error:
        reader.problems.add(f"{key}.name", str(error))
        return ArchSettings(name)
    if class_num is not None and "class_num" in parameters:
        section.setdefault("class_num", class_num)
    # `pretrained` makes the wheel download; weights come in through our own loader instead.
    supplied = [word for word in ("pretrained", "use_ssld") if word in parameters]
    arguments = reader.arguments(parameters, section, key, supplied)
    if "class_num" in section and type(arguments.get("class_num")) is int and arguments["class_num"] < 1:
        reader.problems.add(f"{key}.class_num", f"must be at least 1, got {arguments['class_num']}")
    arch = ArchSettings(name, own.get("use_sync_bn", False), own.get("pretrained", False), arguments)
    if arch.pretrained is True:
        reader.problems.add(f"{key}.pretrained", f"no weights are downloaded; {instead}")
    return arch
