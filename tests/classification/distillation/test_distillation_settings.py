"""Mistakes about a teacher get one line each, at once and without Paddle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from classification.config import load_config
from classification.distillation.teacher_files import find_teacher
from classification.task import require_sections
from ppcls_ext.utils.errors import ConfigError, UserError
from tests.support.runs import ROOT, small_config, tool_environment, write_config

TEACHER = {"name": "ConvNeXtV1_tiny", "pretrained": "somewhere.pdparams"}


def configured(folder: Path, section: object, **changes: object) -> Path:
    return write_config(folder, {**small_config(folder / "run", **changes), "Distillation": section})


MISTAKES = [
    ({"teacher": TEACHER, "temprature": 2}, "", "unknown argument 'temprature' (did you mean 'temperature'?)"),
    (5, "", "must be a mapping with the keys teacher, kind, temperature, weight, features, image_size, evaluate_t"),
    ({"teacher": TEACHER, "temperature": 0}, ".temperature", "must be above 0, got 0"),
    ({"teacher": TEACHER, "kind": "hard", "temperature": 2}, ".temperature", "has no effect on kind: hard; remove it"),
    ({"teacher": TEACHER, "weight": 1.5}, ".weight", "must be at most 1, got 1.5"),
    ({"teacher": TEACHER, "weight": 0}, ".weight", "0 without features leaves the teacher nothing to teach"),
    ({"teacher": {"name": "ConvNeXtV1_tiny"}}, ".teacher.pretrained", "is missing: a teacher with random weights te"),
    ({"teacher": {**TEACHER, "pretrained": True}}, ".teacher.pretrained", "no weights are downloaded; give a checkp"),
    ({"teacher": {**TEACHER, "drop_path": 0.1}}, ".teacher", "unknown argument 'drop_path' (did you mean 'drop_path_"),
    ({"teacher": {**TEACHER, "use_sync_bn": True}}, ".teacher", "unknown argument 'use_sync_bn'"),
    ({"teacher": {**TEACHER, "class_num": 7}}, ".teacher.class_num", "the teacher has 7 classes, the student 10 (Arch"),
    ({"teacher": TEACHER, "features": {"stages": [5]}}, ".features.stages", "must be different numbers from 1 to 4"),
    ({"teacher": TEACHER, "features": {"stage": [1]}}, ".features", "unknown argument 'stage' (did you mean 'stages'"),
    ({"teacher": {**TEACHER, "name": "ResNet50"}, "features": {}}, ".features",
     "needs the outputs of stages, which ResNet50 (Distillation.teacher.name) does not give; these do: "),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "message"), MISTAKES)
def test_a_mistake_is_one_line_under_its_key(tmp_path, section, key, message):
    with pytest.raises(ConfigError) as error:
        load_config(configured(tmp_path, section))
    (problem,) = error.value.problems
    assert f": Distillation{key}: {message}" in problem


def test_what_is_left_out_has_its_default_and_the_teacher_the_students_classes(tmp_path):
    settings = load_config(configured(tmp_path, {"teacher": TEACHER, "features": {}})).distillation
    assert (settings.kind, settings.temperature, settings.weight) == ("soft", 4.0, 0.7)
    assert (settings.features.stages, settings.features.weight) == ([4], 1.0)
    assert settings.teacher.arguments == {"class_num": 10}
    assert load_config(configured(tmp_path, None)).distillation is None


def test_missing_weights_are_told_in_one_line(tmp_path):
    config = configured(tmp_path, {"teacher": TEACHER})
    command = [sys.executable, str(ROOT / "tools/train.py"), "-c", str(config)]
    result = subprocess.run(command, cwd=tmp_path, env=tool_environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert "Distillation.teacher.pretrained: somewhere.pdparams: no such weight file or checkpoint folder" in line
    # Evaluation and export of the student need no teacher; whatever trains it does.
    with pytest.raises(UserError, match=r"Distillation\.teacher\.pretrained: "):
        require_sections(load_config(config))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What a run of a ConvNeXt with small kernels leaves, as far as it is looked at before Paddle is loaded."""
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "ema.pdparams").write_bytes(b"weights")
    arguments = {"class_num": 10, "kernel_size": 3, "drop_path_rate": 0.1}
    state = {"evaluated_weights": "ema", "arch": {"name": "ConvNeXtV1_tiny", "arguments": arguments}}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def found(folder: Path, checkpoint: Path, **changes: object):
    teacher = {**TEACHER, "pretrained": str(checkpoint), **changes}
    return find_teacher(load_config(configured(folder, {"teacher": teacher})))


def test_a_checkpoint_says_what_its_network_is(tmp_path, checkpoint):
    teacher = found(tmp_path, checkpoint, drop_path_rate=0.3)
    assert teacher.arch.arguments == {"class_num": 10, "kernel_size": 3, "drop_path_rate": 0.3}
    assert teacher.file == checkpoint / "ema.pdparams"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "ConvNeXtV1_small"}, r"teacher\.name: .* is a checkpoint of ConvNeXtV1_tiny, not of ConvNeXtV1_s"),
        ({"kernel_size": 7}, r"teacher\.kernel_size: .*best was trained with 3, here it is 7"),
        ({"activation": "relu"}, r"teacher\.activation: .*best was trained with gelu, here it is relu"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_network_is_refused(tmp_path, checkpoint, changes, message):
    with pytest.raises(UserError, match=rf"Distillation\.{message}"):
        found(tmp_path, checkpoint, **changes)


def test_a_checkpoint_of_other_classes_is_refused(tmp_path, checkpoint):
    section = {"teacher": {**TEACHER, "pretrained": str(checkpoint)}}
    config = load_config(configured(tmp_path, section, Arch__class_num=12))
    with pytest.raises(UserError, match=r"class_num: .* was trained with 10 classes, the student has 12 "):
        find_teacher(config)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"Arch": {"name": "DistillationModel", "models": [{"Teacher": {"name": "ResNet101_vd"}}]}}, "Arch.name"),
        ({"Loss": {"Train": [{"DistillationDMLLoss": {"weight": 1.0}}]}}, "Loss.Train[0]"),
    ],
)
def test_paddleclas_way_to_distil_is_answered_with_ours(tmp_path, change, key):
    with pytest.raises(ConfigError) as error:
        load_config(write_config(tmp_path, {**small_config(tmp_path / "run"), **change}))
    (problem,) = error.value.problems
    assert f": {key}: Distillation" in problem
    assert "Distillation.teacher: {name: ..., pretrained: PATH}" in problem


def test_paddleclas_own_configurations_are_recognised():
    folder = os.environ.get("PADDLECLAS_DIR")
    if not folder:
        pytest.skip("PADDLECLAS_DIR does not name a PaddleClas checkout: its distillation configurations are not read")
    files = [
        file
        for file in (Path(folder) / "ppcls" / "configs" / "PULC").rglob("*istillation.yaml")
        if "DistillationModel" in str(yaml.safe_load(file.read_text(encoding="utf-8")))
    ]
    assert files
    for file in files:
        with pytest.raises(ConfigError, match="PaddleClas's way to distil; here Arch is the student"):
            load_config(file)
