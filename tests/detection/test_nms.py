"""MultiClassNMS3 gives what ppdet's MultiClassNMS gives, in eager mode and in a saved graph, detections or not."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from detection.nms import MultiClassNMS3
from ppcls_ext.runtime.nms import NmsSettings, suppress_across_classes

SETTINGS = {"score_threshold": 0.3, "nms_top_k": 20, "keep_top_k": 15, "nms_threshold": 0.5}


def candidates(images: int, boxes: int = 60, classes: int = 3) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Returns boxes ``[N, M, 4]`` in clusters, so that many overlap, and scores ``[N, C, M]``."""
    generator = np.random.default_rng(5)
    corner = generator.integers(0, 4, size=(images, boxes, 2)) * 30 + generator.uniform(0, 8, size=(images, boxes, 2))
    corners = np.concatenate([corner, corner + generator.uniform(20, 30, size=(images, boxes, 2))], axis=2)
    scores = generator.uniform(size=(images, classes, boxes))
    return paddle.to_tensor(corners.astype(np.float32)), paddle.to_tensor(scores.astype(np.float32))


@pytest.mark.parametrize("extra", [{}, {"normalized": False}, {"nms_eta": 0.9, "nms_threshold": 0.8}])
def test_equals_the_toolkit_in_eager_mode(extra: dict[str, float]) -> None:
    from ppdet.modeling.layers import MultiClassNMS

    boxes, scores = candidates(images=3)
    arguments = {**SETTINGS, **extra, "return_index": True}
    ours = MultiClassNMS3(**arguments)(boxes, scores)
    theirs = MultiClassNMS(**arguments)(boxes, scores)
    assert len(ours[0]) == 45
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_background_and_images_without_detections() -> None:
    boxes, scores = candidates(images=2)
    nms = MultiClassNMS3(**SETTINGS, background_label=1)
    assert set(nms(boxes, scores)[0].numpy()[:, 0]) == {0.0, 2.0}
    assert set(nms(boxes, scores, background_label=2)[0].numpy()[:, 0]) == {0.0, 1.0}
    kept, counts, index = nms(boxes, scores * 0.1)
    assert (kept.shape, counts.numpy().tolist(), index) == ([0, 6], [0, 0], None)


def test_class_agnostic_keeps_the_best_of_what_overlaps() -> None:
    boxes, scores = candidates(images=2)
    rows, counts, _ = MultiClassNMS3(**SETTINGS)(boxes, scores)
    kept, kept_counts, _ = MultiClassNMS3(**SETTINGS, class_agnostic=True)(boxes, scores)
    parts = np.split(rows.numpy(), np.cumsum(counts.numpy())[:-1])
    settings = NmsSettings(nms_threshold=SETTINGS["nms_threshold"], normalized=True)
    expected = [suppress_across_classes(part, settings) for part in parts]
    assert 0 < len(kept) < len(rows)
    np.testing.assert_array_equal(kept.numpy(), np.concatenate(expected))
    assert kept_counts.numpy().tolist() == [len(part) for part in expected]
    nothing, none, _ = MultiClassNMS3(**SETTINGS, class_agnostic=True)(boxes, scores * 0.1)
    assert (nothing.shape, none.numpy().tolist()) == ([0, 6], [0, 0])


class _Network(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.nms = MultiClassNMS3(**SETTINGS)

    def forward(self, boxes: paddle.Tensor, scores: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        kept, counts, _ = self.nms(boxes, scores)
        return kept, counts


def test_saved_graph(tmp_path: object) -> None:
    network = _Network()
    specification = [
        paddle.static.InputSpec([None, None, 4], "float32", "boxes"),
        paddle.static.InputSpec([None, 3, None], "float32", "scores"),
    ]
    static = paddle.jit.to_static(network, input_spec=specification, full_graph=True)
    paddle.jit.save(static, f"{tmp_path}/nms")
    loaded = paddle.jit.load(f"{tmp_path}/nms")
    boxes, scores = candidates(images=3)
    # The second image is without detections.
    scores[1] = 0.0
    for images in (3, 1):
        expected = MultiClassNMS3(**SETTINGS)(boxes[:images], scores[:images])
        outputs = loaded(boxes[:images], scores[:images])
        assert outputs[1].numpy().tolist() == [15, 0, 15][:images]
        for mine, other in zip(outputs, expected, strict=False):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())
    assert loaded(boxes, scores * 0.1)[0].shape == [0, 6]
