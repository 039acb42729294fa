"""Adds non-maximum suppression to an ONNX graph that ends with the boxes and scores of all anchors.

Paddle2ONNX's own translation of ``multiclass_nms3`` takes one image at a time and forgets ``nms_top_k``; this one takes
any batch, and gives what ``ppcls_ext.runtime.nms.suppress`` gives, but in another order: the best of an image first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.runtime.nms import NmsSettings
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    import onnx

# Names that the outputs of the graph without suppression must have.
ANCHOR_BOXES, ANCHOR_SCORES = "anchor_boxes", "anchor_scores"
# Stands for "dropped" among scores, which are not negative.
DROPPED = -1.0


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
