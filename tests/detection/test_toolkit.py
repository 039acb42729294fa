"""ppdet's workspace: what we put into it, and that no configuration inherits from another."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from detection import toolkit
from detection.configuration import load_config
from detection.task import DetectionTask, open_environment
from ppcls_ext.utils.errors import UserError
from tests.support.detectors import make_frames, run_config, tiny_config


@pytest.fixture
def workspace() -> dict[str, Any]:
    """ppdet's global dictionary, with what is ours."""
    toolkit.register()
    from ppdet.core.workspace import global_config

    return global_config


def content(workspace: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(dict(value)) if isinstance(value, dict) else value for name, value in workspace.items()}


def test_what_is_ours_is_registered_once(workspace: dict[str, Any]) -> None:
    import ppdet.data.transform

    before = dict(workspace)
    toolkit.register()
    assert all(workspace[name] is section for name, section in before.items())
    assert {"EConvNeXt", "CSPConvNeXt", "YOLOv10", "YOLOv10Assigner", "MultiClassNMS3"} <= before.keys()
    assert ppdet.data.transform.LabelsToInt64.__module__ == "detection.operators"


def test_a_foreign_name_is_not_overwritten(workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = SimpleNamespace(pymodule=sys.modules["json"])
    monkeypatch.setitem(workspace, "EConvNeXt", foreign)
    monkeypatch.delitem(sys.modules, "detection.backbone")
    with pytest.raises(UserError, match=r"already has another class under a name of ours: .*: EConvNeXt"):
        toolkit.register()
    assert workspace["EConvNeXt"] is foreign


def with_momentum(folder: Path) -> Path:
    """A configuration that sets what :func:`plain` leaves to its defaults."""
    return tiny_config(
        folder, num_classes=7, width_mult=0.5, PPYOLOEHead__nms__score_threshold=0.31, seed=5,
        CSPConvNeXt={"arch": "small"},
        OptimizerBuilder={"regularizer": False, "optimizer": {"type": "Momentum", "momentum": 0.8}},
    )  # fmt: skip


def plain(folder: Path) -> Path:
    return tiny_config(folder, PPYOLOEHead__nms={"name": "MultiClassNMS3"})


def test_a_second_configuration_inherits_nothing(workspace: dict[str, Any], tmp_path: Path) -> None:
    before = content(workspace)
    first, second = load_config(with_momentum(tmp_path / "a")), load_config(plain(tmp_path / "b"))
    large = toolkit.build_model(first)
    assert large.yolo_head.num_classes == 7
    assert large.yolo_head.nms.score_threshold == 0.31
    assert content(workspace) == before
    small = toolkit.build_model(second)
    assert small.yolo_head.num_classes == 3
    assert small.yolo_head.nms.score_threshold == 0.05
    widths = [model.backbone.out_shape[0].channels for model in (small, large)]
    assert widths == [64, 128]
    given = copy.deepcopy(second.data)
    with toolkit.workspace(second) as opened:
        assert opened["OptimizerBuilder"]["optimizer"] == {"type": "AdamW", "weight_decay": 0.05}
        assert opened["CSPConvNeXt"]["arch"] == "mini"
        assert opened["filename"] == "tiny"
        assert "seed" not in opened
        opened["TrainReader"]["batch_size"] = 77
        opened["PPYOLOEHead"]["nms"]["nms_top_k"] = 77
    assert content(workspace) == before
    assert second.data == given, "the configuration itself was changed"
    with pytest.raises(ZeroDivisionError), toolkit.workspace(first) as opened:
        opened["CSPResNet"]["depth_mult"] = 3
        raise ZeroDivisionError
    assert content(workspace) == before


def test_backbone_weights_that_are_gone_stop_training_but_not_the_use_of_a_trained_detector(tmp_path: Path) -> None:
    gone = {"EConvNeXt__pretrained": str(tmp_path / "gone.pdparams")}
    file = run_config(tmp_path, make_frames(tmp_path / "data"), **gone)
    config = load_config(file)
    with pytest.raises(UserError, match=r"gone\.pdparams: no such weight file"):
        toolkit.build_model(config)
    assert toolkit.build_model(config, pretrained=False).backbone.arch == "mini"
    assert config.data["EConvNeXt"]["pretrained"].endswith("gone.pdparams")


def test_std_without_type_warning_has_the_bits_of_paddle() -> None:
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(3, 5, 27)).astype("float32"))
    wanted = x.std(axis=-1, keepdim=True).numpy()
    before = paddle.Tensor.std
    with toolkit.std_without_type_warning():
        found = x.std(axis=-1, keepdim=True).numpy()
    assert paddle.Tensor.std is before
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("trained", [False, True])
def test_no_swish_is_hidden_from_the_fast_kernels(tmp_path: Path, trained: bool) -> None:
    config = load_config(run_config(tmp_path, make_frames(tmp_path / "frames")))
    with toolkit.workspace(config) as settings:
        task = DetectionTask(config, settings, open_environment(config)) if trained else None
    model = task.model if task else toolkit.build_model(config)
    acts = [layer.act for layer in model.sublayers() if hasattr(layer, "act")]
    assert any(type(act) is nn.Swish for act in acts)
    x = paddle.linspace(-3, 3, 7)
    functions = [act for act in acts if not isinstance(act, nn.Layer)]
    assert not [act for act in functions if np.allclose(act(x), nn.functional.swish(x))]
