"""Every mistake in a configuration, at any depth, gets its one line; all come at once, and without loading Paddle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from classification.config import load_config
from ppcls_ext.utils.errors import ConfigError

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


def test_the_example_of_the_design_word_by_word(tmp_path):
    text = RECIPE.read_text(encoding="utf-8")
    file = tmp_path / "typo.yaml"
    file.write_text(text.replace("RandCropImage:\n            size:", "RandCropImage:\n            sise:"), "utf-8")
    line = next(number for number, row in enumerate(file.read_text("utf-8").splitlines(), 1) if "sise:" in row)
    unknown, missing = problems_of(file)
    assert unknown.startswith(
        f"{file}:{line}: DataLoader.Train.dataset.transform_ops[1].RandCropImage: "
        "unknown argument 'sise' (did you mean 'size'?); allowed: size, "
    )
    assert missing == f"{file}:{line - 1}: {TRAIN_OPS}[1].RandCropImage: missing argument 'size'"


# Each is one change to the ImageNet recipe, the dotted key under which it must be reported, and how the message begins.
SAME = None
MISTAKES = [
    # Unknown keys at every depth.
    ("Globl.epochs=3", "", "unknown key 'Globl' (did you mean 'Global'?); allowed: Global, AMP, EMA, Arch, Loss,"),
    ("Global.epoks=3", "Global", "unknown argument 'epoks' (did you mean 'epochs'?); allowed: "),
    ("AMP.leval=O1", "AMP", "unknown argument 'leval' (did you mean 'level'?)"),
    ("EMA.dekay=0.9", "EMA", "unknown argument 'dekay' (did you mean 'decay'?)"),
    ("Arch.drop_path_rat=0.1", "Arch", "unknown argument 'drop_path_rat' (did you mean 'drop_path_rate'?)"),
    ("Loss.Trian=[]", "Loss", "unknown key 'Trian' (did you mean 'Train'?); allowed: Train, Eval"),
    ("Loss.Train[0].CELoss.epsilo=0.1", "Loss.Train[0].CELoss", "unknown argument 'epsilo' (did you mean 'epsilon'?)"),
    ("Optimizer.beta3=0.9", "Optimizer", "unknown argument 'beta3' (did you mean 'beta"),
    ("Optimizer.lr.learning_rat=1", "Optimizer.lr", "unknown argument 'learning_rat' (did you mean 'learning_rate'?)"),
    ("Optimizer.lr.epochs=3", "Optimizer.lr", "unknown argument 'epochs'"),
    ("DataLoader.Test={}", "DataLoader", "unknown key 'Test'; allowed: Train, Eval"),
    ("DataLoader.Eval.sampelr={}", "DataLoader.Eval", "unknown key 'sampelr' (did you mean 'sampler'?)"),
    ("DataLoader.Train.sampler.batchsize=3", "DataLoader.Train.sampler", "unknown argument 'batchsize' (did you mean "),
    ("DataLoader.Train.loader.workers=3", "DataLoader.Train.loader", "unknown argument 'workers' (did you mean 'num_w"),
    ("DataLoader.Train.dataset.root=x", "DataLoader.Train.dataset", "unknown argument 'root'; allowed: image_root, cl"),
    (f"{TRAIN_OPS}[5].RandomErasing.EPSILN=1", f"{TRAIN_OPS}[5].RandomErasing", "unknown argument 'EPSILN' (did you m"),
    ("Infer.batchsize=3", "Infer", "unknown argument 'batchsize' (did you mean 'batch_size'?)"),
    ("Infer.PostProcess.top=3", "Infer.PostProcess", "unknown argument 'top' (did you mean 'topk'?)"),
    ("Metric.Eval[0].TopkAcc.k=3", "Metric.Eval[0].TopkAcc", "unknown argument 'k'"),
    # Unknown names of models, operators, classes.
    ("Arch.name=EConvNeXt_minni", SAME, "unknown model 'EConvNeXt_minni'; did you mean EConvNeXt_mini"),
    ("Arch.name=5", SAME, "must name the model, such as EConvNeXt_mini"),
    ("Loss.Train[0]={CELos: {}}", SAME, "unknown name 'CELos' (did you mean 'CELoss'?); allowed: CELoss"),
    ("Optimizer.name=AdamV", SAME, "unknown name 'AdamV' (did you mean 'Adam'?); allowed: Adam, AdamW, Momentum,"),
    ("Optimizer.name=null", SAME, "is missing; allowed: Adam, AdamW"),
    ("Optimizer.lr.name=Cosin", SAME, "unknown name 'Cosin' (did you mean 'Cosine'?)"),
    ("DataLoader.Train.dataset.name=ImageNet", SAME, "unknown name 'ImageNet' (did you mean 'ImageNetDa"),
    (f"{TRAIN_OPS}[1]={{RandCropImg: {{size: 3}}}}", SAME, "unknown operator 'RandCropImg' (did you mean 'RandCropIm"),
    ("Infer.transforms[0]={RandFlipImage: null}", SAME, "unknown operator 'RandFlipImage'"),
    ("Metric.Eval[0]={TopAcc: {topk: 1}}", SAME, "unknown name 'TopAcc' (did you mean 'TopkAcc'?)"),
    (f"{BATCH_OPS}[0]={{OpSampler: {{Mixup: {{}}}}}}", f"{BATCH_OPS}[0].OpSampler", "unknown operator 'Mixup'; known:"),
    # Wrong types.
    ("Global=5", SAME, "must be a mapping of arguments, got 5"),
    ("Global.epochs=many", SAME, "must be a whole number, got 'many' (str)"),
    ("Global.epochs=1.5", SAME, "must be a whole number, got 1.5 (float)"),
    ("Global.use_visualdl=3", SAME, "must be true or false, got 3 (int)"),
    ("Global.image_shape=224", SAME, "must be a list, each entry a whole number, got 224 (int)"),
    ("Global.output_dir=[a]", SAME, "must be a text, got ['a'] (list)"),
    ("AMP=true", SAME, "must be a mapping of arguments, got True"),
    ("EMA.decay=much", SAME, "must be a number, got 'much' (str)"),
    ("Arch.class_num=ten", SAME, "must be a whole number, got 'ten' (str)"),
    ("Arch.use_sync_bn=maybe", SAME, "must be true or false, got 'maybe' (str)"),
    ("Arch.pretrained=5", SAME, "must be true or false or a text, got 5 (int)"),
    ("Loss=[]", SAME, "must be a mapping with the keys Train, Eval, got []"),
    ("Loss.Train={CELoss: {}}", SAME, "must be a list of '- Name: {arguments}' entries, got {'CELoss': {}}"),
    ("Loss.Train[0]={CELoss: {}, Other: {}}", SAME, "must hold one name with its arguments"),
    ("Loss.Train[0].CELoss=5", SAME, "must be a mapping of arguments, got 5"),
    ("Optimizer=AdamW", SAME, "must be a mapping with the keys name and lr"),
    ("Optimizer.beta1=high", SAME, "must be a number, got 'high' (str)"),
    ("Optimizer.beta1=.nan", SAME, "must be a finite number, got nan"),
    ("Optimizer.lr=fast", SAME, "must be a mapping such as {name: Cosine, learning_rate: 4e-3}"),
    ("Optimizer.lr.learning_rate=fast", SAME, "must be a number, got 'fast' (str)"),
    ("Optimizer.lr.learning_rate=.nan", SAME, "must be a finite number, got nan"),
    ("DataLoader=[]", SAME, "must be a mapping with the keys Train, Eval, got []"),
    ("DataLoader.Train=5", SAME, "must be a mapping with the keys dataset, sampler, loader, got 5"),
    ("DataLoader.Train.dataset=5", SAME, "must be a mapping with the key name, such as ImageFolder"),
    ("DataLoader.Train.dataset.image_root=5", SAME, "must be a text, got 5 (int)"),
    ("DataLoader.Train.sampler.batch_size=64.0", SAME, "must be a whole number, got 64.0"),
    ("DataLoader.Train.sampler.shuffle=1", SAME, "must be true or false, got 1 (int)"),
    (f"{TRAIN_OPS}=5", SAME, "expected a list of operators, got 5"),
    (f"{TRAIN_OPS}[1]=5", SAME, "expected one operator as 'Name: {arguments}', got 5"),
    (f"{TRAIN_OPS}[1].RandCropImage=5", f"{TRAIN_OPS}[1]", "expected one operator as 'Name: {arguments}', got {'RandC"),
    (f"{TRAIN_OPS}[1].RandCropImage.size=big", SAME, "must be "),
    (f"{TRAIN_OPS}[4].NormalizeImage.mean=[1, 2, x]", SAME, ""),
    (f"{BATCH_OPS}[0].OpSampler.MixupOperator.alpha=x", SAME, "must be a number"),
    (f"{BATCH_OPS}[0].OpSampler.MixupOperator.prob=x", SAME, "must be a number"),
    ("Infer=[]", SAME, "must be a mapping of arguments, got []"),
    ("Infer.transforms=5", SAME, "must be a list"),
    ("Infer.PostProcess=Topk", SAME, "must be a mapping, got 'Topk' (str)"),
    ("Metric=5", SAME, "must be a mapping with the keys Train, Eval, got 5"),
    ("Metric.Eval[0].TopkAcc.topk=five", SAME, "must be a whole number or a list"),
    # Wrong choices.
    ("Global.device=tpu", SAME, "must be one of gpu, cpu, xpu, npu, mlu, got 'tpu' (did you mean '"),
    ("Global.amp_dtype=float32", SAME, "must be one of float16, bfloat16, got 'float32' (did you mean 'float16'?)"),
    ("Global.eval_mode=retrieval", SAME, "must be one of classification, got 'retrieval'"),
    ("Global.use_dali=True", SAME, "must be one of False, got True"),
    ("AMP.level=O3", SAME, "must be one of O1, O2, got 'O3'"),
    ("Arch.stem_stride=3", SAME, "must be one of 1, 2, 4, got 3"),
    ("DataLoader.Train.sampler.name=PKSampler", SAME, "must be one of DistributedBatchSampler, BatchS"),
    (f"{TRAIN_OPS}[1].RandCropImage.interpolation=cubik", SAME, "must be "),
    ("Infer.PostProcess.name=Threshold", SAME, "must be one of Topk, got 'Threshold'"),
    ("Arch.pretrained=True", SAME, "no weights are downloaded; give a file with Global.pretrained_model=PATH instead"),
    # Missing arguments.
    ("Arch=null", "Arch.name", "must name the model"),
    ("Optimizer.lr={name: Cosine}", SAME, "missing argument 'learning_rate'"),
    ("Optimizer.lr=null", SAME, "must be a mapping such as"),
    ("Optimizer.lr={learning_rate: 0.1}", "Optimizer.lr.name", "is missing; allowed: ConstLR, Constant, Cosine"),
    ("DataLoader.Train.dataset.name=null", SAME, "is missing; allowed: Cifar10"),
    ("DataLoader.Train.dataset={name: ImageFolder}", SAME, "missing argument 'image_root'"),
    ("Metric.Eval[0].TopkAcc={}", SAME, "missing argument 'topk'"),
    (f"{BATCH_OPS}[0].OpSampler={{}}", SAME, "names no operator; known: MixupOperator, CutmixOperator"),
    # Out of range.
    ("Global.epochs=-1", SAME, "must be at least 1, got -1"),
    ("Global.epochs=0", SAME, "must be at least 1, got 0"),
    ("Global.save_interval=-1", SAME, "must be at least 1, got -1"),
    ("Global.keep_checkpoints=0", SAME, "must be at least 1, got 0"),
    ("Global.update_freq=-4", SAME, "must be at least 1, got -4"),
    ("Global.save_steps=-1", SAME, "must be at least 0, got -1"),
    ("Global.max_bad_images=-0.5", SAME, "must be at least 0, got -0.5"),
    ("Global.seed=-1", SAME, "must be at least 0, got -1"),
    ("Global.class_num=-3", SAME, "must be at least 1, got -3"),
    ("Global.image_shape=[3, 224]", SAME, "must be [channels, height, width], got [3, 224]"),
    ("Global.image_shape=[3, -1, 224]", SAME, "must be [channels, height, width], got [3, -1, 224]"),
    ("AMP.scale_loss=-1", SAME, "must be at least 1, got -1.0"),
    ("EMA.decay=1.5", SAME, "must be at least 0 and below 1, got 1.5"),
    ("Arch.class_num=-10", SAME, "must be at least 1, got -10"),
    ("Arch.class_num=0", SAME, "must be at least 1, got 0"),
    ("Loss.Train[0].CELoss.epsilon=-0.1", SAME, "must be at least 0 and below 1, got -0.1"),
    ("Loss.Train[0].CELoss.weight=-1", SAME, "must not be negative, got -1.0"),
    ("Optimizer.weight_decay=-0.05", SAME, "must not be negative, got -0.05"),
    ("Optimizer.beta1=1.0", SAME, "must be at least 0 and below 1, got 1.0"),
    ("Optimizer.clip_norm=-1", SAME, "must be positive, got -1.0"),
    ("Optimizer.clip_grad=-1", "Optimizer.clip_norm", "must be positive, got -1.0"),
    ("Optimizer.lr.learning_rate=-1", SAME, "must not be negative, got -1.0"),
    ("Optimizer.lr.eta_min=-1", SAME, "must not be negative, got -1.0"),
    ("Optimizer.lr.warmup_epoch=-1", SAME, "must lie between 0 and Global.epochs (300), got -1.0"),
    ("Optimizer.lr.warmup_epoch=301", SAME, "must lie between 0 and Global.epochs (300), got 301.0"),
    ("DataLoader.Train.sampler.batch_size=-64", SAME, "must be at least 1, got -64"),
    ("DataLoader.Eval.loader.num_workers=-1", SAME, "must be at least 0, got -1"),
    (f"{TRAIN_OPS}[1].RandCropImage.size=-3", SAME, "must be "),
    (f"{BATCH_OPS}[0].OpSampler.MixupOperator.alpha=-1", SAME, "must be "),
    (f"{BATCH_OPS}[0].OpSampler.MixupOperator.prob=-0.5", f"{BATCH_OPS}[0].OpSampler.prob", "must not be negative"),
    (f"{BATCH_OPS}[0].OpSampler.MixupOperator.prob=0.7", f"{BATCH_OPS}[0].OpSampler.prob", "the sum over the operator"),
    ("Infer.batch_size=0", SAME, "must be at least 1, got 0"),
    ("Infer.PostProcess.topk=0", SAME, "must be at least 1, got 0"),
    ("Metric.Eval[0].TopkAcc.topk=[1, 0]", SAME, "must hold whole numbers of at least 1, got [1, 0]"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "key", "message"), MISTAKES, ids=[override for override, _, _ in MISTAKES])
def test_each_mistake_gets_its_one_line(override, key, message):
    problems = problems_of(RECIPE, override)
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    key = override.partition("=")[0] if key is SAME else key
    assert f": {key}: {message}" in problems[0] if key else f": {message}" in problems[0]


def test_the_place_is_the_change_or_the_line_of_the_file(tmp_path):
    assert problems_of(RECIPE, "Global.epochs=-1") == ["-o Global.epochs=-1: Global.epochs: must be at least 1, got -1"]
    file = variant(tmp_path, lambda data: data["Global"].update(epochs=-1))
    line = next(number for number, row in enumerate(file.read_text().splitlines(), 1) if row == "  epochs: -1")
    assert problems_of(file) == [f"{file}:{line}: Global.epochs: must be at least 1, got -1"]


def test_all_mistakes_of_a_file_come_at_once():
    changes = [
        "Global.epochs=-1", "Global.update_freq=0", "Global.save_interval=often", "Global.sede=1", "Arch.name=Nothing",
        "Loss.Train[0].CELoss.epsilon=2", "Optimizer.beta1=5", "Optimizer.lr.learning_rate=-1", "EMA.decay=x",
        f"{TRAIN_OPS}[1].RandCropImage.sice=3", f"{TRAIN_OPS}[2]=Flip", f"{TRAIN_OPS}[4].NormalizeImage.std=x",
        "DataLoader.Eval.sampler.batch_size=0", "DataLoader.Train.dataset.name=Digit", "Loss.Eval[0]={Loss: null}",
        f"{BATCH_OPS}[0].OpSampler.MixupOperator.alhpa=3", "Infer.PostProcess.topk=0", "Metric.Eval[0].TopkAcc.topk=0",
    ]  # fmt: skip
    problems = problems_of(RECIPE, *changes)
    for change in changes:
        assert any(problem.startswith(f"-o {change}: ") for problem in problems), (change, problems)
    assert len(problems) == len(changes)


@pytest.mark.parametrize("broken", ["Global.sise=3", "Global.seed=-1", "Global.epochs=many", "Global=5"])
def test_a_mistake_under_global_is_not_blamed_on_the_warm_up(tmp_path, broken):
    def longer(data):
        data["Global"]["epochs"] = 900
        data["Optimizer"]["lr"]["warmup_epoch"] = 200

    problems = problems_of(variant(tmp_path, longer), broken)
    assert len(problems) == 1
    assert "warmup_epoch" not in problems[0]


def test_shared_parts_are_read_independently(tmp_path):
    """YAML anchors: reading the training data must not use up what the evaluation data share with them."""
    file = tmp_path / "anchors.yaml"
    text = """
        Arch: {name: EConvNeXt_mini, class_num: 10}
        DataLoader:
          Train: &data
            dataset: {name: Digits, split: train, transform_ops: [DecodeImage]}
            sampler: &sampler {batch_size: 8}
          Eval:
            <<: *data
            sampler: *sampler
        Loss:
          Train: &loss [{CELoss: {weight: 2.0}}]
          Eval: *loss
    """
    file.write_text(text, encoding="utf-8")
    config = load_config(file, ["DataLoader.Train.sampler.batch_size=4"])
    assert config.train.dataset == config.eval.dataset == "Digits"
    assert (config.train.sampler.batch_size, config.eval.sampler.batch_size) == (4, 8)
    assert config.train_loss.parts[0][0] == config.eval_loss.parts[0][0] == 2.0


@pytest.mark.parametrize(
    ("overrides", "attribute", "value"),
    [
        (["Optimizer.regularizer={name: L2, coeff: 1e-4}"], "weight_decay", 1e-4),
        (["Optimizer.regularizer=null", "Optimizer.weight_decay=0.3"], "weight_decay", 0.3),
        (["Optimizer.weight_decay=1.0/4.0"], "weight_decay", 0.25),
        (["Optimizer.clip_grad=2.0"], "clip_norm", 2.0),
        (["Optimizer.clip_norm=3"], "clip_norm", 3.0),
        (["Optimizer.clip_grad=null"], "clip_norm", None),
        (["Optimizer.clip_value=0.5"], "clip_value", 0.5),
    ],
)
def test_spellings_of_decay_and_clip(tmp_path, overrides, attribute, value):
    def momentum(data):
        data["Optimizer"] = {"name": "Momentum", "momentum": 0.9, "lr": {"name": "Cosine", "learning_rate": 0.1}}

    config = load_config(variant(tmp_path, momentum), overrides)
    assert getattr(config.optimizer.settings, attribute) == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("Optimizer.regularizer={name: L2, coeff: 1e-4}", "Optimizer.regularizer: is another name of weight_decay"),
        ("Optimizer.regularizer={name: L1, coeff: 1e-4}", "Optimizer.regularizer.name: unknown name 'L1'"),
        ("Optimizer.regularizer={name: L2, coeff: -1e-4}", "Optimizer.regularizer.coeff: must not be negative"),
        ("Optimizer.regularizer=L2", "Optimizer.regularizer.name: is missing; allowed: L2"),
        ("Optimizer.regularizer={name: L2}", "Optimizer.regularizer: missing argument 'coeff'"),
    ],
)
def test_mistakes_of_a_regularizer(override, expected):
    assert any(f": {expected}" in problem for problem in problems_of(RECIPE, override))


def test_two_names_of_one_clip_may_not_stand_together():
    problems = problems_of(RECIPE, "Optimizer.clip_norm=1", "Optimizer.clip_grad=2")
    assert len(problems) == 1
    assert problems[0].startswith("-o Optimizer.clip_grad=2: Optimizer.clip_grad: is another name of clip_norm;")


def test_a_bare_number_is_a_constant_rate():
    config = load_config(RECIPE, ["Optimizer.lr=0.01"])
    schedule = config.optimizer.build_schedule(epochs=3, steps_each_epoch=5)
    assert [schedule.rate_at(step) for step in (0, 7, 14)] == [0.01] * 3


def test_numbers_spelt_as_texts_reach_the_constructors():
    config = load_config(RECIPE, ["Optimizer.lr.learning_rate='4e-3'", "Optimizer.epsilon='1.0/1000.0'"])
    assert config.optimizer.schedule_arguments["learning_rate"] == 0.004
    assert config.optimizer.settings.epsilon == 0.001


def test_a_section_that_is_null_or_absent_is_off(tmp_path):
    def without(data):
        for section in ("AMP", "EMA", "Infer", "Metric", "Optimizer"):
            del data[section]
        data["Global"] = None

    config = load_config(variant(tmp_path, without))
    assert (config.amp, config.ema, config.infer, config.postprocess, config.optimizer) == (None,) * 5
    assert config.metrics[0].names == ["top1", "top5"]
    assert config.run.epochs == 100


def test_amp_is_turned_on_by_its_section_and_off_by_its_key():
    assert load_config(RECIPE).amp is None
    assert load_config(RECIPE, ["AMP.use_amp=True"]).amp.level == "O1"


def test_classes_may_stand_under_global_as_well():
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
    assert config.optimizer.schedule_arguments["learning_rate"] == 4e-3
    assert config.run.update_freq == 4
    assert [type(operator).__name__ for operator in config.train.operators] == [
        "DecodeImage", "RandCropImage", "RandFlipImage", "TimmAutoAugment", "NormalizeImage", "RandomErasing",
    ]  # fmt: skip
    assert type(config.train.batch_operator).__name__ == "OpSampler"


def run_train(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the tool with every import written to the standard error."""
    command = [sys.executable, "-X", "importtime", "tools/train.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def split_imports(standard_error: str) -> tuple[set[str], list[str]]:
    lines = standard_error.splitlines()
    imports = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return imports, [line for line in lines if not line.startswith("import time:")]


def test_the_tool_answers_a_mistake_without_traceback_and_without_loading_paddle():
    answer = run_train("-c", str(RECIPE), "-o", "Global.epochs=-1", "Arch.name=EConvNeXt_minni")
    imports, lines = split_imports(answer.stderr)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(lines) == 2
    assert lines[0] == "error: -o Global.epochs=-1: Global.epochs: must be at least 1, got -1"
    assert lines[1].startswith("error: -o Arch.name=EConvNeXt_minni: Arch.name: unknown model 'EConvNeXt_minni'; did")
    assert "classification.config" in imports, "the imports were not recorded: the test proves nothing"
    heavy = {"paddle", "paddleclas", "matplotlib", "sklearn", "visualdl", "rich"}
    assert not {name for name in imports if name.split(".")[0] in heavy}


@pytest.mark.parametrize("arguments", [["--help"], ["-c", "configs/quikstart.yaml"]])
def test_help_and_a_missing_file_need_no_paddle_either(arguments):
    answer = run_train(*arguments)
    imports, lines = split_imports(answer.stderr)
    assert "paddle" not in imports
    assert not any("Traceback" in line for line in lines)
    if "-c" in arguments:
        assert answer.returncode == 2
        assert lines == ["error: configs/quikstart.yaml: no such configuration file (did you mean 'quickstart.yaml'?)"]
    else:
        assert (answer.returncode, lines) == (0, [])
