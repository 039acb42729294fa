"""Training from Python: the examples of the pages, with the numbers of the command lines, as often as one likes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import classification
import detection
from ppcls_ext.engine.session import as_changes
from ppcls_ext.utils.errors import UserError
from tests.support.runs import ROOT, TINY, run_tool, same_files, tiny_config, tool_environment, write_config

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


def examples() -> list[str]:
    """The blocks of Python in README and docs/train.md that train."""
    pages = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/train.md"))
    return [code for code in re.findall(r"```python\n(.*?)```", pages, re.S) if "from classification import" in code]


# A program that has trained another network before, with another seed, and not in its main thread.
PROGRAM = """
import signal
import threading
import classification

before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
changes = {{"Global.epochs": 1, "Global.output_dir": "other", "Global.seed": 1, "Arch": {arch}}}
other = threading.Thread(target=classification.train, args=("configs/quickstart.yaml", changes))
other.start()
other.join()
{example}
assert report["epochs"] == 1 and figures["images"] == report["last"]["eval"]["images"]
assert predictor("digit.png")[0].labels
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
"""


def test_the_example_gives_the_numbers_of_the_command_line(tmp_path: Path) -> None:
    short, example = examples()
    code = [line.split("#")[0].strip() for line in short.splitlines() if line.startswith("report")]
    assert code and code[0] in example
    # As small as a test must be, under the name that the pages have.
    config = write_config(tmp_path / "configs", tiny_config(Path("output/quickstart")), "quickstart.yaml")
    Image.new("RGB", (32, 32)).save(tmp_path / "digit.png")
    reference = ("-o", "Global.epochs=1", "Global.output_dir=reference")
    done = run_tool("train.py", "-c", config, *reference, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    program = PROGRAM.format(arch={**TINY, "width_multiplier": 0.125}, example=example)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**tool_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = tmp_path / "output/quickstart", tmp_path / "reference"
    assert same_files(theirs / "checkpoints/epoch_0001", ours / "checkpoints/epoch_0001", ARRAYS) == []
    # Each run keeps its own messages, which the program shows once.
    for log in (ours / "train.log", tmp_path / "other/train.log"):
        assert log.read_text(encoding="utf-8").count("done: best") == 1
    assert done.stdout.count("done: best") == 2


def test_mistakes_are_errors_and_nothing_leaves_the_program(tmp_path: Path) -> None:
    config = write_config(tmp_path, tiny_config(tmp_path / "run"))
    with pytest.raises(UserError, match=r"Global: unknown argument 'epoch' \(did you mean 'epochs'"):
        classification.train(config, {"Global.epoch": 1})
    with pytest.raises(UserError, match="no weights|needs weights"):
        classification.evaluate(config)
    with pytest.raises(UserError, match="this is a classification configuration; use a detection configuration"):
        detection.train(config)
    with pytest.raises(UserError, match="int8 is written for openvino"):
        classification.export(config, precisions=["int8"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (4e-3, "0.004"), (True, "true"), (None, "null"), ("null", '"null"'), (Path("a b"), '"a b"'),
     ([1, "x"], '[1, "x"]'), ("für", '"für"')],
)  # fmt: skip
def test_values_of_python_are_changes_as_after_o(value: object, text: str) -> None:
    assert as_changes({"A.b": value}) == [f"A.b={text}"]
    assert as_changes([f"A.b={text}"]) == [f"A.b={text}"]
