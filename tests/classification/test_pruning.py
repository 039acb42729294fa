"""A pruned classifier is a model like any other: its folder holds what training, evaluation and export need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from classification.build import build_network, load_pretrained
from classification.config import load_config
from classification.evaluation import evaluate_config
from classification.pruning import FINE_TUNED, prune_classifier
from ppcls_ext import build_model
from ppcls_ext.deploy.compress.request import PruningRequest
from ppcls_ext.engine.environment import prepare_environment
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.runs import small_config
from tests.support.seeded import seed_weights

NARROW = [[16] * 3, [16] * 3, [32] * 9, [32] * 3]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory):
    """A narrow network, pruned by half and fine-tuned for one short epoch."""
    folder = tmp_path_factory.mktemp("pruning")
    model = build_model("EConvNeXt_mini", class_num=10, expansion_channels=NARROW)
    seed_weights(model)
    write_weights(folder / "trained.safetensors", model.state_dict())
    data = small_config(folder / "run")
    data["Arch"]["expansion_channels"] = NARROW
    data["Global"]["pretrained_model"] = str(folder / "trained.safetensors")
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    request = PruningRequest(folder / "pruned", (0.5,), batches=1, epochs=1, fine_tune=True, threads=1)
    config = load_config(file)
    report = prune_classifier(config, request, prepare_environment("cpu", 0))
    return folder / "pruned", report, config


def test_report_tells_the_figures_of_all_three(pruned):
    folder, report, _ = pruned
    assert json.loads((folder / "report.json").read_text()) == report
    figures = report["figures"]
    assert list(figures) == ["before", "pruned", FINE_TUNED]
    assert figures["pruned"]["parameters"] < figures["before"]["parameters"]
    assert figures["pruned"]["flops"] < figures["before"]["flops"]
    assert figures["pruned"]["parameters"] == figures[FINE_TUNED]["parameters"]
    assert all({"top1", "median_ms", "p90_ms"} <= set(row) for row in figures.values())
    widths = [width for stage in report["expansion_channels"] for width in stage]
    assert all(width % 8 == 0 for width in widths)
    assert report["removed"] == pytest.approx(1 - sum(widths) / (3 * 16 + 3 * 16 + 9 * 32 + 3 * 32))


def test_configuration_and_weights_rebuild_the_pruned_network(pruned):
    folder, report, _ = pruned
    config = load_config(folder / "small_pruned.yaml")
    assert config.arch.arguments["expansion_channels"] == report["expansion_channels"]
    model = build_network(config)
    load_pretrained(config, model, fine_tune=False)
    environment = prepare_environment("cpu", 0)
    assert evaluate_config(config, environment)["loss"] == pytest.approx(report["figures"]["pruned"]["loss"], rel=1e-4)


def test_fine_tuning_has_the_settings_that_were_asked_for(pruned):
    folder, _, original = pruned
    config = load_config(folder / "small_pruned.yaml")
    assert config.run.epochs == 1
    assert config.optimizer is not None
    assert config.optimizer.schedule.learning_rate == pytest.approx(1e-4)
    assert original.document.data["Optimizer"]["lr"]["learning_rate"] == 1e-3  # untouched
    assert (folder / "fine_tuning" / "checkpoints" / "best" / "model.pdparams").is_file()


def test_weights_of_other_widths_are_refused(pruned):
    folder, _, original = pruned
    config = load_config(original.document.path, [f"Global.pretrained_model={folder / 'weights'}"])
    with pytest.raises(UserError, match="does not fit the model"):
        load_pretrained(config, build_network(config), fine_tune=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"ratio": (1.2,)}, "--ratio"), ({"ratio": (float("nan"),)}, "--ratio"), ({"criterion": "taylr"}, "'taylor'"),
     ({"multiple": 0}, "--multiple"), ({"batches": 0}, "--batches"), ({"learning_rate": 0.0}, "--learning-rate")],
)  # fmt: skip
def test_wrong_requests_are_told_before_any_work(tmp_path: Path, changes, message: str):
    with pytest.raises(UserError, match=message):
        PruningRequest(**{"output": tmp_path / "new", "ratio": (0.3,), **changes}).check()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path):
    (tmp_path / "precious").write_bytes(np.zeros(3).tobytes())
    with pytest.raises(UserError, match="exists; choose another folder"):
        PruningRequest(tmp_path, (0.3,)).check()
