"""int8 through the command line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_ext.utils.command_line import run
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, export_small, needs
from tests.support.runs import ROOT, refusal, run_tool


@NEEDS_ONNX
@NEEDS_OPENVINO
@needs("nncf")
def test_an_export_gets_int8_from_a_folder_of_images(tmp_path: Path) -> None:
    export_small(tmp_path / "export", formats=["openvino"])
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(12):
        pixels = generator.integers(0, 256, [50, 70, 3], dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    done = run_tool(
        "quantize_model.py", "--model", "export", "--images", "images", "--output", "smaller", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "int8 of format openvino, calibrated on 12 images" in done.stdout
    options = ("--model", "export", "--images", "images", "-o", "Global.device=cpu")
    assert "error: -o goes with -c" in refusal(tmp_path, "quantize_model.py", *options)
    described = yaml.safe_load((tmp_path / "smaller" / "inference.yml").read_text(encoding="utf-8"))
    assert {artefact["precision"] for artefact in described["artefacts"]} == {"fp32", "int8"}


@NEEDS_OPENVINO
@needs("nncf")
def test_a_loss_above_the_limit_on_images_spread_over_a_folder_is_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ppcls_ext.deploy import quantize

    def refuse(source: Path, target: Path, images: list[tuple[str, Path]], *_: object, **__: object) -> None:
        assert [file.name for _, file in images] == ["0.png", "2.png", "4.png"]
        raise quantize.LimitExceededError("int8 loses 1.20 points, allowed are 0.50; nothing was written")

    for number in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    tool = runpy.run_path(str(ROOT / "tools" / "quantize_model.py"))
    monkeypatch.setattr(quantize, "quantize_export", refuse)
    options = ["--model", str(tmp_path / "export"), "--images", str(tmp_path), "--count", "3",
               "--format", "openvino"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["quantize_model.py", *options])
    with pytest.raises(SystemExit) as stop:
        run(tool["main"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: int8 loses 1.20 points, allowed are 0.50; nothing was written\n"
