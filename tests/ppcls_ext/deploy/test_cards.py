"""A card tells what the files tell, marks what was published, and says where nothing is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from ppcls_ext.arch.flops import Count
from ppcls_ext.arch.registry import list_models
from ppcls_ext.deploy.cards import card_text, evaluation_data, gather_facts, models_page, paper_of
from ppcls_ext.deploy.profile import FIGURES, Profile
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of, write_json
from tests.support.card_runs import NAMES, NARROW, history, write_benchmark, write_export, write_run

# Counting is tested once; other cards take these.
LAYERS = pandas.DataFrame([["stem", 1000, 2_000_000, 0, 0], ["head", 500, 3_000, 0, 0]], columns=["stage", *FIGURES])
COUNTS = Profile("made up", (3, 32, 32), LAYERS, 0.0)


def card_of(*args: Any, **options: Any) -> str:
    return card_text(gather_facts(*args, counts=COUNTS, **options))


def head_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_a_finished_run(run: Path, tmp_path: Path) -> None:
    card = card_of(run)
    head = head_of(card)
    assert head["license"] == "apache-2.0" and head["library_name"] == "paddlepaddle"
    (result,) = head["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [93.75, 100.0]
    assert (result["dataset"]["name"], head["datasets"]) == ("Digits", ["Digits"])
    accuracy = section(card, "Accuracy")
    assert "| top-1 | 93.75 % |" in accuracy and "81.25" not in accuracy
    assert "(seed 5) on 2026-03-02, after epoch 1, with the averaged weights (EMA), on Digits (val), 50 im" in accuracy
    assert "python tools/eval.py -c run/config.yaml -o Global.pretrained_model=run/checkpoints/best" in accuracy
    assert "**Published**, not measured by this project: 78.3 % top-1 on ImageNet-1k at 224 px (E-ConvNeXt" in accuracy
    assert "differs" not in accuracy
    assert "| stem | 1,000 | 2.000 |" in card and "| **all** | 1,500 | 2.003 |" in card
    assert r"**Classes (3)**: cube, ball\|tyre, \<b\>wall\</b\>" in card
    assert "arXiv 2508.20955" in card and "2.00 hours" in card
    training = yaml.safe_load(section(card, "Training").split("```yaml\n")[1].split("```")[0])
    assert training["Optimizer"]["weight_decay"] == 0.05 and training["EMA"] == {"decay": 0.9}
    operators = training["DataLoader"]["Train"]["dataset"]["transform_ops"]
    assert operators[0] == {"RandCropImage": {"size": 32, "scale": [0.6, 1.0]}}
    limits = section(card, "Limitations")
    assert "Trained on 123 images of Digits, 3 classes" in limits and "Trained once, with seed 5" in limits
    assert "1 training images could not be read" in limits and "Latency: not measured." in limits
    assert sha256_of(run / "checkpoints" / "best" / "ema.pdparams") in section(card, "Weights")
    assert str(tmp_path) not in card


def test_a_checkpoint_and_an_unfinished_run_say_what_they_do_not_know(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints" / "epoch_0001", tmp_path / "elsewhere")
    card = card_of(tmp_path / "elsewhere")
    assert "| top-1 | 93.75 % |" in card and "on a day that is not recorded" in card
    assert "Global.pretrained_model=elsewhere\n" in card
    assert "The checkpoint is of epoch 1 of 2; how the run ended is not recorded." in card
    report = {"epochs": 1, "history": [], "best": None}
    card = card_of(write_run(tmp_path / "other", report=report))
    assert "The training was not finished: 1 of 2 epochs." in card
    stopping = {"stopped": True, "reason": "top1 has not risen above 0.9375 (epoch 1) in 1 evaluation"}
    card = card_of(write_run(tmp_path / "early", report={"epochs": 1, "early_stopping": stopping}))
    assert "The training stopped early, after 1 of 2 epochs: top1 has not risen above" in card
    (run / "report.json").unlink()
    assert "how the run ended is not recorded" in card_of(run)


def test_figures_are_those_of_the_weights_that_are_kept(run: Path, tmp_path: Path) -> None:
    card = card_of(write_run(tmp_path / "other", evaluated="model"))
    assert "| top-1 | 81.25 % |" in card and "93.75" not in card
    assert "the trained weights (no average)" in card and "| model.pdparams |" in card
    folder = run / "checkpoints" / "latest"
    shutil.copytree(run / "checkpoints" / "epoch_0001", folder)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for step, figure in ((0, "| top-1 | 10.00 % |"), (7, "**Measured**: not measured.")):
        write_json(folder / "state.json", state | {"epoch": 2, "step": step, "history": history(0.8125, 0.9375)})
        card = card_of(folder)
        assert figure in section(card, "Accuracy") and "93.75" not in card and "was chosen among" not in card


def test_machine_paths_stay_out(tmp_path: Path) -> None:
    dataset = {
        "name": "ImageFolder", "image_root": str(tmp_path / "secret" / "photos"), "split": "train",
        "transform_ops": [{"Load": {"table": "/srv/mine/table.npy"}}],
    }  # fmt: skip
    teacher = {"name": "ResNet50", "pretrained": "/srv/mine/teacher"}
    run = write_run(
        tmp_path / "run", DataLoader__Train__dataset=dataset, Arch__pretrained="/srv/mine/x.pdparams",
        Distillation={"teacher": teacher, "weight": 0.7, "cache": "/srv/mine/cache"},
        report={"teacher": {"name": "ResNet50", "weights": "/srv/mine/teacher", "eval": {"top1": 0.875}}},
    )  # fmt: skip
    card = card_of(run, export=write_export(tmp_path / "export"))
    assert "/srv" not in card and "secret" not in card and str(tmp_path) not in card
    assert "**Data**: photos, 123 images" in card and "Load: {table: table.npy}" in card
    assert "from ResNet50. The teacher, measured by the same run: 87.50 % top-1." in card


def test_int8_and_latency_of_the_export(run: Path, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    benchmark = write_benchmark(tmp_path / "bench.json", str(export), "EConvNeXt_mini", size=32)
    card = card_of(run, model="EConvNeXt_mini", export=export, benchmark=benchmark)
    smaller = section(card, "Smaller and faster")
    assert "calibrated on 30 images, judged on 50 images of DataLoader.Eval" in smaller
    for row in ("| top-1, % | 93.75 | 92.50 |", "| latency, ms | 8.00 | 4.50 |", "| size, MB | 30.00 | 8.00 |"):
        assert row in smaller
    latency = section(card, "Latency")
    assert "on Some CPU, 2 cores; the network" in latency and latency.count("| openvino |") == 1
    assert "| openvino | bf16 | 32 | 2 | 1 | 4.4 | 5.5 | 228.5 |" in latency
    assert 'load("export", precision="int8")' in card and "b" * 64 in card
    assert "Latency" not in section(card, "Limitations") and "Exported" not in section(card, "Limitations")
    by_name = write_benchmark(tmp_path / "name.json", "EConvNeXt_mini@224", "ResNet50")
    card = card_of(run, benchmark=by_name)
    assert "with random weights and 1000 classes" in section(card, "Latency")
    assert "Latency was measured with random weights" in section(card, "Limitations")


def test_a_network_of_another_form_is_told_from_the_published_one(tmp_path: Path) -> None:
    arguments = {"class_num": 3, "stem_stride": 4, "expansion_channels": NARROW}
    run = write_run(tmp_path / "run", report={"arguments": arguments})
    assert "This network differs from the published one in expansion_channels." in card_of(run)
    benchmark = write_benchmark(tmp_path / "bench.json", "EConvNeXt_mini")
    with pytest.raises(UserError, match="no measurement of EConvNeXt_mini with expansion_channels as in this model"):
        card_of(run, benchmark=benchmark)


def write_pruning(folder: Path) -> None:
    rows = {name: {"top1": top1, "parameters": 6_500_000, "flops": 19_000_000.0, "median_ms": 3.25}
            for name, top1 in (("before", 0.5), ("pruned", 0.375))}  # fmt: skip
    write_json(folder / "report.json", {"criterion": "taylor", "removed": 0.4, "figures": rows})


def test_a_pruning_is_reported_with_its_fine_tuning_or_has_figures_of_its_own(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "pruned" / "fine_tuning")
    write_pruning(tmp_path / "pruned")
    for folder in (tmp_path / "pruned", tmp_path / "pruned" / "fine_tuning"):
        card = card_of(folder)
        assert "40.00 % of them were removed (criterion taylor)" in card
        assert "| top-1, % | 50.00 | 37.50 |" in card and "| parameters, M | 6.50 | 6.50 |" in card
        assert "| top-1 | 93.75 % |" in section(card, "Accuracy")
    folder = tmp_path / "alone"
    shutil.copytree(run / "checkpoints" / "epoch_0001", folder / "weights")
    (folder / "weights" / "config.yaml").rename(folder / "small_pruned.yaml")
    state = {"evaluated_weights": "model", "class_names": NAMES, "arch": {"name": "EConvNeXt_mini"}}
    write_json(folder / "weights" / "state.json", state)
    write_pruning(folder)
    card = card_of(folder)
    assert "| top-1 | 37.50 % |" in section(card, "Accuracy")
    assert "-c alone/small_pruned.yaml -o Global.pretrained_model=alone/weights" in card
    assert "of a fine-tuning, which was not run yet" in card


def test_a_model_by_name_and_an_export_alone_say_what_is_not_known(tmp_path: Path) -> None:
    card = card_of(model="EConvNeXt_tiny")
    assert not {"metrics", "model-index", "datasets"} & set(head_of(card))
    assert "**Measured**: not measured." in card and "80.6 % top-1" in card
    assert "No trained weights belong to this card." in card and 'build_model("EConvNeXt_tiny"' in card
    card = card_text(gather_facts(export=write_export(tmp_path / "export")))
    assert "An export does not record whether its network has the published form." in card
    assert "## Parameters and FLOPs\n\nNot counted." in card, "an export does not tell the network's arguments"
    assert "Training data: not recorded." in card and "a" * 64 in card


def test_a_subset_does_not_pass_for_the_whole_data_set() -> None:
    config = {"DataLoader": {"Eval": {"dataset": {"name": "Cifar100"}}}}
    assert evaluation_data({**config, "Arch": {"class_num": 20}}) == "Cifar100 (20 of its 100 classes)"
    assert evaluation_data({**config, "Arch": {"class_num": 100}}) == "Cifar100"


def test_damaged_files_and_parts_that_do_not_belong_together_are_refused(run: Path, tmp_path: Path) -> None:
    other = write_export(tmp_path / "other", model="EConvNeXt_tiny")
    renamed = write_export(tmp_path / "renamed", names=["cube", "ball", "tyre"])
    benchmark = write_benchmark(tmp_path / "bench.json", "ResNet50", architecture="ResNet50")

    def refused(folder: Path, message: str, **options: Any) -> None:
        with pytest.raises(UserError, match=message) as caught:
            card_of(folder, **options)
        assert "\n" not in str(caught.value)

    refused(run, "run: holds EConvNeXt_mini, not ResNet50", model="ResNet50")
    refused(run, "other: is an export of EConvNeXt_tiny, not of EConvNeXt_mini", export=other)
    refused(run, "renamed: its classes are not those of", export=renamed)
    refused(run, "bench.json: has no measurement of EConvNeXt_mini; it holds ResNet50", benchmark=benchmark)
    refused(tmp_path, "neither the folder of a run")
    write_json(run / "report.json", {"model": "ResNet50"})
    refused(run, "its files are of different models: EConvNeXt_mini, ResNet50")
    (run / "config.yaml").write_text("Arch: [")
    refused(run, "config.yaml: damaged")


def test_every_model_of_ours_has_a_paper_and_stands_in_the_table_of_models() -> None:
    assert [name for name in list_models() if paper_of(name) is None] == [] and paper_of("Unheard_of") is None
    assert paper_of("ConvNeXtV2_atto").arxiv == "2301.00808" != paper_of("ConvNeXtV1_tiny").arxiv
    root = Path(__file__).resolve().parents[3]
    golden = json.loads((root / "tests" / "golden" / "models.json").read_text(encoding="utf-8"))
    page = models_page(lambda model: Count(golden[model]["parameters"], golden[model]["flops"]))
    assert (root / "docs" / "models" / "README.md").read_text(encoding="utf-8") == page, (
        "python tools/model_card.py --all --output docs/models/README.md"
    )
    assert all(f"| {model} |" in page for model in list_models())
