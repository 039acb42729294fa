"""Knowledge distillation: a trained and frozen network, the teacher, gives the targets of the one that is trained.

Soft labels (arXiv 1503.02531), hard labels (arXiv 2012.12877) and features (arXiv 1412.6550), chosen by the section
``Distillation`` of a configuration.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional

from classification.build import NetworkSpec, construct_network
from classification.config import DISTILLATION, TEACHER, Config
from classification.data.datasets import ImageDataset
from classification.onnx_teacher import OnnxTeacher, Outputs, TeacherCache, external_data, open_cache
from classification.sections import ArchSettings, OnnxTeacherSettings
from ppcls_ext.arch.outputs import logits_of
from ppcls_ext.arch.registry import architecture_parameters
from ppcls_ext.engine.environment import Environment, derive_seed, seed_everything
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from ppcls_ext.utils.names import meant_path
from ppcls_ext.utils.results import checksum
from ppcls_ext.weights import class_names_of_weights, find_weights, load_weights, state_of_weights

logger = logging.getLogger(__name__)
# Arguments that change nothing in evaluation mode.
ONLY_IN_TRAINING = ("drop_path_rate",)
NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class TeacherFiles:
    """A teacher whose weights are there; ``class_names`` where a checkpoint tells them.

    The arguments in ``arch`` that the configuration leaves out are the checkpoint's; for ONNX it is the section.
    """

    arch: ArchSettings | OnnxTeacherSettings
    file: Path
    class_names: list[str] | None

    @cached_property
    def sha256(self) -> str:
        """Of the file, and of the files beside an ONNX file that hold its weights."""
        files = [self.file, *(external_data(self.file) if isinstance(self.arch, OnnxTeacherSettings) else ())]
        sums = [sha256_of(file) for file in files]
        return sums[0] if len(sums) == 1 else checksum(sums)


def find_teacher(config: Config) -> TeacherFiles | None:
    """Finds the teacher's weights, before anything slow; ``None`` without the section ``Distillation``.

    Raises:
        UserError: they are not there, or they are a checkpoint of another network than the configuration says,
            or the teacher's classes are not as many as the student's.
    """
    if config.distillation is None:
        return None
    arch, weight = config.distillation.teacher, config.distillation.weight

    def refuse(key: str, message: str) -> UserError:
        return UserError(config.document.problem(f"{TEACHER}.{key}", message))

    if isinstance(arch, OnnxTeacherSettings):
        file = meant_path(arch.onnx)
        if not file.is_file():
            reason = "is a folder" if file.is_dir() else "does not exist"
            raise refuse("onnx", f"{arch.onnx} {reason}; docs/pretraining.md says how to make a file")
        return TeacherFiles(arch, file, None)
    try:
        file = find_weights(str(arch.pretrained))
    except UserError as error:
        raise refuse("pretrained", str(error)) from error
    # A checkpoint, unlike a weight file by itself, says which network it belongs to.
    saved = state_of_weights(file).get("arch") if file.name in ("model.pdparams", "ema.pdparams") else None
    if saved:
        folder = file.parent
        if saved["name"] != arch.name:
            raise refuse("name", f"{folder} is a checkpoint of {saved['name']}, not of {arch.name}")
        parameters = architecture_parameters(arch.name)
        # A teacher of features only may know other classes.
        ours = {name: value for name, value in arch.arguments.items() if name != "class_num" or weight > 0}
        for name, value in ours.items():
            default = parameters[name].default if name in parameters else ...
            before = saved["arguments"].get(name, default)
            # A default that is not known counts as equal; tuples come back from a checkpoint as lists.
            if before is ... or name in ONLY_IN_TRAINING or _as_json(value) == _as_json(before):
                continue
            message = f"{folder} was trained with {before}, here it is {value}"
            if name == "class_num":
                message = f"{folder} was trained with {before} classes, the student has {value} (Arch.class_num)"
            raise refuse(name, message)
        arch = dataclasses.replace(arch, arguments={**saved["arguments"], **ours})
    if arch.class_num != config.arch.class_num and weight > 0:
        message = f"the teacher has {arch.class_num} classes, the student {config.arch.class_num} (Arch.class_num)"
        raise refuse("class_num", f"{message}; they must be the same")
    return TeacherFiles(arch, file, class_names_of_weights(file))


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def logits_and_features(network: nn.Layer, image: paddle.Tensor) -> Outputs:
    """Runs one of this project's classifiers on images ``[N, channels, H, W]``; gives the outputs of all stages."""
    features = network.forward_features(image)
    pooled = network.flatten(network.pool(features[-1]))  # [N, C_4]
    return network.head(network.norm(pooled)), features


