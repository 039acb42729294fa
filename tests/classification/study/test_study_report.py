"""What the comparison of a study says of runs that are finished, under way, and not begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from classification.study.cost import Timing, count_costs, measure_latencies
from classification.study.report import write_report
from ppcls_ext.utils.errors import UserError
from tests.support.studies import TINY, all_runs, pretend_training, row_config, small_study


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose first row is finished with both seeds, whose second is under way, whose ablation is finished."""
    folder = tmp_path_factory.mktemp("study")
    data = {"ablations": [
        {"name": "relu", "base": "plain", "overrides": {"Arch.activation": "relu"}},
        {"name": "kernel_3", "base": "plain", "overrides": {"Arch.kernel_size": 3}},
    ]}  # fmt: skip
    study = small_study(folder, **data)
    tops = {("plain", 0): [0.3, 0.5], ("plain", 1): [0.4, 0.6], ("wide", 0): [0.2], ("relu", 0): [0.7, 0.35]}
    for run in all_runs(study):
        if (run.row.name, run.seed) in tops:
            pretend_training(run, tops[run.row.name, run.seed])
    write_report(study, all_runs(study), None)
    return study.output_dir


def rows_of(folder: Path) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads((folder / "comparison.json").read_text())["rows"]}


def test_means_and_deviations_are_over_the_finished_seeds(compared: Path) -> None:
    rows = rows_of(compared)
    assert rows["plain"]["top1"] == pytest.approx({"mean": 0.55, "deviation": 0.05 * 2**0.5, "count": 2})
    assert rows["relu"]["top1"] == {"mean": 0.35, "deviation": None, "count": 1}, "of the last epoch, not the best"
    assert rows["relu"]["best_top1"]["mean"] == 0.7
    assert rows["plain"]["training_seconds"]["mean"] == 60
    assert rows["wide"]["top1"] is None
    assert (rows["wide"]["seeds"][0]["state"], rows["wide"]["seeds"][0]["epoch"]) == ("under way", 1)


def test_an_ablation_is_compared_with_its_base(compared: Path) -> None:
    rows = rows_of(compared)
    assert rows["relu"]["against_base"] == pytest.approx({"top1": -0.2, "parameters": 0.0, "flops": 0.0})
    against = rows["kernel_3"]["against_base"]
    assert against["top1"] is None
    assert -1 < against["parameters"] < 0
    assert -1 < against["flops"] < 0


def test_the_page_tells_all_of_it(compared: Path) -> None:
    page = (compared / "comparison.md").read_text()
    assert "3 of 5 runs are finished" in page
    (plain,) = [line for line in page.splitlines() if line.startswith("| plain | EConvNeXt_mini |")]
    assert "| 55.00 ± 7.07 | 80.00 ± 7.07 | 2 |" in plain
    assert plain.endswith("| - | 0:01:00 |"), "no time of an image was measured"
    assert '| relu | `Arch.activation="relu"` | 35.00 | 1 | -20.00 | +0.0 % | +0.0 % | - |' in page
    assert "standard deviation of 7.07 points" in page
    arguments = "class_num: 3, depth_multiplier: 0.25, width_multiplier: 0.2"
    assert f"**wide**: EConvNeXt_mini ({arguments}), images 3 x 32 x 32" in page
    assert "| wide | 0 | 1 of 2 | 20.00 |" in page
    assert "Not begun: kernel_3 (seed 0)." in page
    assert "published" not in page


def test_published_figures_stand_beside_ours_and_are_marked(tmp_path: Path) -> None:
    rows = [{"name": "plain", "config": str(row_config(tmp_path)), "published": "convnext_tiny"}]
    study = small_study(tmp_path, rows=rows, ablations=[])
    page = write_report(study, all_runs(study), None).read_text()
    head, _, line = page[page.index("| row |") :].splitlines()[:3]
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["top-1, %"] == "-", "nothing of ours is made up"
    assert (cells["top-1, % (published)"], cells["parameters, M (published)"]) == ("82.35", "28.6")
    assert "Nothing of this was measured here" in page
    assert "issue 6" in page


def test_the_time_of_an_image_is_measured_and_kept(tmp_path: Path) -> None:
    study = small_study(tmp_path, ablations=[])
    configs = {run.row.name: run.config for run in all_runs(study)[:1]}
    latencies = measure_latencies(configs, Timing(threads=1, rounds=1, runs=2))
    assert latencies["plain"]["median_ms"] > 0
    study.output_dir.mkdir()
    old = {"name": "plain", "model": TINY["name"], "arguments": configs["plain"].arch.arguments,
           "image_shape": [3, 32, 32], "latency": latencies["plain"]}  # fmt: skip
    timing = {"threads": 1, "rounds": 1, "runs": 2}
    values = {"rows": [old, {**old, "name": "wide"}], "timing": timing, "machine": "a test"}
    (study.output_dir / "comparison.json").write_text(json.dumps(values))
    page = write_report(study, all_runs(study), None).read_text()
    rows = rows_of(study.output_dir)
    assert rows["plain"]["latency"] == latencies["plain"]
    assert rows["wide"]["latency"] is None, "it was another network's"
    assert "median of 2 passes" in page
    assert "a test" in page


def test_a_network_that_cannot_be_exported_has_a_reason_and_no_time(tmp_path: Path) -> None:
    study = small_study(tmp_path, overrides={"Infer": None})
    configs = {run.row.name: run.config for run in all_runs(study)[:1]}
    (latency,) = measure_latencies(configs, Timing(rounds=1, runs=1)).values()
    assert list(latency) == ["reason"]
    assert "Infer" in latency["reason"]


def test_a_network_that_cannot_be_built_is_left_out_of_the_comparison(tmp_path: Path) -> None:
    bad = {"name": "bad", "base": "wide", "overrides": {"Arch.width_multiplier": -1}}
    study = small_study(tmp_path, ablations=[bad])
    page = write_report(study, all_runs(study), None).read_text()
    assert list(rows_of(study.output_dir)) == ["plain", "wide"]
    (line,) = [line for line in page.splitlines() if line.startswith("- Not compared: bad: ")]
    assert "width_multiplier" in line
    rows = [{"name": "bad", "config": str(row_config(tmp_path)), "overrides": bad["overrides"]}]
    study = small_study(tmp_path, rows=rows, ablations=[])
    with pytest.raises(UserError, match="width_multiplier"):
        write_report(study, all_runs(study), None)


def test_costs_are_those_of_the_networks(tmp_path: Path) -> None:
    from ppcls_ext import build_model

    configs = {run.row.name: run.config for run in all_runs(small_study(tmp_path))[:2]}
    costs, reasons = count_costs(configs)
    assert reasons == {}
    assert costs["plain"]["flops"] < costs["wide"]["flops"]
    parameters = [parameter for parameter in build_model(**TINY).parameters() if not parameter.stop_gradient]
    assert costs["plain"]["parameters"] == sum(int(parameter.size) for parameter in parameters)
