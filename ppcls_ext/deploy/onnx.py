"""ONNX form of a network: conversion by Paddle2ONNX, proof that no epsilon was damaged, float16 weights, NMS.

Paddle2ONNX issue 1646: a double, such as the epsilon of a batch norm, is now and then read as garbage. That may change
the outputs on some images only, so that comparing outputs does not replace comparing the numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.runtime.nms import NmsSettings
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)
ATTEMPTS = 5
# 17 is the first with LayerNormalization; later ones bring nothing that these networks use.
OPSET = 17
# Biases and statistics are a hundredth of the file: their digits cost nothing to keep.
SMALLEST_HALVED = 1024
# In a process of its own: the converter is native code that reads files, and what it leaves in memory is what damages
# epsilons.
CONVERT = (
    "import sys, paddle2onnx; paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], opset_version=int(sys.argv[4]))"
)
# Layers that divide by a deviation: their names in Paddle's programs (without the dialect's number) and in ONNX.
PADDLE_LAYERS = {"batch_norm", "layer_norm", "instance_norm", "group_norm", "rms_norm"}
ONNX_LAYERS = {"BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization"}
# Names that the outputs of a detector's graph without NMS must have.
ANCHOR_BOXES, ANCHOR_SCORES = "anchor_boxes", "anchor_scores"


def convert(program: Path, weights: Path, outputs: Sequence[str]) -> onnx.ModelProto:
    """Converts a program (files of ``paddle.jit.save``), again and again while an epsilon comes out wrong.

    The outputs get the names ``outputs``, in their order.

    Raises:
        UserError: the network has an operator that ONNX or Paddle2ONNX has not, or every attempt was damaged.
    """
    import onnx

    expected = epsilons_of_program(program)
    wrong: str | None = None
    for attempt in range(1, ATTEMPTS + 1):
        model = _converted(program, weights)
        _gather_constants(model)
        wrong = damage(expected, epsilons_of_graph(model))
        if wrong is None:
            _rename_outputs(model, outputs)
            onnx.checker.check_model(model)
            return model
        logger.warning("Paddle2ONNX damaged the network (%s), attempt %d of %d", wrong, attempt, ATTEMPTS)
    raise UserError(f"Paddle2ONNX damaged the network {ATTEMPTS} times ({wrong}); nothing was written")


def _converted(program: Path, weights: Path) -> onnx.ModelProto:
    import onnx

    with tempfile.TemporaryDirectory(prefix="onnx-") as folder:
        target = Path(folder) / "network.onnx"
        command = [sys.executable, "-c", CONVERT, str(program), str(weights), str(target), str(OPSET)]
        # The converter only reads files: it needs no GPU, and must not fail for one that is there.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0 or not target.is_file():
            lines = [" ".join(line.split()) for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            telling = [line for line in lines if "rror" in line or "not support" in line]
            raise UserError(f"Paddle2ONNX cannot convert the network: {(telling or lines or ['it says nothing'])[-1]}")
        return onnx.load(str(target))


def _rename_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    outputs = model.graph.output
    if len(outputs) != len(names):
        raise UserError(f"Paddle2ONNX made {len(outputs)} outputs, expected {', '.join(names)}")
    new_names = {output.name: name for output, name in zip(outputs, names, strict=True)}
    for node in model.graph.node:
        for side in (node.input, node.output):
            side[:] = [new_names.get(name, name) for name in side]
    for output in outputs:
        output.name = new_names[output.name]


def _gather_constants(model: onnx.ModelProto) -> None:
    """Turns the constants of the graph into its weights; the converter writes every weight as an operator."""
    graph = model.graph
    outputs = {output.name for output in graph.output}
    tensors, nodes = [], []
    for node in graph.node:
        value = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type == "Constant" and value and node.output[0] not in outputs:
            value[0].name = node.output[0]
            tensors.append(value[0])
        else:
            nodes.append(node)
    # What no operator reads (the converter leaves some) would make engines warn. A nested graph may read anything.
    nested = any(attribute.HasField("g") for node in nodes for attribute in node.attribute)
    used = {name for node in nodes for name in node.input} | outputs
    tensors = [tensor for tensor in [*graph.initializer, *tensors] if nested or tensor.name in used]
    # Copied first: emptying a list takes its messages with it.
    tensors, nodes = copy.deepcopy(tensors), copy.deepcopy(nodes)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy that stores its large weights in float16 and computes in float32, as the original does.

    A ``Cast`` behind each weight brings it back; engines do that once, when they load the file. Weights beyond what
    float16 can hold stay as they are.
    """
    from onnx import TensorProto, helper, numpy_helper

    halved = copy.deepcopy(model)
    graph = halved.graph
    largest = float(np.finfo(np.float16).max)
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALLEST_HALVED or not np.abs(values).max() <= largest:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}/cast", to=TensorProto.FLOAT))
    nodes = [*casts, *copy.deepcopy(list(graph.node))]
    del graph.node[:]
    graph.node.extend(nodes)
    return halved


