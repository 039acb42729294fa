"""int8 through the command line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from ppcls_ext.utils.command_line import run
from tests.support.deployment import NEEDS_OPENVINO, needs
from tests.support.runs import ROOT, refusal


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
    assert "error: -o goes with -c" in refusal(tmp_path, "quantize_model.py", *options, "-o", "Global.device=cpu")
