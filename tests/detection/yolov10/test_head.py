"""Both branches together: losses by name, gradients, hard batches, detections."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from detection.yolov10.head import YOLOv10Head, select, to_picture
from detection.yolov10.loss import anchor_points, box_losses, boxes_around, class_loss, expected_distances, objects_of
from ppcls_ext.preprocess.detection import LetterResize
from tests.support.yolov10 import CLASSES, SHOWN, make_batch, make_model


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(norms_frozen=True)


def gradients(model: Any) -> dict[str, np.ndarray]:
    found = {
        name: parameter.grad.numpy().copy()
        for name, parameter in model.named_parameters()
        if not parameter.stop_gradient and parameter.grad is not None
    }
    model.clear_gradients()
    return found


def test_the_losses_are_those_of_their_parts(model: Any) -> None:
    """One branch, put together once more from its predictions: gains, normaliser, number of anchors."""
    head, batch = model.yolo_head, make_batch()
    features = model.neck(model.backbone(batch))
    points, strides = anchor_points(features, (8, 16, 32))
    for name, most in (("one_to_many", 10), ("one_to_one", 1)):
        boxes, logits = (
            paddle.concat([part.flatten(2).transpose([0, 2, 1]) for part in parts], axis=1)
            for parts in getattr(head, name)(features)
        )
        corners = boxes_around(points, expected_distances(boxes, 16) * strides)
        scores = paddle.nn.functional.sigmoid(logits)
        assigned = head.assigner.assign(scores, corners, points, objects_of(batch), most)
        assert (assigned.positive.shape[0] > 10) == (most == 10)
        iou, dfl = box_losses(boxes, points, strides, assigned, 16)
        total = 7.5 * iou + 0.5 * class_loss(logits, assigned) + 1.5 * dfl
        expected = float(total) / max(float(assigned.scores.sum()), 1.0)
        assert float(model(batch)[f"loss_{name}"]) == pytest.approx(expected, rel=1e-5)


def test_only_the_one_to_many_branch_teaches_backbone_and_neck(model: Any) -> None:
    model(make_batch())["loss_one_to_one"].backward()
    taught = {name for name, gradient in gradients(model).items() if np.abs(gradient).max() > 0}
    assert taught
    assert all(name.startswith("yolo_head.one_to_one.") for name in taught)
    model(make_batch())["loss_one_to_many"].backward()
    taught = {name for name, gradient in gradients(model).items() if np.abs(gradient).max() > 0}
    assert not any(name.startswith("yolo_head.one_to_one.") for name in taught)
    for part in ("backbone.", "neck.", "yolo_head.one_to_many."):
        assert any(name.startswith(part) for name in taught)


def test_the_one_to_one_branch_begins_as_a_copy_and_shares_nothing() -> None:
    head = make_model(seeded=False).yolo_head
    many, one = (dict(branch.named_parameters()) for branch in (head.one_to_many, head.one_to_one))
    assert many.keys() == one.keys()
    for name, parameter in many.items():
        np.testing.assert_array_equal(parameter.numpy(), one[name].numpy(), err_msg=name)
        # Optimizers know parameters by these names.
        assert parameter.name != one[name].name
    one["boxes.0.2.bias"].set_value(one["boxes.0.2.bias"] + 1)
    assert not np.array_equal(many["boxes.0.2.bias"].numpy(), one["boxes.0.2.bias"].numpy())


HARD = {
    "no boxes at all": [[], []],
    "a box of zero size": [[((20.0, 20.0, 20.0, 20.0), 1)], [((5.0, 30.0, 60.0, 30.0), 0)]],
    "a box beyond the picture": [[((-50.0, -50.0, 200.0, 200.0), 1), ((70.0, 70.0, 90.0, 90.0), 0)], []],
}


@pytest.mark.parametrize("shown", HARD.values(), ids=HARD.keys())
def test_hard_batches_give_finite_losses_and_a_gradient_of_every_weight(model: Any, shown: Any) -> None:
    losses = model(make_batch(shown))
    losses["loss"].backward()
    assert all(np.isfinite(float(value)) for value in losses.values())
    found = gradients(model)
    trained = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    assert found.keys() == trained
    assert all(np.isfinite(gradient).all() for gradient in found.values())


def test_losses_of_half_precision_predictions_are_computed_in_full(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU does not compute convolutions in half precision, so the predictions are rounded behind them."""
    exact = {name: float(value) for name, value in model(make_batch()).items()}
    for branch in (model.yolo_head.one_to_many, model.yolo_head.one_to_one):
        monkeypatch.setattr(branch, "forward", half_precision(branch.forward))
    losses = model(make_batch())
    for name, value in losses.items():
        assert value.dtype == paddle.float32
        assert float(value) == pytest.approx(exact[name], rel=0.05)


def half_precision(forward: Any) -> Any:
    def rounded(features: Any) -> Any:
        return tuple([part.astype("float16") for part in parts] for parts in forward(features))

    return rounded


