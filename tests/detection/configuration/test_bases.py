"""``_BASE_``: what is merged with what, where each key came from, and files that are missing or circular."""

from __future__ import annotations

import pytest

from detection.configuration import load_config
from detection.configuration.config import load_with_bases
from ppcls_ext.utils.errors import UserError
from tests.support.detection_configs import write_config


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


def test_mappings_merge_and_the_later_file_wins(write):
    write("a.yml", "A: {x: 1, y: {u: 1, v: 2}}\nlist: [1, 2]\nonly_a: 1\n")
    write("b.yml", "A: {x: 2, y: {v: 3}}\nlist: [3]\n")
    file = write("c.yml", "_BASE_: [a.yml, b.yml]\nA: {y: {w: 4}}\n")
    merged = load_with_bases(file)
    assert merged.data == {"A": {"x": 2, "y": {"u": 1, "v": 3, "w": 4}}, "list": [3], "only_a": 1}


def test_each_key_keeps_the_place_that_it_came_from(write, tmp_path):
    write("shared/a.yml", "# comment\nA:\n  x: 1\n  y: [1, 2]\nonly_a: 1\n")
    file = write("rows/c.yml", "_BASE_: [../shared/a.yml]\nA:\n  y: [5]\n")
    merged = load_with_bases(file)
    shared = tmp_path / "shared" / "a.yml"
    assert merged.place_of("A.x") == f"{shared}:3"
    assert merged.place_of("only_a") == f"{shared}:5"
    assert merged.place_of("A.y") == f"{file}:3"
    assert merged.place_of("A.y[0]") == f"{file}:3"


def test_a_base_may_be_a_single_name_and_have_a_base_of_its_own(write):
    write("deep/one.yml", "x: 1\ny: 1\nz: 1\n")
    write("deep/two.yml", "_BASE_: one.yml\ny: 2\nz: 2\n")
    file = write("three.yml", "_BASE_: deep/two.yml\nz: 3\n")
    assert load_with_bases(file).data == {"x": 1, "y": 2, "z": 3}
    # The same base by two ways is no circle.
    write("deep/other.yml", "_BASE_: one.yml\nw: 4\n")
    both = write("both.yml", "_BASE_: [deep/two.yml, deep/other.yml]\n")
    assert load_with_bases(both).data == {"x": 1, "y": 1, "z": 1, "w": 4}


def test_tags_stand_for_a_name_and_replace_the_section_as_in_paddledetection(write):
    write("base.yml", "TrainDataset: {name: ImageFolder, sample_num: 3}\nEvalDataset: !ImageFolder {sample_num: 3}\n")
    file = write(
        "top.yml",
        "_BASE_: [base.yml]\nTrainDataset:\n  !COCODataSet\n    image_dir: images\nEvalDataset: {name: COCODataSet}\n"
        "LearningRate:\n  schedulers:\n    - !CosineDecay {max_epochs: 3}\n    - !LinearWarmup\n",
    )
    data = load_with_bases(file).data
    assert data["TrainDataset"] == {"name": "COCODataSet", "image_dir": "images"}
    assert data["EvalDataset"] == {"name": "COCODataSet"}
    expected = [{"name": "CosineDecay", "max_epochs": 3}, {"name": "LinearWarmup"}]
    assert data["LearningRate"]["schedulers"] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: 1\n_BASE_: [bass.yml]\n", "{file}:2: _BASE_[0]: {folder}/bass.yml: no such configuration file (did you "
                                       "mean 'base.yml'?)"),
        ("_BASE_: 3\n", "{file}:1: _BASE_: must be the name of a file or a list of them"),
        ("a: !COCODataSet [1, 2]\n", "{file}:1: is not valid YAML: !COCODataSet must stand before a mapping"),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be_used_is_one_clear_line(write, tmp_path, text, message):
    write("base.yml", "x: 1\n")
    file = write("top.yml", text)
    with pytest.raises(UserError) as error:
        load_with_bases(file)
    assert message.format(file=file, folder=tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_that_include_each_other_are_named(write):
    write("a.yml", "_BASE_: b.yml\n")
    file = write("b.yml", "x: 1\n_BASE_: [a.yml]\n")
    with pytest.raises(UserError, match=r"a\.yml:1: _BASE_: the file includes itself \(b\.yml -> a\.yml -> b\.yml\)"):
        load_with_bases(file)


def test_changes_from_the_command_line_go_last_and_are_never_run(tmp_path):
    file = write_config(tmp_path)
    config = load_config(file, ["epoch=5", "TrainReader.batch_size=1", "EConvNeXt.drop_path_rate=1e-1", "save_dir=2+2"])
    assert config.epochs == 5
    assert config.data["EConvNeXt"] == {"arch": "mini", "drop_path_rate": 0.1}
    assert str(config.output_dir.parent) == "2+2"
    assert str(config.output_dir) == "2+2/tiny"
