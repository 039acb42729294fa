"""YAML files: where each key stands, what ``-o`` changes, how numbers may be spelt, and that nothing is evaluated."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from ppcls_ext.utils.config import Document, apply_override, load_config_file, parse_value
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.signature import parse_number

TEXT = """\
# a comment
Global:
  epochs: 3
  name: text
DataLoader:
  Train:
    ops:
      - Decode:
          to_rgb: true
      - Resize: {size: 224}
  empty: null
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "settings.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write_file


def changed(file: Path, changes: list[str]) -> Document:
    document = load_config_file(file)
    for change in changes:
        apply_override(document, change)
    return document


def test_each_key_knows_its_line(write):
    file = write(TEXT)
    document = load_config_file(file)
    assert document.data["DataLoader"]["Train"]["ops"][1] == {"Resize": {"size": 224}}
    expected = {"Global": 2, "Global.epochs": 3, "DataLoader.Train.ops": 7, "DataLoader.Train.ops[0]": 8,
                "DataLoader.Train.ops[0].Decode.to_rgb": 9, "DataLoader.Train.ops[1].Resize.size": 10}  # fmt: skip
    # What the file lacks stands where the nearest key above stands; an unknown one on its own line.
    expected["DataLoader.Train.ops[1].Resize.sise"] = 10
    assert {key: document.place_of(key) for key in expected} == {key: f"{file}:{n}" for key, n in expected.items()}
    assert document.place_of("Arch.name") == str(file)
    line = document.problem("DataLoader.Train.ops[0].Decode", "unknown argument 'to_rgb'")
    assert line == f"{file}:9: DataLoader.Train.ops[0].Decode: unknown argument 'to_rgb'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: 1\nB: 2\nA: 3\n", ":3: the key 'A' stands twice in the same section"),
        ("A: *nowhere\n", ":1: is not valid YAML: found undefined alias"),
        ("A: 1\nB: !!bool perhaps\n", ":2: is not valid YAML: 'perhaps' does not fit its tag !!bool"),
        ("A: 1\nB: 2024-13-45\n", ":2: is not valid YAML: '2024-13-45' does not fit its tag !!timestamp"),
        ("A: !!timestamp soon\n", ":1: is not valid YAML: 'soon' does not fit its tag !!timestamp"),
        ("A: !!int ''\n", ":1: is not valid YAML: '' does not fit its tag !!int"),
        ('A: "\\UFFFFFFFF"\n', ": is not valid YAML: "),
        (f"A: {'[' * 2000}{']' * 2000}\n", "or it is nested too deeply"),
        ("A: &a\n  b: *a\n", ": an anchor stands inside itself"),
        ("", "must hold a mapping of sections"),
    ],
)
def test_files_that_are_no_configuration(write, text, message):
    file = write(text)
    with pytest.raises(UserError) as error:
        load_config_file(file)
    assert str(error.value).startswith(str(file)) and message in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(write, tmp_path):
    write(TEXT, "quickstart.yaml")
    with pytest.raises(UserError, match=r"quickstrat\.yaml: no such configuration file \(did you mean 'quickstart"):
        load_config_file(tmp_path / "quickstrat.yaml")
    with pytest.raises(UserError, match="is a folder, not a YAML file"):
        load_config_file(tmp_path)
    file = tmp_path / "weights.yaml"
    file.write_bytes(b"A: \xff\xfe\x00")
    with pytest.raises(UserError, match="holds zero bytes"):
        load_config_file(file)


def test_nothing_is_ever_run(write, tmp_path):
    witness = tmp_path / "witness"
    for value in (f"!!python/object/apply:os.system ['touch {witness}']", "!!python/name:os.system"):
        with pytest.raises(UserError, match="could not determine a constructor"):
            load_config_file(write(f"A: {value}\n"))
        assert changed(write(TEXT), [f"Global.epochs={value}"]).data["Global"]["epochs"] == value
    expression = f"__import__('os').system('touch {witness}')"
    document = changed(write(f'A: "{expression}"\n'), [f"Global.name={expression}", "Global.n=1 + 1"])
    assert document.data == {"A": expression, "Global": {"name": expression, "n": "1 + 1"}}
    assert not witness.exists()


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("Global.epochs=", ["Global", "epochs"], None),
        ("Global.name=a=b", ["Global", "name"], "a=b"),
        ("Global.name=[ab", ["Global", "name"], "[ab"),
        ('Global.epochs="[1"', ["Global", "epochs"], "[1"),
        ("DataLoader.Train.ops[1].Resize.size=8", ["DataLoader", "Train", "ops", 1, "Resize", "size"], 8),
        ("DataLoader.Train.ops.1.Resize.size=8", ["DataLoader", "Train", "ops", 1, "Resize", "size"], 8),
        ("New.section.key=1", ["New", "section", "key"], 1),
    ],
)
def test_overrides(write, change, key, value):
    document = changed(write(TEXT), [change])
    found = functools.reduce(lambda holder, part: holder[part], key, document.data)
    assert found == value and type(found) is type(value)
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)[1:]
    assert document.place_of(dotted) == f"-o {change}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("Global.epochs", "must have the form KEY.SUB=VALUE"),
        ("Global.epochs.deeper=1", "'Global.epochs' holds the value 3 and has no keys below it"),
        ("DataLoader.Train.ops.²=1", "'²' is not one of its entries 0 to 1"),
        ("DataLoader.Train.ops[2].Resize.size=1", "'2' is not one of its entries 0 to 1"),
    ],
)
def test_overrides_that_make_no_sense(write, change, message):
    with pytest.raises(UserError) as error:
        changed(write(TEXT), [change])
    assert str(error.value).startswith(f"-o {change}: ")
    assert message in str(error.value)


def test_a_change_does_not_reach_what_an_anchor_put_elsewhere(write):
    text = "Train: &data {batch_size: 8, ops: [{Resize: {size: 4}}]}\nEval: *data\nTest:\n  <<: *data\n"
    document = changed(write(text), ["Train.batch_size=2", "Train.ops[0].Resize.size=5"])
    untouched = {"batch_size": 8, "ops": [{"Resize": {"size": 4}}]}
    assert document.data["Train"] == {"batch_size": 2, "ops": [{"Resize": {"size": 5}}]}
    assert document.data["Eval"] == document.data["Test"] == untouched
    # A replaced section forgets its old lines.
    document = changed(write(TEXT), ["DataLoader.Train.ops=[{Resize: {size: 3}}]"])
    assert document.place_of("DataLoader.Train.ops[0].Resize.size").startswith("-o DataLoader.Train.ops=")


def test_spellings_of_numbers():
    for text, value in (("4e-3", 0.004), ("1.0/255.0", 1 / 255), (" 1 / 3 ", 1 / 3), ("-2.5E+2", -250.0), (".5", 0.5)):
        assert parse_number(text) == value
    for text in ("", "abc", "1/2/3", "1+1", "0x10", "nan", "1/"):
        with pytest.raises(ValueError, match="is not a number"):
            parse_number(text)
    values = {"4e-3": 0.004, "-1E5": -1e5, "12": 12, "1.0/255.0": "1.0/255.0", "rand-m9-e5": "rand-m9-e5"}
    for text, value in values.items():
        assert parse_value(text) == value and type(parse_value(text)) is type(value), text