@pytest.mark.parametrize("size", [64, 160])
def test_detections_follow_ppdets_contract(size: int) -> None:
    model = make_model()
    model.eval()
    batch = {"image": make_batch(size=size)["image"], "scale_factor": paddle.to_tensor([[1.0, 1.0]] * len(SHOWN))}
    with paddle.no_grad():
        outputs, scaled = model(batch), model({**batch, "scale_factor": paddle.to_tensor([[0.5, 2.0]] * len(SHOWN))})
        scores, boxes = model.candidates(batch["image"])
    anchors = sum((size // stride) ** 2 for stride in (8, 16, 32))
    kept = min(300, anchors)
    assert scores.shape == [len(SHOWN), anchors, CLASSES] and boxes.shape == [len(SHOWN), anchors, 4]
    assert outputs["bbox_num"].tolist() == [kept] * len(SHOWN)
    found = outputs["bbox"].numpy()
    assert found.shape == (kept * len(SHOWN), 6)
    best = scores.numpy().max(axis=(1, 2))
    np.testing.assert_array_equal(found[::kept, 1], best)
    np.testing.assert_allclose(scaled["bbox"].numpy()[:, 2:], found[:, 2:] * [0.5, 2, 0.5, 2], rtol=1e-6)
    # Only the one-to-one branch detects.
    model.yolo_head.convert_to_deploy()
    assert not [name for name, _ in model.named_parameters() if "one_to_many" in name]
    np.testing.assert_array_equal(model(batch)["bbox"].numpy(), found)


def test_an_unknown_gain_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_weight: .*'clas'.*did you mean 'class'"):
        YOLOv10Head(in_channels=[16, 32, 64], loss_weight={"clas": 1.0})


def sorted_out(scores: np.ndarray, boxes: np.ndarray, keep: int) -> list[list[float]]:
    """The two steps of one image, with Python's sort."""
    anchors = sorted(range(len(scores)), key=lambda anchor: -scores[anchor].max())[:keep]
    pairs = [(scores[anchor, label], label, anchor) for anchor in anchors for label in range(scores.shape[1])]
    best = sorted(pairs, reverse=True)[: min(keep, len(scores))]
    return [[label, score, *boxes[anchor]] for score, label, anchor in best]


@pytest.mark.parametrize(("anchors", "classes", "keep"), [(84, 3, 300), (20, 5, 7)])
def test_the_best_pairs_of_the_best_anchors_are_kept(anchors: int, classes: int, keep: int) -> None:
    generator = np.random.default_rng(anchors)
    # No two scores are equal.
    scores = (generator.permutation(2 * anchors * classes) / (2.0 * anchors * classes)).astype("float32")
    scores = scores.reshape(2, anchors, classes)
    boxes = generator.uniform(0, 100, (2, anchors, 4)).astype("float32")
    found = select(paddle.to_tensor(scores), paddle.to_tensor(boxes), keep)
    expected = [sorted_out(*image, keep) for image in zip(scores, boxes, strict=True)]
    assert found.shape == [2, min(keep, anchors), 6]
    np.testing.assert_array_equal(found.numpy(), np.array(expected, dtype="float32"))


def test_corners_return_to_the_original_picture() -> None:
    detections = paddle.to_tensor([[[1.0, 0.5, 10, 20, 30, 40]], [[2.0, 0.4, 10, 20, 30, 40]]])
    # (y, x), as ppdet has it.
    factors = paddle.to_tensor([[2.0, 0.5], [1.0, 1.0]])
    np.testing.assert_allclose(
        to_picture(detections, factors, None).numpy(),
        [[[1, 0.5, 20, 10, 60, 20]], [[2, 0.4, 10, 20, 30, 40]]], rtol=1e-6,
    )  # fmt: skip
    # (top, left), in pixels of the input.
    pads = paddle.to_tensor([[4.0, 8.0], [0.0, 5.0]])
    np.testing.assert_allclose(
        to_picture(detections, factors, pads).numpy(),
        [[[1, 0.5, 4, 8, 44, 18]], [[2, 0.4, 5, 20, 25, 40]]], rtol=1e-6,
    )  # fmt: skip


def test_padding_is_told_by_the_size_of_what_it_surrounds() -> None:
    """PaddleDetection's exporter has no input for the padding."""
    model = make_model()
    model.eval()
    model.load_meanstd([{"LetterResize": {}}])
    place = LetterResize([64, 64]).placement(130, 61)
    batch = {"image": make_batch()["image"][:1], "scale_factor": paddle.ones([1, 2])}
    told = model({**batch, "pad": paddle.to_tensor([[float(place.top), float(place.left)]])})
    found = model({**batch, "im_shape": paddle.to_tensor([[float(place.height), float(place.width)]])})
    np.testing.assert_array_equal(found["bbox"].numpy(), told["bbox"].numpy())
