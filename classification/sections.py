"""The sections of a configuration other than lists of operators: a field is a key of the YAML.

The keys are PaddleClas's; those marked "ours" may stand only under ``Global``, where PaddleClas's trainer ignores them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal


def _below(low: float, **values: float | None) -> list[str]:
    """Returns a line for each value that is given and below ``low``."""
    return [
        f"{name}: must be at least {low}, got {value}"
        for name, value in values.items()
        if value is not None and value < low
    ]


def _at_least(low: float, **values: float | None) -> None:
    _refuse(_below(low, **values))


def _refuse(problems: list[str]) -> None:
    """Raises:
    ValueError: there are problems; one line for each, which begins with the key.
    """
    if problems:
        raise ValueError("\n".join(problems))


@dataclasses.dataclass
class GlobalSettings:
    """``Global``: the run as a whole.

    Attributes:
        checkpoints: resume from this checkpoint folder (PaddleClas's name for ``--resume PATH``).
        pretrained_model: weights to start from, or to evaluate, export and predict with.
        output_dir: everything that a run writes stands here.
        device: ``gpu`` falls back to the CPU, with one printed line, where Paddle finds no GPU.
        save_interval: epochs between two checkpoints.
        eval_during_train: evaluate every ``eval_interval`` epochs and after the last.
        epochs: passes over the training data.
        print_batch_step: batches between two log lines.
        use_visualdl: write VisualDL scalars to ``output_dir/vdl``.
        image_shape: ``[channels, height, width]`` of the model's input.
        save_inference_dir: where ``tools/export_model.py`` writes unless told otherwise.
        to_static: train the compiled graph instead of eager operators.
        update_freq: batches whose gradients are accumulated for one optimizer step.
        seed: all randomness follows from it.
        eval_mode, train_mode, use_dali: accepted with the values that mean plain classification.
        log_ranks: ranks that write to the log (ours always logs rank 0).
        keep_checkpoints: ours; how many of the newest checkpoints stay (the best one stays too).
        save_steps: ours; also save after this many batches inside an epoch; 0 for never.
        max_bad_images: ours; share of unreadable training images above which the run stops.
        amp_dtype: ours; ``float16`` (with loss scaling) or ``bfloat16`` (without) for the ``AMP`` section.
        freeze_norm: ours; keep batch norms in evaluation mode while training.
    """

    checkpoints: str | None = None
    pretrained_model: str | None = None
    output_dir: str = "./output/"
    device: Literal["gpu", "cpu", "xpu", "npu", "mlu"] = "gpu"
    save_interval: int = 1
    eval_during_train: bool = True
    eval_interval: int = 1
    epochs: int = 100
    print_batch_step: int = 10
    use_visualdl: bool = False
    image_shape: list[int] = dataclasses.field(default_factory=lambda: [3, 224, 224])
    save_inference_dir: str = "./inference"
    to_static: bool = False
    update_freq: int = 1
    seed: int | None = None
    class_num: int | None = None
    eval_mode: Literal["classification"] = "classification"
    train_mode: Literal["classification"] | None = None
    use_dali: Literal[False] = False
    log_ranks: str = "0"
    keep_checkpoints: int = 3
    save_steps: int = 0
    max_bad_images: float = 0.01
    amp_dtype: Literal["float16", "bfloat16"] = "float16"
    freeze_norm: bool = False

    def __post_init__(self) -> None:
        """Raises:
        ValueError: values are out of range; one line for each, which begins with the key.
        """
        problems = _below(
            1,
            save_interval=self.save_interval,
            eval_interval=self.eval_interval,
            epochs=self.epochs,
            print_batch_step=self.print_batch_step,
            update_freq=self.update_freq,
            keep_checkpoints=self.keep_checkpoints,
            class_num=self.class_num,
        )
        problems += _below(0, save_steps=self.save_steps, max_bad_images=self.max_bad_images, seed=self.seed)
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            problems.append(f"image_shape: must be [channels, height, width], got {self.image_shape}")
        _refuse(problems)


@dataclasses.dataclass
class AmpSettings:
    """``AMP``: automatic mixed precision. The section alone turns it on, as in PaddleClas; ``use_amp`` turns it off.

    Attributes:
        level: ``O1`` casts per operator, ``O2`` keeps the weights in low precision beside float32 copies.
        scale_loss: first value of the loss scale.
        use_fp16_test: evaluate in mixed precision too.
    """

    use_amp: bool = True
    use_fp16_test: bool = False
    scale_loss: float = 65536.0
    use_dynamic_loss_scaling: bool = True
    use_promote: bool = False
    level: Literal["O1", "O2"] = "O1"

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a value is out of range; the message begins with the key.
        """
        _at_least(1, scale_loss=self.scale_loss)


@dataclasses.dataclass
class EmaSettings:
    """``EMA``: exponential moving average of the weights; the section alone turns it on.

    Attributes:
        decay: share of the old average that each step keeps; it rises to this value as (1 + n) / (10 + n).
    """

    decay: float = 0.9999

    def __post_init__(self) -> None:
        """Raises:
        ValueError: the decay is not within [0, 1); the message begins with the key.
        """
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: must be at least 0 and below 1, got {self.decay}")


@dataclasses.dataclass
class ArchSettings:
    """``Arch``: the model's name, the trainer's own two keys, and the arguments of the model's constructor.

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


@dataclasses.dataclass
class SamplerSettings:
    """``sampler``: how a data set is cut into batches. ``batch_size`` counts the images of one process."""

    name: Literal["DistributedBatchSampler", "BatchSampler"] = "DistributedBatchSampler"
    batch_size: int = 64
    drop_last: bool = False
    shuffle: bool = False

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a value is out of range; the message begins with the key.
        """
        _at_least(1, batch_size=self.batch_size)


@dataclasses.dataclass
class LoaderSettings:
    """``loader``: worker processes (0 loads in the trainer's own process) and how their batches travel."""

    num_workers: int = 0
    use_shared_memory: bool = True

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a value is out of range; the message begins with the key.
        """
        _at_least(0, num_workers=self.num_workers)


@dataclasses.dataclass
class TopkSettings:
    """``Infer.PostProcess``: how many classes are shown, and a file of class names (``id name`` lines)."""

    name: Literal["Topk"] = "Topk"
    topk: int = 5
    class_id_map_file: str | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a value is out of range; the message begins with the key.
        """
        _at_least(1, topk=self.topk)


@dataclasses.dataclass
class InferSettings:
    """``Infer``: images to predict, and how they are prepared (the same operators as in the export)."""

    infer_imgs: str | None = None
    batch_size: int = 10
    transforms: list[Any] = dataclasses.field(default_factory=list)
    PostProcess: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "Topk", "topk": 5})

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a value is out of range; the message begins with the key.
        """
        _at_least(1, batch_size=self.batch_size)
