"""A pruned detector is a detector like any other: its folder holds what training, evaluation and export need."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection import pruning, trained
from detection.configuration import DetectionConfig, load_config
from detection.pruning import BEFORE, FINE_TUNED, PRUNED, accuracy_of, prune_detector, tuning_data
from detection.toolkit import build_model
from detection.trained import load_trained
from ppcls_ext.deploy.compress.request import PruningRequest
from ppcls_ext.deploy.compress.timing import latency_by_turns
from ppcls_ext.engine.environment import Environment
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import read_weights, write_weights
from tests.support.detector_runs import make_frames, run_config
from tests.support.detectors import make_lively, tiny_config
from tests.support.runs import run_tool

WIDTH = 16
DEPTHS = (3, 3, 9, 3)
ALONE = Environment("cpu", 0, 1, 4)


@dataclasses.dataclass
class Case:
    """What one pruning took and left."""

    config: DetectionConfig
    folder: Path
    report: dict[str, Any]
    weights: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A narrow detector, pruned by half and fine-tuned for one short epoch."""
    folder = tmp_path_factory.mktemp("pruning")
    frames = make_frames(folder / "data")
    file = run_config(
        folder, frames, EConvNeXt__expansion_channels=[[WIDTH] * depth for depth in DEPTHS],
        weights=str(folder / "trained.pdparams"),
    )  # fmt: skip
    config = load_config(file)
    model = build_model(config, pretrained=False)
    make_lively(model)
    write_weights(folder / "trained.pdparams", model.state_dict())
    request = PruningRequest(folder / "pruned", (0.5,), batches=2, epochs=1, fine_tune=True, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        # That latencies are measured is tested here, not how exactly; nor are exports, which many images prove equal.
        patch.setattr(trained, "example_images", lambda: {"grey": np.full([40, 50, 3], 90, np.uint8)})
        patch.setattr(trained, "COMPARED_IMAGES", 1)
        patch.setattr(pruning, "latency_by_turns", functools.partial(latency_by_turns, rounds=1, runs=3))
        report = prune_detector(config, request, ALONE)
    return Case(config, request.output, report, read_weights(str(folder / "trained.pdparams")))


def test_report_tells_the_figures_of_all_three(case: Case) -> None:
    assert json.loads((case.folder / "report.json").read_text()) == case.report
    figures = case.report["figures"]
    assert list(figures) == [BEFORE, PRUNED, FINE_TUNED]
    assert all({"AP", "AP50", "parameters", "flops", "median_ms", "p90_ms"} <= set(row) for row in figures.values())
    for key in ("parameters", "flops"):
        assert figures[PRUNED][key] < figures[BEFORE][key]
        assert figures[PRUNED][key] == figures[FINE_TUNED][key]
    widths = [width for stage in case.report["expansion_channels"] for width in stage]
    assert [len(stage) for stage in case.report["expansion_channels"]] == list(DEPTHS)
    assert set(widths) == {8, WIDTH}, "one ratio for the whole network ranks all of its blocks together"
    assert case.report["removed"] == pytest.approx(1 - sum(widths) / (WIDTH * sum(DEPTHS)))


def test_channels_that_stay_have_their_weights_and_nothing_else_changes(case: Case) -> None:
    pruned = read_weights(str(case.folder / "weights"))
    assert set(pruned) == set(case.weights)
    for name, before in case.weights.items():
        after = pruned[name]
        if name.endswith(("expand.weight", "expand.bias")):
            rows = {row.tobytes() for row in before.reshape(len(before), -1)}
            assert all(row.tobytes() in rows for row in after.reshape(len(after), -1)), name
        elif name.endswith("project.weight"):
            columns = {column.tobytes() for column in before[:, :, 0, 0].T}
            assert all(column.tobytes() in columns for column in after[:, :, 0, 0].T), name
        elif not name.endswith("project.bias"):
            np.testing.assert_array_equal(after, before, err_msg=name)
    shifted = [name for name in pruned if name.endswith("project.bias") and (pruned[name] != case.weights[name]).any()]
    narrowed = [name for name in pruned if name.endswith("project.bias")
                and pruned[name.replace("bias", "weight")].shape[1] < WIDTH]  # fmt: skip
    assert shifted == narrowed, "the mean of what went goes into the bias behind it, and only there"


def test_configuration_and_weights_rebuild_the_pruned_detector(case: Case) -> None:
    config = load_config(case.folder / "run_pruned.yml")
    assert config.data["EConvNeXt"]["expansion_channels"] == case.report["expansion_channels"]
    detector = load_trained(config)
    assert detector.class_names == ["cube", "ball", "tyre"]
    accuracy = accuracy_of(detector, ALONE)
    assert accuracy == pytest.approx({name: case.report["figures"][PRUNED][name] for name in accuracy}, abs=1e-6)


def test_fine_tuning_has_the_settings_that_were_asked_for(case: Case) -> None:
    data = load_config(case.folder / "run_pruned.yml").data
    assert (data["epoch"], data["LearningRate"]["schedulers"][0]["max_epochs"]) == (1, 1)
    assert data["LearningRate"]["base_lr"] == pytest.approx(1e-4)
    assert case.config.data["LearningRate"]["base_lr"] == 1e-3, "the configuration that was pruned is changed"
    assert "expansion_channels" in case.config.data["EConvNeXt"]
    best = next((case.folder / "fine_tuning").rglob("checkpoints/best"))
    assert (best / "model.pdparams").is_file()


@pytest.mark.parametrize("written", ["EConvNeXt", None, "inside"])
def test_a_backbone_section_is_found_or_made(tmp_path: Path, written: str | None) -> None:
    config = load_config(tiny_config(tmp_path))
    config.data.pop("CSPResNet")
    if written == "inside":
        config.data["PPYOLOE"]["backbone"] = {"name": "EConvNeXt", "arch": "mini", "pretrained": "some"}
    else:
        config.data["PPYOLOE"]["backbone"] = "EConvNeXt"
        config.data["EConvNeXt"] = {"arch": "mini", "pretrained": "some"} if written else None
    request = PruningRequest(tmp_path / "new", (0.3,), epochs=7, learning_rate=0.5)
    data = tuning_data(config, request)
    section = data["PPYOLOE"]["backbone"] if written == "inside" else data["EConvNeXt"]
    assert section["pretrained"] is None
    assert data["weights"] == data["pretrain_weights"] == str(tmp_path / "new" / "weights")
    assert (data["epoch"], data["LearningRate"]["base_lr"]) == (7, 0.5)
    assert data["LearningRate"]["schedulers"][0]["max_epochs"] == 7


def test_a_backbone_without_such_blocks_is_refused(tmp_path: Path) -> None:
    make_frames(tmp_path / "data")
    file = tiny_config(tmp_path, weights=str(tmp_path / "trained.pdparams"))
    config = load_config(file)
    write_weights(tmp_path / "trained.pdparams", build_model(config, pretrained=False).state_dict())
    with pytest.raises(UserError, match="has no block that can be pruned"):
        prune_detector(config, PruningRequest(tmp_path / "new", (0.3,)), ALONE)
    assert not (tmp_path / "new").exists()


def test_data_that_are_not_named_are_told_first(tmp_path: Path) -> None:
    config = load_config(tiny_config(tmp_path))
    config.data.pop("TrainDataset")
    with pytest.raises(UserError, match="tiny.yml: pruning needs the section TrainDataset"):
        prune_detector(config, PruningRequest(tmp_path / "new", (0.3,)), ALONE)


def test_the_command_line_tells_in_one_line_what_is_missing(tmp_path: Path) -> None:
    make_frames(tmp_path / "data")
    file = tiny_config(tmp_path)
    done = run_tool("prune_model.py", "-c", file, "--ratio", "0.3", "--output", tmp_path / "new")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "no weights are named" in done.stderr
    assert not (tmp_path / "new").exists()
