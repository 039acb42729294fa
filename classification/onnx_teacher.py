"""A teacher of distillation that is any network in an ONNX file, and a cache for the outputs of any teacher."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

from classification.config import CACHE, DISTILLATION, TEACHER, Config
from classification.data.datasets import ImageDataset
from classification.data.loader import SampleReader, stack_images
from classification.data.operators import normalisation_of
from classification.sections import OnnxTeacherSettings
from ppcls_ext.engine.environment import Environment, barrier
from ppcls_ext.engine.loader import SampleKey
from ppcls_ext.preprocess.operators import DecodeImage
from ppcls_ext.utils.display import Display
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.files import atomic_folder, sha256_of, write_json
from ppcls_ext.utils.names import meant_path

logger = logging.getLogger(__name__)
# Logits ``[N, class_num]`` or None, and what is compared with the student's stages, ``[N, C_i, H_i, W_i]`` each.
Outputs = tuple[paddle.Tensor | None, list[paddle.Tensor]]
MEGABYTE = 1e6
CACHE_BATCH = 32
# ONNX Runtime would write the fault to the terminal as well.
FATAL_ONLY = 4


class OnnxTeacher(nn.Layer):
    """Runs the file with ONNX Runtime; no gradient reaches it, and no checkpoint of the student holds it.

    Args:
        config: the configuration, with ``Distillation``.
        settings: its teacher.

    Attributes:
        image_shape: ``[channels, height, width]`` that it sees; images of another size are resized to it.

    Raises:
        UserError: ONNX Runtime is missing, the file is damaged or lacks its weights, or input or outputs do not fit.
    """

    def __init__(self, config: Config, settings: OnnxTeacherSettings) -> None:
        super().__init__()
        distillation = config.distillation
        assert distillation is not None and config.train is not None
        self._refuse = lambda key, message: UserError(config.document.problem(f"{TEACHER}.{key}", message))
        self.settings = settings
        self._session = self._open(meant_path(settings.onnx))
        # Logits whatever their weight, so that a cache holds them for every weight.
        self._with_logits = settings.logits is not None
        features_key = f"{DISTILLATION}.features.outputs"
        known = [node.name for node in self._session.get_outputs()]
        wanted = [(settings.logits, f"{TEACHER}.logits")] if self._with_logits else []
        wanted += [(name, features_key) for name in (distillation.features.outputs if distillation.features else [])]
        for name, key in wanted:
            if name not in known:
                message = f"{settings.onnx} has no output '{name}'{suggestion(name, known)}; it has {', '.join(known)}"
                raise UserError(config.document.problem(key, message))
        self._names = [name for name, _ in wanted]
        channels, *size = config.run.image_shape
        self.image_shape = [3, *self._input_size(distillation.image_size, size)]
        operators = config.train.operators
        student_order = "bgr" if any(isinstance(one, DecodeImage) and not one.to_rgb for one in operators) else "rgb"
        self._turned = settings.channel_order != student_order
        factors, offsets = (values.astype(np.float64) for values in normalisation_of(operators))
        # The student's (byte * factor + offset) -> the teacher's (byte - mean) / std, in the student's order.
        mean, std = np.array([settings.mean, settings.std])[:, :: 1 if student_order == "rgb" else -1]
        self._scale = (1 / (factors * std)).astype(np.float32).reshape(3, 1, 1)
        self._shift = ((-offsets / factors - mean) / std).astype(np.float32).reshape(3, 1, 1)
        # Three images, as a file may have been fixed to one or two at a time.
        sizes = " x ".join(str(side) for side in self.image_shape[1:])
        with self._faults_of_file(f"cannot compute three images of {sizes}"):
            outputs = self._run(np.zeros([3, channels, *size], np.float32))
        self._check_outputs(config, outputs)
        self._widths = [output.shape[1] for output in outputs[self._with_logits :]]

    def _open(self, file: Path) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise self._refuse("onnx", "needs ONNX Runtime: make setup-deploy, or pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        threads = (os.environ.get("OMP_NUM_THREADS") or "").split(",")[0]
        if threads.isdigit():
            options.intra_op_num_threads = int(threads)
        options.log_severity_level = FATAL_ONLY
        with self._faults_of_file("cannot be opened"):
            return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    @contextlib.contextmanager
    def _faults_of_file(self, what: str) -> Iterator[None]:
        """Says in one line what ONNX Runtime says of the file."""
        try:
            yield
        # ONNX Runtime has a class of its own for each fault, without a common base but Exception.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise self._refuse("onnx", f"{self.settings.onnx} {what}: {reason}") from error

    def _input_size(self, stated: int | None, size: list[int]) -> list[int]:
        """Returns height and width that the file takes: ``Distillation.image_size``, its own or the student's."""
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if inputs else []
        # Not left to the trial: one with open sides takes images of either layout, and computes nonsense from one.
        if len(shape) != 4 or shape[1] != 3:
            found = f"{inputs[0].name} {shape}" if inputs else "nothing"
            hint = "; export it with channels first" if shape[3:] == [3] else ""
            raise self._refuse("onnx", f"{self.settings.onnx} must take images [N, 3, H, W]; it takes {found}{hint}")
        if stated is not None:
            return [stated, stated]
        return [side if isinstance(side, int) else student for side, student in zip(shape[2:], size, strict=True)]

    def _check_outputs(self, config: Config, outputs: list[np.ndarray]) -> None:
        for name, output in zip(self._names[self._with_logits :], outputs[self._with_logits :], strict=True):
            if output.ndim != 4:
                message = f"'{name}' of {self.settings.onnx} has the shape {list(output.shape)}, expected [N, C, H, W]"
                raise UserError(config.document.problem(f"{DISTILLATION}.features.outputs", message))
        if self._with_logits and config.distillation.weight > 0:
            expected, found = [len(outputs[0]), config.arch.class_num], list(outputs[0].shape)
            if found != expected:
                message = f"'{self._names[0]}' of {self.settings.onnx} has the shape {found}, expected {expected}"
                raise self._refuse("logits", f"{message} (Arch.class_num); or use {DISTILLATION}.weight: 0")

    def widths(self, stages: Sequence[int]) -> list[int]:
        """Returns the channels of the outputs that are compared with these stages."""
        return self._widths[: len(stages)]

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        """Images ``[N, channels, H, W]`` of the student -> the outputs, logits first."""
        if images.shape[1] == 1:
            images = np.repeat(images, 3, axis=1)
        images = images * self._scale + self._shift
        if list(images.shape[2:]) != self.image_shape[1:]:
            tensor = paddle.to_tensor(images)
            images = functional.interpolate(tensor, self.image_shape[1:], mode="bilinear", align_corners=False).numpy()
        if self._turned:
            images = images[:, ::-1]
        name = self._session.get_inputs()[0].name
        dtype = np.float16 if "float16" in self._session.get_inputs()[0].type else np.float32
        return self._session.run(self._names, {name: np.ascontiguousarray(images, dtype=dtype)})

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Images ``[N, channels, H, W]`` of the student -> the teacher's logits ``[N, class_num]``."""
        return self.outputs(image, [])[0]

    def outputs(self, image: paddle.Tensor, stages: Sequence[int]) -> Outputs:
        """Images as for `forward` -> logits (None if they are not wanted), and the outputs for some stages."""
        found = [paddle.to_tensor(output.astype(np.float32)) for output in self._run(image.numpy())]
        logits = found.pop(0) if self._with_logits else None
        return logits, found[: len(stages)]


