"""ONNX form of a network: conversion by Paddle2ONNX, proof that no epsilon was damaged, float16 weights, NMS.

Paddle2ONNX issue 1646: a double, such as the epsilon of a batch norm, is now and then read as garbage. That may change
the outputs on some images only, so that comparing outputs does not replace comparing the numbers.
"""

from __future__ import annotations

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
PADDLE_LAYERS = {"batch_norm", "batch_norm_", "layer_norm", "instance_norm", "group_norm", "rms_norm"}
ONNX_LAYERS = {"BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization"}
# A normalisation that is written out ends in the root of a sum of variance and epsilon.
PADDLE_ROOTS = {"sqrt", "sqrt_", "rsqrt", "rsqrt_"}
PADDLE_SUMS = {"scale", "scale_"}
# What may stand between the sum and the root without changing a number.
PASSING = {"Identity", "Cast"}
RELATIVE_ROUNDING = 1e-6
# Names that the outputs of a detector's graph without NMS must have.
ANCHOR_BOXES, ANCHOR_SCORES = "anchor_boxes", "anchor_scores"
# Stands for "dropped" among scores, which are not negative.
DROPPED = -1.0


def convert(program: Path, weights: Path, outputs: Sequence[str], attempts: int = ATTEMPTS) -> onnx.ModelProto:
    """Converts a program, again and again while an epsilon comes out wrong.

    Args:
        program, weights: files of ``paddle.jit.save``.
        outputs: names that the outputs get, in their order.
        attempts: how often to try.

    Raises:
        UserError: the network has an operator that ONNX or Paddle2ONNX has not, or every attempt was damaged.
    """
    import onnx

    expected = epsilons_of_program(program)
    wrong: str | None = None
    for attempt in range(1, attempts + 1):
        model = _converted(program, weights)
        wrong = damage(expected, epsilons_of_graph(model))
        if wrong is None:
            _rename_outputs(model, outputs)
            _gather_constants(model)
            onnx.checker.check_model(model)
            return model
        logger.warning("Paddle2ONNX damaged the network (%s), attempt %d of %d", wrong, attempt, attempts)
    raise UserError(f"Paddle2ONNX damaged the network {attempts} times ({wrong}); nothing was written")


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
    tensors, nodes = [], []
    for node in graph.node:
        value = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type == "Constant" and value and node.output[0] not in {output.name for output in graph.output}:
            value[0].name = node.output[0]
            tensors.append(value[0])
        else:
            nodes.append(node)
    # What no operator reads (the converter leaves some) would make engines warn. A nested graph may read anything.
    nested = any(attribute.HasField("g") for node in nodes for attribute in node.attribute)
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    tensors = [tensor for tensor in [*graph.initializer, *tensors] if nested or tensor.name in used]
    copies = _copies_of(tensors), _copies_of(nodes)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(copies[0])
    graph.node.extend(copies[1])


