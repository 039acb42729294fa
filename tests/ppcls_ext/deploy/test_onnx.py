"""Conversion to ONNX: no epsilon is damaged, and NMS in the graph is that of NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.deploy import onnx as onnx_conversion
from ppcls_ext.deploy.onnx import damage, epsilons_of_graph, epsilons_of_program
from ppcls_ext.runtime.nms import NmsSettings, suppress
from ppcls_ext.utils.errors import UserError
from tests.support.deployment import NEEDS_ONNX, export_small


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_small(tmp_path_factory.mktemp("onnx") / "export", formats=["paddle", "onnx"])


def damaged(graph, value, kind="BatchNormalization"):
    """Returns a copy of an ONNX model with one wrong epsilon: of a layer, or of a normalisation that is written out."""
    from onnx import numpy_helper

    copy = type(graph)()
    copy.CopyFrom(graph)
    if kind == "Sqrt":
        for tensor in copy.graph.initializer:
            numbers = numpy_helper.to_array(tensor)
            if numbers.size == 1 and np.isclose(float(numbers.reshape(-1)[0]), 1e-6, rtol=1e-3, atol=0):
                tensor.CopyFrom(numpy_helper.from_array(np.full_like(numbers, value), tensor.name))
        return copy
    node = next(node for node in copy.graph.node if node.op_type == kind)
    next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = value
    return copy


@NEEDS_ONNX
def test_a_damaged_epsilon_is_found(exported):
    import onnx

    graph = onnx.load(str(exported / "inference.onnx"))
    expected = epsilons_of_program(exported / "inference.json")
    assert expected == pytest.approx([1e-6, 1e-5, 1e-3], rel=1e-6)
    assert damage(expected, epsilons_of_graph(graph)) is None
    for kind, value in (("BatchNormalization", 3e-29), ("Sqrt", 0)):
        assert f"epsilons are {value:g}, " in damage(expected, epsilons_of_graph(damaged(graph, value, kind)))
    for value in (float("nan"), 1.0001e-5):
        assert damage(expected, [1e-6, value, 1e-3]) is not None
    assert damage(expected, expected[1:]) == "it has 2 epsilons, the model has 3"


@NEEDS_ONNX
def test_a_damaged_conversion_is_repeated_and_at_last_refused(exported, tmp_path, monkeypatch, caplog):
    import onnx

    good = onnx.load(str(exported / "inference.onnx"))
    results = [damaged(good, 5e-310), damaged(good, 2e20), good]
    monkeypatch.setattr(onnx_conversion, "_converted", lambda program, weights: results.pop(0))
    with caplog.at_level("WARNING"):
        export_small(tmp_path / "export", formats=["onnx"])
    assert not results
    assert "2e+20, the model's 1e-06, 1e-05, 0.001), attempt 2 of 5" in caplog.text
    monkeypatch.setattr(onnx_conversion, "_converted", lambda program, weights: damaged(good, 2e20))
    with pytest.raises(UserError, match=r"damaged the network 5 times \(its epsilons are"):
        export_small(tmp_path / "other", formats=["onnx"])
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def anchors_of(count: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes ``[N, A, 4]`` in clusters and scores ``[N, 3, A]``; the last image has none."""
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 4, (images, count, 2)) * 30 + generator.uniform(0, 8, (images, count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(20, 30, (images, count, 2))], axis=2)
    scores = generator.uniform(size=(images, 3, count))
    scores[-1] = 0
    return boxes.astype(np.float32), scores.astype(np.float32)


@NEEDS_ONNX
@pytest.mark.parametrize("settings", [
    NmsSettings(score_threshold=0.3, nms_top_k=20, keep_top_k=15, nms_threshold=0.5),
    NmsSettings(score_threshold=0.05, nms_top_k=-1, keep_top_k=-1, nms_threshold=0.6),
])  # fmt: skip
def test_suppression_in_the_graph_is_that_of_numpy(settings: NmsSettings) -> None:
    import onnxruntime
    from onnx import parser

    core = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> core (float[n, a, 4] boxes_in, float[n, 3, a] scores_in) =>
        (float[n, a, 4] anchor_boxes, float[n, 3, a] anchor_scores)
        {anchor_boxes = Identity (boxes_in) anchor_scores = Identity (scores_in)}"""
    )
    completed = onnx_conversion.add_suppression(core, settings)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        completed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for images, count in ((3, 60), (1, 5), (2, 400), (4, 60)):
        boxes, scores = anchors_of(count, images, seed=count)
        rows, counts = session.run(None, {"boxes_in": boxes, "scores_in": scores})
        expected = [suppress(*pair, settings) for pair in zip(boxes, scores, strict=True)]
        assert counts.tolist() == [len(one) for one in expected]
        assert counts[-1] == 0
        for own, wanted in zip(np.split(rows, np.cumsum(counts)[:-1]), expected, strict=True):
            np.testing.assert_array_equal(own, wanted[np.argsort(-wanted[:, 1], kind="stable")])
