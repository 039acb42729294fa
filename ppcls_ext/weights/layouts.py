"""Layouts: how other code bases name and shape the weights of our networks, as tables of patterns; and back.

First what a table is made of, then one table for each code base. Names and shapes follow the code that each ``title``
names; linear layers are ``[out, in]`` in PyTorch, ``[in, out]`` in Paddle.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights.pickles import first_of, shown

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Form:
    """A pair of changes, inverse to each other.

    Attributes:
        read: from their form to ours; what has none of the expected shapes is returned as it is, for the comparison
            with the model's shapes to find.
        write: from our form to theirs; None for a form that is only read.
    """

    read: Change
    write: Change | None


def _as_it_is(array: np.ndarray) -> np.ndarray:
    return array


def _read_linear(array: np.ndarray) -> np.ndarray:
    """``[out, in]``, or the same as a 1x1 convolution ``[out, in, 1, 1]`` -> ``[in, out]``."""
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


SAME = Form(_as_it_is, _as_it_is)
LINEAR = Form(_read_linear, lambda array: array.T)
POINTWISE = Form(_read_linear, lambda array: array.T[:, :, None, None])
# A factor for each channel, shaped to fit maps with the channels last, or first.
LAST_AXIS = Form(_read_vector, lambda array: array.reshape(1, 1, 1, -1))
FIRST_AXIS = Form(_read_vector, lambda array: array.reshape(-1, 1, 1))
SPARSE_VECTOR = Form(_read_vector, None)
SPARSE_LINEAR = Form(_read_linear, None)
SPARSE_KERNEL = Form(_read_sparse_kernel, None)
# A number in a name, "{stage}" or as a multiple and a sum, "{2*stage+1}"; "{part}" and "{name}" stand for text.
PLACE = re.compile(r"\{(?:(\d+)\*)?([a-z]+)(?:\+(\d+))?\}")
TEXT_PLACES = {"part": r"\w+", "name": ".+"}
# What wrappers of a model put before every name.
WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Row:
    """One kind of weight.

    Attributes:
        theirs: pattern of their name.
        ours: pattern of our name, with the same places.
        form: how it lies there.
    """

    theirs: str
    ours: str
    form: Form = SAME


@dataclass
class Conversion:
    """Converted weights by our names.

    Attributes:
        weights: the arrays.
        dropped: names of the source that have no counterpart.
        fresh: our names of weights that the source does not hold and that begin anew.
    """

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
        read_only: further kinds, which are read but never written.
        unused: patterns of names that our models have no use for.
    """

    title: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    read_only: tuple[Row, ...] = ()
    unused: tuple[str, ...] = ()

    def to_ours(self, weights: Mapping[str, np.ndarray], label: str) -> Conversion:
        """Renames and reshapes ``weights``, without asking which model they fit.

        Args:
            weights: arrays by their names.
            label: names the source in messages.

        Raises:
            UserError: names are unknown, or two mean the same weight.
        """
        conversion, unknown = Conversion(), []
        for name, array in _unwrapped(weights).items():
            if any(re.fullmatch(pattern, name) for pattern in self.unused):
                conversion.dropped.append(name)
                continue
            match = _matching((*self.rows, *self.read_only), name, "theirs", "ours")
            if match is None:
                unknown.append(name)
                continue
            row, ours = match
            if ours in conversion.weights:
                raise UserError(f"{label}: holds {ours} twice, the second time as {shown(name)}")
            conversion.weights[ours] = row.form.read(array)
        if unknown:
            raise UserError(
                f"{label}: not a checkpoint of {self.title}, {len(unknown)} of {len(weights)} names are unknown: "
                f"{first_of(unknown)}"
            )
        return conversion

    def knows(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Returns whether all names are of this layout."""
        rows = (*self.rows, *self.read_only)
        return all(
            any(re.fullmatch(pattern, name) for pattern in self.unused) or _matching(rows, name, "theirs", "ours")
            for name in _unwrapped(weights)
        )

    def to_theirs(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Names and shapes weights of one of our models as this layout has them; the inverse of ``to_ours``.

        Raises:
            ValueError: the layout has no such weight.
        """
        converted = {}
        for name, array in weights.items():
            match = _matching(self.rows, name, "ours", "theirs")
            if match is None or match[0].form.write is None:
                raise ValueError(f"{self.title} has no weight for {name}")
            row, theirs = match
            converted[theirs] = row.form.write(array)
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
        values = _values(getattr(row, source), name)
        if values is not None:
            return row, _filled(getattr(row, target), values)
    return None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    expression, end = "", 0
    for place in PLACE.finditer(pattern):
        expression += re.escape(pattern[end : place.start()])
        # Few digits: a longer number is no position in a network, and Python refuses thousands of them.
        expression += f"(?P<{place[2]}>{TEXT_PLACES.get(place[2], '0|[1-9][0-9]{0,3}')})"
        end = place.end()
    return re.compile(expression + re.escape(pattern[end:]))


def _values(pattern: str, name: str) -> dict[str, int | str] | None:
    """Returns what stands in the places of ``pattern`` if ``name`` fits it."""
    match = _expression(pattern).fullmatch(name)
    if match is None:
        return None
    values: dict[str, int | str] = {}
    for factor, place, summand in PLACE.findall(pattern):
        if place in TEXT_PLACES:
            values[place] = match[place]
            continue
        number, rest = divmod(int(match[place]) - int(summand or 0), int(factor or 1))
        if rest or number < 0:
            return None
        values[place] = number
    return values


def _filled(pattern: str, values: Mapping[str, int | str]) -> str:
    def text(place: re.Match[str]) -> str:
        value = values[place[2]]
        return value if isinstance(value, str) else str(int(place[1] or 1) * value + int(place[3] or 0))

    return PLACE.sub(text, pattern)


V1, V2, ECONVNEXT = "ConvNeXtV1", "ConvNeXtV2", "EConvNeXt"
BLOCK = "stages.{stage}.blocks.{block}"
DOWNSAMPLE = "stages.{stage}.downsample"


def _official(linear: Form) -> tuple[Row, ...]:
    """The names of the official ConvNeXt, which PaddleClas took over with Paddle's form of linear layers."""
    return (
        Row("downsample_layers.0.{layer}.{part}", "stem.{layer}.{part}"),
        Row("downsample_layers.{stage}.{layer}.{part}", f"{DOWNSAMPLE}.{{layer}}.{{part}}"),
        Row("stages.{stage}.{block}.dwconv.{part}", f"{BLOCK}.depthwise.{{part}}"),
        Row("stages.{stage}.{block}.norm.{part}", f"{BLOCK}.norm.{{part}}"),
        Row("stages.{stage}.{block}.pwconv1.weight", f"{BLOCK}.expand.weight", linear),
        Row("stages.{stage}.{block}.pwconv1.bias", f"{BLOCK}.expand.bias"),
        Row("stages.{stage}.{block}.pwconv2.weight", f"{BLOCK}.project.weight", linear),
        Row("stages.{stage}.{block}.pwconv2.bias", f"{BLOCK}.project.bias"),
        Row("stages.{stage}.{block}.gamma", f"{BLOCK}.layer_scale.weight"),
        Row("norm.{part}", "norm.{part}"),
        Row("head.weight", "head.weight", linear),
        Row("head.bias", "head.bias"),
    )


# ConvNeXt V2 shapes what its normalisation learns like a map with the channels last.
GLOBAL_RESPONSE_NORM = (
    Row("stages.{stage}.{block}.grn.gamma", f"{BLOCK}.response_norm.weight", LAST_AXIS),
    Row("stages.{stage}.{block}.grn.beta", f"{BLOCK}.response_norm.bias", LAST_AXIS),
)


def _sparse(prefix: str) -> tuple[Row, ...]:
    """The encoder of the masked autoencoder, whose layers are those of MinkowskiEngine; the stem is an ordinary one."""
    block = f"{prefix}stages.{{stage}}.{{block}}"
    downsample = f"{prefix}downsample_layers.{{stage}}"
    return (
        Row(f"{prefix}downsample_layers.0.{{layer}}.{{part}}", "stem.{layer}.{part}"),
        Row(f"{downsample}.0.ln.{{part}}", f"{DOWNSAMPLE}.0.{{part}}"),
        Row(f"{downsample}.1.kernel", f"{DOWNSAMPLE}.1.weight", SPARSE_KERNEL),
        Row(f"{downsample}.1.bias", f"{DOWNSAMPLE}.1.bias", SPARSE_VECTOR),
        Row(f"{block}.dwconv.kernel", f"{BLOCK}.depthwise.weight", SPARSE_KERNEL),
        Row(f"{block}.dwconv.bias", f"{BLOCK}.depthwise.bias", SPARSE_VECTOR),
        Row(f"{block}.norm.ln.{{part}}", f"{BLOCK}.norm.{{part}}"),
        Row(f"{block}.pwconv1.linear.weight", f"{BLOCK}.expand.weight", SPARSE_LINEAR),
        Row(f"{block}.pwconv1.linear.bias", f"{BLOCK}.expand.bias", SPARSE_VECTOR),
        Row(f"{block}.pwconv2.linear.weight", f"{BLOCK}.project.weight", SPARSE_LINEAR),
        Row(f"{block}.pwconv2.linear.bias", f"{BLOCK}.project.bias", SPARSE_VECTOR),
        Row(f"{block}.grn.gamma", f"{BLOCK}.response_norm.weight", SPARSE_VECTOR),
        Row(f"{block}.grn.beta", f"{BLOCK}.response_norm.bias", SPARSE_VECTOR),
    )


def _timm(linear: Form) -> tuple[Row, ...]:
    """The names of timm. Its small models have 1x1 convolutions in the place of linear layers, but for the last."""
    return (
        Row("stem.{layer}.{part}", "stem.{layer}.{part}"),
        Row("stages.{stage}.downsample.{layer}.{part}", f"{DOWNSAMPLE}.{{layer}}.{{part}}"),
        Row(f"{BLOCK}.conv_dw.{{part}}", f"{BLOCK}.depthwise.{{part}}"),
        Row(f"{BLOCK}.norm.{{part}}", f"{BLOCK}.norm.{{part}}"),
        Row(f"{BLOCK}.mlp.fc1.weight", f"{BLOCK}.expand.weight", linear),
        Row(f"{BLOCK}.mlp.fc1.bias", f"{BLOCK}.expand.bias"),
        Row(f"{BLOCK}.mlp.grn.{{part}}", f"{BLOCK}.response_norm.{{part}}"),
        Row(f"{BLOCK}.mlp.fc2.weight", f"{BLOCK}.project.weight", linear),
        Row(f"{BLOCK}.mlp.fc2.bias", f"{BLOCK}.project.bias"),
        Row(f"{BLOCK}.gamma", f"{BLOCK}.layer_scale.weight"),
        Row("head.norm.{part}", "norm.{part}"),
        Row("head.fc.weight", "head.weight", LINEAR),
        Row("head.fc.bias", "head.bias"),
    )


PADDLECLAS = Layout("PaddleClas's ConvNeXt", (V1,), _official(SAME))
FACEBOOK = Layout(
    "the official repositories of ConvNeXt and ConvNeXt V2",
    (V1, V2),
    (*_official(LINEAR), *GLOBAL_RESPONSE_NORM),
    read_only=(*_sparse("encoder."), *_sparse("")),
    # What the masked autoencoder has behind its encoder.
    unused=(r"(decoder|proj|pred)\..+", "mask_token"),
)
TIMM = Layout("timm's ConvNeXt", (V1, V2), _timm(LINEAR))
TIMM_POINTWISE = Layout("timm's ConvNeXt with 1x1 convolutions", (V1, V2), _timm(POINTWISE))
TORCHVISION = Layout(
    "torchvision's ConvNeXt",
    (V1,),
    (
        Row("features.0.{layer}.{part}", "stem.{layer}.{part}"),
        Row("features.{2*stage+1}.{block}.layer_scale", f"{BLOCK}.layer_scale.weight", FIRST_AXIS),
        Row("features.{2*stage+1}.{block}.block.0.{part}", f"{BLOCK}.depthwise.{{part}}"),
        Row("features.{2*stage+1}.{block}.block.2.{part}", f"{BLOCK}.norm.{{part}}"),
        Row("features.{2*stage+1}.{block}.block.3.weight", f"{BLOCK}.expand.weight", LINEAR),
        Row("features.{2*stage+1}.{block}.block.3.bias", f"{BLOCK}.expand.bias"),
        Row("features.{2*stage+1}.{block}.block.5.weight", f"{BLOCK}.project.weight", LINEAR),
        Row("features.{2*stage+1}.{block}.block.5.bias", f"{BLOCK}.project.bias"),
        Row("features.{2*stage}.{layer}.{part}", f"{DOWNSAMPLE}.{{layer}}.{{part}}"),
        Row("classifier.0.{part}", "norm.{part}"),
        Row("classifier.2.weight", "head.weight", LINEAR),
        Row("classifier.2.bias", "head.bias"),
    ),
)
REFERENCE = Layout(
    "the paper's repository",
    (ECONVNEXT,),
    (
        Row("Down_Conv.conv{layer+1}.conv.{part}", "stem.{layer}.conv.{part}"),
        Row("Down_Conv.conv{layer+1}.bn.{part}", "stem.{layer}.norm.{part}"),
        Row("stages.{stage}.down.0.conv.{part}", f"{DOWNSAMPLE}.conv.{{part}}"),
        Row("stages.{stage}.down.0.bn.{part}", f"{DOWNSAMPLE}.norm.{{part}}"),
        Row("stages.{stage}.conv1.conv.{part}", "stages.{stage}.shortcut.conv.{part}"),
        Row("stages.{stage}.conv1.bn.{part}", "stages.{stage}.shortcut.norm.{part}"),
        Row("stages.{stage}.conv2.conv.{part}", "stages.{stage}.entry.conv.{part}"),
        Row("stages.{stage}.conv2.bn.{part}", "stages.{stage}.entry.norm.{part}"),
        Row("stages.{stage}.conv3.conv.{part}", "stages.{stage}.merge.conv.{part}"),
        Row("stages.{stage}.conv3.bn.{part}", "stages.{stage}.merge.norm.{part}"),
        Row("stages.{stage}.attn.fc.{part}", "stages.{stage}.attention.conv.{part}"),
        Row(f"{BLOCK}.dwconv.{{part}}", f"{BLOCK}.depthwise.{{part}}"),
        Row(f"{BLOCK}.norm.{{part}}", f"{BLOCK}.norm.{{part}}"),
        Row(f"{BLOCK}.pwconv1.{{part}}", f"{BLOCK}.expand.{{part}}"),
        Row(f"{BLOCK}.pwconv2.{{part}}", f"{BLOCK}.project.{{part}}"),
        Row(f"{BLOCK}.norm2.{{part}}", f"{BLOCK}.project_norm.{{part}}"),
        Row(f"{BLOCK}.ese.fc.{{part}}", f"{BLOCK}.attention.conv.{{part}}"),
        Row("norm.{part}", "norm.{part}"),
        Row("head.fc_cls.{part}", "head.{part}"),
    ),
    # The layer scale that the attention replaced, and the batch norms of detector features.
    unused=(r"stages\.\d\.blocks\.\d+\.gamma", r"norms\.\d\..+"),
)
OURS = Layout("this project", (), (Row("{name}", "{name}"),))

# Whose weights are read, by the name on the command line.
LAYOUTS: dict[str, Layout] = {
    "facebook": FACEBOOK,
    "ours": OURS,
    "paddleclas": PADDLECLAS,
    "reference": REFERENCE,
    "timm": TIMM,
    "torchvision": TORCHVISION,
}
# Whose form is written. Not the reference's: what it holds beyond our models cannot be made up.
TARGETS = ("facebook", "ours", "paddleclas", "timm", "torchvision")
# Our models that timm builds with 1x1 convolutions.
POINTWISE_IN_TIMM = ("ConvNeXtV2_atto", "ConvNeXtV2_femto", "ConvNeXtV2_pico", "ConvNeXtV2_nano")


def layout_to_write(target: str, model_name: str) -> Layout:
    """Returns the layout ``target`` (one of ``TARGETS``) as it holds the weights of ``model_name``."""
    if target == "timm" and model_name in POINTWISE_IN_TIMM:
        return TIMM_POINTWISE
    return LAYOUTS[target]


def is_reference(weights: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of the paper's repository."""
    return any(name.startswith("Down_Conv.") for name in weights)


def rename_reference(weights: Mapping[str, np.ndarray], label: str) -> Conversion:
    """Renames the weights of the paper's repository without asking which model they fit.

    Args:
        weights: arrays by the reference's names.
        label: names the source in messages.

    Raises:
        UserError: a name is unknown.
    """
    return REFERENCE.to_ours(weights, label)
