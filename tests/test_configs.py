"""Every configuration in the tree says what it is for, loads without a complaint, and its model builds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from detection.configuration import DetectionConfig, load_config
from detection.golden import detector_configs
from ppcls_ext.utils.config import load_config_file

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


def test_the_promised_configurations_are_there():
    expected = {f"econvnext_{size}.yaml" for size in ("mini", "tiny", "small")}
    expected |= {"convnext_tiny.yaml", "quickstart.yaml", "finetune_folder.yaml", "cifar100/subset.yaml"}
    rows = ("convnext_tiny", "convnext_tiny_swinmlp", "resnet101", "vit_base", "convnextv2_nano", "econvnext_mini")
    expected |= {f"cifar100/{row}.yaml" for row in (*rows, "econvnext_tiny")}
    assert expected <= {name_of(file) for file in CLASSIFICATION}


def test_the_promised_detectors_are_there():
    rows = ("s_cspresnet", "s_econvnext_mini", "l_cspresnet", "l_econvnext_tiny")
    expected = {f"ppyoloe/ppyoloe_{row}_{data}.yml" for row in rows for data in ("sonar", "duo")}
    expected |= {f"marine_debris/ppyoloe_{row}.yml" for row in rows[:2]}
    rows = ("n", "s", "l", "s_econvnext_mini")
    expected |= {f"yolov10/yolov10_{row}_{data}.yml" for row in rows for data in ("sonar", "duo")}
    expected |= {f"yolov10/yolov10_{row}.yml" for row in YOLOV10_PUBLISHED}
    expected |= {f"marine_debris/yolov10_{row}.yml" for row in ("n", "s", "s_econvnext_mini")}
    expected.add("quickstart.yml")
    assert expected <= {file.relative_to(CONFIGS / "detection").as_posix() for file in DETECTION}
    datasets = {file.stem for file in (CONFIGS / "detection" / "datasets").glob("*.yml")}
    assert {"sonar", "duo", "marine_debris"} <= datasets


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_it_begins_with_a_comment(file):
    assert len(opening_comment(file).strip()) > 20


@pytest.mark.parametrize("file", [*CLASSIFICATION, *DETECTION], ids=name_of)
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
    assert settings.one_dim_param_no_weight_decay
    schedule = config.optimizer.build_schedule(epochs=300, steps_each_epoch=1)
    assert schedule.rate_at(0) == 0
    assert schedule.rate_at(20) == pytest.approx(2.5e-4)
    assert schedule.rate_at(300) == pytest.approx(1e-6)
    assert [(weight, loss.epsilon) for weight, loss in config.train_loss.parts] == [(1.0, 0.1)]
    assert config.metrics[0].topk == [1, 5]


detectors = pytest.mark.parametrize("file", DETECTION, ids=name_of)


def operators_of(config: DetectionConfig, reader: str) -> dict[str, Any]:
    """Operators of single images and then of batches, with their arguments, in their order."""
    section = config.data[reader]
    entries = [*section["sample_transforms"], *section.get("batch_transforms", [])]
    operators = {name: arguments for entry in entries for name, arguments in entry.items()}
    assert len(operators) == len(entries), "an operator stands twice"
    return operators


@detectors
def test_a_detector_has_one_level_of_bases(file):
    bases = load_config_file(file).data.get("_BASE_", [])
    assert isinstance(bases, list), "PaddleDetection takes a list only"
    assert bases
    for base in bases:
        assert "_BASE_" not in load_config_file(file.parent / base).data


@pytest.mark.parametrize("file", sorted((CONFIGS / "detection").rglob("*.yml")), ids=name_of)
def test_paddledetection_reads_the_same_values(file):
    # It uses plain YAML 1.1, for which 2e-4 is a text.
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == load_config_file(file).data


@detectors
def test_a_detector_loads_and_sees_the_same_picture_everywhere(file):
    config = load_config(file)
    train, evaluation = operators_of(config, "TrainReader"), operators_of(config, "EvalReader")
    assert list(operators_of(config, "TestReader").items()) == list(evaluation.items())
    for name in ("SonarEnhance", "NormalizeImage"):
        assert train.get(name) == evaluation.get(name), name
    resizing = {name: arguments for name, arguments in evaluation.items() if name in ("Resize", "LetterResize")}
    (arguments,) = resizing.values()
    height, width = arguments["target_size"]
    assert config.data["TestReader"]["inputs_def"]["image_shape"] == [3, height, width]
    assert [height, width] == [640, 640] or "marine_debris" in file.parts or file.name == "quickstart.yml"


@detectors
def test_a_detector_is_given_labels_that_paddle_can_add_and_suppression_that_it_can_save(file):
    config = load_config(file)
    batch = [name for entry in config.data["TrainReader"]["batch_transforms"] for name in entry]
    assert batch.index("LabelsToInt64") == batch.index("PadGT") + 1
    if config.architecture == "YOLOv10":
        assert "nms" not in file.read_text(encoding="utf-8"), "it needs none"
        return
    nms = {"name": "MultiClassNMS3", "nms_top_k": 1000, "keep_top_k": 300, "score_threshold": 0.01,
           "nms_threshold": 0.7}  # fmt: skip
    assert config.data["PPYOLOEHead"]["nms"] == nms


@pytest.mark.parametrize("data", ["sonar", "duo"])
def test_only_sonar_frames_are_enhanced(data):
    files = [file for file in DETECTION if file.stem.endswith(f"_{data}") and file.parent.name != "detection"]
    assert len(files) >= 8
    for file in files:
        operators = operators_of(load_config(file), "EvalReader")
        assert operators.get("SonarEnhance") == ({"method": "equalize"} if data == "sonar" else None)


@pytest.mark.parametrize("row", ["ppyoloe_s_econvnext_mini", "ppyoloe_l_econvnext_tiny"])
@pytest.mark.parametrize("data", ["sonar", "duo"])
def test_the_published_recipe_of_detectors_with_econvnext(row, data):
    data_of = load_config(CONFIGS / "detection" / "ppyoloe" / f"{row}_{data}.yml").data
    assert (data_of["epoch"], data_of["TrainReader"]["batch_size"], data_of["ema_decay"]) == (36, 4, 0.9998)
    assert data_of["OptimizerBuilder"] == {"regularizer": False, "optimizer": {"type": "AdamW", "weight_decay": 0.0005}}
    assert data_of["LearningRate"]["base_lr"] == 0.0002
    assert [entry["name"] for entry in data_of["LearningRate"]["schedulers"]] == ["PiecewiseDecay"]
    head = data_of["PPYOLOEHead"]
    assert (head["static_assigner_epoch"], head["static_assigner"]["name"]) == (12, "ATSSAssigner")
    assert head["assigner"] == {"name": "TaskAlignedAssigner", "topk": 13, "alpha": 1.0, "beta": 6.0}
    assert head["loss_weight"] == {"class": 1.0, "iou": 2.5, "dfl": 0.5}
    assert (data_of["depth_mult"], data_of["width_mult"]) == ((0.33, 0.5) if "_s_" in row else (1.0, 1.0))
    sizes = data_of["TrainReader"]["batch_transforms"][0]["BatchRandomResize"]["target_size"]
    assert sizes == list(range(320, 769, 32))


@pytest.mark.parametrize("row", ["ppyoloe_s_cspresnet", "ppyoloe_l_cspresnet"])
@pytest.mark.parametrize("data", ["sonar", "duo"])
def test_the_published_recipe_of_the_baselines(row, data):
    data_of = load_config(CONFIGS / "detection" / "ppyoloe" / f"{row}_{data}.yml").data
    assert data_of["OptimizerBuilder"]["optimizer"] == {"type": "Momentum", "momentum": 0.9}
    assert data_of["LearningRate"]["base_lr"] == 0.00125
    cosine, warmup = data_of["LearningRate"]["schedulers"]
    assert (cosine["name"], warmup["name"], warmup["steps"]) == ("CosineDecay", "LinearWarmup", 2000)


YOLOV10 = sorted((CONFIGS / "detection" / "yolov10").glob("*.yml"))


@pytest.mark.parametrize("file", YOLOV10, ids=name_of)
def test_what_all_rows_of_yolov10_share(file):
    """Mosaics in epochs 0 to 31 of 36, HSV, flips, pixels divided by 255, a letterbox; around sonar it is black."""
    config = load_config(file)
    train, evaluation = operators_of(config, "TrainReader"), operators_of(config, "EvalReader")
    sonar = config.num_classes == 8
    assert sonar == file.stem.endswith("_sonar")
    assert (config.epochs, config.data["TrainReader"]["mosaic_epoch"]) == (36, 32)
    assert train["MosaicPerspective"]["target_size"] == evaluation["LetterResize"]["target_size"] == [640, 640]
    fills = [train["MosaicPerspective"]["fill_value"], evaluation["LetterResize"]["fill_value"]]
    assert fills == [[0] * 3 if sonar else [114] * 3] * 2
    names = [name for name in train if name not in ("SonarEnhance", "NormalizeImage", "Permute", "PadGT")]
    flip = "SonarFlip" if sonar else "RandomFlip"
    assert names == ["Decode", "MosaicPerspective", "RandomHSV", flip, "LabelsToInt64"]
    assert train["NormalizeImage"]["norm_type"] == "none"
    average = [config.data[key] for key in ("use_ema", "ema_decay_type", "ema_decay")]
    assert average == [True, "exponential", 0.9998]
    recipe = config.data["LearningRate"]["base_lr"], config.data["OptimizerBuilder"]["optimizer"]
    course, warmup = config.data["LearningRate"]["schedulers"]
    batch = config.data["TrainReader"]["batch_size"]
    if config.data["YOLOv10"]["backbone"] == "YOLOv10Backbone":
        assert (recipe, batch) == ((0.00125, {"type": "Momentum", "momentum": 0.9}), 8)
        assert (course["name"], warmup["steps"]) == ("CosineDecay", 2000)
        assert config.data["scale"] == file.stem.split("_")[1].upper()
    else:
        assert (recipe, batch) == ((0.0002, {"type": "AdamW", "weight_decay": 0.0005}), 4)
        assert (course["name"], course["gamma"]) == ("PiecewiseDecay", [1.0])
        assert "scale" not in config.data
    assert warmup["name"] == "LinearWarmup"


@pytest.mark.parametrize("file", YOLOV10, ids=name_of)
def test_a_row_of_yolov10_names_the_papers_figure_or_says_that_there_is_none(file):
    published = YOLOV10_PUBLISHED.get(file.stem.removeprefix("yolov10_"))
    expected = f"Expected:  mAP {published} (the paper's" if published else "ours is not measured."
    assert expected in opening_comment(file)


@pytest.mark.parametrize(
    ("row", "backbone", "depth", "places"),
    [
        ("m_convnext_tiny_sonar", "ConvNeXt", 0.67, ["F4", "N4", "N5"]),
        ("m_econvnext_tiny_sonar", "EConvNeXt", 0.67, ["F4", "N4", "N5"]),
        ("l_econvnext_tiny_duo", "EConvNeXt", 1.0, ["F4", "N4", "N5"]),
    ],
)
def test_the_necks_of_the_published_rows_with_other_backbones(row, backbone, depth, places):
    data = load_config(CONFIGS / "detection" / "yolov10" / f"yolov10_{row}.yml").data
    assert data["YOLOv10"]["backbone"] == backbone
    assert data[backbone]["arch"] == "tiny"
    assert data["YOLOv10Neck"] == {"depth_mult": depth, "cib": places, "large_kernel": []}


def test_the_light_row_has_the_neck_of_both_small_scales():
    from detection.yolov10.scales import NECK_PLACES, SCALES

    neck = load_config(CONFIGS / "detection" / "yolov10" / "yolov10_s_econvnext_mini_sonar.yml").data["YOLOv10Neck"]
    for scale in (SCALES["N"], SCALES["S"]):
        in_neck = [[place for place in places if place in NECK_PLACES] for places in (scale.cib, scale.large_kernel)]
        assert neck == {"depth_mult": scale.depth, "cib": in_neck[0], "large_kernel": in_neck[1]}


def test_the_marine_debris_rows_of_yolov10_differ_from_ppyoloe_in_the_detector_only():
    folder = CONFIGS / "detection" / "marine_debris"
    rows = ("ppyoloe_s_cspresnet", "yolov10_n", "yolov10_s", "yolov10_s_econvnext_mini")
    theirs, *ours = (load_config(folder / f"{row}.yml").data for row in rows)
    for row in ours:
        for key in ("epoch", "LearningRate", "OptimizerBuilder", "TrainReader", "EvalReader", "TestReader", "use_ema",
                    "TrainDataset", "EvalDataset", "seed", "norm_type"):  # fmt: skip
            assert row[key] == theirs[key], key
        assert (row["ema_decay"], row.get("ema_decay_type")) == (theirs["ema_decay"], theirs.get("ema_decay_type"))


def test_the_marine_debris_rows_differ_only_in_their_backbone():
    rows = ("ppyoloe_s_cspresnet", "ppyoloe_s_econvnext_mini")
    first, second = (load_config(CONFIGS / "detection" / "marine_debris" / f"{row}.yml").data for row in rows)
    assert (first["PPYOLOE"].pop("backbone"), second["PPYOLOE"].pop("backbone")) == ("CSPResNet", "EConvNeXt")
    assert first.pop("CSPResNet")
    assert second.pop("EConvNeXt")
    assert first == second


@pytest.mark.parametrize("stem", ["sonar", "duo", "marine_debris", "synthetic_sonar"])
def test_the_classes_of_a_data_set_are_those_of_its_list(stem):
    from detection.annotations import CLASS_SETS
    from detection.synthetic import CLASSES

    data = load_config_file(CONFIGS / "detection" / "datasets" / f"{stem}.yml").data
    assert data["num_classes"] == len(CLASSES if stem == "synthetic_sonar" else CLASS_SETS[stem])
    for part in ("Train", "Eval", "Test"):
        assert data[f"{part}Dataset"]["dataset_dir"] == f"dataset/{stem}"