def _copies_of(messages: Sequence[Any]) -> list[Any]:
    """Copies messages of a list that is about to be emptied, which would take them with it."""
    copies = []
    for message in messages:
        copies.append(type(message)())
        copies[-1].CopyFrom(message)
    return copies


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy that stores its large weights in float16 and computes in float32, as the original does.

    A ``Cast`` behind each weight brings it back; engines do that once, when they load the file. Weights beyond what
    float16 can hold stay as they are.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    halved = onnx.ModelProto()
    halved.CopyFrom(model)
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
    nodes = [*casts, *_copies_of(graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    return halved


# Epsilons


def epsilons_of_program(program: Path) -> list[float]:
    """Returns the epsilons of a Paddle 3 program (``.json``), sorted."""
    operators = list(_operators(json.loads(program.read_text(encoding="utf-8"))))
    makers = {output["%"]: operator for operator in operators for output in _values(operator, "O")}
    found = []
    for operator in operators:
        kind = _kind(operator)
        if kind in PADDLE_LAYERS:
            found.append(_attribute(operator, "epsilon"))
        elif kind in PADDLE_ROOTS:
            maker = makers.get(_values(operator, "I")[0]["%"])
            if maker is not None and _kind(maker) in PADDLE_SUMS:
                found.append(_attribute(maker, "bias"))
    return sorted(float(value) for value in found if value is not None)


def _operators(content: Any) -> Iterator[dict[str, Any]]:
    """Walks all operators, those of nested blocks too: mappings with a kind, inputs and attributes."""
    if isinstance(content, dict):
        if isinstance(content.get("#"), str) and isinstance(content.get("A"), list):
            yield content
        for value in content.values():
            yield from _operators(value)
    elif isinstance(content, list):
        for value in content:
            yield from _operators(value)


def _kind(operator: dict[str, Any]) -> str:
    return operator["#"].rsplit(".", 1)[-1]


def _values(operator: dict[str, Any], side: str) -> list[dict[str, Any]]:
    values = operator.get(side) or []
    return [value for value in (values if isinstance(values, list) else [values]) if isinstance(value, dict)]


def _attribute(operator: dict[str, Any], name: str) -> float | None:
    for attribute in operator["A"]:
        if isinstance(attribute, dict) and attribute.get("N") == name:
            return attribute["AT"]["D"]
    return None


def epsilons_of_graph(model: onnx.ModelProto) -> list[float]:
    """Returns the epsilons of an ONNX graph, sorted."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type in ONNX_LAYERS:
            found += [attribute.f for attribute in node.attribute if attribute.name == "epsilon"]
        elif node.op_type == "Sqrt":
            addition = _behind(node.input[0], makers)
            if addition is not None and addition.op_type == "Add":
                values = [_constant(name, makers, constants) for name in addition.input]
                found += [value for value in values if value is not None][:1]
    return sorted(float(value) for value in found)


def _behind(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    node = makers.get(name)
    while node is not None and node.op_type in PASSING:
        node = makers.get(node.input[0])
    return node


def _constant(
    name: str, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> float | None:
    """Returns the number that ``name`` stands for, or None if it is no constant of one number."""
    import onnx

    node = makers.get(name)
    while node is not None and node.op_type in PASSING:
        name = node.input[0]
        node = makers.get(name)
    tensor = constants.get(name)
    if node is not None and node.op_type == "Constant":
        tensor = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
    if tensor is None:
        return None
    values = onnx.numpy_helper.to_array(tensor)
    return float(values.reshape(-1)[0]) if values.size == 1 else None


def damage(expected: list[float], found: list[float]) -> str | None:
    """Compares the epsilons of a graph with those of the program that it was made of.

    Returns:
        What is wrong, as half a sentence; None if nothing is.
    """
    if len(expected) != len(found):
        return f"it has {len(found)} epsilons, the model has {len(expected)}"
    strange = list(found)
    lost = []
    for value in expected:
        same = next((other for other in strange if np.isclose(other, value, rtol=RELATIVE_ROUNDING, atol=0)), None)
        if same is None:
            lost.append(value)
        else:
            strange.remove(same)
    if not lost:
        return None
    return f"{len(lost)} of {len(expected)} epsilons are wrong, such as {strange[0]:g} in place of {lost[0]:g}"


# Non-maximum suppression


def check_settings(settings: NmsSettings) -> None:
    """Checks that ONNX's ``NonMaxSuppression`` can do what ``settings`` say.

    Raises:
        UserError: it cannot.
    """
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


class _Graph:
    """Appends operators to a graph; each call returns the name of the result."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self._number = 0

    def constant(self, values: Any, dtype: type) -> str:
        """A constant of ``values``."""
        from onnx import numpy_helper

        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=dtype), name))
        return name

    def add(self, kind: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: Any) -> Any:
        """An operator; the name of its result, or a list of them."""
        from onnx import helper

        names = [self._name(kind) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self.graph.node.append(helper.make_node(kind, list(inputs), names, name=self._name("node"), **attributes))
        return names[0] if len(names) == 1 else names

    def size(self, name: str, axis: int) -> str:
        """The size of a tensor along an axis, ``int64`` ``[1]``."""
        return self.add("Gather", self.add("Shape", name), self.constant([axis], np.int64))

    def _name(self, kind: str) -> str:
        self._number += 1
        return f"suppression/{kind}.{self._number}"


def add_suppression(model: onnx.ModelProto, settings: NmsSettings) -> onnx.ModelProto:
    """Returns a copy of ``model`` that gives detections.

    Args:
        model: its outputs are ``anchor_boxes`` ``[N, A, 4]`` and ``anchor_scores`` ``[N, C, A]``.
        settings: see ``check_settings``.

    Returns:
        A model with the outputs ``boxes`` ``[M, 6]`` (class, score, x1, y1, x2, y2), those of the first image first,
        and ``count`` ``int32`` ``[N]``.

    Raises:
        UserError: see ``check_settings``.
    """
    from onnx import TensorProto, checker, helper

    check_settings(settings)
    completed = type(model)()
    completed.CopyFrom(model)
    graph = _Graph(completed.graph)
    kept = _kept_scores(graph, settings)
    # One row of candidates for each image: class by class, anchor by anchor.
    candidates = graph.add("Flatten", kept, axis=1)
    limit = graph.size(candidates, 1)
    if settings.keep_top_k > -1:
        limit = graph.add("Min", limit, graph.constant([settings.keep_top_k], np.int64))
    scores, places = graph.add("TopK", candidates, limit, outputs=2, axis=1)
    anchors = graph.size(ANCHOR_BOXES, 1)
    labels = graph.add("Cast", graph.add("Div", places, anchors), to=TensorProto.FLOAT)
    last = graph.constant([2], np.int64)
    corners = graph.add(
        "GatherND", ANCHOR_BOXES, graph.add("Unsqueeze", graph.add("Mod", places, anchors), last), batch_dims=1
    )
    columns = [graph.add("Unsqueeze", values, last) for values in (labels, scores)]
    rows = graph.add("Reshape", graph.add("Concat", *columns, corners, axis=2), graph.constant([-1, 6], np.int64))
    valid = graph.add("Greater", scores, graph.constant(settings.score_threshold, np.float32))
    flat = graph.add("Reshape", valid, graph.constant([-1], np.int64))
    graph.add("Compress", rows, flat, outputs=["boxes"], axis=0)
    counted = graph.add("Cast", valid, to=TensorProto.INT32)
    graph.add("ReduceSum", counted, graph.constant([1], np.int64), outputs=["count"], keepdims=0)
    del completed.graph.output[:]
    completed.graph.output.extend(
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["detections", 6]),
            helper.make_tensor_value_info("count", TensorProto.INT32, ["batch"]),
        ]
    )
    checker.check_model(completed)
    return completed


def _kept_scores(graph: _Graph, settings: NmsSettings) -> str:
    """Returns the scores ``[N, C, A]`` with ``DROPPED`` in place of those that suppression drops."""
    scores = ANCHOR_SCORES
    limit = graph.size(ANCHOR_BOXES, 1)
    dropped = graph.constant(DROPPED, np.float32)
    if settings.nms_top_k > -1:
        limit = graph.add("Min", limit, graph.constant([settings.nms_top_k], np.int64))
        best, _ = graph.add("TopK", scores, limit, outputs=2, axis=2)
        lowest = graph.add("ReduceMin", best, axes=[2], keepdims=1)
        scores = graph.add("Where", graph.add("GreaterOrEqual", scores, lowest), scores, dropped)
    chosen = graph.add(
        "NonMaxSuppression",
        ANCHOR_BOXES,
        scores,
        limit,
        graph.constant([settings.nms_threshold], np.float32),
        graph.constant([settings.score_threshold], np.float32),
    )
    nothing = graph.add("Expand", dropped, graph.add("Shape", scores))
    return graph.add("ScatterND", nothing, chosen, graph.add("GatherND", scores, chosen))
