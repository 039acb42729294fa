"""Finds epsilons that a conversion to ONNX damaged (Paddle2ONNX issue 1646: a double is now and then read as garbage).

A wrong epsilon may change the outputs on some images only, so comparing outputs does not replace comparing the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

# Layers that divide by a deviation: their names in Paddle's programs (without the dialect's number) and in ONNX.
PADDLE_LAYERS = {"batch_norm", "batch_norm_", "layer_norm", "instance_norm", "group_norm", "rms_norm"}
ONNX_LAYERS = {"BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization"}
# A normalisation that is written out ends in the root of a sum of variance and epsilon.
PADDLE_ROOTS = {"sqrt", "sqrt_", "rsqrt", "rsqrt_"}
PADDLE_SUMS = {"scale", "scale_"}
# What may stand between the sum and the root without changing a number.
PASSING = {"Identity", "Cast"}
RELATIVE_ROUNDING = 1e-6


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
