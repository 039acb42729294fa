"""YAML files: where each key stands, what ``-o`` changes, how numbers may be spelt, and that nothing is evaluated."""

from __future__ import annotations

import pytest

from ppcls_ext.utils.config import Problems, load_config_file, parse_value
from ppcls_ext.utils.errors import ConfigError, UserError
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
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


def test_each_key_knows_its_line(write):
    file = write(TEXT)
    document = load_config_file(file)
    assert document.data["DataLoader"]["Train"]["ops"][1] == {"Resize": {"size": 224}}
    expected = {"Global": 2, "Global.epochs": 3, "DataLoader.Train.ops": 7, "DataLoader.Train.ops[0]": 8,
                "DataLoader.Train.ops[0].Decode.to_rgb": 9, "DataLoader.Train.ops[1].Resize.size": 10}  # fmt: skip
    assert {key: document.place_of(key) for key in expected} == {key: f"{file}:{n}" for key, n in expected.items()}


def test_a_key_that_the_file_lacks_stands_where_the_nearest_key_above_stands(write):
    file = write(TEXT)
    document = load_config_file(file)
    assert document.place_of("DataLoader.Train.ops[1].Resize.sise") == f"{file}:10"
    assert document.place_of("Arch.name") == str(file)


def test_an_unknown_key_is_reported_on_its_own_line(write):
    file = write(TEXT)
    line = load_config_file(file).problem("DataLoader.Train.ops[0].Decode", "unknown argument 'to_rgb'")
    assert line == f"{file}:9: DataLoader.Train.ops[0].Decode: unknown argument 'to_rgb'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: 1\nB: 2\nA: 3\n", ":3: the key 'A' stands twice in the same section"),
        ("A:\n  b: 1\n  b: 2\n", ":3: the key 'b' stands twice in the same section"),
        ("A: [1, 2\nB: 3\n", "is not valid YAML"),
        ("A: *nowhere\n", ":1: is not valid YAML: found undefined alias"),
        ("A: 1\n? [1, 2]\n: 3\n", ":2: is not valid YAML: found unhashable key"),
        ("A: &a\n  b: *a\n", "is not valid YAML: an anchor stands inside itself"),
        ("A: 2024-13-45\n", "is not valid YAML: month must be in"),
        ("", "must hold a mapping of sections"),
    ],
)
def test_files_that_are_no_configuration(write, text, message):
    file = write(text)
    with pytest.raises(UserError) as error:
        load_config_file(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_names_its_neighbour(write, tmp_path):
    write(TEXT, "quickstart.yaml")
    with pytest.raises(UserError, match=r"quickstrat\.yaml: no such configuration file \(did you mean 'quickstart"):
        load_config_file(tmp_path / "quickstrat.yaml")
    with pytest.raises(UserError, match="is a folder, not a YAML file"):
        load_config_file(tmp_path)


def test_binary_file_is_refused_in_one_line(tmp_path):
    file = tmp_path / "weights.yaml"
    file.write_bytes(b"A: \xff\xfe\x00")
    with pytest.raises(UserError, match="is not a UTF-8 text file"):
        load_config_file(file)


HOSTILE = [
    "!!python/object/apply:os.system ['touch {witness}']",
    "!!python/object/new:os.system ['touch {witness}']",
    "!!python/name:os.system",
]


@pytest.mark.parametrize("tag", HOSTILE)
def test_tags_of_python_objects_are_refused_and_nothing_runs(write, tmp_path, tag):
    witness = tmp_path / "witness"
    value = tag.format(witness=witness)
    with pytest.raises(UserError, match="could not determine a constructor"):
        load_config_file(write(f"A: {value}\n"))
    with pytest.raises(UserError, match="is not a YAML value"):
        load_config_file(write(TEXT), [f"Global.epochs={value}"])
    assert not witness.exists()


def test_an_expression_is_a_text(write, tmp_path):
    witness = tmp_path / "witness"
    expression = f"__import__('os').system('touch {witness}')"
    document = load_config_file(write(f'A: "{expression}"\n'), [f"Global.name={expression}", "Global.n=1 + 1"])
    assert document.data["A"] == expression
    assert document.data["Global"] == {"name": expression, "n": "1 + 1"}
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(expression)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("Global.epochs=5", ["Global", "epochs"], 5),
        ("Global.epochs=4e-3", ["Global", "epochs"], 0.004),
        ("Global.epochs=[1, 2]", ["Global", "epochs"], [1, 2]),
        ("Global.epochs=", ["Global", "epochs"], None),
        ("Global.name=a=b", ["Global", "name"], "a=b"),
        ("Global.new=true", ["Global", "new"], True),
        ("DataLoader.Train.ops[1].Resize.size=8", ["DataLoader", "Train", "ops", 1, "Resize", "size"], 8),
        ("DataLoader.Train.ops.1.Resize.size=8", ["DataLoader", "Train", "ops", 1, "Resize", "size"], 8),
        ("DataLoader.empty.below=1", ["DataLoader", "empty", "below"], 1),
        ("New.section.key=1", ["New", "section", "key"], 1),
    ],
)
def test_overrides(write, change, key, value):
    document = load_config_file(write(TEXT), [change])
    found = document.data
    for part in key:
        found = found[part]
    assert found == value
    assert type(found) is type(value)
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)[1:]
    assert document.place_of(dotted) == f"-o {change}"


