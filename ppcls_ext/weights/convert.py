"""Converts a weight file: from the names of another code base to ours or back, and between file formats.

First the layouts: how other code bases name and shape the weights of our networks, a table of names for each. Names
and shapes follow the code that each ``title`` names; linear layers are ``[out, in]`` in PyTorch, ``[in, out]`` in
Paddle. Then the conversion itself.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.arch.registry import build_model, families, family_of
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights.files import SUFFIXES, TORCH_SUFFIXES, find_weights, read_weights, widened, write_weights
from ppcls_ext.weights.load import CLASSIFIER, LoadReport, compare
from ppcls_ext.weights.pickles import first_of, read_torch_weights, shown

Shapes = Mapping[str, tuple[int, ...]]
# What stands in the places of names. Few digits: a longer number is no position in a network.
NUMBER = "0|[1-9][0-9]{0,3}"
PLACES = {"stage": NUMBER, "block": NUMBER, "layer": NUMBER, "part": r"\w+", "name": ".+"}
# What wrappers of a model put before every name.
WRAPPERS = ("module.", "_orig_mod.")
# Axes of size 1 that others add to our arrays, for maps with the channels last or first, and for 1x1 convolutions.
CHANNELS_LAST, CHANNELS_FIRST, POINTWISE = np.s_[None, None, None, :], np.s_[:, None, None], np.s_[:, :, None, None]


@dataclass
class Conversion:
    """Converted weights by our names, names of the source that have no counterpart, and our names of weights that the
    source does not hold and that begin anew."""

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Names and shapes of another code base.

    Attributes:
        title: whose they are, for messages.
        classes: our classes that it holds the weights of; empty for any model.
        names: their names with places in braces, and ours with the same places; the first that fits counts.
        unused: regular expression of names that our models have no use for.
        transposed: weights of linear layers are ``[out, in]``.
        axes: the axes that it adds, by the last two parts of our names.
        plain: what is done to a name and its array before ``names`` is looked at.
    """

    title: str
    classes: tuple[str, ...]
    names: Mapping[str, str]
    unused: str = ""
    transposed: bool = False
    axes: Mapping[str, Any] = field(default_factory=dict)
    plain: Callable[[str, np.ndarray], tuple[str, np.ndarray]] = lambda name, array: (name, array)

    def to_ours(self, weights: Mapping[str, np.ndarray], label: str) -> Conversion:
        """Renames weights, without asking which model they fit; their axes stay, see ``arranged``.

        Raises:
            UserError: names are unknown, or two mean the same weight; the message begins with ``label``.
        """
        conversion, unknown = Conversion(), []
        for name, array in _unwrapped(weights).items():
            plain, array = self.plain(name, array)
            ours = _renamed(plain, self.names.items())
            if re.fullmatch(self.unused, name):
                conversion.dropped.append(name)
            elif ours is None:
                unknown.append(name)
            elif ours in conversion.weights:
                raise UserError(f"{label}: holds {ours} twice, the second time as {shown(name)}")
            else:
                conversion.weights[ours] = array
        if unknown:
            raise UserError(
                f"{label}: not a checkpoint of {self.title}, {len(unknown)} of {len(weights)} names are unknown: "
                f"{first_of(unknown)}"
            )
        return conversion

    def arranged(self, weights: Mapping[str, np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
        """Returns renamed weights with the axes that ``shapes`` of a model have; what has none of the expected shapes
        as it is, for the comparison with the model's shapes to find."""

        def arrange(array: np.ndarray, axes: int) -> np.ndarray:
            if axes == 1 and array.ndim and array.size == max(array.shape):
                return array.reshape(-1)
            if axes == 2 and self.transposed:
                array = array[:, :, 0, 0] if array.shape[2:] == (1, 1) else array
                return array.T if array.ndim == 2 else array
            return array

        return {name: arrange(array, len(shapes.get(name, ()))) for name, array in weights.items()}

    def to_theirs(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inverse of ``to_ours`` and ``arranged``, for weights of a model of ``classes``."""
        converted = {}
        for name, array in weights.items():
            array = array.T if array.ndim == 2 and self.transposed else array
            axes = self.axes.get(".".join(name.split(".")[-2:]))
            theirs = _renamed(name, ((ours, theirs) for theirs, ours in self.names.items()))
            assert theirs is not None, name
            converted[theirs] = array if axes is None else array[axes]
        return converted


def _unwrapped(weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Takes away what a wrapper put before every name."""
    for wrapper in WRAPPERS:
        if weights and all(name.startswith(wrapper) for name in weights):
            return _unwrapped({name.removeprefix(wrapper): array for name, array in weights.items()})
    return weights


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    """Returns what the first of ``pairs`` whose first half fits ``name`` makes of it, ``None`` where none fits."""
    for source, target in pairs:
        if match := _expression(source).fullmatch(name):
            return target.format(**match.groupdict())
    return None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda place: f"(?P<{place[1]}>{PLACES[place[1]]})", re.escape(pattern)))


V1, V2, ECONVNEXT = "ConvNeXtV1", "ConvNeXtV2", "EConvNeXt"
BLOCK, DOWNSAMPLE = "stages.{stage}.blocks.{block}", "stages.{stage}.downsample"


def _parts(layers: Mapping[str, str], theirs: str = BLOCK, ours: str = BLOCK) -> dict[str, str]:
    """Returns the names of weights and biases of layers inside a block or another part of the network."""
    return {f"{theirs}.{name}.{{part}}": f"{ours}.{own}.{{part}}" for name, own in layers.items()}


# The names of the official ConvNeXt, which PaddleClas took over with Paddle's form of linear layers.
OFFICIAL = {
    "downsample_layers.0.{layer}.{part}": "stem.{layer}.{part}",
    "downsample_layers.{stage}.{layer}.{part}": DOWNSAMPLE + ".{layer}.{part}",
    "stages.{stage}.{block}.gamma": BLOCK + ".layer_scale.weight",
    "stages.{stage}.{block}.grn.gamma": BLOCK + ".response_norm.weight",
    "stages.{stage}.{block}.grn.beta": BLOCK + ".response_norm.bias",
    **_parts({"dwconv": "depthwise", "norm": "norm", "pwconv1": "expand", "pwconv2": "project"},
             theirs="stages.{stage}.{block}"),
    "norm.{part}": "norm.{part}",
    "head.{part}": "head.{part}",
}  # fmt: skip
TIMM = {
    "stem.{layer}.{part}": "stem.{layer}.{part}",
    DOWNSAMPLE + ".{layer}.{part}": DOWNSAMPLE + ".{layer}.{part}",
    BLOCK + ".gamma": BLOCK + ".layer_scale.weight",
    **_parts({"conv_dw": "depthwise", "norm": "norm", "mlp.grn": "response_norm", "mlp.fc1": "expand",
              "mlp.fc2": "project"}),
    "head.norm.{part}": "norm.{part}",
    "head.fc.{part}": "head.{part}",
}  # fmt: skip


def _torchvision() -> dict[str, str]:
    """The names of torchvision, which counts stems, downsamplings and stages in one row."""
    names: dict[str, str] = {}
    for stage in range(4):
        theirs, ours = f"features.{2 * stage + 1}.{{block}}", f"stages.{stage}.blocks.{{block}}"
        names |= {
            f"features.{2 * stage}.{{layer}}.{{part}}": f"stages.{stage}.downsample.{{layer}}.{{part}}",
            f"{theirs}.layer_scale": f"{ours}.layer_scale.weight",
            **_parts({"0": "depthwise", "2": "norm", "3": "expand", "5": "project"}, f"{theirs}.block", ours),
        }
    # No downsampling stands before the first stage, but the stem.
    names["features.0.{layer}.{part}"] = "stem.{layer}.{part}"
    return {**names, "classifier.0.{part}": "norm.{part}", "classifier.2.{part}": "head.{part}"}


def _reference() -> dict[str, str]:
    """The names of the paper's repository, whose stem counts from one."""
    places = {f"Down_Conv.conv{layer + 1}": f"stem.{layer}" for layer in range(3)}
    stages = {"down.0": "downsample", "conv1": "shortcut", "conv2": "entry", "conv3": "merge"}
    places |= {f"stages.{{stage}}.{theirs}": f"stages.{{stage}}.{ours}" for theirs, ours in stages.items()}
    names: dict[str, str] = {}
    for theirs, ours in places.items():
        names |= _parts({"conv": "conv", "bn": "norm"}, theirs, ours)
    return names | {
        **_parts({"attn.fc": "attention.conv"}, "stages.{stage}", "stages.{stage}"),
        **_parts({"dwconv": "depthwise", "norm": "norm", "pwconv1": "expand", "pwconv2": "project",
                  "norm2": "project_norm", "ese.fc": "attention.conv"}),
        "norm.{part}": "norm.{part}",
        "head.fc_cls.{part}": "head.{part}",
    }  # fmt: skip


def _dense(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Makes of a weight of the masked autoencoder's encoder, whose layers are those of MinkowskiEngine, that of the
    ordinary layer in the network itself.

    Kernels are ``[k * k, in, out]`` there or, depthwise, ``[k * k, channels]``. Positions of the window go first along
    the height, as ``remap_checkpoint_keys`` of the official ConvNeXt V2 repository shows.
    """
    name = name.removeprefix("encoder.").replace(".ln.", ".").replace(".linear.", ".")
    if not name.endswith(".kernel"):
        return name, array
    name = f"{name.removesuffix('kernel')}weight"
    side = math.isqrt(array.shape[0]) if array.ndim else 0
    if array.ndim not in (2, 3) or side * side != array.shape[0]:
        return name, array
    windows = array.T.reshape(*array.shape[:0:-1], side, side).swapaxes(-1, -2)
    return name, windows[:, None] if array.ndim == 2 else windows


# Whose weights are read, by the name on the command line.
LAYOUTS: dict[str, Layout] = {
    "facebook": Layout(
        "the official repositories of ConvNeXt and ConvNeXt V2", (V1, V2), OFFICIAL,
        # What the masked autoencoder has behind its encoder.
        unused=r"(decoder|proj|pred)\..+|mask_token", transposed=True, plain=_dense,
        axes={"response_norm.weight": CHANNELS_LAST, "response_norm.bias": CHANNELS_LAST},
    ),
    "ours": Layout("this project", (), {"{name}": "{name}"}),
    "paddleclas": Layout("PaddleClas's ConvNeXt", (V1,), OFFICIAL),
    "reference": Layout(
        "the paper's repository", (ECONVNEXT,), _reference(),
        # The layer scale that the attention replaced, and the batch norms of detector features.
        unused=r"stages\.\d\.blocks\.\d+\.gamma|norms\.\d\..+",
    ),
    "timm": Layout("timm's ConvNeXt", (V1, V2), TIMM, transposed=True),
    "torchvision": Layout(
        "torchvision's ConvNeXt", (V1,), _torchvision(), transposed=True, axes={"layer_scale.weight": CHANNELS_FIRST}
    ),
}  # fmt: skip
# Our models that timm builds with 1x1 convolutions in the place of linear layers, but for the last.
POINTWISE_IN_TIMM = ("ConvNeXtV2_atto", "ConvNeXtV2_femto", "ConvNeXtV2_pico", "ConvNeXtV2_nano")
TIMM_POINTWISE = replace(LAYOUTS["timm"], axes={"expand.weight": POINTWISE, "project.weight": POINTWISE})
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
    for option, name in (("--from", origin), ("--to", target)):
        if LAYOUTS[name].classes and model_name not in _models_of(LAYOUTS[name]):
            raise UserError(
                f"{option} {name} is for {LAYOUTS[name].title}, not for {model_name}: "
                f"choose --model among {', '.join(_models_of(LAYOUTS[name]))}"
            )
    file = find_weights(source)
    if file.suffix in TORCH_SUFFIXES:
        weights = read_torch_weights(file, entry)
    elif entry is not None:
        raise UserError(f"{file}: --entry {entry} is for files of torch.save ({', '.join(TORCH_SUFFIXES)})")
    else:
        weights = read_weights(source)
    layout = LAYOUTS[origin]
    try:
        conversion = layout.to_ours(weights, str(file))
    except UserError as error:
        if (meant := _meant(weights, origin)) is None:
            raise
        raise UserError(f"{error}. {meant}") from error
    if drop_head:
        class_num = 0
    elif class_num is None:
        bias = conversion.weights.get("head.bias")
        class_num = len(bias) if bias is not None and bias.ndim == 1 else 1000
    shapes = _shapes_of(model_name, class_num)
    if drop_head:
        _drop_head(conversion, shapes)
    conversion.weights = layout.arranged(conversion.weights, shapes)
    report = compare(str(file), shapes, conversion.weights)
    if not report.complete:
        raise UserError(f"{file} does not fit {model_name}: {_advice(report, weights, origin)}")
    # A .pdparams keeps bfloat16 as 16-bit integers; no weight is ever a real uint16.
    for name, array in conversion.weights.items():
        if array.dtype.kind != "f" and array.dtype != np.uint16:
            raise UserError(f"{file}: {name} is of type {array.dtype}, not a weight")
    written = conversion.weights
    if target != "ours":
        theirs = TIMM_POINTWISE if target == "timm" and model_name in POINTWISE_IN_TIMM else LAYOUTS[target]
        written = theirs.to_theirs({name: widened(array) for name, array in written.items()})
    metadata = {"model": model_name, "class_num": str(class_num), "origin": origin}
    write_weights(destination, written, {"format": "paddle" if for_paddle else "pt", **metadata})
    return conversion


def _models_of(layout: Layout) -> list[str]:
    """Returns our models whose weights a layout can hold."""
    fitting = [each for each in families() if not layout.classes or each.network.__name__ in layout.classes]
    return [name for family in fitting for name in family.models]


def _drop_head(conversion: Conversion, shapes: Shapes) -> None:
    """Takes the classifier away; a last norm that the model (``shapes``) has and the file lacks begins as the identity.

    Self-supervised pretraining knows neither; the authors' fine-tuning begins with these values.
    """
    for name in [name for name in conversion.weights if name.startswith(CLASSIFIER)]:
        del conversion.weights[name]
        conversion.dropped.append(name)
    if not any(name.startswith("norm.") for name in conversion.weights):
        for name, value in (("norm.weight", 1.0), ("norm.bias", 0.0)):
            if name in shapes:
                conversion.weights[name] = np.full(shapes[name], value, dtype=np.float32)
                conversion.fresh.append(name)


def _shapes_of(model_name: str, class_num: int) -> Shapes:
    import paddle

    try:
        # Only the shapes are wanted: without initial values a large model takes a tenth of a second, not ten. The
        # toolkit's models may compute with their initial values.
        with paddle.LazyGuard() if family_of(model_name) else contextlib.nullcontext():
            model = build_model(model_name, class_num=class_num)
    except ValueError as error:
        raise UserError(str(error)) from error
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def _advice(report: LoadReport, weights: Mapping[str, np.ndarray], origin: str) -> str:
    """Returns the differences between a file and a model with what to say on the command line."""
    differences = report.differences()
    if _holds_features_alone(report):
        return f"{differences}. The file holds the features alone, as after pretraining without labels: say --drop-head"
    if report.outside(CLASSIFIER).complete:
        if report.missing:
            return f"{differences}. Only the classifier is missing: --drop-head writes the weights without one"
        return f"{differences}. Only the classifier differs: say --class-num, or --drop-head to leave it out"
    meant = _meant(weights, origin)
    return meant or f"{differences}. The file is incomplete, altered, of another model, or not what --from says"


def _holds_features_alone(report: LoadReport) -> bool:
    return set(report.different) == {"norm.weight", "norm.bias", "head.weight", "head.bias"} == set(report.missing)


def _meant(weights: Mapping[str, np.ndarray], origin: str) -> str | None:
    """Returns what to say on the command line for weights that fit another model or layout; None if they fit none."""
    for name in [origin, *LAYOUTS]:
        layout = LAYOUTS[name]
        with contextlib.suppress(UserError):
            renamed = layout.to_ours(weights, "").weights
            for model in _models_of(layout):
                shapes = _shapes_of(model, 1000)
                report = compare("", shapes, layout.arranged(renamed, shapes))
                if (alone := _holds_features_alone(report)) or report.outside(CLASSIFIER).complete:
                    options = f"--model {model}{' --drop-head' if alone else ''}"
                    if name == origin:
                        return f"this is {model}: choose {options}"
                    return f"These are the names of {layout.title}: say --from {name} {options}"
    return None
