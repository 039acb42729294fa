"""The command line of the model cards, on a run that the trainer made and on one of a detector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ppcls_ext.utils.files import write_json
from tests.support.card_runs import NARROW, write_run
from tests.support.detectors import tiny_config
from tests.support.runs import run_tool, small_config, write_config

TOOL = "model_card.py"


@pytest.mark.slow
def test_a_run_of_the_trainer_gets_its_card(tmp_path: Path) -> None:
    settings = {"Global__epochs": 1, "Arch__expansion_channels": NARROW, "Global__use_visualdl": False}
    file = write_config(tmp_path, small_config(tmp_path / "run", **settings), "small.yaml")
    trained = run_tool("train.py", "-c", file)
    assert trained.returncode == 0, trained.stderr
    done = run_tool(TOOL, "--run", tmp_path / "run", "--model", "EConvNeXt_mini", "--output", tmp_path / "CARD.md")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"written: {tmp_path / 'CARD.md'}, the card of EConvNeXt_mini"
    card = (tmp_path / "CARD.md").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    averaged = report["history"][0]["ema"]
    assert f"| top-1 | {100 * averaged['top1']:.2f} % |" in card and f"| loss | {averaged['loss']:.4f} |" in card
    assert f"**all** | {report['trainable_parameters']:,} |" in card
    assert "(resolved from `small.yaml`)" in card and "arXiv 2508.20955" in card
    assert str(tmp_path) not in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == round(100 * averaged["top1"], 2)


def test_a_detectors_run_is_counted_at_the_size_of_its_deployment(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.yaml").write_text(tiny_config(tmp_path).read_text(encoding="utf-8"), encoding="utf-8")
    record = {"epoch": 1, "eval": {"AP": 0.125, "per_class": {"cube": 0.375}}}
    write_json(run / "report.json", {"best": {"AP": 0.125, "epoch": 1}, "history": [record], "epochs": 1})
    done = run_tool(TOOL, "--run", run, "--output", tmp_path / "CARD.md")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "CARD.md").read_text(encoding="utf-8")
    assert "# PPYOLOE with CSPResNet on data" in card and "12.50 %" in card and "| cube | 37.50 % |" in card
    assert "For one image of 64 x 64 px" in card and "| neck | " in card
    assert str(tmp_path) not in card


def test_a_configuration_that_nobody_trained(tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", Arch__expansion_channels=NARROW)
    done = run_tool(TOOL, "-c", write_config(tmp_path, config), "-o", "Global.epochs=7", "--output", tmp_path / "C.md")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "C.md").read_text(encoding="utf-8")
    assert "**Epochs**: 7" in card and "No trained weights" in card and "**Measured**: not measured." in card


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """The contradictions of options are told by one function; one of each kind goes through the command line."""
    write_run(tmp_path / "run")
    for arguments, message in (
        ([], "name what the card is of: --model NAME, --run FOLDER"),
        (["--all"], "--all goes with --output FILE.md and nothing else"),
        (["--run", tmp_path / "run", "--model", "ResNet50"], "holds EConvNeXt_mini, not ResNet50"),
        (["--run", tmp_path / "run", "-c", "x.yaml"], "-c goes without --run"),
        (["--model", "EConvNeXt_mini", "-o", "class_num=3"], "-o goes with -c"),
        (["--run", tmp_path / "run", "--output", "card.html"], "--output must end in .md, got card.html"),
    ):
        done = run_tool(TOOL, *arguments)
        assert done.returncode == 2
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