def test_a_replaced_section_forgets_its_old_lines(write):
    document = load_config_file(write(TEXT), ["DataLoader.Train.ops=[{Resize: {size: 3}}]"])
    assert document.place_of("DataLoader.Train.ops[0].Resize.size").startswith("-o DataLoader.Train.ops=")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("Global.epochs", "must have the form KEY.SUB=VALUE"),
        ("Global..epochs=3", "must have the form"),
        ("Global.epochs=[1", "'[1' is not a YAML value"),
        ("Global.epochs.deeper=1", "'Global.epochs' holds the value 3 and has no keys below it"),
        ("DataLoader.Train.ops[2].Resize.size=1", "'2' is not one of its entries 0 to 1"),
        ("DataLoader.Train.ops.Resize.size=1", "'DataLoader.Train.ops' is a list; 'Resize' is not one of its entries"),
    ],
)
def test_overrides_that_make_no_sense(write, change, message):
    with pytest.raises(UserError) as error:
        load_config_file(write(TEXT), [change])
    assert str(error.value).startswith(f"-o {change}: ")
    assert message in str(error.value)


def test_a_change_does_not_reach_what_an_anchor_put_elsewhere(write):
    text = "Train: &data {batch_size: 8, ops: [{Resize: {size: 4}}]}\nEval: *data\nTest:\n  <<: *data\n"
    document = load_config_file(write(text), ["Train.batch_size=2", "Train.ops[0].Resize.size=5"])
    untouched = {"batch_size": 8, "ops": [{"Resize": {"size": 4}}]}
    assert document.data["Train"] == {"batch_size": 2, "ops": [{"Resize": {"size": 5}}]}
    assert document.data["Eval"] == document.data["Test"] == untouched


@pytest.mark.parametrize(
    ("text", "value"),
    [("4e-3", 0.004), ("1.0/255.0", 1 / 255), (" 1 / 3 ", 1 / 3), ("-2.5E+2", -250.0), (".5", 0.5), ("7", 7.0)],
)
def test_spellings_of_numbers(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "abc", "1/2/3", "1+1", "0x10", "nan", "1/"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("4e-3", 0.004), ("-1E5", -1e5), ("1e3", 1000.0), ("1.5e3", 1500.0), ("12", 12), ("1.0/255.0", "1.0/255.0"),
     ("e5", "e5"), ("rand-m9-mstd0.5-inc1", "rand-m9-mstd0.5-inc1")],
)  # fmt: skip
def test_yaml_reads_exponents_as_numbers(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_problems_are_collected_without_repetition(write):
    file = write(TEXT)
    problems = Problems(load_config_file(file))
    problems.raise_any()
    for _ in range(2):
        problems.add("Global.epochs", "must be positive")
    problems.add("", "something is missing")
    with pytest.raises(ConfigError) as error:
        problems.raise_any()
    assert error.value.problems == [f"{file}:3: Global.epochs: must be positive", f"{file}: something is missing"]
