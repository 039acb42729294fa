"""Profiles networks in eager mode: FLOPs, parameters, activations and time of each layer, by stage and by kind.

`profile_networks` measures with hooks on every layer, `count_network` only counts; `markdown_page` and `write_report`
show the result. FLOPs are counted by the rules of ``paddle.flops``, those that it keeps for its own hooks.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.hapi.dynamic_flops import register_hooks

from ppcls_ext.arch.flops import told_if_refused
from ppcls_ext.utils.files import atomic_path, write_json, write_text
from ppcls_ext.utils.fonts import prepare_figure
from ppcls_ext.utils.machine import processor_name
from ppcls_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)

NETWORK = "(network)"
MEGA = 1e6
# Kinds of operations, in the order of tables and charts.
KINDS = DEPTHWISE, POINTWISE, CONVOLUTION, NORM, ACTIVATION, ATTENTION, POOLING, OTHER, BETWEEN = (
    "depthwise convolution", "1x1 convolution, linear", "other convolution", "normalisation", "activation",
    "attention", "pooling", "other layers", "between layers",
)  # fmt: skip
# Parts of a network, in the order of the data; "rest" is what belongs to none, such as handing on between stages.
STEM, NECK, HEAD, REST = "stem", "neck", "head", "rest"
STAGES = (STEM, "stage 1", "stage 2", "stage 3", "stage 4", NECK, HEAD, REST)
# Titles in tables and charts, labels and their colours, by the attribute of a layer that they group.
GROUPINGS = {
    # One hue from the images to the deepest stage, others for what is no stage.
    "stage": ("stage", STAGES, ("#9e9e9e", "#c6dbef", "#6baed6", "#2171b5", "#08306b", "#74c476", "#fd8d3c",
                                "#e0e0e0")),
    "kind": ("kind of operation", KINDS, ("#d62728", "#1f77b4", "#9ecae1", "#2ca02c", "#ff7f0e", "#9467bd",
                                          "#8c564b", "#bcbd22", "#c7c7c7")),
}  # fmt: skip


@dataclass
class LayerFigures:
    """Cost of one layer.

    Attributes:
        name: its place in the network, such as ``stages.2.blocks.0.depthwise``.
        type_name: its class.
        kind: one of ``KINDS``. What a layer with sublayers does itself (adding, joining, changing the layout) is
            ``BETWEEN``.
        stage: one of ``STAGES``.
        calls: how often one forward pass calls it.
        output_shape: of its last call; empty if it gives no tensor.
        parameters: trainable numbers that it holds itself.
        flops: multiply-adds for one image, counted as ``paddle.flops`` counts them.
        activation_bytes: size of the new tensors that it gives.
        milliseconds: time, without that of its sublayers.
    """

    name: str
    type_name: str
    kind: str
    stage: str
    calls: int = 0
    output_shape: tuple[int, ...] = ()
    parameters: int = 0
    flops: int = 0
    activation_bytes: int = 0
    milliseconds: float = 0.0


# The columns of figures that are summed by stage and by kind.
FIGURES = ["parameters", "flops", "activation_bytes", "milliseconds"]


@dataclass
class Profile:
    """The profile of one network.

    Attributes:
        name: of the network.
        image_shape: channels, height and width.
        layers: a row for each layer, with the attributes of `LayerFigures` as columns, in the order of their first
            call; those never called last.
        forward_milliseconds: of a whole forward pass without any measuring inside.
    """

    name: str
    image_shape: tuple[int, int, int]
    layers: pandas.DataFrame
    forward_milliseconds: float = 0.0

    @property
    def total(self) -> pandas.Series:
        """Sums over all layers; the time is that of the measured passes, a little more than of unmeasured ones."""
        return self.layers[FIGURES].sum()

    def by(self, grouping: str) -> pandas.DataFrame:
        """Sums of each ``stage`` or ``kind`` that the network has, in the order of ``GROUPINGS``."""
        sums = self.layers.groupby(grouping)[FIGURES].sum()
        return sums.reindex([label for label in GROUPINGS[grouping][1] if label in sums.index])


# Blocks that weigh channels or positions: all inside them is the price of attention.
ATTENTION_NAME = re.compile(r"Attention|Attn|Squeeze|PSA|SE(Module|Block|Layer|Unit)?$")
# What the name of a layer's class, or of one that it is derived from, says of its kind.
KIND_OF_NAME = {
    NORM: re.compile("Norm"), POOLING: re.compile("Pool"),
    ACTIVATION: re.compile(r"(lu\d?|swish|mish|sigmoid|softmax|tanh|act|activation)$", re.IGNORECASE),
}  # fmt: skip


def kind_of(layer: nn.Layer, inside_attention: bool) -> str:
    """Returns the kind of operation of ``layer``; ``inside_attention``: it, or a layer around it, is attention."""
    if inside_attention:
        return ATTENTION
    if layer._sub_layers:
        return BETWEEN
    if isinstance(layer, nn.layer.conv._ConvNd):
        if layer._groups > 1 and layer._groups == layer._in_channels:
            return DEPTHWISE
        return POINTWISE if layer._groups == 1 and math.prod(layer.weight.shape[2:]) == 1 else CONVOLUTION
    if isinstance(layer, nn.Linear):
        return POINTWISE
    classes = [base.__name__ for base in type(layer).__mro__]
    return next((kind for kind, name in KIND_OF_NAME.items() if any(map(name.search, classes))), OTHER)


def count_flops(layer: nn.Layer, inputs: Any, output: Any) -> int:
    """Returns the multiply-adds of one call by the rule that ``paddle.flops`` has for the layer's class, or 0.

    Args:
        layer: a layer without sublayers.
        inputs: the positional arguments of the call.
        output: what the call returned.
    """
    rule = register_hooks.get(type(layer))
    if rule is None:
        return 0
    layer.total_ops = 0
    rule(layer, inputs, output)
    flops = int(layer.total_ops)
    del layer.total_ops
    return flops


BACKBONE = "backbone"
STEM_NAME = re.compile(r"(stem\w*|patch_embed|conv_stem|downsample_layers\.0|conv1|bn1|max_?pool\w*)(\.|$)")
HEAD_NAME = re.compile(
    r"(head\w*|yolo_head|fc\d?|classifier\w*|norm|(global_?|adaptive_?)?(avg_?)?pool\w*|flatten|last_\w+)(\.|$)"
)
NECK_NAME = re.compile(r"neck(\.|$)")
NUMBERED = re.compile(r"(stages|layers|downsample_layers)\.(\d+)(\.|$)")
STAGE_OF_STRIDE = {1: STEM, 2: STEM, 4: "stage 1", 8: "stage 2", 16: "stage 3", 32: "stage 4"}


def assign_stages(shapes: Mapping[str, tuple[int, ...]], image_size: tuple[int, int]) -> dict[str, str]:
    """Returns the stage of each layer.

    Stages that have names (``stem``, ``stages.0`` to ``stages.3``, ``neck``, ``head``) go by them. Other networks are
    cut into units (``blocks.3``), and a unit is of stage k if most of its outputs have stride ``2 ** (k + 1)``, of the
    head if they have no positions.

    Args:
        shapes: layer name -> shape of its output (``[N, C, H, W]``, or ``[N, L, C]`` of tokens), empty if unknown.
        image_size: height and width of the images.
    """

    def unit_of(name: str) -> str:
        """Returns the beginning of a name up to its first number (``blocks.3``), or its first word."""
        parts = name.split(".")
        number = next((index for index, part in enumerate(parts) if part.isdigit()), 0)
        return ".".join(parts[: number + 1])

    short_names = {name: name.removeprefix(f"{BACKBONE}.") for name in shapes}
    # Numbers that are not those of four stages are of blocks.
    numbers: defaultdict[str, set[str]] = defaultdict(set)
    strides: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for name, short in short_names.items():
        if match := NUMBERED.match(short):
            numbers[match[1]].add(match[2])
        shape = shapes[name]
        positions = math.prod(shape[2:]) if len(shape) == 4 else shape[1] if len(shape) == 3 else 0
        if positions > 0:
            stride = 2 ** round(math.log2(math.prod(image_size) / positions) / 2)
            if stride in STAGE_OF_STRIDE:
                strides[unit_of(short)][stride] += 1
    present = set(short_names.values())
    stages = {}
    for name, short in short_names.items():
        match = NUMBERED.match(short)
        counts = strides.get(unit_of(short))
        if STEM_NAME.match(short):
            stages[name] = STEM
        elif NECK_NAME.match(short):
            stages[name] = NECK
        elif match and numbers[match[1]] == set("0123"):
            stages[name] = f"stage {int(match[2]) + 1}"
        elif HEAD_NAME.match(short):
            stages[name] = HEAD
        elif short == BACKBONE or f"{short}.0" in present or not shapes[name]:
            stages[name] = REST
        elif counts is None:
            stages[name] = HEAD
        else:
            stages[name] = STAGE_OF_STRIDE[max(counts, key=lambda stride: (counts[stride], stride))]
    return stages


class Subject(NamedTuple):
    """A network to profile; it stays in evaluation mode.

    Attributes:
        name: for the report.
        network: takes images ``[N, C, H, W]``.
        image_shape: channels, height and width.
    """

    name: str
    network: nn.Layer
    image_shape: tuple[int, int, int]


def profile_networks(subjects: Sequence[Subject], repeats: int = 10) -> list[Profile]:
    """Profiles networks on one random image each.

    Times are means over the faster half of the passes: what else the machine does makes passes slower, never faster.

    Args:
        subjects: the networks; their passes take turns, so that a slow minute of the machine hurts all alike.
        repeats: timed passes of each network.

    Raises:
        UserError: a network does not take such images.
    """
    profiles = [count_network(subject) for subject in subjects]
    # Of each network: seconds of each layer without its sublayers, and of whole passes without hooks.
    measured: list[list[dict[str, float]]] = [[] for _ in subjects]
    plain: list[list[float]] = [[] for _ in subjects]
    # The first turn warms up.
    for turn in range(1 + repeats):
        logger.info("pass %d of %d", turn + 1, 1 + repeats)
        for index, subject in enumerate(subjects):
            with paddle.no_grad():
                image = _noise(subject)
                measured[index].append(_time_layers(subject, image))
                start = time.perf_counter()
                subject.network(image)
                plain[index].append(time.perf_counter() - start)
    half = (repeats + 1) // 2
    for profile, seconds, passes in zip(profiles, measured, plain, strict=True):
        fastest = sorted(seconds[1:], key=lambda each: sum(each.values()))[:half]
        means = {name: 1e3 * sum(each.get(name, 0.0) for each in fastest) / half for name in profile.layers["name"]}
        profile.layers["milliseconds"] = profile.layers["name"].map(means)
        profile.forward_milliseconds = 1e3 * sum(sorted(passes[1:])[:half]) / half
    return profiles


def count_network(subject: Subject) -> Profile:
    """Counts parameters, multiply-adds and activations of one network by a single pass; all times are 0.

    Raises:
        UserError: the network does not take such images.
    """
    import pandas

    subject.network.eval()
    with paddle.no_grad():
        layers = pandas.DataFrame(_look(subject, _noise(subject)))
    return Profile(subject.name, subject.image_shape, layers)


@contextlib.contextmanager
def _hooks(network: nn.Layer, before: Callable[..., None], after: Callable[..., None]) -> Iterator[None]:
    """Calls ``before(name, layer, inputs)`` and ``after(name, layer, inputs, output)`` around calls of sublayers."""
    handles = []
    try:
        for name, layer in network.named_sublayers():
            handles.append(layer.register_forward_pre_hook(partial(before, name)))
            handles.append(layer.register_forward_post_hook(partial(after, name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _look(subject: Subject, images: paddle.Tensor) -> list[LayerFigures]:
    """Runs one pass; returns all figures of each layer but its time, in the order of first calls.

    Lists of layers, and layers that only training uses and that hold no parameters, are left out.
    """
    layers: dict[str, LayerFigures] = {}
    attention: set[str] = set()
    counted: set[int] = set()
    for name, layer in [*subject.network.named_sublayers(), (NETWORK, subject.network)]:
        # The layers around come before those inside.
        if ATTENTION_NAME.search(type(layer).__name__) or any(name.startswith(f"{outer}.") for outer in attention):
            attention.add(name)
        kind = BETWEEN if name == NETWORK else kind_of(layer, name in attention)
        layers[name] = LayerFigures(name, type(layer).__name__, kind, REST)
        for parameter in layer.parameters(include_sublayers=False):
            # A shared parameter is counted where it stands first.
            if id(parameter) not in counted and not parameter.stop_gradient:
                counted.add(id(parameter))
                layers[name].parameters += int(parameter.size)
    called: dict[str, LayerFigures] = {}
    # Held until the end: of a freed tensor the identity would be given to another.
    known: dict[int, paddle.Tensor] = {id(images): images}

    def tensors(value: Any) -> list[paddle.Tensor]:
        return [each for each in paddle.utils.flatten(value) if isinstance(each, paddle.Tensor)]

    def after(name: str, layer: nn.Layer, inputs: Any, output: Any) -> None:
        entry = called.setdefault(name, layers[name])
        entry.calls += 1
        if not layer._sub_layers:
            entry.flops += count_flops(layer, inputs, output)
        known.update((id(tensor), tensor) for tensor in tensors(inputs))
        for tensor in tensors(output):
            entry.output_shape = tuple(tensor.shape)
            if id(tensor) not in known:
                entry.activation_bytes += math.prod(tensor.shape) * tensor.element_size()
                known[id(tensor)] = tensor

    with _hooks(subject.network, lambda *_: None, after), told_if_refused(subject.name, subject.image_shape):
        subject.network(images)
    whole = layers.pop(NETWORK)
    whole.calls = 1
    found = called | {name: layer for name, layer in layers.items() if name not in called}
    stages = assign_stages({name: layer.output_shape for name, layer in found.items()}, subject.image_shape[1:])
    for name, layer in found.items():
        layer.stage = stages[name]
    return [*(layer for layer in found.values() if layer.calls or layer.parameters), whole]


def _time_layers(subject: Subject, images: paddle.Tensor) -> dict[str, float]:
    """Runs one pass; returns the seconds of each layer less those of the layers inside it."""
    seconds: defaultdict[str, float] = defaultdict(float)
    # One entry for each open call: when it began, and what the calls inside it took.
    open_calls: list[list[float]] = [[0.0, 0.0]]

    def before(*_: Any) -> None:
        open_calls.append([time.perf_counter(), 0.0])

    def after(name: str, *_: Any) -> None:
        end = time.perf_counter()
        start, inside = open_calls.pop()
        open_calls[-1][1] += end - start
        seconds[name] += end - start - inside

    with _hooks(subject.network, before, after):
        start = time.perf_counter()
        subject.network(images)
        seconds[NETWORK] = time.perf_counter() - start - open_calls[0][1]
    return seconds


def _noise(subject: Subject) -> paddle.Tensor:
    """Returns a picture of noise in [-1, 1), ``[1, C, H, W]``."""
    return paddle.to_tensor(np.random.default_rng(0).random((1, *subject.image_shape), dtype=np.float32) * 2 - 1)


NOTES = (
    "Times are of Paddle's eager mode, one layer after the other: exported networks run fused layers in other engines, "
    "are faster, and may have other bottlenecks. FLOPs are multiply-adds for one image as `paddle.flops` counts them "
    "(convolutions, linear layers, batch norm, pooling layers; layer norm, activations, sums and matrix products "
    "outside of layers count nothing). Activations are the new tensors that layers give. "
    "'Between layers' is what layers with sublayers do themselves: adding, joining, changing the layout, activations "
    "that are no layers, and the measuring itself. Inside of attention everything counts as attention."
)


# How many layers of each network the page lists.
SLOWEST = 10


def markdown_page(profiles: Sequence[Profile]) -> str:
    """Returns the page of networks that were profiled on the same machine, with the slowest layers of each."""

    def share(part: float, whole: float) -> str:
        return f"{100 * part / whole:.0f} %" if whole else "0 %"

    columns = ("network", "image", "parameters, M", "GFLOPs", "activations, MB", "forward, ms", "sum of layers, ms",
               "of it between layers")  # fmt: skip
    rows = [(
        profile.name, " x ".join(map(str, profile.image_shape)), f"{total.parameters / MEGA:.2f}",
        f"{total.flops / 1e9:.3f}", f"{total.activation_bytes / MEGA:.1f}", f"{profile.forward_milliseconds:.1f}",
        f"{total.milliseconds:.1f}", share(profile.by("kind").milliseconds[BETWEEN], total.milliseconds),
    ) for profile in profiles for total in [profile.total]]  # fmt: skip
    parts = ["# Profile", f"{processor_name()}. {NOTES}", markdown_table(columns, rows)]
    for grouping, (title, labels, _) in GROUPINGS.items() if len(profiles) > 1 else ():
        times = [{label: f"{one.milliseconds:.1f} ({share(one.milliseconds, profile.total.milliseconds)})"
                  for label, one in profile.by(grouping).iterrows()} for profile in profiles]  # fmt: skip
        present = [label for label in labels if any(label in each for each in times)]
        rows = [(label, *(each.get(label) for each in times)) for label in present]
        table = markdown_table((title, *(profile.name for profile in profiles)), rows)
        parts += [f"## Time by {title}, ms", table]
    for profile in profiles:
        total = profile.total
        parts.append(f"## {profile.name}")
        for grouping, (title, _, _) in GROUPINGS.items():
            columns = (title, "ms", "of the time", "MFLOPs", "of the FLOPs", "GFLOP/s", "parameters, M",
                       "activations, MB")  # fmt: skip
            rows = [(
                label, f"{one.milliseconds:.2f}", share(one.milliseconds, total.milliseconds),
                f"{one.flops / MEGA:.1f}", share(one.flops, total.flops),
                f"{one.flops / one.milliseconds / MEGA if one.milliseconds else 0.0:.1f}",
                f"{one.parameters / MEGA:.3f}", f"{one.activation_bytes / MEGA:.2f}",
            ) for label, one in [*profile.by(grouping).iterrows(), ("sum", total)]]  # fmt: skip
            parts.append(markdown_table(columns, rows))
        columns = ("layer", "class", "kind", "output", "ms", "of the time", "MFLOPs")
        rows = [
            (layer.name, layer.type_name, layer.kind, " x ".join(map(str, layer.output_shape)),
             f"{layer.milliseconds:.2f}", share(layer.milliseconds, total.milliseconds), f"{layer.flops / MEGA:.1f}")
            for layer in profile.layers.nlargest(SLOWEST, "milliseconds").itertuples()
        ]  # fmt: skip
        parts += [f"Slowest layers of {profile.name}:", markdown_table(columns, rows)]
    return "\n\n".join(parts) + "\n"


def write_report(profiles: Sequence[Profile], page: str, path: Path) -> list[Path]:
    """Writes ``path`` (the page) and beside it ``.csv`` (a row for each layer of each network), ``.json`` (all figures
    with the sums of stages and kinds) and ``.png``, each whole or not at all; returns the four files.
    """
    import pandas

    table, figures, chart = (path.with_suffix(suffix) for suffix in (".csv", ".json", ".png"))
    write_text(path, page)
    layers = pandas.concat([profile.layers.assign(model=profile.name) for profile in profiles])
    shapes = layers["output_shape"].map(lambda shape: "x".join(map(str, shape)))
    write_text(table, layers.assign(output_shape=shapes).set_index("model").to_csv())
    networks = [
        {"name": profile.name, "image_shape": profile.image_shape, "layers": profile.layers.to_dict("records"),
         "forward_milliseconds": profile.forward_milliseconds, "total": profile.total.to_dict(),
         **{f"by_{grouping}": profile.by(grouping).to_dict("index") for grouping in GROUPINGS}}
        for profile in profiles
    ]  # fmt: skip
    write_json(figures, {"mode": "eager", "processor": processor_name(), "networks": networks})
    draw_profiles(profiles, chart)
    return [path, table, figures, chart]


QUANTITIES = (
    ("time of a forward pass, eager mode (ms)", "milliseconds", 1.0),
    ("multiply-adds for one image (G)", "flops", 1e9),
    ("activations (MB)", "activation_bytes", 1e6),
)
WHITE_LABELS = ("#2171b5", "#08306b", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b")
# Shares below this have no room for their label.
LABELLED_SHARE = 0.07


def draw_profiles(profiles: Sequence[Profile], path: Path) -> None:
    """Draws a PNG with one bar for each network in six panels: time, multiply-adds and activations, by stage and by
    kind."""
    import pandas
    from matplotlib.figure import Figure

    def number(value: float) -> str:
        """Returns three significant digits, and no fewer than the whole number."""
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

    figure = Figure(figsize=(15, 3 + 3 * (0.7 + 0.45 * len(profiles))), layout="constrained")
    sizes = sorted({profile.image_shape for profile in profiles})
    text = ", ".join(" x ".join(map(str, size)) for size in sizes)
    figure.suptitle(f"Where time, multiply-adds and activations go (images: {text})")
    grid, names = figure.subplots(len(QUANTITIES), 2, squeeze=False), [profile.name for profile in profiles]
    for column, (grouping, (title, labels, colours)) in enumerate(GROUPINGS.items()):
        sums = pandas.concat([profile.by(grouping) for profile in profiles], keys=range(len(profiles)))
        for axes, (quantity, field, scale) in zip(grid[:, column], QUANTITIES, strict=True):
            # A row for each network, a column for each label that one of them has.
            table = sums[field].div(scale).unstack(fill_value=0.0)
            table = table[[label for label in labels if label in table]]
            ends = table.cumsum(axis=1)
            widest = ends.to_numpy().max() or 1.0
            for label, colour in zip(labels, colours, strict=True):
                if label not in table:
                    continue
                widths = table[label]
                bars = axes.barh(table.index, widths, left=ends[label] - widths, height=0.7, color=colour,
                                 edgecolor="white", linewidth=0.5, label=label)  # fmt: skip
                texts = [number(width) if width / widest >= LABELLED_SHARE else "" for width in widths]
                ink = "white" if colour in WHITE_LABELS else "black"
                axes.bar_label(bars, texts, label_type="center", fontsize="small", color=ink)
            axes.bar_label(bars, table.sum(axis=1).map(number), padding=4, fontsize="small", fontweight="bold")
            axes.set_yticks(range(len(names)), names)
            axes.invert_yaxis()
            axes.set(xlim=(0, 1.12 * widest), axisbelow=True)
            axes.grid(axis="x", alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{quantity} by {title}", fontsize="medium")
            axes.tick_params(axis="y", labelleft=column == 0)
        axes.legend(ncols=3, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    prepare_figure(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
