"""The report of a classifier's evaluation: figures against numbers computed by hand, files, and several processes."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification.config import load_config
from classification.data.datasets import ImageDataset
from classification.evaluation import evaluate_config
from classification.report import Predictions, write_report
from ppcls_ext import build_model
from ppcls_ext.engine.environment import prepare_environment
from ppcls_ext.weights import write_weights
from tests.support.pictures import folder_config, smooth_picture, write_class_folders
from tests.support.runs import TINY, launch_tool
from tests.support.seeded import seed_weights

NAMES = ["cod", "ray", "crab, edible", "never seen"]
# Of each image: its class, the predicted one, and how sure the model is.
IMAGES = [(0, 0, 0.95), (0, 0, 0.95), (0, 1, 0.65), (1, 1, 0.65), (1, 0, 0.55), (2, 1, 0.35)]


class Pictures(ImageDataset):
    """Six pictures of four classes, of which the last has none."""

    labels = np.array([label for label, *_ in IMAGES])

    def load(self, index: int) -> tuple[np.ndarray, int]:
        return smooth_picture(index), int(self.labels[index])

    def name_of(self, index: int) -> str:
        return f"dive 1/{index}.png"


def logits_of(images: list[tuple[int, int, float]]) -> np.ndarray:
    shares = np.array([[(1 - sure) / 3] * 4 for *_, sure in images])
    for row, (_, predicted, sure) in zip(shares, images, strict=True):
        row[predicted] = sure
    return np.log(shares).astype(np.float32)


def predictions_of(batches: list[list[int]]) -> Predictions:
    """Returns the predictions to the images of each batch, by their numbers."""
    predictions = Predictions(len(IMAGES), topk=3)
    for batch in batches:
        images = [IMAGES[index] for index in batch]
        predictions.note(np.array(batch), Pictures.labels[batch], logits_of(images))
    return predictions


def written(folder: Path, predictions: Predictions, **options: int) -> dict:
    table = predictions.table(Pictures())
    result = write_report(folder, Pictures(), table, NAMES, {"top1": float(table["right"].mean())}, "fish", **options)
    assert result == json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return result


def test_figures_are_those_computed_by_hand(tmp_path: Path) -> None:
    result = written(tmp_path, predictions_of([[3, 1, 0], [5, 4], [2]]))
    rows = {row["class"]: [row[key] for key in ("images", "predicted", "precision", "recall", "f1")]
            for row in result["classes"]}  # fmt: skip
    assert rows["cod"] == pytest.approx([3, 3, 2 / 3, 2 / 3, 2 / 3])
    assert rows["ray"] == pytest.approx([2, 3, 1 / 3, 1 / 2, 2 / 5])
    assert rows["crab, edible"] == [1, 0, None, 0, 0]
    assert rows["never seen"] == [0, 0, None, None, None]
    assert result["macro"] == pytest.approx({"precision": 1 / 2, "recall": 7 / 18, "f1": (2 / 3 + 2 / 5) / 3})
    # Gaps of .05 and .15 for two images each, of .55 and .35 for one each.
    assert result["expected_calibration_error"] == pytest.approx((2 * 0.05 + 2 * 0.15 + 0.55 + 0.35) / 6, rel=1e-5)
    assert [row["images"] for row in result["calibration"]] == [0] * 5 + [1, 0, 0, 1, 2, 0, 0, 0, 0, 2]
    assert {(row["true_class"], row["predicted"], row["images"]) for row in result["confused"]} == {
        ("cod", "ray", 1), ("ray", "cod", 1), ("crab, edible", "ray", 1)
    }  # fmt: skip


def test_all_predictions_and_the_most_confident_mistakes_are_shown(tmp_path: Path) -> None:
    (tmp_path / "mistakes.png").write_bytes(b"of an earlier evaluation")
    written(tmp_path, predictions_of([[0, 1, 2, 3, 4, 5]]), mistakes=2)
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == [f"dive 1/{index}.png" for index in range(6)]
    assert [(row["true_class"], row["top1"], row["right"]) for row in rows[4:]] == [
        ("ray", "cod", "0"), ("crab, edible", "ray", "0")
    ]  # fmt: skip
    assert (float(rows[4]["true_score"]), float(rows[4]["score1"])) == pytest.approx((0.15, 0.55), abs=1e-5)
    assert [float(rows[0][f"score{rank}"]) for rank in (1, 2, 3)] == pytest.approx([0.95, 0.05 / 3, 0.05 / 3], abs=1e-5)
    with Image.open(tmp_path / "mistakes.png") as two:
        width = two.width
    written(tmp_path, predictions_of([[0, 1, 2, 3, 4, 5]]))
    with Image.open(tmp_path / "mistakes.png") as three:
        assert three.width > width
    written(tmp_path, predictions_of([[0, 1, 3]]))
    assert not (tmp_path / "mistakes.png").exists()


def test_an_image_without_an_answer_counts_as_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictions = predictions_of([[0, 1, 2, 3, 4, 5]])
    predictions.note(np.array([0]), np.array([0]), np.array([[np.nan, 1, 2, 3]], np.float32))
    logging.getLogger("classification").propagate = True
    with caplog.at_level(logging.INFO):
        result = written(tmp_path, predictions)
    assert (result["without_answer"], result["top1"]) == (1, pytest.approx(2 / 6))
    assert result["classes"][0]["recall"] == pytest.approx(1 / 3)
    assert result["classes"][0]["precision"] == pytest.approx(1 / 2)
    assert "the model answered NaN to 1 of 6 images" in caplog.text
    assert "1 without images, in no mean: never seen" in caplog.text
    assert (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[1] == "dive 1/0.png,cod,0,,,,,,,"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three class folders with 19 readable pictures and one that is not, and weights of a network."""
    data = write_class_folders(tmp_path / "data", classes=3, images=6)
    (data / "class_2" / "more.png").write_bytes((data / "class_2" / "00.png").read_bytes())
    (data / "class_1" / "broken.png").write_bytes(b"no picture")
    model = build_model(**{**TINY, "class_num": 3})
    seed_weights(model)
    write_weights(tmp_path / "weights.pdparams", model.state_dict())
    narrow = {f"Arch__{key}": TINY[key] for key in ("depth_multiplier", "width_multiplier")}
    folder_config(tmp_path, data, data, 3, Global__pretrained_model=str(tmp_path / "weights.pdparams"),
                  Global__max_bad_images=0.1, DataLoader__Eval__sampler__batch_size=4, **narrow)  # fmt: skip
    return tmp_path


