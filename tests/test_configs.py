"""Every configuration in the tree says what it is for, loads without a complaint, and its model builds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.y*ml"))
# A detection configuration says `architecture`, perhaps in a file that it includes, and is read by the toolkit.
CLASSIFICATION = [file for file in FILES if re.search(r"^Arch:", file.read_text(encoding="utf-8"), flags=re.MULTILINE)]


def name_of(file: Path) -> str:
    return str(file.relative_to(CONFIGS))


def opening_comment(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return "\n".join(comment)


def test_the_promised_configurations_are_there():
    expected = {f"econvnext_{size}.yaml" for size in ("mini", "tiny", "small")}
    expected |= {"convnext_tiny.yaml", "quickstart.yaml", "finetune_folder.yaml", "cifar100/econvnext_mini.yaml"}
    assert expected <= {name_of(file) for file in CLASSIFICATION}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_it_begins_with_a_comment(file):
    assert len(opening_comment(file).strip()) > 20


@pytest.mark.parametrize("file", CLASSIFICATION, ids=name_of)
def test_the_comment_names_purpose_command_hardware_and_result(file):
    comment = opening_comment(file)
    assert not re.match(r"(Command|Hardware|Data|Expected):", comment), "the first line says what it trains"
    for heading in ("Command:", "Hardware:", "Expected:"):
        assert re.search(rf"^{heading}\s+\S", comment, flags=re.MULTILINE), f"no line '{heading}'"
    assert f"configs/{name_of(file)}" in comment, "the command names this file"


@pytest.mark.parametrize("file", CLASSIFICATION, ids=name_of)
def test_it_loads_and_has_all_that_training_evaluation_and_prediction_need(file):
    from classification.config import load_config

    config = load_config(file)
    for part in ("train", "eval", "train_loss", "eval_loss", "optimizer", "infer", "postprocess"):
        assert getattr(config, part) is not None, part
    assert config.train.operators, "no operators"
    assert [type(operator).__name__ for operator in config.eval.operators].count("NormalizeImage") == 1


@pytest.mark.parametrize("file", CLASSIFICATION, ids=name_of)
def test_prediction_prepares_images_as_evaluation_does(file):
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    transforms = [entry for entry in data["Infer"]["transforms"] if "ToCHWImage" not in entry]
    evaluation = data["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    # Data sets that hold arrays need neither decoding nor resizing; pictures that people bring do.
    resizing = ("DecodeImage", "ResizeImage", "CropImage")
    rest = [entry for entry in transforms if not any(name in entry for name in resizing)]
    assert transforms == evaluation or rest == [entry for entry in evaluation if not any(n in entry for n in resizing)]


@pytest.mark.parametrize("file", CLASSIFICATION, ids=name_of)
def test_its_model_builds_with_its_classes(file):
    from classification.build import build_network, classifier_prefixes
    from classification.config import load_config

    config = load_config(file)
    model = build_network(config)
    assert classifier_prefixes(model, config.arch.class_num), "no layer with as many outputs as classes"


@pytest.mark.parametrize("name", ["econvnext_mini.yaml", "econvnext_tiny.yaml", "econvnext_small.yaml"])
def test_what_paddleclas_reads_as_well_stays_within_its_schema(name):
    """Keys of our own may stand only under Global, and ToCHWImage only in Infer."""
    data = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    assert set(data) <= {"Global", "AMP", "EMA", "Arch", "Loss", "Optimizer", "DataLoader", "Infer", "Metric"}
    assert data["Global"]["device"] in ("gpu", "cpu")
    for part in ("Train", "Eval"):
        section = data["DataLoader"][part]
        assert set(section) == {"dataset", "sampler", "loader"}
        assert section["dataset"]["name"] == "ImageNetDataset"
        assert section["sampler"]["name"] == "DistributedBatchSampler"
        assert not any("ToCHWImage" in entry for entry in section["dataset"]["transform_ops"])
    assert "ToCHWImage" in data["Infer"]["transforms"][-1]


@pytest.mark.parametrize("name", ["econvnext_mini.yaml", "econvnext_tiny.yaml", "econvnext_small.yaml"])
def test_the_published_recipe(name):
    """The figures of the paper, as they reach the trainer."""
    from classification.config import load_config

    config = load_config(CONFIGS / name)
    settings = config.optimizer.settings
    assert (config.run.epochs, config.train.sampler.batch_size) == (300, 64)
    assert (settings.beta1, settings.beta2, settings.epsilon, settings.weight_decay) == (0.9, 0.999, 1e-8, 0.05)
    assert settings.rules.one_dim_param_no_weight_decay
    schedule = config.optimizer.build_schedule(epochs=300, steps_each_epoch=1)
    assert schedule.rate_at(0) == 0
    assert schedule.rate_at(20) == pytest.approx(2.5e-4)
    assert schedule.rate_at(300) == pytest.approx(1e-6)
    assert [(weight, loss.epsilon) for weight, loss in config.train_loss.parts] == [(1.0, 0.1)]
    assert config.metrics[0].topk == [1, 5]
