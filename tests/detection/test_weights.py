"""Weights of a detector: averaged ones preferred, and if they do not fit, the nearest cause is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.configuration import load_config
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.detectors import CLASSES, make_lively, make_yolov10_lively, tiny_config, yolov10_config


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The weights of a tiny detector."""
    import paddle

    from detection.toolkit import build_model

    paddle.seed(1)
    model = build_model(load_config(tiny_config(tmp_path_factory.mktemp("config"))))
    make_lively(model)
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.fixture
def weights(arrays: dict[str, np.ndarray], tmp_path: Path) -> Path:
    write_weights(tmp_path / "detector.pdparams", arrays)
    return tmp_path / "detector.pdparams"


def load_as(config: Path, weights: Any) -> Any:
    from detection.trained import load_trained

    return load_trained(load_config(config, [f"weights={weights}"]))


def load(folder: Path, weights: Any, **changes: Any) -> Any:
    return load_as(tiny_config(folder, **changes), weights)


def test_averaged_weights_of_a_checkpoint_are_preferred(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "epoch_0001"
    averaged = {name: value * 0.5 if value.dtype == np.float32 else value for name, value in arrays.items()}
    write_weights(checkpoint / "model.pdparams", arrays)
    write_weights(checkpoint / "ema.pdparams", averaged)
    (checkpoint / "state.json").write_text(json.dumps({"evaluated_weights": "ema", "class_names": CLASSES}))
    trained = load(tmp_path, checkpoint)
    name = "yolo_head.pred_cls.0.weight"
    np.testing.assert_array_equal(trained.model.state_dict()[name].numpy(), averaged[name])
    assert trained.class_names == CLASSES
    assert trained.name == "PPYOLOE with CSPResNet"
    assert not trained.model.training


def test_class_names_of_the_annotations(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(tmp_path, weights).class_names is None
    file = tmp_path / "data" / "annotations" / "val.json"
    file.parent.mkdir(parents=True)
    # The toolkit numbers classes in the order of the file.
    categories = [{"id": number, "name": name} for number, name in zip((7, 3, 5), CLASSES, strict=True)]
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert load(tmp_path, weights).class_names == CLASSES
    assert not caplog.text
    with caplog.at_level("WARNING"):
        assert load(tmp_path, weights, TrainDataset__anno_path="none.json").class_names == CLASSES
    assert "says which classes the model has: named as the evaluation's" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 5}, "the file is of a detector for 3 classes, num_classes is 5"),
        ({"width_mult": 0.5}, "the channels differ: depth_mult, width_mult"),
        (
            {"CSPResNet": {"layers": [1, 1, 1, 1], "return_idx": [1, 2, 3], "use_large_stem": False}},
            "the backbone is another one than CSPResNet",
        ),
    ],
)
def test_weights_of_another_model(weights: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(tiny_config(tmp_path, **changes), weights)


def test_readers_that_prepare_differently_are_told(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    import detection.trained

    monkeypatch.setattr(detection.trained, "export_detector", lambda model, folder, **more: None)
    with caplog.at_level("WARNING"):
        load(tmp_path, weights).export(tmp_path / "export")
    assert "is not EvalReader" not in caplog.text
    trained = load(tmp_path, weights)
    other = [{"Decode": {}}, *trained.transforms[2:]]
    trained.config.data["EvalReader"]["sample_transforms"] = other
    with caplog.at_level("WARNING"):
        trained.export(tmp_path / "export")
    assert "TestReader, by which the export prepares images, is not EvalReader" in caplog.text


def test_weights_of_a_backbone_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As PaddleDetection publishes those of CSPResNet: without the prefix, and with what a detector has not."""
    from detection.toolkit import build_model
    from detection.weights import load_start

    file = tmp_path / "backbone.pdparams"
    config = load_config(tiny_config(tmp_path), [f"pretrain_weights={file}"])
    model = build_model(config)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    backbone = {
        name.removeprefix("backbone."): value + 1 for name, value in before.items() if name.startswith("backbone.")
    }
    write_weights(file, {**backbone, "fc.weight": np.zeros((2, 2), dtype="float32")})
    with caplog.at_level("INFO"):
        load_start(config, model)
    assert [f"{file}: {len(backbone)} weights of a backbone loaded" in line for line in caplog.messages] == [True]
    for name, value in model.state_dict().items():
        expected = backbone[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        np.testing.assert_array_equal(value.numpy(), expected, err_msg=name)
    first = next(iter(backbone))
    write_weights(file, {name: value for name, value in backbone.items() if name != first})
    with pytest.raises(UserError, match=f"nor its backbone alone.*1 missing in the file: {first}"):
        load_start(config, model)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A YOLOv10-N."""
    from detection.toolkit import build_model

    network = build_model(load_config(yolov10_config(tmp_path_factory.mktemp("config"))))
    make_yolov10_lively(network)
    return network


@pytest.fixture
def yolov10_weights(model: Any, tmp_path: Path) -> Path:
    write_weights(tmp_path / "detector.pdparams", model.state_dict())
    return tmp_path / "detector.pdparams"


def refusal(config: Path, weights: Path) -> str:
    """Returns the one line that refuses the weights."""
    with pytest.raises(UserError) as caught:
        load_as(config, weights)
    text = str(caught.value)
    assert text.startswith(f"{weights} does not fit {config}: ")
    assert "\n" not in text
    return text


def test_those_of_another_yolov10(yolov10_weights: Path, tmp_path: Path) -> None:
    # So many classes also make the layers before the last ones wider.
    config = yolov10_config(tmp_path, num_classes=80)
    assert "the file is of a detector for 3 classes, num_classes is 80. " in refusal(config, yolov10_weights)


def test_those_of_another_architecture(yolov10_weights: Path, tmp_path: Path) -> None:
    from detection.toolkit import build_model
    from detection.weights import load_start

    suppressing = tiny_config(tmp_path)
    assert "the file is of a YOLOv10, the configuration of a PPYOLOE. " in refusal(suppressing, yolov10_weights)
    other = build_model(load_config(suppressing))
    write_weights(tmp_path / "ppyoloe.pdparams", other.state_dict())
    config = yolov10_config(tmp_path)
    message = "the file is of a PPYOLOE, the configuration of a YOLOv10. "
    assert message in refusal(config, tmp_path / "ppyoloe.pdparams")
    start = load_config(config, [f"pretrain_weights={tmp_path / 'ppyoloe.pdparams'}"])
    with pytest.raises(UserError, match=rf"^pretrain_weights: .*ppyoloe\.pdparams does not fit .*: {message}"):
        load_start(start, build_model(start))


def test_those_of_a_classifier_are_for_the_backbone(tmp_path: Path) -> None:
    file = tmp_path / "classifier.pdparams"
    write_weights(file, {"stem.0.weight": np.zeros(3, np.float32)})
    said = "these are the weights of a classifier; name them as `pretrained` of the backbone"
    assert said in refusal(tiny_config(tmp_path), file)
