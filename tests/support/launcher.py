"""Scripts of PaddleDetection under ``python -m detection``: how tests run them, and what they must have done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "detection" / "__main__.py"
AS_MODULE = ["-m", "detection"]
AS_FILE = [str(MAIN)]
LAUNCH = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]

# What the four scripts of 2.6 do, in one: `MODE -c CONFIG [-o KEY=VALUE ...]`.
WORK = """
import sys
import paddle
from ppdet.core.workspace import load_config, merge_config
from ppdet.engine import Trainer
from ppdet.utils.check import check_config
from ppdet.utils.cli import ArgsParser

parser = ArgsParser()
parser.add_argument("mode")
parser.add_argument("--image")
arguments = parser.parse_args()
config = load_config(arguments.config)
merge_config(arguments.opt)
paddle.set_device("cpu")
check_config(config)
if arguments.mode == "train":
    Trainer(config, mode="train").train(True)
else:
    for mode in ("eval", "test"):
        trainer = Trainer(config, mode=mode)
        trainer.load_weights(config.weights)
        if mode == "eval":
            trainer.evaluate()
    trainer.predict([arguments.image], draw_threshold=0.0, output_dir="drawn")
    trainer.export("exported")
"""


def run(arguments: list[str], folder: Path, python_path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    """Runs Python with ``arguments`` in ``folder``."""
    # What a real checkout needs may be on PYTHONPATH already.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([python_path, os.environ.get("PYTHONPATH", "")])}
    for name in [name for name in environment if name.startswith("PADDLE_TRAINER")]:
        del environment[name]
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )


def write_script(folder: Path, text: str, name: str = "tools/train.py") -> Path:
    """Writes a script, and a module beside it; returns its path."""
    script = folder / name
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text)
    (script.parent / "beside.py").touch()
    return script


def losses_of(text: str) -> list[float]:
    """Returns the losses that PaddleDetection's trainer printed."""
    return [float(loss) for loss in re.findall(r"Epoch: \[\d+\] \[\d+/\d+\].*? loss: ([\d.]+|nan)", text)]


def check_trained(weights: Path, text: str, steps: int, config: Path, learned: str) -> None:
    """Checks what the trainer printed, that the weights are our detector's, and that norm ``learned`` has learned."""
    from detection.configuration import load_config
    from detection.toolkit import build_model
    from ppcls_ext.weights import load_weights, read_weights

    losses = losses_of(text)
    assert len(losses) == steps, text[-3000:]
    assert np.isfinite(losses).all()
    saved = read_weights(weights)
    assert load_weights(build_model(load_config(config)), saved).complete
    assert (saved[f"{learned}.weight"] != 1).any(), "nothing was learned"
    assert not any(np.isnan(value).any() for value in saved.values())


def check_exported(path: Path, model: Any) -> None:
    """Compares an exported model with the detector that it was made from; rows with equal scores may change places."""
    import paddle

    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    scale = np.array([[0.8, 0.7], [1.0, 1.0]], np.float32)
    batch = {"image": paddle.to_tensor(pixels), "scale_factor": paddle.to_tensor(scale)}
    with paddle.no_grad():
        expected = model({**batch, "im_shape": paddle.to_tensor(np.full((2, 2), 64, np.float32))})
    exported = paddle.jit.load(str(path))
    boxes, counts = exported(batch["image"], batch["scale_factor"])
    assert int(counts.sum()) > 0, "nothing was found: nothing is tested"
    np.testing.assert_array_equal(counts.numpy(), expected["bbox_num"].numpy())
    first = int(counts[0])
    for part in (slice(None, first), slice(first, None)):
        rows, wanted = boxes.numpy()[part], expected["bbox"].numpy()[part]
        np.testing.assert_allclose(rows[:, 1], wanted[:, 1], rtol=1e-3, atol=1e-3)
        limits = 1e-3 + 1e-3 * np.abs(wanted)
        near = (np.abs(rows[:, None] - wanted[None]) <= limits[None]).all(axis=2)
        assert near.any(axis=0).all() and near.any(axis=1).all()


def real_tools() -> Path:
    """Returns the folder ``tools`` of the real checkout; skips the test where there is none."""
    folder = os.environ.get("PADDLEDET_DIR")
    if not folder:
        pytest.skip("PADDLEDET_DIR does not name a PaddleDetection checkout: its scripts are not run")
    tools = Path(folder).resolve() / "tools"
    assert (tools / "train.py").is_file(), f"PADDLEDET_DIR={folder} holds no tools/train.py"
    return tools


def run_tool(tools: Path, name: str, config: Path, *options: str) -> str:
    """Runs one of the checkout's scripts; returns what it printed."""
    done = run([*AS_MODULE, str(tools / f"{name}.py"), "-c", str(config), *options], config.parent)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def final_weights(folder: Path) -> Path:
    """Returns the weights that a run below ``folder`` ended with."""
    # 2.6 saves below the name of the configuration, newer trees right in save_dir.
    return next((folder / "runs").rglob("model_final.pdparams"))
