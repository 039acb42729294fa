"""Every configuration in the tree says what it is for, loads without a complaint, and its model builds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from classification.build import build_network, classifier_prefixes
from classification.config import load_config as load_classification_config
from detection.configuration import DetectionConfig, load_config
from ppcls_ext.utils.config import load_config_file
from tests.golden.make_detectors import detector_configs

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.y*ml"))
# Those that others name in `_BASE_` are not among the detectors.
DETECTION = detector_configs()
CLASSIFICATION = [file for file in FILES if re.search(r"^Arch:", file.read_text(encoding="utf-8"), flags=re.MULTILINE)]


# Published rows of YOLOv10, with the mAP of the paper.
YOLOV10_PUBLISHED = {
    "l_sonar": 46.1, "m_convnext_tiny_sonar": 50.1, "m_econvnext_tiny_sonar": 51.3, "l_duo": 56.4,
    "l_econvnext_tiny_duo": 61.2,
}  # fmt: skip


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


def test_the_comment_names_purpose_command_hardware_and_result():
    for file in (*CLASSIFICATION, *DETECTION):
        comment = opening_comment(file)
        assert not re.match(r"(Command|Hardware|Data|Expected):", comment), f"{file}: first what it trains"
        for heading in ("Command:", "Hardware:", "Expected:"):
            assert re.search(rf"^{heading}\s+\S", comment, flags=re.MULTILINE), f"{file}: no line '{heading}'"
        assert f"configs/{name_of(file)}" in comment, f"{file}: the command names this file"
    for row, precision in YOLOV10_PUBLISHED.items():
        comment = opening_comment(CONFIGS / "detection" / "yolov10" / f"yolov10_{row}.yml")
        assert f"Expected:  mAP {precision} (the paper's" in comment


@pytest.mark.parametrize("file", [file for file in CLASSIFICATION if file.parent.name == "pretrain"], ids=name_of)
def test_what_pretrains_needs_no_labels_and_builds(file):
    config = load_classification_config(file)
    assert config.pretraining is not None and config.train is not None and config.optimizer is not None
    assert build_network(config).feature_strides[-1] == 32


@pytest.mark.parametrize("file", [file for file in CLASSIFICATION if file.parent.name != "pretrain"], ids=name_of)
def test_it_loads_with_all_that_training_evaluation_and_prediction_need_and_its_model_builds(file):
    config = load_classification_config(file)
    for part in ("train", "eval", "train_loss", "eval_loss", "optimizer", "infer"):
        assert getattr(config, part) is not None, part
    assert config.train.operators, "no operators"
    assert [type(operator).__name__ for operator in config.eval.operators].count("NormalizeImage") == 1
    data = config.document.data
    transforms = [entry for entry in data["Infer"]["transforms"] if "ToCHWImage" not in entry]
    evaluation = data["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    # Data sets that hold arrays need neither decoding nor resizing; pictures that people bring do.
    resizing = ("DecodeImage", "ResizeImage", "CropImage")
    rest = [entry for entry in transforms if not any(name in entry for name in resizing)]
    assert transforms == evaluation or rest == [entry for entry in evaluation if not any(n in entry for n in resizing)]
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


def operators_of(config: DetectionConfig, reader: str) -> dict[str, Any]:
    """Operators of single images and then of batches, with their arguments, in their order."""
    section = config.data[reader]
    entries = [*section["sample_transforms"], *section.get("batch_transforms", [])]
    operators = {name: arguments for entry in entries for name, arguments in entry.items()}
    assert len(operators) == len(entries), "an operator stands twice"
    return operators


def test_paddledetection_reads_the_same_values():
    # It uses plain YAML 1.1, for which 2e-4 is a text.
    for file in sorted((CONFIGS / "detection").rglob("*.yml")):
        assert yaml.safe_load(file.read_text(encoding="utf-8")) == load_config_file(file).data, file


def test_each_detector_has_a_folder_of_its_own():
    # Rows of two splits in one folder would resume from weights that have seen the other's validation frames.
    folders = [load_config(file).output_dir for file in DETECTION]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("file", DETECTION, ids=name_of)
def test_a_detector_loads_and_sees_the_same_picture_everywhere(file):
    bases = load_config_file(file).data.get("_BASE_", [])
    assert isinstance(bases, list) and bases, "PaddleDetection takes a list only"
    assert not any("_BASE_" in load_config_file(file.parent / base).data for base in bases)
    config = load_config(file)
    if "epoch" not in load_config_file(file).data:  # A row with another number than its bases': the lengths follow.
        assert config.document.notes == [], "its lengths are of another number of epochs"
    train, evaluation = operators_of(config, "TrainReader"), operators_of(config, "EvalReader")
    assert list(operators_of(config, "TestReader").items()) == list(evaluation.items())
    for name in ("SonarEnhance", "NormalizeImage"):
        assert train.get(name) == evaluation.get(name), name
    (resizing,) = [arguments for name, arguments in evaluation.items() if name in ("Resize", "LetterResize")]
    assert config.data["TestReader"]["inputs_def"]["image_shape"] == [3, *resizing["target_size"]]
    # Labels that Paddle can add, and NMS that it can save.
    batch = [name for entry in config.data["TrainReader"]["batch_transforms"] for name in entry]
    assert batch.index("LabelsToInt64") == batch.index("PadGT") + 1
    if config.architecture == "YOLOv10":
        assert "nms" not in file.read_text(encoding="utf-8"), "it needs none"
    else:
        assert config.data["PPYOLOEHead"]["nms"]["name"] == "MultiClassNMS3"


@pytest.mark.parametrize(
    ("folder", "row", "epochs"),
    [
        ("marine_debris", "ppyoloe_s_econvnext_mini", 8),
        ("marine_debris_scenes", "ppyoloe_s_econvnext_mini", 24),
        ("marine_debris_scenes", "ppyoloe_s_econvnext_mini_cut", 24),
    ],
)
def test_the_marine_debris_rows_differ_only_in_their_backbone(folder, row, epochs):
    rows = ("ppyoloe_s_cspresnet", row)
    first, second = (load_config(CONFIGS / "detection" / folder / f"{row}.yml").data for row in rows)
    schedulers = first["LearningRate"]["schedulers"]
    lengths = [schedulers[0]["max_epochs"], schedulers[1]["steps"], first["PPYOLOEHead"]["static_assigner_epoch"]]
    assert first["epoch"] == epochs and lengths == [epochs, 100 * epochs // 8, epochs // 4]
    assert (first["PPYOLOE"].pop("backbone"), second["PPYOLOE"].pop("backbone")) == ("CSPResNet", "EConvNeXt")
    assert first.pop("CSPResNet")
    assert second.pop("EConvNeXt")
    assert first == second


@pytest.mark.parametrize("stem", ["sonar", "duo", "marine_debris", "marine_debris_scenes", "synthetic_sonar"])
def test_the_classes_of_a_data_set_are_those_of_its_list(stem):
    from detection.annotations import CLASS_SETS
    from detection.synthetic import CLASSES

    data = load_config_file(CONFIGS / "detection" / "datasets" / f"{stem}.yml").data
    classes = CLASSES if stem == "synthetic_sonar" else CLASS_SETS[stem.removesuffix("_scenes")]
    assert data["num_classes"] == len(classes)
    for part in ("Train", "Eval", "Test"):
        assert data[f"{part}Dataset"]["dataset_dir"] == f"dataset/{stem}"