class Teacher(nn.Layer):
    """The teacher's network in evaluation mode: no gradient reaches it, and no checkpoint of the student holds it.

    It sees ``image_shape``, ``[channels, height, width]``; images of another size are resized to it.

    Raises:
        UserError: the network cannot take the images, or the weights are not this network's.
    """

    def __init__(self, config: Config, found: TeacherFiles) -> None:
        super().__init__()
        assert config.distillation is not None
        self.image_shape = list(config.run.image_shape)
        if config.distillation.image_size is not None:
            self.image_shape[1:] = [config.distillation.image_size] * 2
        spec = NetworkSpec(found.arch, self.image_shape, TEACHER, f"{DISTILLATION}.image_size")
        self.network = construct_network(config, spec)
        try:
            load_weights(self.network, str(found.arch.pretrained))
        except UserError as error:
            reason = str(error).replace("Arch.", f"{TEACHER}.")
            raise UserError(config.document.problem(f"{TEACHER}.pretrained", reason)) from error
        for parameter in self.network.parameters():
            parameter.stop_gradient = True
        self.eval()
        logger.info("teacher %s: weights from %s", found.arch.name, found.file)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, channels, H, W]`` of the student -> the teacher's logits ``[N, class_num]``."""
        return self.outputs(image, [])[0]

    def outputs(self, image: paddle.Tensor, stages: Sequence[int]) -> Outputs:
        """Images as for `forward` -> logits, and the outputs of some stages, counted from 1."""
        size = self.image_shape[1:]
        if image.shape[2:] != size:
            image = functional.interpolate(image, size, mode="bilinear", align_corners=False)
        if not stages:
            return logits_of(self.network(image)), []
        logits, features = logits_and_features(self.network, image)
        return logits, [features[stage - 1] for stage in stages]

    def widths(self, stages: Sequence[int]) -> list[int]:
        """Returns the channels of the outputs of some stages, counted from 1."""
        return [self.network.feature_channels[stage - 1] for stage in stages]


