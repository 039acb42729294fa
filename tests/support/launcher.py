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
from PIL import Image

from tests.support.detector_runs import make_frames

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "detection" / "__main__.py"
AS_MODULE = ["-m", "detection"]
AS_FILE = [str(MAIN)]
LAUNCH = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
# What an evaluation prints.
PRECISION = "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all"

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


def check_exported(path: Path, model: Any, letterboxed: bool = False) -> None:
    """Compares an exported model with the detector that it was made from; rows with equal scores may change places.

    A graph for letterboxed inputs takes the size of the picture in them, too.
    """
    import paddle

    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    scale = np.array([[0.8, 0.7], [1.0, 1.0]], np.float32)
    # The pictures in the inputs: the first one is padded by 5 pixels above and 10 at the left.
    shape = np.array([[53, 43], [64, 64]], np.float32)
    batch = {name: paddle.to_tensor(value) for name, value in (("image", pixels), ("scale_factor", scale))}
    padding = {"pad": paddle.to_tensor(np.array([[5, 10], [0, 0]], np.float32))} if letterboxed else {}
    with paddle.no_grad():
        expected = model({**batch, **padding, "im_shape": paddle.to_tensor(shape)})
    exported = paddle.jit.load(str(path))
    # Its inputs are in the order of their names.
    first_inputs = [paddle.to_tensor(shape)] if letterboxed else []
    boxes, counts = exported(*first_inputs, batch["image"], batch["scale_factor"])
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


def check_drawn(image: Path, drawn: Path) -> None:
    """Checks that a drawing differs from the image that was drawn on."""
    with Image.open(image) as before, Image.open(drawn) as after:
        assert (np.asarray(before.convert("RGB")) != np.asarray(after)).any()


def check_rest_of_the_installed_one(config: Path, weights: Path, model: Any, letterboxed: bool = False) -> None:
    """Evaluates, draws and exports ``weights`` with the installed ppdet, beside ``config`` and its data.

    Args:
        config: lies in the folder that holds ``data`` and receives the results.
        weights: those of ``model``, which finds something.
        model: the detector in evaluation mode.
        letterboxed: its inputs are padded all around.
    """
    folder = config.parent
    image = folder / "data" / "images" / "val_00.png"
    options = ["--image", str(image), "-o", f"weights={weights}"]
    done = run([*AS_MODULE, str(write_script(folder, WORK)), "rest", "-c", str(config), *options], folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert PRECISION in done.stdout
    check_drawn(image, folder / "drawn" / "val_00.png")
    check_exported(folder / "exported" / "run" / "model", model, letterboxed)


def check_rest_of_the_real_one(
    tools: Path, config: Path, weights: Path, model: Any, letterboxed: bool = False
) -> None:
    """As :func:`check_rest_of_the_installed_one`, with the three scripts of a checkout."""
    folder = config.parent
    options = ["-o", f"weights={weights}"]
    assert PRECISION in run_tool(tools, "eval", config, *options)
    image = folder / "data" / "images" / "val_00.png"
    drawing = ["--infer_img", str(image), "--output_dir", str(folder / "drawn"), "--draw_threshold", "0.0"]
    run_tool(tools, "infer", config, *drawing, *options)
    check_drawn(image, folder / "drawn" / "val_00.png")
    run_tool(tools, "export_model", config, "--output_dir", str(folder / "exported"), *options)
    check_exported(folder / "exported" / "run" / "model", model, letterboxed)


def check_real_training_of_ours(tools: Path, folder: Path, name: str, *options: str) -> None:
    """Trains a configuration of ours for marine debris with a checkout's script, on three batches of small frames."""
    frames = make_frames(folder / "data", empty=False)
    settings = ["use_gpu=false", "epoch=1", "log_iter=1", "worker_num=0", f"save_dir={folder / 'runs'}"]
    settings += [f"{part}Dataset.dataset_dir={frames.root}" for part in ("Train", "Eval", "Test")]
    settings += ["num_classes=3", "TrainReader.batch_size=6", "EvalReader.batch_size=6", *options]
    config = ROOT / "configs" / "detection" / "marine_debris" / f"{name}.yml"
    done = run([*AS_MODULE, str(tools / "train.py"), "-c", str(config), "--eval", "-o", *settings], folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    losses = losses_of(done.stdout + done.stderr)
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def check_real_training_under_the_launcher(tools: Path, config: Path, steps: int, learned: str) -> None:
    """Trains with a checkout's script in two processes, each of which sees ``steps`` batches."""
    folder = config.parent
    command = [*LAUNCH, "--log_dir", str(folder / "logs"), *AS_FILE, str(tools / "train.py"), "-c", str(config)]
    done = run([*command, "--eval"], folder, python_path="")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    text = (folder / "logs" / "workerlog.0").read_text()
    check_trained(final_weights(folder), text, steps, config, learned)
