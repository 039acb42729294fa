"""What is wrong with a detection configuration is said in full, with places and names, before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from detection.configuration import checks, load_config
from detection.configuration.config import warn_of_other_contrast
from ppcls_ext.utils.errors import ConfigError, UserError
from tests.support.detection_configs import line_of, write_config
from tests.support.runs import ROOT

YOLOV10 = ROOT / "configs" / "detection" / "yolov10" / "yolov10_n_sonar.yml"


def problems_of(file, overrides=()) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(file, overrides)
    return error.value.problems


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        # operators
        (("RandomCrop: {aspect_ratio", "RandomCrop: {aspct_ratio"), "- RandomCrop",
         "TrainReader.sample_transforms[1].RandomCrop: unknown argument 'aspct_ratio' (did you mean 'aspect_ratio'?)"),
        (("- RandomCrop:", "- RandomCorp:"), "- RandomCorp",
         "TrainReader.sample_transforms[1]: unknown operator 'RandomCorp' (did you mean 'RandomCrop'?)"),
        # top level
        (("epoch: 3", "epcoh: 3"), "epcoh", "unknown key 'epcoh' (did you mean 'epoch'?)"),
        # modules
        (("backbone: EConvNeXt", "backbone: EConvNext2"), "backbone",
         "PPYOLOE.backbone: unknown class 'EConvNext2' (did you mean 'EConvNeXt'?)"),
        # PaddleDetection creates the parts of a network by their names only.
        (("backbone: EConvNeXt", "backbone: {name: EConvNeXt}"), "backbone",
         "PPYOLOE.backbone: must be the name of a class, got {'name': 'EConvNeXt'}"),
        (("arch: mini", "arch: minni"), "arch: minni",
         "EConvNeXt.arch: must be one of mini, tiny, small, got 'minni' (did you mean 'mini'?)"),
        # The switches of classifiers for studies: a backbone's weights and widths are the published ones.
        (("arch: mini", "csp: false"), "csp", "EConvNeXt: unknown argument 'csp'; allowed: arch, return_idx, "),
        # learning rate and optimizer
        (("name: CosineDecay", "name: CosinDecay"), "- {name: CosinDecay",
         "LearningRate.schedulers[0].name: unknown scheduler 'CosinDecay' (did you mean 'CosineDecay'?)"),
        (("    - {name: LinearWarmup, steps: 5}\n", ""), "- {name: CosineDecay",
         "LearningRate.schedulers[0]: needs a warm-up (LinearWarmup or ExpWarmup) after it, or use_warmup: false"),
        (("type: Momentum, momentum", "type: AdamW, momentum"), "optimizer:",
         "OptimizerBuilder.optimizer: unknown argument 'momentum'; allowed: "),
        (("momentum: 0.9", "momentum: 0.9, weight_decay: 0.1"), "optimizer:",
         "OptimizerBuilder.optimizer.weight_decay: Momentum takes its weight decay from OptimizerBuilder.regularizer"),
        # mosaics that would not happen
        (("- RandomCrop: {aspect_ratio: [0.5, 2.0]}", "- MosaicPerspective: {target_size: 64}"), "- MosaicPerspective",
         "TrainReader.sample_transforms[1]: MosaicPerspective gets one sample only: set TrainReader.mosaic_epoch, the "
         "epoch from which it is off (-1: off from the start, 0: on to the end)"),
        (("batch_size: 2", "batch_size: 2\n  mosaic_epoch: 3"), "mosaic_epoch",
         "TrainReader.mosaic_epoch: needs MosaicPerspective in TrainReader.sample_transforms"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place_and_the_nearest_name(tmp_path, change, line, message):
    file = write_config(tmp_path, change)
    found = [problem for problem in problems_of(file) if "missing key" not in problem]
    assert len(found) == 1, found
    assert found[0].startswith(f"{file}:{line_of(file, line)}: {message}")


def test_a_letterbox_wants_an_architecture_that_knows_of_it(tmp_path):
    letterbox = "[{Decode: {}}, {LetterResize: {target_size: 64}}]"
    for reader in ("EvalReader", "TestReader"):
        (found,) = problems_of(write_config(tmp_path), [f"{reader}.sample_transforms={letterbox}"])
        message = "LetterResize needs architecture: YOLOv10, which takes its padding back; PPYOLOE does not"
        assert found.endswith(f"{reader}.sample_transforms[1]: {message}")
        assert load_config(YOLOV10, [f"{reader}.sample_transforms={letterbox}"])
    assert load_config(write_config(tmp_path), [f"TrainReader.sample_transforms={letterbox}"])
    behind = letterbox.replace("}}]", "}}, {Resize: {target_size: 64, keep_ratio: false}}]")
    (found,) = problems_of(YOLOV10, [f"EvalReader.sample_transforms={behind}"])
    assert "sample_transforms[2]: Resize cannot follow LetterResize, which gives the final size" in found


def test_keys_and_sections_that_must_be_there(tmp_path):
    file = write_config(tmp_path, ("\nepoch:", "\n# gone:"))
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: text.index("TestReader:")], encoding="utf-8")
    assert problems_of(file) == [f"{file}: missing key 'epoch'", f"{file}: missing section 'TestReader'"]


def test_a_data_set_names_its_class(tmp_path):
    wrong = ["TrainDataset.name=COCODataset", "EvalDataset={dataset_dir: data}"]
    problems = problems_of(write_config(tmp_path), wrong)
    assert len(problems) == 2
    assert "TrainDataset.name: unknown data set 'COCODataset' (did you mean 'COCODataSet'?)" in problems[0]
    assert "EvalDataset: missing argument 'name'" in problems[1]


def test_all_problems_are_reported_together(tmp_path):
    file = write_config(tmp_path, ("- RandomCrop:", "- RandomCorp:"), ("epoch: 3", "epoch: 0"), ("topk: 9", "top: 9"))
    problems = problems_of(file, ["TrainReader.batch_size=none", "use_emma=true"])
    words = ("RandomCorp", "epoch: must be at least 1", "'top'", "batch_size", "'use_emma'")
    assert len(problems) == len(words)
    for word in words:
        assert sum(word in problem for problem in problems) == 1, word
    assert any(problem.startswith("-o use_emma=true: unknown key") for problem in problems)


def test_what_paddledetection_knows_is_accepted(tmp_path):
    keys = [
        "print_flops=false", "find_unused_parameters=true", "norm_type=sync_bn", "eval_size=[64, 64]", "seed=3",
        "export={post_process: true, nms: true}", "TrainReader.mosaic_epoch=-1", "TrainReader.use_shared_memory=true",
        "PPYOLOE.post_process=null", "PPYOLOE.backbone=CSPConvNeXt", "PPYOLOEHead.nms=MultiClassNMS",
        "PPYOLOEHead.num_classes=2", "CSPResNet={layers: [3, 6, 6, 3], use_large_stem: true}",
        "TrainDataset.allow_empty=true", "OptimizerBuilder.clip_grad_by_norm=1.0", "OptimizerBuilder.regularizer=false",
        "LearningRate.schedulers=[{name: PiecewiseDecay, milestones: [1], gamma: [1.0], use_warmup: false}]",
    ]  # fmt: skip
    file = write_config(tmp_path)
    load_config(file, keys)
    for optimizer in ("{type: AdamW, weight_decay: 0.05, beta1: 0.9}", "{type: AdamWDL, layer_decay: 0.9}"):
        load_config(file, [f"OptimizerBuilder={{optimizer: {optimizer}}}"])


def test_a_key_that_is_there_for_its_anchor_is_no_mistake(tmp_path):
    shape = ("image_shape: [3, 64, 64]", "image_shape: *my_shape")
    file = write_config(tmp_path, ("epoch: 3", "epoch: 3\nmy_own_shape: &my_shape [3, 64, 64]"), shape)
    assert load_config(file).data["TestReader"]["inputs_def"]["image_shape"] == [3, 64, 64]


def test_no_paddledetection_at_all_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ppdet", None)
    checks.catalog.cache_clear()
    with pytest.raises(UserError, match="PaddleDetection cannot be imported: package ppdet is missing"):
        load_config(write_config(tmp_path))


@pytest.mark.parametrize("value", ["null", "{1: 2}", "[{name: x}]"])
def test_whatever_stands_in_place_of_a_section_is_answered_in_words(tmp_path, value):
    file = write_config(tmp_path)
    for section in load_config(file).data:
        if section[0].isupper():
            assert all(section in problem for problem in problems_of(file, [f"{section}={value}"])), section


def test_keys_that_take_text_take_it_as_it_stands(tmp_path):
    """Of ours by their types; of the toolkit's data sets the paths; elsewhere what takes the place of a text."""
    for text in ("my data #2", "[x", "007", "海参"):
        changes = ["save_dir", "weights", "TrainDataset.anno_path", "EvalDataset.image_dir", "EvalDataset.dataset_dir"]
        data = load_config(write_config(tmp_path), [f"{key}={text}" for key in changes]).data
        found = [data["save_dir"], data["weights"], data["TrainDataset"]["anno_path"]]
        assert [*found, data["EvalDataset"]["image_dir"], data["EvalDataset"]["dataset_dir"]] == [text] * 5
    assert load_config(write_config(tmp_path), ["save_dir=~/runs"]).output_dir.parent == Path.home() / "runs"
    data = load_config(write_config(tmp_path), ["weights=null", "TrainDataset.dataset_dir=null", "epoch=012"]).data
    assert (data["weights"], data["TrainDataset"]["dataset_dir"], data["epoch"]) == (None, None, 10)
    problems = problems_of(write_config(tmp_path), ["LearningRate.base_lr=[1"])
    assert len(problems) == 1 and "LearningRate.base_lr" in problems[0]
    # Where the schema knows no type.
    (problem,) = problems_of(write_config(tmp_path), ["PPYOLOEHead.fpn_strides=[32,16"])
    assert "PPYOLOEHead.fpn_strides: '[32,16' is not a YAML value; if a text is meant, put it in" in problem


def test_contrast_other_than_in_training_is_told(caplog):
    config = load_config(ROOT / "configs" / "detection" / "ppyoloe" / "ppyoloe_s_econvnext_mini_sonar.yml")
    warn_of_other_contrast(config, "Test")
    assert caplog.text == ""
    steps = config.data["TestReader"]["sample_transforms"]
    config.data["TestReader"]["sample_transforms"] = [
        {"SonarEnhance": {"method": "log"}} if "SonarEnhance" in step else step for step in steps
    ]
    warn_of_other_contrast(config, "Test")
    assert "TrainReader has [{'method': 'equalize'}]" in caplog.text and "[{'method': 'log'}]" in caplog.text