class FeatureStudent(nn.Layer):
    """The student in training, with stages: gives its logits and its features, projected to the teacher's widths.

    The outputs of ``stages``, counted from 1, are compared; ``widths`` are their channels, of student and teacher.
    """

    def __init__(self, model: nn.Layer, stages: Sequence[int], widths: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.model, self.stages = model, list(stages)
        differ = [(stage, pair) for stage, pair in zip(stages, widths, strict=True) if pair[0] != pair[1]]
        self.projections = nn.LayerDict({f"stage_{stage}": nn.Conv2D(*pair, 1) for stage, pair in differ})

    def forward(self, image: paddle.Tensor) -> Outputs:
        """Images ``[N, channels, H, W]`` -> logits ``[N, class_num]``, and for each stage ``[N, C_i, H_i, W_i]``."""
        logits, outputs = logits_and_features(self.model, image)
        features = []
        for stage in self.stages:
            name, output = f"stage_{stage}", outputs[stage - 1]
            features.append(self.projections[name](output) if name in self.projections else output)
        return logits, features


def soft_loss(logits: paddle.Tensor, teacher_logits: paddle.Tensor, temperature: float) -> paddle.Tensor:
    """Returns ``T^2 * KL(softmax(teacher_logits / T) || softmax(logits / T))``, the mean over the images, a scalar.

    Hinton, Vinyals and Dean (arXiv 1503.02531, section 2): a temperature T shows how likely the teacher holds the wrong
    classes to be; T squared keeps the gradient's size, so that the shares of the losses mean the same at every T. Both
    logits, the student's and the teacher's for the same images, are ``[N, class_num]``.
    """
    student = functional.log_softmax(logits.astype("float32") / temperature, axis=-1)
    teacher = functional.log_softmax(teacher_logits.astype("float32") / temperature, axis=-1)
    divergence = (teacher.exp() * (teacher - student)).sum(axis=-1)
    return divergence.mean() * temperature**2


def hard_loss(logits: paddle.Tensor, teacher_logits: paddle.Tensor) -> paddle.Tensor:
    """Returns the mean cross-entropy with the teacher's best class as the label, a scalar.

    Touvron et al. (arXiv 2012.12877, section 4, "hard-label distillation"); arguments as those of :func:`soft_loss`.
    """
    return functional.cross_entropy(logits.astype("float32"), teacher_logits.argmax(axis=-1))


def feature_loss(features: Sequence[paddle.Tensor], teacher_features: Sequence[paddle.Tensor]) -> paddle.Tensor:
    """Returns the mean squared difference of normalised features, averaged over the stages, a scalar.

    The student's features were brought to the teacher's width by learnt 1x1 convolutions, as the regressors of FitNets
    (arXiv 1412.6550, section 2.2) do; each position is then normalised over its channels, without learnt scale, as
    in arXiv 2205.14141 (section 2). We normalise both sides, so that neither's scale counts. A teacher's map of another
    size is averaged to the student's, or repeated if smaller. Features of a stage are ``[N, C_i, H_i, W_i]``.
    """
    losses = []
    for student, teacher in zip(features, teacher_features, strict=True):
        teacher = teacher.astype("float32")
        if teacher.shape[2:] != student.shape[2:]:
            teacher = functional.adaptive_avg_pool2d(teacher, student.shape[2:])
        losses.append(functional.mse_loss(_normalised(student.astype("float32")), _normalised(teacher)))
    return sum(losses[1:], losses[0]) / len(losses)


def _normalised(features: paddle.Tensor) -> paddle.Tensor:
    """``[N, C, H, W]`` -> ``[N, H, W, C]``, each position with mean 0 and variance 1 over its channels."""
    return functional.layer_norm(features.transpose([0, 2, 3, 1]), features.shape[1], epsilon=NORM_EPSILON)


class Distillation:
    """Teacher and losses of one run.

    Attributes:
        teacher: the frozen network.
        network: what the training pass runs: the student, with projections where features are compared.
        projections: to the teacher's widths; they are thrown away.
        stages: whose outputs are compared, counted from 1.
        has_logits: whether the teacher's logits are of the student's classes.
        class_names: the teacher's, where they are known.
        identity: what a resumed run must agree on: the teacher and the stages that are compared; JSON values.

    Raises:
        UserError: the teacher's weights are missing or not its own.
    """

    def __init__(self, config: Config, model: paddle.nn.Layer, environment: Environment) -> None:
        found = find_teacher(config)
        assert found is not None and config.distillation is not None
        self.settings = config.distillation
        self.teacher: Teacher | OnnxTeacher
        if isinstance(found.arch, OnnxTeacherSettings):
            self.teacher = OnnxTeacher(config, found.arch)
            self.has_logits = found.arch.logits is not None and self.settings.weight > 0
        else:
            self.teacher = Teacher(config, found)
            self.has_logits = found.arch.class_num == config.arch.class_num
        self.cache: TeacherCache | None = None
        self.class_names = found.class_names if self.has_logits else None
        self.network: paddle.nn.Layer = model
        self.projections = nn.LayerDict()
        self.stages = self.settings.features.stages if self.settings.features else []
        self.identity = {
            "name": found.arch.name, "weights": str(found.file), "sha256": found.sha256,
            "stages": list(self.stages) or None,
        }  # fmt: skip
        if self.stages:
            ours = model.feature_channels
            theirs = self.teacher.widths(self.stages)
            # A seed of their own: the student starts as it would without a teacher.
            seed_everything(derive_seed(environment.seed, "distillation"))
            widths = [(ours[stage - 1], their_width) for stage, their_width in zip(self.stages, theirs, strict=True)]
            self.network = FeatureStudent(model, self.stages, widths)
            self.projections = self.network.projections

    def use_cache(self, config: Config, dataset: ImageDataset, environment: Environment) -> None:
        """Opens ``Distillation.cache`` for a training set, if the configuration names one; see `open_cache`."""
        if self.settings.cache is not None:
            sha256 = self.identity["sha256"]
            self.cache = open_cache(config, dataset, self.teacher, self.stages, sha256, environment)

    @paddle.no_grad()
    def compute_teacher_outputs(self, image: paddle.Tensor, index: paddle.Tensor | None = None) -> Outputs:
        """Returns the teacher's output for the student's very own images ``[N, channels, H, W]``, mixed or not.

        By their numbers ``[N]`` in the data set a cache finds its outputs.
        """
        if self.cache is not None and index is not None:
            logits, features = self.cache.outputs(index.numpy())
        else:
            logits, features = self.teacher.outputs(image, self.stages)
        return (logits if self.has_logits else None), features

    def losses(
        self, label_loss: paddle.Tensor | None, output: paddle.Tensor | Outputs, teacher_outputs: Outputs
    ) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Returns the loss that is trained on, and its parts before their weights, all scalars.

        ``label_loss`` is None without labels; ``output`` is that of ``network``, ``teacher_outputs`` that of
        :meth:`compute_teacher_outputs`.
        """
        settings = self.settings
        # Factor and loss by name, in the order in which they are added.
        parts: dict[str, tuple[float, paddle.Tensor]] = {}
        if label_loss is not None:
            parts["loss_label"] = (1 - settings.weight, label_loss)
        if teacher_outputs[0] is not None and (label_loss is not None or settings.weight > 0):
            pair = logits_of(output), teacher_outputs[0]
            loss = hard_loss(*pair) if settings.kind == "hard" else soft_loss(*pair, settings.temperature)
            parts["loss_distillation"] = (settings.weight, loss)
        if settings.features is not None:
            parts["loss_features"] = (settings.features.weight, feature_loss(output[1], teacher_outputs[1]))
        first, *others = [factor * loss for factor, loss in parts.values()]
        return sum(others, first), {name: loss for name, (_, loss) in parts.items()}
