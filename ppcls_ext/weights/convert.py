"""Converts a weight file: from the names of another code base to ours or back, and between file formats.

First the layouts: how other code bases name and shape the weights of our networks, a table of patterns for each. Names
and shapes follow the code that each ``title`` names; linear layers are ``[out, in]`` in PyTorch, ``[in, out]`` in
Paddle. Then the conversion itself.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_ext.arch.registry import build_model, families, family_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights.files import SUFFIXES, TORCH_SUFFIXES, find_weights, read_weights, widened, write_weights
from ppcls_ext.weights.load import CLASSIFIER, LoadReport, compare
from ppcls_ext.weights.pickles import first_of, read_torch_weights, shown

Change = Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _read_linear(array: np.ndarray) -> np.ndarray:
    """``[out, in]``, or the same as a 1x1 convolution ``[out, in, 1, 1]`` -> ``[in, out]``; a bias as it is."""
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.T if array.ndim == 2 else array


def _read_vector(array: np.ndarray) -> np.ndarray:
    """``[1, 1, 1, C]``, ``[1, C]`` or ``[C, 1, 1]`` -> ``[C]``."""
    return array.reshape(-1) if array.ndim and array.size == max(array.shape) else array


def _read_sparse_kernel(array: np.ndarray) -> np.ndarray:
    """``[k * k, in, out]`` or, depthwise, ``[k * k, channels]`` -> ``[out, in, k, k]`` or ``[channels, 1, k, k]``.

    Positions of the window go first along the height there, as ``remap_checkpoint_keys`` of the official ConvNeXt V2
    repository shows.
    """
    side = math.isqrt(array.shape[0]) if array.ndim else 0
    if array.ndim not in (2, 3) or side * side != array.shape[0]:
        return array
    windows = array.T.reshape(*array.shape[:0:-1], side, side).swapaxes(-1, -2)
    return windows[:, None] if array.ndim == 2 else windows


class Form(NamedTuple):
    """How an array lies in the other code base: from their form to ours, and back.

    What has none of the expected shapes is returned as it is, for the comparison with the model's shapes to find.
    """

    read: Change = _same
    write: Change = _same


SAME = Form()
LINEAR = Form(_read_linear, np.transpose)  # Of a bias the transpose is the bias.
POINTWISE = Form(_read_linear, lambda array: array.T[:, :, None, None] if array.ndim == 2 else array)
# A factor for each channel, shaped to fit maps with the channels last, or first.
LAST_AXIS = Form(_read_vector, lambda array: array.reshape(1, 1, 1, -1))
FIRST_AXIS = Form(_read_vector, lambda array: array.reshape(-1, 1, 1))

# What stands in the places of patterns. Few digits: a longer number is no position in a network.
NUMBER = "0|[1-9][0-9]{0,3}"
PLACES = {"stage": NUMBER, "block": NUMBER, "layer": NUMBER, "part": r"\w+", "name": ".+"}
# What wrappers of a model put before every name.
WRAPPERS = ("module.", "_orig_mod.")


class Row(NamedTuple):
    """One kind of weight: patterns of their name and ours with the same places, and how it lies there."""

    theirs: str
    ours: str
    form: Form = SAME


@dataclass
class Conversion:
    """Converted weights by our names, names of the source that have no counterpart, and our names of weights that the
    source does not hold and that begin anew."""

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Names and forms of another code base.

    Attributes:
        title: whose they are, for messages.
        classes: our classes that it holds the weights of; empty for any model.
        rows: the kinds of weights; the first row that matches counts.
        unused: regular expressions of names that our models have no use for.
        plain: what is done to a name and its array before the rows are looked at.
    """

    title: str
    classes: tuple[str, ...]
    rows: Sequence[Row]
    unused: tuple[str, ...] = ()
    plain: Callable[[str, np.ndarray], tuple[str, np.ndarray]] = lambda name, array: (name, array)

    def to_ours(self, weights: Mapping[str, np.ndarray], label: str) -> Conversion:
        """Renames and reshapes weights by their names, without asking which model they fit.

        Raises:
            UserError: names are unknown, or two mean the same weight; the message begins with ``label``.
        """
        conversion, unknown = Conversion(), []
        for name, array in _unwrapped(weights).items():
            plain, array = self.plain(name, array)
            match = _matching(self.rows, plain, "theirs", "ours")
            if any(re.fullmatch(pattern, name) for pattern in self.unused):
                conversion.dropped.append(name)
            elif match is None:
                unknown.append(name)
            elif match[1] in conversion.weights:
                raise UserError(f"{label}: holds {match[1]} twice, the second time as {shown(name)}")
            else:
                conversion.weights[match[1]] = match[0].form.read(array)
        if unknown:
            raise UserError(
                f"{label}: not a checkpoint of {self.title}, {len(unknown)} of {len(weights)} names are unknown: "
                f"{first_of(unknown)}"
            )
        return conversion

    def to_theirs(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inverse of ``to_ours``; ``ValueError`` where the layout has no such weight."""
        converted = {}
        for name, array in weights.items():
            match = _matching(self.rows, name, "ours", "theirs")
            if match is None:
                raise ValueError(f"{self.title} has no weight for {name}")
            converted[match[1]] = match[0].form.write(array)
        return converted


def _unwrapped(weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Takes away what a wrapper put before every name."""
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            return _unwrapped({name.removeprefix(wrapper): array for name, array in weights.items()})
    return weights


def _matching(rows: Sequence[Row], name: str, source: str, target: str) -> tuple[Row, str] | None:
    """Returns the first row whose pattern ``source`` fits ``name``, and the name that its ``target`` gives then."""
    for row in rows:
        match = _expression(getattr(row, source)).fullmatch(name)
        if match:
            return row, getattr(row, target).format(**match.groupdict())
    return None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda place: f"(?P<{place[1]}>{PLACES[place[1]]})", re.escape(pattern)))


