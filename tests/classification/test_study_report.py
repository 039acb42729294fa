"""What the comparison of a study says of runs that are finished, under way, and not begun."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from classification.study_report import write_report
from tests.support.studies import all_runs, pretend_training, row_config, small_study


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


def rows_of(folder: Path) -> pandas.DataFrame:
    text = {"dtype": {"row": str}, "keep_default_na": False, "na_values": [""]}
    return pandas.read_csv(folder / "comparison.csv", index_col="row", **text)


def test_means_and_deviations_are_over_the_finished_seeds(compared: Path) -> None:
    rows = rows_of(compared)
    plain, relu = rows.loc["plain"], rows.loc["relu"]
    assert (plain["top1"], plain["top1_deviation"], plain["n"]) == (0.55, pytest.approx(0.05 * 2**0.5), 2)
    assert (relu["top1"], relu["n"]) == (0.35, 1), "of the last epoch, not the best"
    assert pandas.isna(relu["top1_deviation"]) and pandas.isna(rows.loc["wide", "top1"])
    assert (relu["best_top1"], plain["training_seconds"]) == (0.7, 60)
    assert plain["flops"] < rows.loc["wide", "flops"] and plain["parameters"] < rows.loc["wide", "parameters"]
    runs = pandas.read_csv(compared / "runs.csv", index_col="row")
    assert (runs.loc["wide", "state"], runs.loc["wide", "epoch"]) == ("under way", 1)


def test_an_ablation_is_compared_with_its_base(compared: Path) -> None:
    rows = rows_of(compared)
    differences = ["top1_difference", "parameters_change", "flops_change"]
    assert rows.loc["relu", differences].tolist() == pytest.approx([-0.2, 0, 0])
    against = rows.loc["kernel_3", differences]
    assert pandas.isna(against["top1_difference"])
    assert -1 < against["parameters_change"] < 0 and -1 < against["flops_change"] < 0
    assert rows.loc["plain", differences].isna().all()


def test_the_page_tells_all_of_it(compared: Path) -> None:
    page = (compared / "comparison.md").read_text()
    assert "3 of 5 runs are finished" in page
    (plain,) = [line for line in page.splitlines() if line.startswith("| plain | EConvNeXt_mini |")]
    assert "| 55.00 ± 7.07 | 2 |" in plain, "of three classes nearly all are among the best five"
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
    assert "Nothing of them was measured here" in page
    assert "issue 6" in page


def test_the_time_of_an_image_is_measured_and_kept(tmp_path: Path) -> None:
    """Also of rows whose names could be read as numbers, or as nothing."""
    config = str(row_config(tmp_path))
    wide = {"name": "0.5", "config": config, "overrides": {"Arch.width_multiplier": 0.2}}
    study = small_study(tmp_path, rows=[{"name": "NA", "config": config}, wide], ablations=[])
    page = write_report(study, all_runs(study), 1, rounds=1).read_text()
    before = rows_of(study.output_dir)
    assert (before["median_ms"] > 0).all()
    assert "median of 1 interleaved rounds, 1 thread(s)" in page
    table = study.output_dir / "comparison.csv"
    table.write_text(table.read_text().replace('""width_multiplier"": 0.2', '""width_multiplier"": 1'))
    page = write_report(study, all_runs(study), None).read_text()
    after = rows_of(study.output_dir)
    assert after.loc["NA", "median_ms"] == before.loc["NA", "median_ms"]
    assert pandas.isna(after.loc["0.5", "median_ms"]), "it was another network's"
    assert "median of 1 interleaved rounds, 1 thread(s)" in page


def test_a_network_that_cannot_be_built_is_left_out_of_the_comparison(tmp_path: Path) -> None:
    bad = {"name": "bad", "base": "wide", "overrides": {"Arch.width_multiplier": -1}}
    study = small_study(tmp_path, ablations=[bad])
    page = write_report(study, all_runs(study), None).read_text()
    assert list(rows_of(study.output_dir).index) == ["plain", "wide"]
    (line,) = [line for line in page.splitlines() if line.startswith("- Not compared: bad: ")]
    assert "width_multiplier" in line
