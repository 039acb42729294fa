"""The sections of a configuration other than lists of operators: a field is a key of the YAML.

The keys are PaddleClas's; those marked "ours" may stand only under ``Global``, where PaddleClas's trainer ignores them.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ppcls_ext.engine.shared_keys import AmpSettings, SharedKeys
from ppcls_ext.utils.names import meant_path
from ppcls_ext.utils.schema import Count, CountOrZero, NotNegative, Number, Positive, Section, Share

STAGES = 4
DEFAULT_TEMPERATURE = 4.0


class GlobalSettings(SharedKeys):
    """``Global``: the run as a whole; the keys of :class:`SharedKeys` are ours.

    Attributes:
        checkpoints: resume from this checkpoint folder (PaddleClas's name for ``--resume PATH``).
        pretrained_model: weights to start from, or to evaluate, export and predict with.
        output_dir: everything that a run writes stands here.
        device: ``gpu`` falls back to the CPU, with one printed line, where Paddle finds no GPU.
        save_interval: epochs between two checkpoints.
        eval_during_train: evaluate every ``eval_interval`` epochs and after the last.
        epochs: passes over the training data.
        print_batch_step: batches between two log lines.
        use_visualdl: write VisualDL scalars to ``output_dir/vdl``, as ``loggers: [visualdl]`` does.
        image_shape: ``[channels, height, width]`` of the model's input.
        save_inference_dir: where ``tools/export_model.py`` writes unless told otherwise.
        to_static: train the compiled graph instead of eager operators.
        update_freq: batches whose gradients are accumulated for one optimizer step.
        seed: all randomness follows from it.
        eval_mode, train_mode, use_dali: accepted with the values that mean plain classification.
        log_ranks: ranks that write to the log (ours always logs rank 0).
        keep_checkpoints: ours; how many of the newest checkpoints stay (the best one stays too).
        save_steps: ours; also save after this many batches inside an epoch; 0 for never.
        max_bad_images: ours; share of unreadable images of a data set above which the run stops.
        amp_dtype: ours; ``float16`` (with loss scaling) or ``bfloat16`` (without) for the ``AMP`` section.
        freeze_norm: ours; keep batch norms in evaluation mode while training.
        cpu_kernels: ours; ``auto`` trains with fast kernels where there is no GPU, ``paddle`` with Paddle's own.
        class_sampling: ours; how often an epoch shows each image, see `class_balance.class_sampling`.

    Raises:
        ValueError: a value is out of range, or two do not go together.
    """

    checkpoints: str | None = None
    pretrained_model: str | None = None
    output_dir: str = "./output/"
    device: Literal["gpu", "cpu", "xpu", "npu", "mlu"] = "gpu"
    save_interval: Count = 1
    eval_during_train: bool = True
    eval_interval: Count = 1
    epochs: Count = 100
    print_batch_step: Count = 10
    use_visualdl: bool = False
    image_shape: list[Count] = Field([3, 224, 224], min_length=3, max_length=3)
    save_inference_dir: str = "./inference"
    to_static: bool = False
    update_freq: Count = 1
    seed: CountOrZero | None = None
    class_num: Count | None = None
    eval_mode: Literal["classification"] = "classification"
    train_mode: Literal["classification"] | None = None
    use_dali: Literal[False] = False
    log_ranks: str = "0"
    keep_checkpoints: Count = 3
    save_steps: CountOrZero = 0
    max_bad_images: NotNegative = 0.01
    amp_dtype: Literal["float16", "bfloat16"] = "float16"
    freeze_norm: bool = False
    cpu_kernels: Literal["auto", "paddle"] = "auto"
    class_sampling: Literal["square_root", "full"] | None = None

    @model_validator(mode="after")
    def _check_graph(self) -> GlobalSettings:
        if self.to_static and self.freeze_stages is not None:
            raise ValueError("freeze_stages: needs to_static: False; a compiled graph keeps all gradients as they are")
        return self

    @property
    def all_loggers(self) -> list[str]:
        """``loggers``, and VisualDL with ``use_visualdl``."""
        return [*(["visualdl"] if self.use_visualdl else []), *self.loggers]


class EmaSettings(Section):
    """``EMA``: exponential moving average of the weights; the section alone turns it on.

    Attributes:
        decay: share of the old average that each step keeps; it rises to this value as (1 + n) / (10 + n).
    """

    decay: Share = 0.9999


@dataclasses.dataclass
class ArchSettings:
    """``Arch`` (or a teacher): the model's name, the trainer's own two keys, and the constructor's arguments.

    Attributes:
        name: one of ours, or an architecture of PaddleClas.
        use_sync_bn: share the statistics of batch norms between GPUs.
        pretrained: path of a weight file; ``True`` would mean a download and is refused.
        arguments: what is left, checked.
    """

    name: str
    use_sync_bn: bool = False
    pretrained: bool | str = False
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def class_num(self) -> int:
        """Number of classes, 1000 where the file does not say."""
        return int(self.arguments.get("class_num", 1000))


class FeatureSettings(Section):
    """``Distillation.features``: stage outputs that the student's are made to resemble.

    Attributes:
        stages: which, 1 to 4.
        outputs: of a teacher in ONNX: the names of the outputs that the stages resemble, one for each stage.
        weight: factor of this loss; it is added to the others.
    """

    stages: list[int] = [STAGES]
    outputs: list[str] | None = None
    weight: Positive = 1.0

    @model_validator(mode="after")
    def _check_stages(self) -> FeatureSettings:
        stages = self.stages
        if not stages or len(set(stages)) < len(stages) or not set(stages) <= set(range(1, STAGES + 1)):
            raise ValueError(f"stages: must be different numbers from 1 to {STAGES}, got {stages}")
        return self


class OnnxTeacherSettings(Section):
    """``Distillation.teacher`` in the form of a file: any network in ONNX, run by ONNX Runtime.

    Attributes:
        onnx: the file; ``Distillation.features.outputs`` names the outputs that are compared with the student's stages.
        logits: name of the output ``[N, class_num]``, for ``Distillation.weight`` above 0.
        mean, std: what it was trained with: it sees ``(byte - mean) / std``, three numbers each.
        channel_order: order of the colours that it sees.
    """

    onnx: str
    logits: str | None = None
    mean: Annotated[list[Number], Field(min_length=3, max_length=3)] = [123.675, 116.28, 103.53]
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)] = [58.395, 57.12, 57.375]
    channel_order: Literal["rgb", "bgr"] = "rgb"

    @property
    def name(self) -> str:
        """The file's name."""
        return meant_path(self.onnx).name


class PretrainingSettings(Section):
    """``Pretraining``: the network of ``Arch`` learns from images without labels.

    Attributes:
        name: ``Masked`` paints hidden patches (arXiv 2301.00808); ``Distilled`` follows the teacher of
            ``Distillation``.
        mask_ratio: share of the patches that are hidden, for ``Masked``.
        decoder_channels: width of the decoder of ``Masked``, which is thrown away.
        picture_interval: epochs between two pictures in ``pictures/`` of the run; 0 for none.
    """

    name: Literal["Masked", "Distilled"]
    mask_ratio: Annotated[Number, Field(gt=0, lt=1)] = 0.6
    decoder_channels: Count = 512
    picture_interval: CountOrZero = 5


class DistillationSettings(Section):
    """``Distillation``: a teacher for the network of ``Arch``.

    Attributes:
        teacher: the network that teaches; ``pretrained`` names its weights, or ``onnx`` a file of any network.
        kind: ``soft`` for the teacher's probabilities (arXiv 1503.02531), ``hard`` for its best class (arXiv
            2012.12877, section 4).
        temperature: divides the logits of both networks; for ``soft`` only, where it is 4 unless given.
        weight: share of the distillation loss; the loss of the labels has the rest.
        features: stage outputs to imitate too, or ``None``.
        image_size: the teacher sees images of this many pixels a side, resized from those of the student.
        evaluate_teacher: measure the teacher before the first epoch.
        cache: folder that keeps the teacher's outputs, which are then computed once; every epoch must show the same
            view of an image, so no operator may be random.
    """

    teacher: ArchSettings | OnnxTeacherSettings
    kind: Literal["soft", "hard"] = "soft"
    temperature: Positive | None = None
    weight: Annotated[Number, Field(ge=0, le=1)] = 0.7
    features: FeatureSettings | None = None
    image_size: Count | None = None
    evaluate_teacher: bool = True
    cache: str | None = None

    @model_validator(mode="after")
    def _check_together(self) -> DistillationSettings:
        if self.temperature is not None and self.kind == "hard":
            raise ValueError("temperature: has no effect on kind: hard; remove it")
        if self.weight == 0 and self.features is None:
            raise ValueError("weight: 0 without features leaves the teacher nothing to teach")
        if self.temperature is None:
            self.temperature = DEFAULT_TEMPERATURE
        return self


class SamplerSettings(Section):
    """``sampler``: how a data set is cut into batches. ``batch_size`` counts the images of one process."""

    name: Literal["DistributedBatchSampler", "BatchSampler"] = "DistributedBatchSampler"
    batch_size: Count = 64
    drop_last: bool = False
    shuffle: bool = False


class LoaderSettings(Section):
    """``loader``: worker processes (0 loads in the trainer's own process) and how their batches travel."""

    num_workers: CountOrZero = 0
    use_shared_memory: bool = True


class TopkSettings(Section):
    """``Infer.PostProcess``: how many classes are shown, and a file of class names (``id name`` lines)."""

    name: Literal["Topk"] = "Topk"
    topk: Count = 5
    class_id_map_file: str | None = None
    delimiter: str | None = None


class InferSettings(Section):
    """``Infer``: images to predict, and how they are prepared (the same operators as in the export)."""

    infer_imgs: str | None = None
    batch_size: Count = 10
    transforms: list[Any] = []
    PostProcess: TopkSettings | None = None


class DataSection(Section):
    """``DataLoader.Train`` and ``.Eval``: a data set with its operators, and how it becomes batches."""

    dataset: dict[str, Any]
    sampler: SamplerSettings | None = None
    loader: LoaderSettings | None = None


class DataLoaderSection(Section):
    """``DataLoader``: what is trained and what is evaluated on."""

    Train: DataSection | None = None
    Eval: DataSection | None = None


class ListsSection(Section):
    """``Loss`` and ``Metric``: a list for training, and one for evaluation."""

    Train: Any = None
    Eval: Any = None


class FileSection(Section):
    """The whole file; null is as good as absent, and the mere presence of ``AMP`` or ``EMA`` turns it on.

    What is ``Any`` has keys that depend on a name in it: ``config.py`` checks it by what the name stands for.
    """

    Global: GlobalSettings | None = None
    AMP: AmpSettings | None = None
    EMA: EmaSettings | None = None
    Arch: Any = None
    Loss: ListsSection | None = None
    Pretraining: PretrainingSettings | None = None
    Distillation: Any = None
    Optimizer: Any = None
    DataLoader: DataLoaderSection | None = None
    Infer: InferSettings | None = None
    Metric: ListsSection | None = None
