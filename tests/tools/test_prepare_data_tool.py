"""Pictures out of a data set, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification.prepare import choose_evenly
from tests.support.runs import run_tool, small_config, write_config


def test_samples_are_spread_over_the_classes_and_hold_the_pixels_of_the_data_set(tmp_path: Path) -> None:
    config = write_config(tmp_path, small_config(tmp_path / "run"))
    output = tmp_path / "samples"
    for count in (15, 13):  # the second call replaces what the first wrote
        result = run_tool("prepare_data.py", "samples", "-c", config, "--count", str(count), "--output", output)
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"wrote {count} images" in result.stdout
    files = sorted(output.rglob("*.png"))
    assert len(files) == 13
    per_class = [len(list((output / str(digit)).glob("*.png"))) for digit in range(10)]
    assert max(per_class) - min(per_class) <= 1

    from classification.data.datasets import Digits

    digits = Digits(split="val", holdout=0.01, size=32)
    for file in files:
        image, label = digits.load(int(file.stem))
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
        assert file.parent.name == str(label)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    config = write_config(tmp_path, small_config(tmp_path / "run"))
    output = tmp_path / "mine"
    (output / "cats").mkdir(parents=True)
    (output / "cats" / "tom.jpg").write_bytes(b"precious")
    result = run_tool("prepare_data.py", "samples", "-c", config, "--output", output)
    assert result.returncode == 2
    assert "holds something else" in result.stderr
    assert (output / "cats" / "tom.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--count", "-5"), "error: --count must not be negative, got -5\n"),
        (("--seed", "-1"), "error: --seed must not be negative, got -1\n"),
        (("--output", "FILE"), "FILE: Not a directory\n"),
        (("-o", "DataLoader.Eval.dataset.holdout=2"), "dataset.holdout: must be above 0 and below 1, got 2.0\n"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    config = write_config(tmp_path, small_config(tmp_path / "run"))
    (tmp_path / "FILE").write_text("precious")
    arguments = tuple(argument.replace("FILE", str(tmp_path / "FILE")) for argument in arguments)
    result = run_tool("prepare_data.py", "samples", "-c", config, "--output", tmp_path / "samples", *arguments)
    assert result.returncode == 2
    assert result.stderr.endswith(message)
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "FILE").read_text() == "precious"
    assert not (tmp_path / "samples").exists()


def test_choice_takes_one_of_each_class_in_turn() -> None:
    labels = np.array([0] * 50 + [1] * 5 + [2])
    chosen = choose_evenly(labels, 7, seed=0)
    assert sorted(labels[chosen].tolist()) == [0, 0, 0, 1, 1, 1, 2]
    assert len(set(chosen.tolist())) == 7
    np.testing.assert_array_equal(chosen, choose_evenly(labels, 7, seed=0))
    assert len(choose_evenly(labels, 100, seed=0)) == 56
