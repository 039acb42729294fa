"""What goes wrong before and during a detector's training ends in one line that says what to mend."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import paddle
import pytest

from detection.configuration import class_names_of, load_config
from detection.configuration.checks import RunKeys, catalog
from detection.evaluator import Evaluator, as_coco_results, evaluate_config
from detection.loaders import training_loader
from detection.task import IGNORED, ignored_keys, open_environment, train_config
from detection.toolkit import build_model, workspace
from detection.weights import load_start
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.detectors import make_frames, run_config
from tests.support.frames import Frames


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    return make_frames(tmp_path / "data")


def test_image_that_vanishes_during_training_is_named(frames: Frames, tmp_path: Path) -> None:
    config = load_config(run_config(tmp_path, frames))
    with workspace(config):
        loader = training_loader(config, open_environment(config))
    frames.image("train_05.png").unlink()
    with pytest.raises(UserError, match=r"train_05\.png: cannot be used \(the file is missing\)"):
        list(loader)


def test_damaged_image_is_named(frames: Frames, tmp_path: Path) -> None:
    frames.image("train_05.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"train_05\.png: cannot be used"):
        train_config(load_config(run_config(tmp_path, frames, worker_num=1)))


def test_loss_that_is_not_finite_stops_the_run(frames: Frames, tmp_path: Path) -> None:
    config = load_config(run_config(tmp_path, frames, LearningRate__base_lr=1e30))
    with pytest.raises(UserError, match="the loss became .* at epoch 1, batch .*lower LearningRate.base_lr"):
        train_config(config)
    assert list(config.output_dir.glob("bad_batch_*.npz"))


def test_fewer_images_than_a_batch(frames: Frames, tmp_path: Path) -> None:
    config = load_config(run_config(tmp_path, frames, TrainReader__batch_size=64))
    with pytest.raises(UserError, match="TrainReader.batch_size: 18 samples do not fill a batch of 64"):
        train_config(config)


def test_a_run_starts_from_weights_for_other_classes_but_not_from_another_detector(
    frames: Frames, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pdparams"
    model = build_model(load_config(run_config(tmp_path / "one", frames)))
    write_weights(weights, model.state_dict())
    other = load_config(run_config(tmp_path / "two", frames, EConvNeXt__arch="tiny", pretrain_weights=str(weights)))
    with pytest.raises(UserError, match="pretrain_weights: .*: they were trained with another architecture than"):
        load_start(other, build_model(other))
    for part in (frames.train, frames.val):
        part["categories"].append({"id": 4, "name": "wreck"})
    frames.write()
    more = load_config(run_config(tmp_path / "three", frames, num_classes=4, pretrain_weights=str(weights)))
    started = build_model(more)
    load_start(more, started)
    name = "yolo_head.pred_reg.0.weight"
    assert (started.state_dict()[name] == model.state_dict()[name]).all()


def test_evaluation_covers_all_images_and_only_all(frames: Frames, tmp_path: Path) -> None:
    """ppdet leaves out those without boxes by default; whatever a detector finds there is wrong and has to count."""
    file = run_config(tmp_path, frames, EvalDataset__allow_empty=False)
    config = load_config(file)
    with workspace(config):
        assert Evaluator(config, open_environment(config)).loader.sampler.length == 6
    config = load_config(file, ["EvalDataset.sample_num=4"])
    with workspace(config), pytest.raises(UserError, match="would evaluate 4 images, .* all 6 of .*val.json"):
        Evaluator(config, open_environment(config))


def test_images_that_training_leaves_out_are_counted(
    frames: Frames, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(run_config(tmp_path, frames, TrainDataset__allow_empty=False))
    logging.getLogger("detection").propagate = True
    with workspace(config):
        assert training_loader(config, open_environment(config)).sampler.length == 17
    assert "TrainDataset: 1 of 18 images are left out" in caplog.text


def test_a_value_that_an_operator_cannot_use(frames: Frames, tmp_path: Path) -> None:
    config = load_config(run_config(tmp_path, frames), ["EvalReader.sample_transforms=[{NormalizeImage: {mean: 3}}]"])
    with workspace(config), pytest.raises(UserError, match=r"run\.yml: "):
        Evaluator(config, open_environment(config))


def test_classes_in_another_order_than_trained(frames: Frames, tmp_path: Path) -> None:
    folder = tmp_path / "epoch_0001"
    config = load_config(run_config(tmp_path, frames), [f"weights={folder}"])
    state = {name: value.numpy() for name, value in build_model(config).state_dict().items()}
    write_weights(folder / "model.pdparams", state)
    names = {"evaluated_weights": "model", "class_names": ["tyre", "ball", "cube"]}
    (folder / "state.json").write_text(json.dumps(names), encoding="utf-8")
    # The classes of the annotation file are found by name, whatever their order.
    environment = open_environment(config)
    with workspace(config):
        evaluator = Evaluator(config, environment, names["class_names"])
    assert evaluator.category_ids == {0: 3, 1: 2, 2: 1}
    assert evaluate_config(config, environment, tmp_path / "evaluation")["counts"]["boxes"] > 0
    frames.val["categories"][0]["name"] = "balls"
    frames.write()
    with pytest.raises(UserError, match="val.json: has classes that .* not trained for: balls .did you mean 'ball'"):
        evaluate_config(config, environment, tmp_path / "evaluation")


def test_an_evaluation_without_one_of_the_classes(
    frames: Frames, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Detections of the class that is left out have no category to be counted in."""
    lacking = frames.val["categories"].pop(1)
    frames.val["annotations"] = [one for one in frames.val["annotations"] if one["category_id"] != lacking["id"]]
    frames.write()
    config = load_config(run_config(tmp_path, frames))
    logging.getLogger("detection").propagate = True
    with workspace(config):
        evaluator = Evaluator(config, open_environment(config), class_names_of(config, ["Train"]))
    assert evaluator.class_names == ["cube", "ball", "tyre"]
    assert evaluator.category_ids == {0: 1, 2: 3}
    assert caplog.text.count("lacks 1 of the 3 classes (ball)") == 1
    outputs = {
        "bbox": paddle.to_tensor([[label, 0.5, 1.0, 2.0, 5.0, 8.0] for label in (-1.0, 0.0, 1.0, 2.0)]),
        "bbox_num": paddle.to_tensor([4]),
    }
    found = as_coco_results(outputs, np.array([7]), evaluator.category_ids)
    assert [one["category_id"] for one in found] == [1, 3]


def test_frames_without_any_box_train_and_evaluate(frames: Frames, tmp_path: Path) -> None:
    """With either assigner; 24 frames of an empty tank are a batch like any other."""
    for part in (frames.train, frames.val):
        part["annotations"].clear()
    frames.write()
    report = train_config(load_config(run_config(tmp_path, frames)))
    assert report["epochs"] == 2
    # Nothing to measure by: the last epoch is the best, also of a run that is continued.
    assert report["best"] == {"AP": None, "epoch": 2}
    assert report["last"]["eval"]["AP"] is None
    config = load_config(run_config(tmp_path, frames), ["epoch=3"])
    assert train_config(config, "auto")["best"] == {"AP": None, "epoch": 3}
    assert (config.output_dir / "checkpoints" / "best").resolve().name == "epoch_0003"


def test_keys_that_do_nothing_here_are_named() -> None:
    data = {"metric": "VOC", "use_xpu": True, "print_flops": False, "use_ema": True}
    assert ignored_keys(data) == ["use_xpu", "metric"]
    assert ignored_keys({"metric": "COCO"}) == []
    assert set(IGNORED) <= catalog().keys | RunKeys.model_fields.keys(), "a key that no configuration may have"
