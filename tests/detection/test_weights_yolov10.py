"""Weights into YOLOv10: its own, a classifier's into its backbone, and those of others, refused with the cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.configuration import load_config
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.detectors import make_yolov10_lively, tiny_config, yolov10_config

OURS = {"backbone": "EConvNeXt", "neck": "YOLOv10Neck", "yolo_head": "YOLOv10Head"}
NECK = {"depth_mult": 0.33, "cib": ["N5"], "large_kernel": ["N5"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A YOLOv10-N."""
    from detection.toolkit import build_model

    network = build_model(load_config(yolov10_config(tmp_path_factory.mktemp("config"))))
    make_yolov10_lively(network)
    return network


@pytest.fixture
def weights(model: Any, tmp_path: Path) -> Path:
    write_weights(tmp_path / "detector.pdparams", model.state_dict())
    return tmp_path / "detector.pdparams"


def load(config: Path, weights: Path) -> Any:
    from detection.trained import load_trained

    return load_trained(load_config(config, [f"weights={weights}"]))


def refusal(config: Path, weights: Path) -> str:
    """Returns the one line that refuses the weights."""
    with pytest.raises(UserError) as caught:
        load(config, weights)
    text = str(caught.value)
    assert text.startswith(f"{weights} does not fit {config}: ")
    assert "\n" not in text
    return text


def test_its_own(model: Any, weights: Path, tmp_path: Path) -> None:
    trained = load(yolov10_config(tmp_path), weights)
    assert trained.name == "YOLOv10 with YOLOv10Backbone N"
    state = trained.model.state_dict()
    assert all((state[name].numpy() == value.numpy()).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 5}, "the file is of a detector for 3 classes, num_classes is 5. "),
        # So many classes also make the layers before the last ones wider.
        ({"num_classes": 80}, "the file is of a detector for 3 classes, num_classes is 80. "),
        ({"scale": "S"}, "the file is of scale N, the configuration of scale S. "),
        (
            {"YOLOv10": OURS, "YOLOv10Neck": NECK, "EConvNeXt": {"arch": "mini"}, "scale": None},
            "another architecture than YOLOv10 with EConvNeXt mini. ",
        ),
    ],
)
def test_those_of_another_yolov10(weights: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(yolov10_config(tmp_path, **changes), weights)


def test_those_of_another_architecture(weights: Path, tmp_path: Path) -> None:
    from detection.toolkit import build_model
    from detection.weights import load_start

    suppressing = tiny_config(tmp_path)
    assert "the file is of a YOLOv10, the configuration of a PPYOLOE. " in refusal(suppressing, weights)
    other = build_model(load_config(suppressing))
    write_weights(tmp_path / "ppyoloe.pdparams", other.state_dict())
    config = yolov10_config(tmp_path)
    message = "the file is of a PPYOLOE, the configuration of a YOLOv10. "
    assert message in refusal(config, tmp_path / "ppyoloe.pdparams")
    start = load_config(config, [f"pretrain_weights={tmp_path / 'ppyoloe.pdparams'}"])
    with pytest.raises(UserError, match=rf"^pretrain_weights: .*ppyoloe\.pdparams does not fit .*: {message}"):
        load_start(start, build_model(start))


def test_merged_ones(model: Any, tmp_path: Path) -> None:
    from detection.exporting import Deployed

    merged = Deployed(model, final=True, fused=True).network
    write_weights(tmp_path / "merged.pdparams", merged.state_dict())
    message = "its branches were merged for deployment; use the weights as they were trained"
    assert message in refusal(yolov10_config(tmp_path), tmp_path / "merged.pdparams")


def test_those_of_a_classifier_go_into_the_backbone_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from detection.toolkit import build_model
    from ppcls_ext import build_model as build_classifier

    classifier = build_classifier("EConvNeXt_mini", class_num=4)
    file = tmp_path / "classifier.pdparams"
    write_weights(file, classifier.state_dict())
    config = yolov10_config(
        tmp_path, YOLOv10=OURS, YOLOv10Neck=NECK, EConvNeXt={"arch": "mini", "pretrained": str(file)}, scale=None
    )
    assert "these are the weights of a classifier; name them as `pretrained`" in refusal(config, file)
    with caplog.at_level("INFO"):
        detector = build_model(load_config(config))
    state = {name: value.numpy() for name, value in detector.state_dict().items()}
    for name, value in classifier.state_dict().items():
        if not name.startswith(("norm.", "head.")):
            np.testing.assert_array_equal(state[f"backbone.{name}"], value.numpy(), err_msg=name)
    assert "left out: head" in caplog.text
