"""What goes wrong before and during a detector's training ends in one line that says what to mend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

from detection.check.run import check_detection_data
from detection.configuration import DetectionConfig, class_names_of, load_config
from detection.configuration.checks import RunKeys, catalog
from detection.evaluator import Evaluator, as_coco_results, evaluate_config
from detection.loaders import training_loader
from detection.task import IGNORED, ignored_keys, open_environment, train_config
from detection.toolkit import build_model, workspace
from detection.weights import load_start
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.checks import notes
from tests.support.detectors import make_frames, make_lively, run_config
from tests.support.frames import Frames
from tests.support.image_files import encoded_with_pillow
from tests.support.pictures import smooth_picture, write_picture
from tests.support.runs import same_files


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    return make_frames(tmp_path / "data")


CUT = encoded_with_pillow(Image.fromarray(smooth_picture(5, 96, 80)), "JPEG")[:-300]


def test_damaged_images_stop_a_run_with_their_cause(frames: Frames, tmp_path: Path) -> None:
    frames.image("train_05.png").write_bytes(CUT)
    cause = r"is truncated: a JPEG picture named \.png"
    message = rf"^1 of 18 images cannot be read, more than max_bad_images permits: .*train_05\.png \({cause}.*=0\.12$"
    with pytest.raises(UserError, match=message):
        train_config(load_config(run_config(tmp_path, frames, worker_num=1)))
    # Nothing is left to show in their place, however many are permitted.
    for number in range(18):
        frames.image(f"train_{number:02d}.png").write_bytes(b"%PDF")
    message = r"train_\d\d.png and the 17 images after it cannot be used: is no picture but a PDF"
    with pytest.raises(UserError, match=message):
        train_config(load_config(run_config(tmp_path / "all", frames, max_bad_images=1)))


def test_few_damaged_images_are_skipped_and_counted_and_teach_nothing(
    frames: Frames, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames.image("train_05.png").write_bytes(b"")
    frames.image("val_01.png").write_bytes(CUT)
    changes = {"max_bad_images": 0.2, "TrainReader__sample_transforms": [{"Decode": {}}], "save_steps": 3}
    config = load_config(run_config(tmp_path, frames, **changes))
    with workspace(config):
        loader = training_loader(config, open_environment(config))
        seen = [row for batch in loader for row in zip(batch["im_id"].numpy().ravel(), batch["gt_bbox"], strict=True)]
    # Image 2 has no boxes; 6 is the damaged one, in the place of which 7 is seen once more.
    assert len(seen) == 16 and 6 not in [number for number, _ in seen]
    assert all(bool((boxes.numpy() > 0).any()) == (number != 2) for number, boxes in seen)

    report = train_config(config)
    assert [Path(name).name for name in report["bad_images"] + report["bad_eval_images"]] == [
        "train_05.png", "val_01.png",
    ]  # fmt: skip
    lines = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(lines) == 2 and lines[0].endswith("train_05.png: the file is empty (0 bytes) (1 so far)")
    # In a resumed run they are known already, and it ends with the same bits.
    last, resumed = config.output_dir / "checkpoints", load_config(run_config(tmp_path / "again", frames, **changes))
    shutil.copytree(last / "epoch_0001", resumed.output_dir / "checkpoints" / "epoch_0001")
    caplog.clear()
    assert train_config(resumed, "auto")["bad_images"] == report["bad_images"]
    assert not [record for record in caplog.records if "skipped" in record.getMessage()]
    assert same_files(last / "epoch_0002", resumed.output_dir / "checkpoints" / "epoch_0002", ("model.pdparams",)) == []


def test_an_unreadable_image_leaves_the_figures_with_its_boxes(frames: Frames, tmp_path: Path) -> None:
    config = load_config(run_config(tmp_path, frames, max_bad_images=1))

    def found() -> tuple[list[int], set[int]]:
        with workspace(config):
            evaluator = Evaluator(config, open_environment(config))
            model = build_model(config)
        make_lively(model)
        detections = evaluator.detect(model)
        return evaluator.image_ids, {detection["image_id"] for detection in detections}

    assert found() == ([1, 2, 3, 4, 5, 6], {1, 2, 3, 4, 5, 6})
    frames.image("val_02.png").write_bytes(b"")
    assert found() == ([1, 2, 4, 5, 6], {1, 2, 4, 5, 6})
    for number in (0, 1, 3, 4, 5):
        frames.image(f"val_{number:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match="not a single image"):
        found()


def test_a_picture_of_which_resizing_leaves_nothing_is_skipped_by_name(frames: Frames, tmp_path: Path) -> None:
    """Also where a whole batch is resized; the check tells it before."""
    write_picture(frames.image("train_05.png"), np.zeros((2, 20000, 3), np.uint8))
    frames.train["images"][5] |= {"width": 20000, "height": 2}
    for box in frames.train["annotations"]:
        if box["image_id"] == 6:
            box |= {"bbox": [0, 0, 2, 2], "area": 4}
    frames.write()

    def config_of(sample: list[dict[str, Any]], batch: list[dict[str, Any]]) -> DetectionConfig:
        batch = [*batch, {"Permute": {}}, {"PadBatch": {"pad_to_stride": 32}}, {"PadGT": {}}]
        reader = {"sample_transforms": [{"Decode": {}}, *sample], "batch_transforms": batch, "batch_size": 4}
        return load_config(run_config(tmp_path, frames, TrainReader=reader))

    def skipped(keep_ratio: bool) -> list[str]:
        sizes = {"target_size": [[64, 64], [96, 96]], "keep_ratio": keep_ratio}
        config = config_of([], [{"BatchRandomResize": sizes}])
        with workspace(config):
            return [cause for each in training_loader(config, open_environment(config)) for cause in each["causes"]]

    (cause,) = skipped(True)
    assert cause.startswith("has 20000 x 2 pixels, of which resizing by 0.00")
    assert skipped(False) == []
    config = config_of([{"Resize": {"target_size": [64, 64], "keep_ratio": True}}], [])
    (note,) = notes(check_detection_data(config), "nothing_left")
    assert note.startswith("has 20000 x 2 pixels")


def test_a_run_starts_from_weights_for_other_classes_but_not_from_another_detector(
    frames: Frames, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
    assert "the rest starts fresh: 6 of another shape: yolo_head.pred_cls." in caplog.text
    assert "missing in the file" not in caplog.text


def test_weights_of_as_many_other_classes_are_told(frames: Frames, tmp_path: Path, caplog: Any) -> None:
    """A class in another spelling is the same; the same classes in another order are not."""
    checkpoint = tmp_path / "checkpoint"
    model = build_model(load_config(run_config(tmp_path / "one", frames)))
    write_weights(checkpoint / "model.pdparams", model.state_dict())
    config = load_config(run_config(tmp_path / "two", frames, pretrain_weights=str(checkpoint)))
    line = "the class outputs start from another's"
    for names, said in (
        (["Cube", "ball", "tyre"], ""),
        (["cube", "ball", "wreck"], f"{line} (tyre from wreck)"),
        (["cube", "tyre", "ball"], f"{line} (ball from tyre, tyre from ball)"),
    ):
        caplog.clear()
        state = {"evaluated_weights": "model", "class_names": names}
        (checkpoint / "state.json").write_text(json.dumps(state), encoding="utf-8")
        load_start(config, model)
        assert said in caplog.text and (line in caplog.text) == bool(said)


def test_evaluation_covers_all_images_and_only_all(frames: Frames, tmp_path: Path) -> None:
    """ppdet leaves out those without boxes by default; whatever a detector finds there is wrong and has to count."""
    file = run_config(tmp_path, frames, EvalDataset__allow_empty=False)
    config = load_config(file)
    with workspace(config):
        assert Evaluator(config, open_environment(config)).loader.sampler.length == 6
    config = load_config(file, ["EvalDataset.sample_num=4"])
    with workspace(config), pytest.raises(UserError, match="would evaluate 4 images, .* all 6 of .*val.json"):
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
    frames.val["categories"][1]["name"] = "Ball"
    frames.write()
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
