"""Pruned classifiers are models like any other; int8 ones are calibrated and judged on the configured data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from classification.build import build_network, load_pretrained
from classification.compression import calibration_images, evaluation_of
from classification.config import load_config
from classification.evaluation import evaluate_config
from ppcls_ext import build_model
from ppcls_ext.deploy.prune import FINE_TUNED
from ppcls_ext.engine.environment import prepare_environment
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import write_weights
from tests.support.runs import TINY, output_of, refusal, small_config
from tests.support.seeded import seed_weights

FINE_TUNING = Path(__file__).resolve().parents[2] / "configs" / "finetune_folder.yaml"
NARROW = [[16], [16], [32], [32]]


OPTIONS = ("-c", "small.yaml", "--ratio", "0.5", "--batches", "1", "--threads", "1", "--output", "pruned")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a narrow network, pruned by half and fine-tuned for one short epoch by the command line."""
    folder = tmp_path_factory.mktemp("pruning")
    model = build_model(**{**TINY, "expansion_channels": NARROW})
    seed_weights(model)
    write_weights(folder / "trained.safetensors", model.state_dict())
    data = small_config(folder / "run")
    data["Arch"] = {**TINY, "expansion_channels": NARROW}
    data["Global"]["pretrained_model"] = str(folder / "trained.safetensors")
    (folder / "small.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    printed = output_of("prune_model.py", *OPTIONS, "--epochs", "1", "--fine-tune", folder=folder)
    assert "before" in printed and "pruned" in printed
    return folder, json.loads((folder / "pruned" / "report.json").read_text())


def test_report_tells_the_figures_of_all_three(pruned):
    folder, report = pruned
    before, after, tuned = (report["figures"][name] for name in ("before", "pruned", FINE_TUNED))
    assert after["parameters"] == tuned["parameters"] < before["parameters"] and after["flops"] < before["flops"]
    assert all({"top1", "median_ms", "p90_ms"} <= set(row) for row in (before, after, tuned))
    widths = sum(report["expansion_channels"], [])
    assert all(width % 8 == 0 for width in widths)
    assert report["removed"] == pytest.approx(1 - sum(widths) / (16 + 16 + 32 + 32))


def test_configuration_and_weights_rebuild_the_pruned_network_and_fine_tune_it_as_asked(pruned, monkeypatch):
    folder, report = pruned
    monkeypatch.chdir(folder)  # The configuration names its weights as the command line named the folder.
    other = load_config(folder / "small.yaml", ["Global.pretrained_model=pruned/weights"])
    with pytest.raises(UserError, match="does not fit the model"):
        load_pretrained(other, build_network(other), fine_tune=False)
    config = load_config(folder / "pruned" / "small_pruned.yaml")
    assert config.arch.arguments["expansion_channels"] == report["expansion_channels"]
    found = evaluate_config(config, prepare_environment("cpu", 0))
    assert found["loss"] == pytest.approx(report["figures"]["pruned"]["loss"], rel=1e-4)
    assert (config.run.epochs, config.optimizer.schedule.learning_rate) == (1, pytest.approx(1e-4))
    assert (folder / "pruned" / "fine_tuning" / "checkpoints" / "best" / "model.pdparams").is_file()


def test_what_cannot_be_pruned_is_one_line(pruned):
    folder, _ = pruned
    assert "is a pruned model already; give --overwrite" in refusal(folder, "prune_model.py", *OPTIONS)
    wrong = ("-c", "small.yaml", "--output", "never", "--ratio", "1.0")
    assert "--ratio: must be" in refusal(folder, "prune_model.py", *wrong)
    assert not (folder / "never").exists()


@pytest.fixture
def folder_config(tmp_path: Path):
    """Ten pictures of each of two classes, as a configuration names them."""
    for shade, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = np.full([8, 8, 3], 200 * shade + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    keys = [f"DataLoader.{part}.dataset.image_root={tmp_path}" for part in ("Train", "Eval")]
    return load_config(FINE_TUNING, [*keys, "Global.device=cpu"])


def test_calibration_takes_readable_images_of_all_classes(folder_config, tmp_path: Path) -> None:
    assert [Path(name).parent.name for name, _ in calibration_images(folder_config, 4)].count("dark") == 2
    images = calibration_images(folder_config, 1000)
    shutil.rmtree(tmp_path / "dark")
    assert {Path(name).parent.name for name, _ in images} == {"light"}
    shutil.rmtree(tmp_path / "light")
    with pytest.raises(UserError):
        # Told before the first image.
        calibration_images(folder_config, 6)


def test_accuracy_counts_the_images_that_can_be_read(folder_config, tmp_path: Path) -> None:
    evaluation = evaluation_of(folder_config)
    assert (evaluation.metric, evaluation.images) == ("top1", 4)

    def always_light(images: list[bytes], **_: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(error=None, class_ids=[1]) for _ in images]

    always_light.classes = ["dark", "light"]
    assert evaluation.score(always_light) == 0.5
    always_light.classes = ["dog", "cat"]
    with pytest.raises(UserError, match="and the export name different classes: label 0 is 'dark' and 'dog'"):
        evaluation.score(always_light)
    always_light.classes = None
    for file in (tmp_path / "dark").iterdir():
        file.unlink()
    assert evaluation.score(always_light) == 1.0
