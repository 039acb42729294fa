"""Training from Python: the examples of the pages, with the numbers of the command lines, as often as one likes."""

from __future__ import annotations

import json
import re
import runpy
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import classification
import detection
from ppcls_ext.engine.session import as_changes
from ppcls_ext.utils.errors import UserError
from tests.support.runs import ROOT, TINY, run_here, same_files, tiny_config, write_config

ARRAYS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt")


def examples() -> list[str]:
    """The blocks of Python in README and docs/train.md that train."""
    pages = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/train.md"))
    return [code for code in re.findall(r"```python\n(.*?)```", pages, re.S) if "from classification import" in code]


def test_the_example_gives_the_numbers_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short, example = examples()
    code = [line.split("#")[0].strip() for line in short.splitlines() if line.startswith("report")]
    assert code and code[0] in example
    # As small as a test must be, under the name that the pages have.
    config = write_config(Path("configs"), tiny_config(Path("output/quickstart")), "quickstart.yaml")
    command = ("-c", config, "-o", "Global.epochs=1", "Global.output_dir=reference")
    assert run_here(tmp_path, "train.py", *command)[0] == 0
    # Another network with another seed, and not in the main thread, where no signal can be handled.
    arch = {**TINY, "width_multiplier": 0.125}
    changes = {"Global.epochs": 1, "Global.output_dir": Path("other"), "Global.seed": 1, "Arch": arch}
    other = threading.Thread(target=classification.train, args=(config, changes))
    other.start()
    other.join()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    Path("example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path("example.py")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    report = names["report"]
    assert report == json.loads(Path("output/quickstart/report.json").read_text(encoding="utf-8"))
    assert names["figures"]["top1"] == pytest.approx(report["best"]["top1"])
    assert names["predictor"]([np.zeros((32, 32, 3), np.uint8)])[0].labels
    trained = Path("output/quickstart/checkpoints/epoch_0001")
    assert same_files(Path("reference/checkpoints/epoch_0001"), trained, ARRAYS) == []
    for folder in ("reference", "other", "output/quickstart"):
        log = Path(folder, "train.log").read_text(encoding="utf-8")
        assert log.count("done: best") == 1, "each run keeps its own messages"


def test_mistakes_are_errors_and_nothing_leaves_the_program(tmp_path: Path) -> None:
    config = write_config(tmp_path, tiny_config(tmp_path / "run"))
    with pytest.raises(UserError, match=r"Global: unknown argument 'epoch' \(did you mean 'epochs'"):
        classification.train(config, {"Global.epoch": 1})
    with pytest.raises(UserError, match="a configuration is the path of a YAML file, got dict"):
        classification.train({"Global": {"epochs": 1}})
    with pytest.raises(UserError, match="no weights|needs weights"):
        classification.evaluate(config)
    with pytest.raises(UserError, match="this is a classification configuration; use a detection configuration"):
        detection.train(config)
    for precisions in ("int8", ["int8"]):
        with pytest.raises(UserError, match="int8 is written for openvino"):
            classification.export(config, precisions=precisions)


def test_values_of_python_are_changes_as_after_o() -> None:
    values = {1: "1", 4e-3: "0.004", None: "null", "null": '"null"', Path("a b"): '"a b"', (1, "x"): '[1, "x"]'}
    assert as_changes({"Global": {"epochs": 1, "seed": 2}}) == ["Global.epochs=1", "Global.seed=2"]
    for value, text in values.items():
        assert as_changes({"A.b": list(value) if isinstance(value, tuple) else value}) == [f"A.b={text}"]
        assert as_changes([f"A.b={text}"]) == [f"A.b={text}"]