class TeacherCache:
    """The outputs of a teacher for every image of a data set, in the files of a folder; see :func:`open_cache`."""

    def __init__(self, folder: Path, names: Sequence[str], with_logits: bool) -> None:
        self._arrays, self._with_logits = [np.load(folder / name, mmap_mode="r") for name in names], with_logits

    def outputs(self, indices: np.ndarray) -> Outputs:
        """Numbers of images ``[N]`` -> what the teacher gave for them."""
        found = [paddle.to_tensor(np.asarray(array[indices], dtype=np.float32)) for array in self._arrays]
        logits = found.pop(0) if self._with_logits else None
        return logits, found


RECORD = "cache.json"


def open_cache(
    config: Config, dataset: ImageDataset, teacher: nn.Layer, stages: Sequence[int], sha256: str,
    environment: Environment,
) -> TeacherCache:  # fmt: skip
    """Opens ``Distillation.cache``. If it is not there, the first process fills it: the teacher sees all images once.

    Args:
        config: the configuration; its operators must give the same view of an image in every epoch.
        dataset: the training set.
        teacher: has ``outputs``, see :meth:`OnnxTeacher.outputs`.
        stages: the stages that are compared.
        sha256: of the teacher's weights.
        environment: the processes, all of which call this.

    Raises:
        UserError: it is of another teacher, of other images or damaged, or the disk has no room for it.
    """
    assert config.distillation is not None and config.distillation.cache is not None
    folder = Path(config.distillation.cache)

    def refuse(message: str) -> UserError:
        return UserError(config.document.problem(CACHE, message))

    data = config.document.data
    operators = data["DataLoader"]["Train"]["dataset"].get("transform_ops")
    features, settings = data[DISTILLATION].get("features"), data[DISTILLATION]["teacher"]
    # The checksum tells the teacher, wherever it lies; the weight of the loss changes no output.
    features = features and {key: value for key, value in features.items() if key != "weight"}
    asked = [features, {key: value for key, value in settings.items() if key not in ("onnx", "pretrained")}]
    wanted = {
        "teacher": sha256,
        "stages": list(stages),
        "settings": json.loads(json.dumps([teacher.image_shape, config.run.image_shape, operators, asked])),
        "images": _checksum_of(dataset),
    }
    if environment.is_main and not folder.exists():
        _fill(config, dataset, teacher, stages, wanted, folder, refuse)
    barrier(environment.world_size)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        damaged = [name for name, checksum in record["files"].items() if sha256_of(folder / name) != checksum]
        cache = TeacherCache(folder, list(record["files"]), record["with_logits"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise refuse(f"{folder} is no whole cache ({error}); remove it, or name another folder") from error
    if others := [key for key, value in wanted.items() if record.get(key) != value]:
        raise refuse(f"{folder} is of other {' and '.join(others)}; remove it, or name another folder")
    if damaged:
        raise refuse(f"{folder}/{damaged[0]} is damaged (its checksum differs); remove the folder")
    logger.info("teacher's outputs: from %s", folder)
    return cache


def _fill(
    config: Config, dataset: ImageDataset, teacher: nn.Layer, stages: Sequence[int], wanted: dict[str, Any],
    folder: Path, refuse: Any,
) -> None:  # fmt: skip
    """Lets the teacher see all images, once, and writes what it gives into a new folder; for arguments see above."""
    example = teacher.outputs(paddle.zeros([1, *config.run.image_shape]), stages)
    shapes = [list(output.shape[1:]) for output in _as_list(example)]
    size = len(dataset) * sum(int(np.prod(shape)) for shape in shapes) * 2
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    text = f"{size / MEGABYTE:,.0f} MB for {len(dataset):,} images"
    if size > free:
        raise refuse(f"{folder} would take {text}, but only {free / MEGABYTE:,.0f} MB are free")
    logger.info("teacher's outputs: writing %s, %s", folder, text)
    reader = SampleReader(dataset, config.train.operators, seed=0, training=False)
    with atomic_folder(folder) as temporary:
        arrays = [
            np.lib.format.open_memmap(temporary / f"{number}.npy", "w+", np.float16, (len(dataset), *shape))
            for number, shape in enumerate(shapes)
        ]
        batches = range(0, len(dataset), CACHE_BATCH)
        with Display("teacher", len(batches)) as display:
            for first in batches:
                indices = range(first, min(first + CACHE_BATCH, len(dataset)))
                # An image that cannot be read keeps zeros, which nobody asks for.
                samples = [reader.read(SampleKey(0, index, index)) for index in indices]
                good = [sample for sample in samples if sample.image is not None]
                if good:
                    images = paddle.to_tensor(stack_images([sample.image for sample in good]))
                    for array, output in zip(arrays, _as_list(teacher.outputs(images, stages)), strict=True):
                        array[[sample.index for sample in good]] = output.numpy().astype(np.float16)
                display.advance()
        for array in arrays:
            array.flush()
        files = {f"{number}.npy": sha256_of(temporary / f"{number}.npy") for number in range(len(arrays))}
        record = {**wanted, "with_logits": example[0] is not None, "files": files}
        write_json(temporary / RECORD, record)


def _as_list(outputs: Outputs) -> list[paddle.Tensor]:
    logits, features = outputs
    return [*([] if logits is None else [logits]), *features]


def external_data(file: Path) -> list[Path]:
    """Returns the files that hold weights of an ONNX file outside of it; needs no package that reads such files."""
    content = file.read_bytes()
    # An entry of protobuf: field 1, the key, then field 2, the length of the name in a byte and the name.
    starts = [match.end() for match in re.finditer(rb"\n\x08location\x12(?=.)", content, re.DOTALL)]
    names = {content[start + 1 : start + 1 + content[start]].decode(errors="replace") for start in starts}
    return [file.parent / name for name in sorted(names) if (file.parent / name).is_file()]


def _checksum_of(dataset: ImageDataset) -> str:
    """Returns a checksum of all images, in their order."""
    total = hashlib.sha256()
    for index in range(len(dataset)):
        try:
            image, _ = dataset.load(index)
        except UserError:
            image = b""
        total.update(hashlib.sha256(image if isinstance(image, bytes) else np.ascontiguousarray(image)).digest())
    return total.hexdigest()
