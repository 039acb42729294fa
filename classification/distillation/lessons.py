"""Teacher and losses of one run, as the learner uses them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import paddle

from classification.build import stage_widths
from classification.config import Config
from classification.distillation.losses import feature_loss, hard_loss, soft_loss
from classification.distillation.student import FeatureStudent
from classification.distillation.teacher import Teacher
from classification.distillation.teacher_files import find_teacher
from ppcls_ext.engine.environment import Environment, derive_seed, seed_everything
from ppcls_ext.weights import load_weights

# Under this prefix the optimizer's state and the parameters' names tell projections from the model's parameters.
PREFIX = "distillation."


@dataclasses.dataclass
class Lesson:
    """What the teacher says of a batch: logits ``[N, class_num]`` and, where asked for, features of stages."""

    logits: paddle.Tensor
    features: list[paddle.Tensor]


class Distillation:
    """Teaches ``model``.

    Args:
        config: the configuration, with ``Distillation``.
        model: the student.
        environment: the seed.

    Attributes:
        teacher: the frozen network.
        network: what the training pass runs: the student, with projections where features are compared.
        class_names: the teacher's, where they are known.

    Raises:
        UserError: the teacher's weights are missing or not its own.
    """

    def __init__(self, config: Config, model: paddle.nn.Layer, environment: Environment) -> None:
        found = find_teacher(config)
        assert found is not None and config.distillation is not None
        self.settings = config.distillation
        self.teacher = Teacher(config, found)
        self.class_names = found.class_names
        self._identity = {"name": found.arch.name, "weights": str(found.file), "sha256": found.sha256}
        self.network: paddle.nn.Layer = model
        self.projections: paddle.nn.Layer | None = None
        if self.settings.features is not None:
            stages = self.settings.features.stages
            ours = stage_widths(model, config.run.image_shape)
            theirs = stage_widths(self.teacher.network, self.teacher.image_shape)
            # A seed of their own: the student starts as it would without a teacher.
            seed_everything(derive_seed(environment.seed, "distillation"))
            widths = [(ours[stage - 1], theirs[stage - 1]) for stage in stages]
            self.network = FeatureStudent(model, stages, widths)
            self.projections = self.network.projections

    def identity(self) -> dict[str, Any]:
        """Returns what a resumed run must agree on: the teacher and the stages that are compared; JSON values."""
        features = self.settings.features
        return {**self._identity, "stages": list(features.stages) if features else None}

    def named_parameters(self) -> list[tuple[str, paddle.Tensor]]:
        """Returns the parameters that are trained beside the student's."""
        if self.projections is None:
            return []
        return [(PREFIX + name, parameter) for name, parameter in self.projections.named_parameters()]

    def arrays(self) -> dict[str, np.ndarray] | None:
        """Returns the weights of the projections, ``None`` where there are none."""
        if not self.named_parameters():
            return None
        return {name: value.numpy() for name, value in self.projections.state_dict().items()}

    def restore(self, arrays: dict[str, np.ndarray] | None) -> None:
        """Takes over what :meth:`arrays` returned.

        Raises:
            UserError: these are other projections.
        """
        if self.named_parameters():
            load_weights(self.projections, arrays or {})

    @paddle.no_grad()
    def teach(self, image: paddle.Tensor) -> Lesson:
        """Returns the teacher's answer to images ``[N, channels, H, W]``, mixed or not: the student's very own."""
        if self.settings.features is None:
            return Lesson(self.teacher(image), [])
        logits, features = self.teacher.with_features(image)
        return Lesson(logits, [features[stage - 1] for stage in self.settings.features.stages])

    def losses(
        self, label_loss: paddle.Tensor, logits: paddle.Tensor, features: list[paddle.Tensor], lesson: Lesson
    ) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Returns the loss that is trained on, and its parts before their weights, all scalars.

        Args:
            label_loss: of the labels.
            logits: the student's, ``[N, class_num]``.
            features: the student's, projected, for each compared stage ``[N, C_i, H_i, W_i]``.
            lesson: the teacher's answer to the same images.
        """
        settings = self.settings
        if settings.kind == "hard":
            taught = hard_loss(logits, lesson.logits)
        else:
            assert settings.temperature is not None
            taught = soft_loss(logits, lesson.logits, settings.temperature)
        total = (1 - settings.weight) * label_loss + settings.weight * taught
        parts = {"loss_label": label_loss, "loss_distillation": taught}
        if settings.features is not None:
            parts["loss_features"] = feature_loss(features, lesson.features)
            total = total + settings.features.weight * parts["loss_features"]
        return total, parts
