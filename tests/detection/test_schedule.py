"""How lengths and learning rate of a detector follow the length of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ppdet.core import workspace
from ppdet.optimizer.optimizer import LearningRate

from detection import patches
from detection.configuration import load_config
from detection.schedule import fit
from ppcls_ext.engine.plan import scale_rate
from tests.support.runs import ROOT

RECIPE = ROOT / "configs" / "detection" / "ppyoloe" / "ppyoloe_s_cspresnet_sonar.yml"
YOLO = ROOT / "configs" / "detection" / "yolov10" / "yolov10_n_sonar.yml"


def lengths(data: dict[str, Any]) -> tuple[int, int, int]:
    decay, warm_up = data["LearningRate"]["schedulers"]
    return decay["max_epochs"], warm_up["steps"], data["PPYOLOEHead"]["static_assigner_epoch"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], (43, 2000, 4)),
        # What the command states holds for the run that it starts.
        (["epoch=18", "LearningRate.schedulers[1].steps=300"], (22, 300, 2)),
        (["LearningRate.schedulers.0.max_epochs=18", "PPYOLOEHead.static_assigner_epoch=9", "epoch=18"], (18, 1000, 9)),
    ],
)
def test_lengths_are_shares_of_the_run_unless_they_are_stated(changes: list[str], expected: tuple[int, ...]) -> None:
    config = load_config(RECIPE, changes)
    assert lengths(config.data) == expected
    assert len(config.document.notes) == bool(changes)


def test_lengths_of_a_base_follow_the_epochs_of_the_file_above_it(tmp_path: Path) -> None:
    own = tmp_path / "mine.yml"
    own.write_text(f"_BASE_: {RECIPE}\nepoch: 9\nPPYOLOEHead: {{static_assigner_epoch: 3}}\n", encoding="utf-8")
    config = load_config(own)
    assert lengths(config.data) == (11, 500, 3)
    assert config.document.notes == [
        "epoch 36 -> 9: LearningRate.schedulers[0].max_epochs 43 -> 11, LearningRate.schedulers[1].steps 2000 -> 500; "
        "set another length with -o KEY=VALUE"
    ]


def test_mosaics_leave_the_last_epoch_where_there_is_one() -> None:
    assert [load_config(YOLO, [f"epoch={epochs}"]).data["TrainReader"]["mosaic_epoch"] for epochs in (36, 9, 2)] == [
        32, 8, 1
    ]  # fmt: skip
    assert load_config(YOLO, ["TrainReader.mosaic_epoch=-1", "epoch=9"]).data["TrainReader"]["mosaic_epoch"] == -1


def planned(epochs: int, steps: int, *schedulers: dict[str, Any], factor: float = 1.0) -> tuple[Any, ...]:
    """Returns what is said of a schedule, and the learning rate of each step, at a base of 1."""
    rate = LearningRate(1.0, list(schedulers))
    notes = fit(rate, epochs, steps, factor)
    schedule, rates = rate(steps), []
    for _ in range(epochs * steps):
        rates.append(schedule.get_lr())
        schedule.step()
    return notes, rates


WARM_UP = {"name": "LinearWarmup", "start_factor": 0.01, "steps": 100}


def test_a_warm_up_takes_at_most_half_of_the_run() -> None:
    notes, rates = planned(2, 18, {"name": "CosineDecay", "max_epochs": 2}, WARM_UP)
    assert notes == [
        "LearningRate.schedulers[1]: 100 steps of warm-up are more than half of this run (36 steps): shortened to 18"
    ]
    assert max(rates) == rates[18] == 1.0 and rates[-1] < 0.02
    # In epochs as well; one that fits stays.
    notes, rates = planned(4, 10, {"name": "CosineDecay", "max_epochs": 4}, {"name": "LinearWarmup", "epochs": 3})
    assert "30 steps" in notes[0] and rates[20] == 1.0
    assert planned(4, 50, {"name": "CosineDecay", "max_epochs": 4}, WARM_UP)[0] == []


def test_a_cosine_lasts_as_long_as_the_run() -> None:
    notes, rates = planned(6, 10, {"name": "CosineDecay", "max_epochs": 4}, {**WARM_UP, "steps": 5})
    assert notes == [
        "LearningRate.schedulers[0].max_epochs: a cosine of 4 epochs in a run of 6: stretched to 6, for the rest would "
        "train at the least rate"
    ]
    assert rates[40] > 0.2 and rates[5:] == sorted(rates[5:], reverse=True)
    notes, rates = planned(4, 10, {"name": "CosineDecay", "max_epochs": 6}, {**WARM_UP, "steps": 5})
    assert notes == [
        "LearningRate.schedulers[0].max_epochs: a cosine of 6 epochs in a run of 4: the rate ends on its way down"
    ]
    assert rates[-1] > 0.2


def test_the_rate_follows_the_images_of_a_step() -> None:
    factor, notes, report = scale_rate(1.0, 16, 4, "tuned_batch_size")
    _, rates = planned(1, 4, {"name": "CosineDecay", "max_epochs": 1, "use_warmup": False}, factor=factor)
    assert notes == ["learning rate 1 -> 0.25: it was tuned for 16 images a step (tuned_batch_size), this run has 4"]
    assert rates[0] == 0.25
    values = {"name": "PiecewiseDecay", "milestones": [1], "values": [0.8, 0.4], "use_warmup": False}
    assert planned(2, 1, values, factor=factor)[1] == [0.2, 0.1]
    assert report["learning_rate"]["used"] == 0.25
    assert scale_rate(1.0, None, 4, "") == (1.0, [], {}) and scale_rate(1.0, 4, 4, "")[:2] == (1.0, [])


def test_a_checkout_plans_alike(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Its script loads a file, merges the changes of its -o and asks the schedule for its steps."""
    monkeypatch.setattr(LearningRate, "__call__", LearningRate.__call__)
    monkeypatch.setattr(workspace, "merge_config", workspace.merge_config)
    monkeypatch.setattr(workspace, "global_config", workspace.AttrDict())
    patches.follow_run_length()
    patches.follow_run_length()
    entries = [{"name": "CosineDecay", "max_epochs": 4}, {**WARM_UP, "steps": 60}]
    workspace.merge_config({
        "epoch": 4, "LearningRate": {"base_lr": 1.0, "schedulers": entries}, "TrainReader": {"batch_size": 2},
        "tuned_batch_size": 4,
    })  # fmt: skip
    workspace.merge_config({"epoch": 2})
    assert [entries[0]["max_epochs"], entries[1]["steps"]] == [2, 30]
    schedule = LearningRate(1.0, entries)(18)
    assert schedule.values[18] == max(schedule.values) == 0.5
    assert "shortened to 18" in caplog.text and "learning rate 1 -> 0.5" in caplog.text
    workspace.merge_config({"epoch": 1, "LearningRate": {"schedulers": [{"name": "CosineDecay", "max_epochs": 7}]}})
    assert workspace.global_config["LearningRate"]["schedulers"][0]["max_epochs"] == 7
    # A head that ppdet will refuse is its to refuse.
    workspace.merge_config({"architecture": "PPYOLOE", "PPYOLOE": {"yolo_head": {"name": "PPYOLOEHead"}}})
