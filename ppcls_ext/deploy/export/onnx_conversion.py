"""Converts Paddle's program to ONNX and proves that no epsilon was damaged on the way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.deploy.export.epsilons import damage, epsilons_of_graph, epsilons_of_program
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
            raise UserError(f"Paddle2ONNX cannot convert the network: {_reason(done.stderr + done.stdout)}")
        return onnx.load(str(target))


def _reason(output: str) -> str:
    """Returns the line of the converter's output that says most."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "not support" in line]
    return (telling or lines or ["it says nothing"])[-1]


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
    copies = copies_of(tensors), copies_of(nodes)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(copies[0])
    graph.node.extend(copies[1])


def copies_of(messages: Sequence[Any]) -> list[Any]:
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
    nodes = [*casts, *copies_of(graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    return halved