V1, V2, ECONVNEXT = "ConvNeXtV1", "ConvNeXtV2", "EConvNeXt"
BLOCK = "stages.{stage}.blocks.{block}"
DOWNSAMPLE = "stages.{stage}.downsample"


def _official(linear: Form) -> list[Row]:
    """The names of the official ConvNeXt, which PaddleClas took over with Paddle's form of linear layers."""
    block = "stages.{stage}.{block}."
    return [
        Row("downsample_layers.0.{layer}.{part}", "stem.{layer}.{part}"),
        Row("downsample_layers.{stage}.{layer}.{part}", DOWNSAMPLE + ".{layer}.{part}"),
        *_parts(block, {"dwconv": "depthwise", "norm": "norm"}),
        *_parts(block, {"pwconv1": "expand", "pwconv2": "project"}, linear),
        Row(block + "gamma", BLOCK + ".layer_scale.weight"),
        # ConvNeXt V2 shapes what its normalisation learns like a map with the channels last.
        Row(block + "grn.gamma", BLOCK + ".response_norm.weight", LAST_AXIS),
        Row(block + "grn.beta", BLOCK + ".response_norm.bias", LAST_AXIS),
        Row("norm.{part}", "norm.{part}"),
        Row("head.{part}", "head.{part}", linear),
    ]


def _parts(prefix: str, names: Mapping[str, str], form: Form = SAME, block: str = BLOCK) -> list[Row]:
    """Rows of the layers of a block that hold weights and biases, by their names and ours."""
    return [Row(f"{prefix}{theirs}.{{part}}", f"{block}.{ours}.{{part}}", form) for theirs, ours in names.items()]


