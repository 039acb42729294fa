"""The YAML of a study: what it means, and the line that each mistake gets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from classification.config import load_config
from classification.study import Study, load_study
from ppcls_ext.utils.errors import UserError
from tests.support.runs import ROOT
from tests.support.studies import all_runs, row_config, small_study, study_data, write_study


def test_a_row_has_a_run_for_each_seed_in_a_folder_of_its_own(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    runs = all_runs(study)
    folders = [str(run.folder.relative_to(tmp_path / "out")) for run in runs]
    assert folders == ["plain/seed_0", "wide/seed_0", "relu/seed_0", "plain/seed_1"], "first every row once"
    assert [run.config.run.seed for run in runs] == [0, 0, 0, 1]
    assert [Path(run.config.run.output_dir) for run in runs] == [run.folder for run in runs]


def test_an_ablation_is_its_base_with_one_change_and_the_command_line_goes_last(tmp_path: Path) -> None:
    config = row_config(tmp_path)
    data = study_data(tmp_path, config) | {"overrides": {"Global.epochs": 5, "Arch.drop_path_rate": 0.1}}
    data["ablations"] = [{"name": "wide_relu", "base": "wide", "overrides": {"Arch.activation": "relu"}}]
    study = load_study(write_study(tmp_path, data), ["Global.epochs=3"])
    runs = {run.row.name: run.config for run in all_runs(study)}
    arguments = runs["wide_relu"].arch.arguments
    assert arguments == {**runs["wide"].arch.arguments, "activation": "relu"}
    assert (arguments["width_multiplier"], arguments["drop_path_rate"]) == (0.2, 0.1)
    assert runs["wide_relu"].run.epochs == 3
    row = study.rows[-1]
    assert (row.base, row.differences) == ("wide", ('Arch.activation="relu"',))


def changed(data: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Sets a value by its place, such as ``rows.0.name``."""
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    holder: Any = data
    for part in path:
        holder = holder[part]
    holder[last] = value
    return data


@pytest.mark.parametrize(
    ("place", "value", "parts"),
    [
        ("row", [], ("unknown argument 'row'", "did you mean 'rows'?")),
        ("rows.1.overides", {}, ("rows[1]", "unknown argument 'overides'", "did you mean 'overrides'?")),
        ("ablations.0.base", "plane", ("ablations[0].base", "'plane'", "did you mean 'plain'?")),
        ("rows.1.overrides", {"Arch.activatoin": "relu"}, ("rows[1]", "wide", "did you mean 'activation'?")),
        ("rows", [], ("rows", "at least one row")),
        ("rows.1.overrides", {"Global.seed": 3}, ("rows[1].overrides", "Global.seed is chosen by the study")),
        ("rows.1.published", "convnext_tinny", ("rows[1].published", "did you mean 'convnext_tiny'?")),
        ("rows.1.name", "plain", ("rows[1].name", "stands twice")),
        ("rows.1.name", "../wide", ("rows[1].name", "fit for a folder")),
        ("rows.1.config", "none.yaml", ("rows[1]", "none.yaml", "no such configuration file")),
        ("rows.1.seeds", [1, 1], ("rows[1].seeds", "different whole numbers")),
    ],
)
def test_each_mistake_is_one_line_with_its_place(tmp_path: Path, place: str, value: Any, parts: Any) -> None:
    data = study_data(tmp_path, row_config(tmp_path))
    path = write_study(tmp_path, changed(data, place, value))
    with pytest.raises(UserError) as caught:
        load_study(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(path))
    for part in parts:
        assert part in line, line


def test_changes_and_rows_of_the_command_line(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    assert [row.name for row in study.choose(["relu", "plain"])] == ["plain", "relu"]
    with pytest.raises(UserError, match="no row 'plan' .did you mean 'plain'"):
        study.choose(["plan"])
    for change, words in (("Global.seed=1", "is chosen by the study"), ("Arch.activation", "Arch.activation"),
                          ("Global.eval_during_train=false", "evaluates nothing")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            load_study(study.path, [change])


@pytest.fixture(scope="module")
def full_study() -> Iterator[Study]:
    """The study of all of CIFAR-100; its paths are relative to the root of the repository."""
    with contextlib.chdir(ROOT):
        yield load_study("configs/studies/cifar100.yaml")


def test_the_full_study_has_the_rows_and_the_published_figures_that_it_follows(full_study: Study) -> None:
    published = {row.name: (row.published.top1, row.published.parameters) for row in full_study.rows if row.published}
    assert published == {"convnext_tiny": (82.35, 28.6), "vit_base": (78.27, 85.8), "resnet101": (77.3, 44.5)}
    names = {row.name for row in full_study.rows if row.base is None}
    assert names >= {*published, "convnext_tiny_swinmlp", "convnextv2_nano", "econvnext_mini", "econvnext_tiny"}


def test_the_rows_of_the_full_study_share_one_recipe(full_study: Study) -> None:
    """But for the model, its folder and the size of the images."""
    rows = [row for row in full_study.rows if row.base is None]
    configs = {row.name: load_config(row.config_file, row.changes).document.data for row in rows}
    first = configs["convnext_tiny"]
    for name, data in configs.items():
        for key in ("EMA", "Loss", "Optimizer", "Metric"):
            assert data[key] == first[key], (name, key)
        for part in ("Train", "Eval"):
            section, same = data["DataLoader"][part], first["DataLoader"][part]
            assert (section["sampler"], section["loader"]) == (same["sampler"], same["loader"])
            operators = [each for each in section["dataset"]["transform_ops"] if "ResizeImage" not in each]
            assert operators == same["dataset"]["transform_ops"], name
    rate = first["Optimizer"]["lr"]
    assert (first["Global"]["epochs"], rate["learning_rate"], rate["eta_min"] > 0) == (300, 4e-3, True)
    assert first["DataLoader"]["Train"]["sampler"]["batch_size"] == 64