# Epsilons: of normalising layers, and of normalisations that are written out, which end in the root of a sum of
# variance and epsilon.


def epsilons_of_program(program: Path) -> list[float]:
    """Returns the epsilons of a Paddle 3 program (``.json``), sorted."""

    def operators(content: Any) -> Iterator[dict[str, Any]]:
        """Walks all operators, those of nested blocks too: mappings with a kind (#), inputs (I) and attributes (A)."""
        if isinstance(content, dict):
            if isinstance(content.get("#"), str) and isinstance(content.get("A"), list):
                yield content
            content = list(content.values())
        for value in content if isinstance(content, list) else []:
            yield from operators(value)

    def values(operator: dict[str, Any], side: str) -> list[dict[str, Any]]:
        found = operator.get(side) or []
        return [value for value in (found if isinstance(found, list) else [found]) if isinstance(value, dict)]

    every = list(operators(json.loads(program.read_text(encoding="utf-8"))))
    makers = {output["%"]: operator for operator in every for output in values(operator, "O")}
    found: list[float] = []
    for operator in every:
        name = "epsilon"
        if _kind(operator) in ("sqrt", "rsqrt"):
            operator, name = makers.get(values(operator, "I")[0]["%"], {}), "bias"
        if _kind(operator) in (PADDLE_LAYERS if name == "epsilon" else {"scale"}):
            numbers = [one["AT"]["D"] for one in operator["A"] if isinstance(one, dict) and one.get("N") == name]
            found += numbers[:1]
    return sorted(map(float, found))


def _kind(operator: dict[str, Any]) -> str:
    return operator.get("#", "").rsplit(".", 1)[-1].removesuffix("_")


def epsilons_of_graph(model: onnx.ModelProto) -> list[float]:
    """Returns the epsilons of an ONNX graph whose constants are initializers, sorted."""
    from onnx import numpy_helper

    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def source(name: str) -> str:
        """Goes back over what may stand between the sum and the root without changing a number."""
        while name in makers and makers[name].op_type in ("Identity", "Cast"):
            name = makers[name].input[0]
        return name

    found: list[float] = []
    for node in model.graph.node:
        if node.op_type in ONNX_LAYERS:
            found += [attribute.f for attribute in node.attribute if attribute.name == "epsilon"]
        elif node.op_type == "Sqrt":
            addition = makers.get(source(node.input[0]))
            if addition is not None and addition.op_type == "Add":
                numbers = [constants[name] for name in map(source, addition.input) if name in constants]
                found += [number.item() for number in numbers if number.size == 1][:1]
    return sorted(map(float, found))


def damage(expected: list[float], found: list[float]) -> str | None:
    """Compares the epsilons of a graph with those of the program that it was made of: what is wrong, as half a
    sentence; None if nothing is.
    """
    if len(expected) != len(found):
        return f"it has {len(found)} epsilons, the model has {len(expected)}"
    if np.allclose(np.sort(found), np.sort(expected), rtol=1e-6, atol=0):
        return None
    ours, theirs = (", ".join(dict.fromkeys(f"{value:g}" for value in values)) for values in (expected, found))
    return f"its epsilons are {theirs}, the model's {ours}"


# Non-maximum suppression