def _dense(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Makes of a weight of the masked autoencoder's encoder, whose layers are those of MinkowskiEngine, that of the
    ordinary layer in the network itself."""
    name = name.removeprefix("encoder.").replace(".ln.", ".").replace(".linear.", ".")
    if name.endswith(".kernel"):
        return f"{name.removesuffix('kernel')}weight", _read_sparse_kernel(array)
    return name, _read_vector(array) if name.endswith(".bias") else array


def _timm(linear: Form) -> list[Row]:
    """The names of timm. Its small models have 1x1 convolutions in the place of linear layers, but for the last."""
    return [
        Row("stem.{layer}.{part}", "stem.{layer}.{part}"),
        Row(DOWNSAMPLE + ".{layer}.{part}", DOWNSAMPLE + ".{layer}.{part}"),
        *_parts(BLOCK + ".", {"conv_dw": "depthwise", "norm": "norm", "mlp.grn": "response_norm"}),
        *_parts(BLOCK + ".", {"mlp.fc1": "expand", "mlp.fc2": "project"}, linear),
        Row(BLOCK + ".gamma", BLOCK + ".layer_scale.weight"),
        Row("head.norm.{part}", "norm.{part}"),
        Row("head.fc.{part}", "head.{part}", LINEAR),
    ]


def _torchvision() -> list[Row]:
    """The names of torchvision, which counts stems, downsamplings and stages in one row."""
    rows = [Row("features.0.{layer}.{part}", "stem.{layer}.{part}")]
    for stage in range(4):
        theirs, ours = f"features.{2 * stage + 1}.{{block}}", f"stages.{stage}.blocks.{{block}}"
        rows += [
            Row(f"features.{2 * stage}.{{layer}}.{{part}}", f"stages.{stage}.downsample.{{layer}}.{{part}}"),
            Row(theirs + ".layer_scale", ours + ".layer_scale.weight", FIRST_AXIS),
            *_parts(theirs + ".block.", {"0": "depthwise", "2": "norm"}, block=ours),
            *_parts(theirs + ".block.", {"3": "expand", "5": "project"}, LINEAR, block=ours),
        ]
    return [*rows, Row("classifier.0.{part}", "norm.{part}"), Row("classifier.2.{part}", "head.{part}", LINEAR)]


def _reference() -> list[Row]:
    """The names of the paper's repository, whose stem counts from one."""
    places = {f"Down_Conv.conv{layer + 1}": f"stem.{layer}" for layer in range(3)}
    stages = {"down.0": "downsample", "conv1": "shortcut", "conv2": "entry", "conv3": "merge"}
    places |= {f"stages.{{stage}}.{theirs}": f"stages.{{stage}}.{ours}" for theirs, ours in stages.items()}
    block = {
        "dwconv": "depthwise", "norm": "norm", "pwconv1": "expand", "pwconv2": "project", "norm2": "project_norm",
        "ese.fc": "attention.conv",
    }  # fmt: skip
    return [
        *(Row(f"{theirs}.conv.{{part}}", f"{ours}.conv.{{part}}") for theirs, ours in places.items()),
        *(Row(f"{theirs}.bn.{{part}}", f"{ours}.norm.{{part}}") for theirs, ours in places.items()),
        Row("stages.{stage}.attn.fc.{part}", "stages.{stage}.attention.conv.{part}"),
        *_parts(BLOCK + ".", block),
        Row("norm.{part}", "norm.{part}"),
        Row("head.fc_cls.{part}", "head.{part}"),
    ]


# Whose weights are read, by the name on the command line.
LAYOUTS: dict[str, Layout] = {
    "facebook": Layout(
        "the official repositories of ConvNeXt and ConvNeXt V2",
        (V1, V2),
        _official(LINEAR),
        # What the masked autoencoder has behind its encoder.
        unused=(r"(decoder|proj|pred)\..+", "mask_token"),
        plain=_dense,
    ),
    "ours": Layout("this project", (), [Row("{name}", "{name}")]),
    "paddleclas": Layout("PaddleClas's ConvNeXt", (V1,), _official(SAME)),
    "reference": Layout(
        "the paper's repository",
        (ECONVNEXT,),
        _reference(),
        # The layer scale that the attention replaced, and the batch norms of detector features.
        unused=(r"stages\.\d\.blocks\.\d+\.gamma", r"norms\.\d\..+"),
    ),
    "timm": Layout("timm's ConvNeXt", (V1, V2), _timm(LINEAR)),
    "torchvision": Layout("torchvision's ConvNeXt", (V1,), _torchvision()),
}
TIMM_POINTWISE = Layout("timm's ConvNeXt with 1x1 convolutions", (V1, V2), _timm(POINTWISE))
# Our models that timm builds so.
POINTWISE_IN_TIMM = ("ConvNeXtV2_atto", "ConvNeXtV2_femto", "ConvNeXtV2_pico", "ConvNeXtV2_nano")
# Whose form is written. Not the reference's: what it holds beyond our models cannot be made up.
TARGETS = ("facebook", "ours", "paddleclas", "timm", "torchvision")
# In these the weights are read by Paddle, in all others by PyTorch.
PADDLE_TARGETS = ("ours", "paddleclas")


def convert_weights(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    model_name: str,
    origin: str,
    target: str = "ours",
    class_num: int | None = None,
    drop_head: bool = False,
    entry: str | None = None,
) -> Conversion:
    """Converts the weights in ``source`` to ``destination``; the suffixes choose the formats.

    Args:
        source: weight file (``.pdparams``, ``.safetensors``, ``.pth``, ``.pt``) or checkpoint folder.
        destination: file to write, ``.safetensors``, or for Paddle also ``.pdparams``.
        model_name: a name of ``list_models()``; the converted weights must fit it exactly.
        origin, target: a key of ``LAYOUTS`` and one of ``TARGETS``: whose names the source uses and are written.
        class_num: number of classes; None takes it from the source's classifier.
        drop_head: leave the classifier out; the last norm may then be missing as well, and begins anew.
        entry: which entry of a file of ``torch.save`` holds the weights, if several do.

    Raises:
        UserError: the source cannot be read or does not fit the model, or the arguments contradict each other.
    """
    for_paddle = target in PADDLE_TARGETS
    allowed = SUFFIXES if for_paddle else (".safetensors",)
    if Path(destination).suffix not in allowed:
        named = "" if for_paddle else f" of weights for {target}"
        raise UserError(f"{destination}: the suffix{named} must be {' or '.join(allowed)}")
    if drop_head and class_num:
        raise UserError("--drop-head leaves the classifier out: leave --class-num out too")
    if target not in TARGETS:
        raise UserError(f"weights can be written for {', '.join(TARGETS)}, not for {target}")
    family = family_of(model_name)
    for option, name in (("--from", origin), ("--to", target)):
        classes = LAYOUTS[name].classes
        if classes and (family is None or family.network.__name__ not in classes):
            models = [model for each in families() if each.network.__name__ in classes for model in each.models]
            raise UserError(
                f"{option} {name} is for {LAYOUTS[name].title}, not for {model_name}: "
                f"choose --model among {', '.join(models)}"
            )
    file = find_weights(source)
    if file.suffix in TORCH_SUFFIXES:
        weights = read_torch_weights(file, entry)
    elif entry is not None:
        raise UserError(f"{file}: --entry {entry} is for files of torch.save ({', '.join(TORCH_SUFFIXES)})")
    else:
        weights = read_weights(source)
    try:
        conversion = LAYOUTS[origin].to_ours(weights, str(file))
    except UserError as error:
        other = next((name for name, each in LAYOUTS.items() if each.classes and _knows(each, weights)), None)
        if other in (None, origin):
            raise
        raise UserError(f"{error}. These are the names of {LAYOUTS[other].title}: say --from {other}") from error
    converted = conversion.weights
    if drop_head:
        class_num = 0
        _drop_head(conversion)
    elif class_num is None:
        bias = converted.get("head.bias")
        class_num = len(bias) if bias is not None and bias.ndim == 1 else 1000
    report = compare(str(file), _shapes_of(model_name, class_num), converted)
    if not report.complete:
        raise UserError(f"{file} does not fit {model_name}: {_advice(report, converted, class_num)}")
    # A .pdparams keeps bfloat16 as 16-bit integers; no weight is ever a real uint16.
    for name, array in converted.items():
        if array.dtype.kind != "f" and array.dtype != np.uint16:
            raise UserError(f"{file}: {name} is of type {array.dtype}, not a weight")
    written = converted
    if target != "ours":
        plain = {name: widened(array) for name, array in converted.items()}
        pointwise = target == "timm" and model_name in POINTWISE_IN_TIMM
        written = (TIMM_POINTWISE if pointwise else LAYOUTS[target]).to_theirs(plain)
    metadata = {"model": model_name, "class_num": str(class_num), "origin": origin}
    write_weights(destination, written, {"format": "paddle" if for_paddle else "pt", **metadata})
    return conversion


def _knows(layout: Layout, weights: Mapping[str, np.ndarray]) -> bool:
    try:
        return bool(layout.to_ours(weights, "").weights)
    except UserError:
        return False


def _drop_head(conversion: Conversion) -> None:
    """Takes the classifier away; a last norm that is missing begins as the identity.

    Self-supervised pretraining knows neither; the authors' fine-tuning begins with these values.
    """
    for name in [name for name in conversion.weights if name.startswith(CLASSIFIER)]:
        del conversion.weights[name]
        conversion.dropped.append(name)
    features = [array for name, array in conversion.weights.items() if name.endswith(".project.bias")]
    if features and not any(name.startswith("norm.") for name in conversion.weights):
        for name, value in (("norm.weight", 1.0), ("norm.bias", 0.0)):
            conversion.weights[name] = np.full(features[-1].shape, value, dtype=np.float32)
            conversion.fresh.append(name)


def _shapes_of(model_name: str, class_num: int) -> dict[str, tuple[int, ...]]:
    import paddle

    try:
        # Only the shapes are wanted: without initial values a large model takes a tenth of a second, not ten. The
        # toolkit's models may compute with their initial values.
        with paddle.LazyGuard() if family_of(model_name) else contextlib.nullcontext():
            model = build_model(model_name, class_num=class_num)
    except ValueError as error:
        raise UserError(str(error)) from error
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def _advice(report: LoadReport, converted: Mapping[str, np.ndarray], class_num: int) -> str:
    """Returns the differences between a file and a model with what to say on the command line."""
    differences = report.differences()
    if report.outside(CLASSIFIER).complete:
        if report.missing:
            return f"{differences}. Only the classifier is missing: --drop-head writes the weights without one"
        classes = converted["head.bias"].size if "head.bias" in converted else "N"
        return f"{differences}. Only the classifier differs: say --class-num {classes}, or --drop-head to leave it out"
    if set(report.different) == {"norm.weight", "norm.bias", "head.weight", "head.bias"} == set(report.missing):
        return f"{differences}. The file holds the features alone, as after pretraining without labels: say --drop-head"
    for family in families():
        for name in family.models:
            if compare("", _shapes_of(name, class_num), converted).outside(CLASSIFIER).complete:
                return f"this is {name}: choose --model {name}"
    return f"{differences}. The file is incomplete, altered, of another model, or not what --from says"
