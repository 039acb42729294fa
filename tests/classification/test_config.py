"""Every mistake in a configuration, at any depth, gets its one line; all come at once, before any data are read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from classification.config import check_config, load_config
from ppcls_ext.utils.errors import ConfigError, UserError
from ppcls_ext.utils.outputs import inputs_of
from tests.support.runs import small_config, write_config

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "econvnext_mini.yaml"
TRAIN_OPS = "DataLoader.Train.dataset.transform_ops"
BATCH_OPS = "DataLoader.Train.dataset.batch_transform_ops"


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return error.value.problems


def variant(tmp_path: Path, change) -> Path:
    """Writes the ImageNet recipe after ``change`` has altered its dictionary."""
    data = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    change(data)
    file = tmp_path / "variant.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file


MISTAKES = [
    # Unknown keys at every depth, each with the nearest one.
    ("Globl.epochs=3", "", "unknown key 'Globl' (did you mean 'Global'?); allowed: Global, AMP, EMA, Arch, Loss,"),
    ("Arch.drop_path_rat=0.1", "Arch", "unknown argument 'drop_path_rat' (did you mean 'drop_path_rate'?)"),
    # Unknown names of models, classes, operators.
    ("Arch.name=EConvNeXt_minni", None, "unknown model 'EConvNeXt_minni'; did you mean EConvNeXt_mini"),
    (f"{TRAIN_OPS}[1]={{RandCropImg: {{size: 3}}}}", None, "unknown operator 'RandCropImg' (did you mean 'RandCropIm"),
    # Wrong types, of sections and of values.
    ("DataLoader.Train=5", None, "must be a mapping, got 5 (int)"),
    ("Global.epochs=1.5", None, "must be a whole number, got 1.5 (float)"),
    ("Global.epochs=[1", None, "must be a whole number, got '[1' (str)"),
    ("Global.image_shape=[3, a, 224]", "Global.image_shape[1]", "must be a whole number, got 'a' (str)"),
    ("Optimizer.lr.learning_rate=.nan", None, "must be a finite number, got nan"),
    # Wrong choices.
    ("Global.amp_dtype=float32", None, "must be one of float16, bfloat16, got 'float32' (did you mean 'float16'?)"),
    ("Arch.pretrained=True", None, "no weights are downloaded; give a file with Global.pretrained_model=PATH instead"),
    # Behind what they cannot follow.
    (f"{TRAIN_OPS}=[{{NormalizeImage: {{}}}}, {{ColorJitter: {{}}}}]", f"{TRAIN_OPS}[1].ColorJitter", "works on bytes"),
    (f"{TRAIN_OPS}=[NormalizeImage, {{ResizeImage: {{size: 8, backend: pil}}}}]", f"{TRAIN_OPS}[1].ResizeImage", "wor"),
    (f"{TRAIN_OPS}=[ToCHWImage, RandFlipImage]", f"{TRAIN_OPS}[1].RandFlipImage", "works on images [H, W, 3]: it must"),
    # Labels wanted.
    ("DataLoader.Eval.dataset={name: UnlabelledImages, image_root: x}", "DataLoader.Eval.dataset.name", "has no label"),
    # Missing.
    ("Arch=null", "Arch.name", "must name the model"),
    # Out of range.
    ("EMA.decay=1.5", None, "must be below 1, got 1.5"),
    (f"{BATCH_OPS}[0].OpSampler.MixupOperator.prob=0.7", f"{BATCH_OPS}[0].OpSampler.prob", "the sum over the operator"),
    # Two names of one thing.
    ("Optimizer.clip_norm=1 Optimizer.clip_grad=2", "Optimizer.clip_grad", "is another name of clip_norm"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "message"), MISTAKES, ids=[changes for changes, _, _ in MISTAKES])
def test_each_mistake_gets_its_one_line(changes, key, message):
    changes = re.split(r" (?=[A-Z]\w+\.)", changes)
    problems = problems_of(RECIPE, *changes)
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    key = changes[0].partition("=")[0] if key is None else key
    assert f": {key}: {message}" in problems[0] if key else f": {message}" in problems[0]


SPLITS = {
    "DataLoader.Eval.dataset.seed=1": "seed: is 1, and 0 in DataLoader.Train.dataset: images would be learnt and ev",
    "DataLoader.Eval.dataset.holdout=0.5": "holdout: is 0.5, and 0.2 in",
    "DataLoader.Train.dataset={name: Cifar10, data_file: a} DataLoader.Eval.dataset={name: Cifar10, data_file: a, "
    "split: val}": "split: is val, and None in DataLoader.Train.dataset: .*; it must be train in one of them and val",
}


@pytest.mark.parametrize("changes", SPLITS)
def test_splits_that_share_images_are_refused(changes):
    (problem,) = problems_of(ROOT / "configs" / "quickstart.yaml", *re.split(r" (?=Data)", changes))
    assert re.search(f": DataLoader.Eval.dataset.{SPLITS[changes]}", problem)


def test_splits_of_one_draw_and_those_of_other_files_are_not():
    draw = [f"DataLoader.{part}.dataset.{key}" for part in ("Train", "Eval") for key in ("holdout=0.5", "seed=1")]
    assert load_config(ROOT / "configs" / "quickstart.yaml", draw).eval.dataset_arguments["seed"] == 1
    parts = {"Train": "data_file: a, split: train, seed: 2", "Eval": "data_file: a, mode: test"}
    load_config(RECIPE, [f"DataLoader.{part}.dataset={{name: Cifar10, {text}}}" for part, text in parts.items()])


def test_all_mistakes_of_a_file_come_at_once():
    changes = [
        "Global.epochs=-1", "Global.sede=1", "Arch.name=Nothing", "Loss.Train[0].CELoss.epsilon=2", "EMA.decay=x",
        "Optimizer.beta1=5", f"{TRAIN_OPS}[1].RandCropImage.sice=3", "DataLoader.Eval.sampler.batch_size=0",
        f"{BATCH_OPS}[0].OpSampler.MixupOperator.alhpa=3", "Infer.PostProcess.topk=0", "Metric.Eval[0].TopkAcc.topk=0",
    ]  # fmt: skip
    problems = problems_of(RECIPE, *changes)
    for change in changes:
        assert any(problem.startswith(f"-o {change}: ") for problem in problems), (change, problems)
    assert len(problems) == len(changes)


@pytest.mark.parametrize(("change", "warm_up"), [
    ([], 20), (["Global.epochs=15"], 1), (["Global.epochs=15", "Optimizer.lr.warmup_epoch=3"], 3),
    (["Global.epochs=1"], 0.0666667),
])  # fmt: skip
def test_the_warm_up_is_a_share_of_the_epochs_unless_it_is_stated(change, warm_up):
    config = load_config(RECIPE, change)
    assert config.optimizer.schedule.warmup_epoch == config.document.data["Optimizer"]["lr"]["warmup_epoch"] == warm_up
    expected = f"Global.epochs 300 -> {config.run.epochs}: Optimizer.lr.warmup_epoch 20 -> {warm_up:g}; set another"
    assert (warm_up in (20, 3)) or config.document.notes[0].startswith(expected)


def test_numbers_spelt_as_texts_reach_the_constructors_and_a_bare_number_is_a_constant_rate():
    other_names = ["Optimizer.clip_grad=2.0", "Optimizer.regularizer={name: L2, coeff: 1e-4}"]
    config = load_config(RECIPE, ["Optimizer.lr=4e-3", "Optimizer.epsilon='1.0/1000.0'", other_names[0]])
    assert (config.optimizer.settings.epsilon, config.optimizer.settings.clip_norm) == (0.001, 2.0)
    (problem,) = problems_of(RECIPE, other_names[1])
    assert "is another name of weight_decay" in problem
    schedule = config.optimizer.schedule.over(epochs=3, steps_each_epoch=5)
    assert [schedule.rate_at(step) for step in (0, 7, 14)] == [0.004] * 3


def test_a_section_that_is_null_or_absent_is_off(tmp_path):
    def without(data):
        for section in ("AMP", "EMA", "Infer", "Metric", "Optimizer"):
            del data[section]
        data["Global"] = None

    config = load_config(variant(tmp_path, without))
    assert (config.amp, config.ema, config.infer, config.optimizer, config.topk) == (None, None, None, None, 5)
    assert config.metrics[0].names == ["top1", "top5"]
    assert config.run.epochs == 100


def test_what_may_be_said_in_two_places():
    assert load_config(RECIPE).amp is None
    assert load_config(RECIPE, ["AMP.use_amp=True"]).amp.level == "O1"
    config = load_config(RECIPE, ["Arch={name: EConvNeXt_tiny}", "Global.class_num=7"])
    assert config.arch.class_num == config.arch.arguments["class_num"] == 7
    assert load_config(RECIPE, ["Arch.class_num=9", "Global.class_num=7"]).arch.class_num == 9


def test_the_resolved_text_loads_to_the_same_configuration(tmp_path):
    changes = ["Global.epochs=7", "Optimizer.lr.warmup_epoch=2", f"{TRAIN_OPS}.1.RandCropImage.size=64"]
    config = load_config(RECIPE, changes)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    again = load_config(file)
    assert again.document.data == config.document.data
    assert (again.run, again.arch) == (config.run, config.arch)
    assert again.document.data["Global"]["epochs"] == 7


def test_the_configuration_of_paddleclas_loads_unmodified():
    checkout = os.environ.get("PADDLECLAS_DIR")
    file = Path(checkout or "", "ppcls/configs/ImageNet/ConvNeXt/ConvNeXt_tiny.yaml")
    if not checkout or not file.is_file():
        pytest.skip("PADDLECLAS_DIR does not name a PaddleClas checkout: its ConvNeXt_tiny.yaml not loaded")
    config = load_config(file)
    assert config.arch.name == "ConvNeXt_tiny"
    assert config.arch.arguments["layer_scale_init_value"] == 1e-6
    assert config.optimizer.schedule.learning_rate == 4e-3
    assert config.run.update_freq == 4
    assert [type(operator).__name__ for operator in config.train.operators] == [
        "DecodeImage", "RandCropImage", "RandFlipImage", "TimmAutoAugment", "NormalizeImage", "RandomErasing",
    ]  # fmt: skip
    assert type(config.train.batch_operator).__name__ == "OpSampler"


def test_a_detection_configuration_is_told_in_one_line(tmp_path):
    path = tmp_path / "detector.yml"
    path.write_text("_BASE_: ['../coco.yml']\narchitecture: PPYOLOE\nx: !Tag {}\n")
    message = "this is a detection configuration; use a classification configuration (with Arch)"
    with pytest.raises(UserError) as told:
        load_config(path)
    assert str(told.value) == f"{path}: {message}"


@pytest.mark.parametrize("text", ["my run #3", "a: b", "[x", "007", "yes", "*star", "it's", "~", "海参 'x'"])
def test_a_key_that_takes_text_takes_the_whole_text_as_it_stands(tmp_path, text):
    """Where a text stands so far, where null does, where nothing does, and where false may stand as well."""
    file = write_config(tmp_path, small_config(tmp_path / "run"))
    keys = ("Global.output_dir", "Global.pretrained_model", "Global.save_inference_dir", "Arch.pretrained")
    config = load_config(file, [f"{key}={text}" for key in keys if (key, text) != ("Arch.pretrained", "yes")])
    assert (config.run.output_dir, config.run.pretrained_model, config.run.save_inference_dir) == (text,) * 3
    assert config.arch.pretrained == (False if text == "yes" else text)
    # What is written into the folder of the run says the same.
    assert yaml.safe_load(config.to_yaml())["Global"]["output_dir"] == text


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(RECIPE, ["Global.output_dir=~/runs", "Global.pretrained_model=~nobody of that name/best"])
    assert config.output_dir == tmp_path / "runs"
    assert RECIPE in inputs_of(config.document)[0]


def test_null_quotes_and_other_types(tmp_path):
    file = write_config(tmp_path, small_config(tmp_path / "run", Global__pretrained_model="weights.pdparams"))
    assert load_config(file).run.pretrained_model == "weights.pdparams"
    for nothing in ("null", ""):
        assert load_config(file, [f"Global.pretrained_model={nothing}"]).run.pretrained_model is None
    # In quotes as in the file.
    assert load_config(file, ['Global.pretrained_model="null"']).run.pretrained_model == "null"
    assert load_config(file, ['Global.pretrained_model="a\\tb"']).run.pretrained_model == "a\tb"
    config = load_config(file, ["Global.output_dir=null", "Global.epochs=007", "Arch.pretrained=false"])
    assert (config.run.output_dir, config.run.epochs, config.arch.pretrained) == ("null", 7, False)
    # Taken once: a changed copy is checked without the changes of before.
    config.document.data["Global"]["output_dir"] = "elsewhere"
    assert check_config(config.document).run.output_dir == "elsewhere"