def test_an_evaluation_reports_every_readable_image_once(project: Path) -> None:
    config = load_config(project / "config.yaml")
    environment = prepare_environment("cpu", 0)
    plain = evaluate_config(config, environment)
    result = evaluate_config(config, environment, project / "evaluation")
    assert plain.items() <= result.items() and plain["images"] == 19
    with open(project / "evaluation" / "predictions.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["image"] for row in rows}) == len(rows) == 19
    assert sum(row["right"] == "1" for row in rows) == round(19 * plain["top1"]) > 0
    assert [row["images"] for row in result["classes"]] == [6, 6, 7]
    assert all(row["true_class"] == Path(row["image"]).parent.name for row in rows)


@pytest.mark.slow
def test_two_processes_report_what_one_does(project: Path) -> None:
    alone = evaluate_config(load_config(project / "config.yaml"), prepare_environment("cpu", 0), project / "alone")
    done = launch_tool("eval.py", "-c", project / "config.yaml", "--output", project / "both", log=project / "log")
    assert done.returncode == 0, done.stdout + done.stderr
    both = json.loads((project / "both" / "figures.json").read_text(encoding="utf-8"))
    assert {key: both[key] for key in ("top1", "images", "classes", "confused")} == {
        key: alone[key] for key in ("top1", "images", "classes", "confused")
    }  # fmt: skip
    assert (project / "both/predictions.csv").read_text() == (project / "alone/predictions.csv").read_text()