def check_settings(settings: NmsSettings) -> None:
    """Raises a UserError if ONNX's ``NonMaxSuppression`` cannot do what ``settings`` say."""
    problems = {
        "normalized: false": not settings.normalized,
        f"nms_eta: {settings.nms_eta}": settings.nms_eta != 1,
        f"background_label: {settings.background_label}": settings.background_label > -1,
        f"score_threshold: {settings.score_threshold}": settings.score_threshold < 0,
    }
    wrong = [text for text, is_wrong in problems.items() if is_wrong]
    if wrong:
        raise UserError(
            f"PPYOLOEHead.nms: {', '.join(wrong)}: ONNX and OpenVINO have no such suppression; export with --raw, and "
            "the runtime does it; nothing was written"
        )


# What a detector's graph ends with: of the places that `NonMaxSuppression` gives it makes rows of boxes.
# Limits of "all" are a number beyond all anchors; -1 stands for "dropped" among scores, which are not negative.
SUPPRESSION = """
<ir_version: 8, opset_import: ["": 17]>
suppression (float[N, A, 4] anchor_boxes, float[N, C, A] anchor_scores)
    => (float[detections, 6] boxes, int32[batch] count)
<
    int64[1] nms_top_k = {%(nms_top_k)d}, int64[1] keep_top_k = {%(keep_top_k)d}, float dropped = {-1.0},
    float[1] nms_threshold = {%(nms_threshold)r}, float[1] score_threshold = {%(score_threshold)r},
    int64[1] first = {1}, int64[1] last = {2}, int64[2] rows_of_six = {-1, 6}, int64[1] flat = {-1}
>
{
    anchors = Shape <start = 1, end = 2> (anchor_boxes)
    entering = Min (anchors, nms_top_k)
    best, best_places = TopK <axis = 2> (anchor_scores, entering)
    lowest = ReduceMin <axes = [2], keepdims = 1> (best)
    is_enough = GreaterOrEqual (anchor_scores, lowest)
    compared = Where (is_enough, anchor_scores, dropped)
    chosen = NonMaxSuppression (anchor_boxes, compared, entering, nms_threshold, score_threshold)
    scores_shape = Shape (compared)
    all_dropped = Expand (dropped, scores_shape)
    chosen_scores = GatherND (compared, chosen)
    kept = ScatterND (all_dropped, chosen, chosen_scores)
    candidates = Flatten <axis = 1> (kept)
    candidate_count = Shape <start = 1, end = 2> (candidates)
    limit = Min (candidate_count, keep_top_k)
    scores, places = TopK <axis = 1> (candidates, limit)
    label_numbers = Div (places, anchors)
    labels = Cast <to = 1> (label_numbers)
    anchor_numbers = Mod (places, anchors)
    anchor_indices = Unsqueeze (anchor_numbers, last)
    corners = GatherND <batch_dims = 1> (anchor_boxes, anchor_indices)
    label_column = Unsqueeze (labels, last)
    score_column = Unsqueeze (scores, last)
    table = Concat <axis = 2> (label_column, score_column, corners)
    rows = Reshape (table, rows_of_six)
    is_valid = Greater (scores, score_threshold)
    is_valid_row = Reshape (is_valid, flat)
    boxes = Compress <axis = 0> (rows, is_valid_row)
    valid_numbers = Cast <to = 6> (is_valid)
    count = ReduceSum <keepdims = 0> (valid_numbers, first)
}
"""


def add_suppression(model: onnx.ModelProto, settings: NmsSettings) -> onnx.ModelProto:
    """Returns a copy of ``model`` that gives detections.

    Its outputs ``anchor_boxes`` ``[N, A, 4]`` and ``anchor_scores`` ``[N, C, A]`` become ``boxes`` ``[M, 6]`` (class,
    score, x1, y1, x2, y2), those of the first image first, and ``count`` ``int32`` ``[N]``.

    Raises:
        UserError: see ``check_settings``.
    """
    from onnx import checker, compose, parser

    check_settings(settings)
    values = dataclasses.asdict(settings)
    values |= {name: values[name] if values[name] > -1 else 2**40 for name in ("nms_top_k", "keep_top_k")}
    suppression = parser.parse_model(SUPPRESSION % values)
    suppression.ir_version = model.ir_version
    joints = [(name, name) for name in (ANCHOR_BOXES, ANCHOR_SCORES)]
    completed = compose.merge_models(model, suppression, joints)
    checker.check_model(completed)
    return completed
