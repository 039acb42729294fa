"""The section ``Distillation``: teacher, temperature, weights. Loads no Paddle.

PaddleClas distils by a model of several networks (``Arch.name: DistillationModel``) and losses between them; such a
configuration is refused with the way to say the same here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from classification.arch_section import read_arch
from classification.config_parts import Reader
from classification.sections import ArchSettings
from ppcls_ext.arch.catalog import is_ours, list_models
from ppcls_ext.utils.config import Document
from ppcls_ext.utils.errors import ConfigError
from ppcls_ext.utils.signature import parameters_of

KEY = "Distillation"
TEACHER = f"{KEY}.teacher"
STAGES = 4
DEFAULT_TEMPERATURE = 4.0
WEIGHTS_WANTED = "give a checkpoint folder such as RUN/checkpoints/best, or a weight file"


@dataclasses.dataclass
class FeatureSettings:
    """``Distillation.features``: stage outputs that the student's are made to resemble.

    Attributes:
        stages: which, 1 to 4.
        weight: factor of this loss; it is added to the others.
    """

    stages: list[int] = dataclasses.field(default_factory=lambda: [STAGES])
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a value is out of range; one line for each, which begins with the key.
        """
        problems = []
        stages = self.stages
        if not stages or len(set(stages)) < len(stages) or not set(stages) <= set(range(1, STAGES + 1)):
            problems.append(f"stages: must be different numbers from 1 to {STAGES}, got {stages}")
        if self.weight <= 0:
            problems.append(f"weight: must be above 0, got {self.weight}")
        if problems:
            raise ValueError("\n".join(problems))


@dataclasses.dataclass
class DistillationSettings:
    """``Distillation``.

    Attributes:
        teacher: the network that teaches; ``pretrained`` names its weights.
        kind: ``soft`` for the teacher's probabilities (arXiv 1503.02531), ``hard`` for its best class (arXiv
            2012.12877, section 4).
        temperature: divides the logits of both networks; for ``soft`` only, where it is 4 unless given.
        weight: share of the distillation loss; the loss of the labels has the rest.
        features: stage outputs to imitate too, or ``None``.
        image_size: the teacher sees images of this many pixels a side, resized from those of the student.
        evaluate_teacher: measure the teacher before the first epoch.
    """

    teacher: ArchSettings
    kind: Literal["soft", "hard"] = "soft"
    temperature: float | None = None
    weight: float = 0.7
    features: FeatureSettings | None = None
    image_size: int | None = None
    evaluate_teacher: bool = True

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a value is out of range; one line for each, which begins with the key.
        """
        problems = []
        if self.temperature is not None and self.kind == "hard":
            problems.append("temperature: has no effect on kind: hard; remove it")
        elif self.temperature is not None and self.temperature <= 0:
            problems.append(f"temperature: must be above 0, got {self.temperature}")
        if not 0 <= self.weight <= 1:
            problems.append(f"weight: must be from 0 to 1, got {self.weight}")
        if self.weight == 0 and self.features is None:
            problems.append("weight: 0 without features leaves the teacher nothing to teach")
        if self.image_size is not None and self.image_size < 1:
            problems.append(f"image_size: must be at least 1, got {self.image_size}")
        if problems:
            raise ValueError("\n".join(problems))
        if self.temperature is None:
            self.temperature = DEFAULT_TEMPERATURE


def read_distillation(reader: Reader, section: Any, student: ArchSettings) -> DistillationSettings | None:
    """Returns the checked section, ``None`` where it is absent or (noted) wrong.

    Args:
        reader: gathers the problems.
        section: what the file says.
        student: the network of ``Arch``.
    """
    if section is None:
        return None
    if not isinstance(section, dict):
        allowed = ", ".join(parameters_of(DistillationSettings))
        reader.problems.add(KEY, f"must be a mapping with the keys {allowed}, got {section!r}")
        return None
    given = dict(section)
    given["teacher"] = _read_teacher(reader, given.get("teacher"), student)
    if given.get("features") is not None:
        given["features"] = _read_features(reader, given["features"], (student, given["teacher"]))
    return reader.build(DistillationSettings, given, KEY)


def _read_teacher(reader: Reader, section: Any, student: ArchSettings) -> ArchSettings:
    teacher = read_arch(reader, section, student.class_num, TEACHER, ("pretrained",), WEIGHTS_WANTED)
    if isinstance(section, dict) and section.get("pretrained") in (None, False):
        message = f"is missing: a teacher with random weights teaches noise; {WEIGHTS_WANTED}"
        reader.problems.add(f"{TEACHER}.pretrained", message)
    if "class_num" in teacher.arguments and teacher.class_num != student.class_num:
        message = f"the teacher has {teacher.class_num} classes, the student {student.class_num} (Arch.class_num)"
        reader.problems.add(f"{TEACHER}.class_num", f"{message}; they must be the same")
    return teacher


def _read_features(reader: Reader, section: Any, networks: tuple[ArchSettings, ArchSettings]) -> FeatureSettings | None:
    key = f"{KEY}.features"
    for network, place in zip(networks, ("Arch.name", f"{TEACHER}.name"), strict=True):
        if not is_ours(network.name):
            message = f"needs the outputs of stages, which {network.name} ({place}) does not give"
            reader.problems.add(key, f"{message}; these do: {', '.join(list_models())}")
    return reader.build(FeatureSettings, section, key)


def refuse_paddleclas_schema(document: Document) -> None:
    """Recognises PaddleClas's way to say distillation, of which hardly a key means anything here.

    Raises:
        ConfigError: this is such a configuration; its one line says how ours looks.
    """
    arch, loss = document.data.get("Arch"), document.data.get("Loss")
    if isinstance(arch, dict) and arch.get("name") == "DistillationModel":
        key, name = "Arch.name", "DistillationModel"
    else:
        entries = loss.get("Train") if isinstance(loss, dict) else None
        names = [
            (f"Loss.Train[{index}]", str(word))
            for index, entry in enumerate(entries if isinstance(entries, list) else [])
            for word in (entry if isinstance(entry, dict) else [entry])
        ]
        key, name = next(((place, word) for place, word in names if word.startswith("Distillation")), ("", ""))
    if name:
        message = (
            f"{name} is PaddleClas's way to distil; here Arch is the student, the section {KEY} names the teacher "
            f"({TEACHER}: {{name: ..., pretrained: PATH}}, temperature, weight), and Loss.Train stays CELoss: see "
            "configs/quickstart_distilled.yaml"
        )
        raise ConfigError([document.problem(key, message)])
