"""Unmodified scripts of PaddleClas and PaddleDetection find our models: ``python -m ppcls_ext | detection SCRIPT``.

Real checkouts are run if there are some, never read:
PADDLECLAS_DIR=path/to/PaddleClas PADDLEDET_DIR=path/to/PaddleDetection pytest tests/test_toolkit_plugins.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.detectors import (
    LETTERBOX,
    PLAIN,
    STEPS,
    make_frames,
    make_lively,
    make_yolov10_lively,
    run_config,
    yolov10_run_config,
)  # fmt: skip
from tests.support.frames import NAMES

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
PRECISION = "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all"  # what an evaluation of a detector prints

# A script of each toolkit: tells what it sees, and leaves with the status that it is given.
SEE = """
import json, os, sys
import beside
{body}
seen = {{"argv": sys.argv, "path": sys.path, "module": module.__file__, "model": model}}
with open("seen_" + os.environ.get("PADDLE_TRAINER_ID", "alone") + ".json", "w") as file:
    json.dump(seen, file)
sys.exit(int(sys.argv[1]))
"""
BODIES = {
    "ppcls_ext": """
import paddle, ppcls.arch as module
model = module.build_model({"Arch": {"name": "EConvNeXt_mini", "class_num": 5, "stop_after": "pool"}})
model = [model(paddle.zeros([2, 3, 64, 64])).shape, isinstance(model, module.TheseusLayer)]
""",
    "detection": """
import ppdet as module, ppdet.data.transform
from ppdet.core.workspace import create
channels = [shape.channels for shape in create("CSPConvNeXt").out_shape]
model = [channels, type(create("MultiClassNMS3")).__module__, ppdet.data.transform.LabelsToInt64.__module__]
""",
}
SEEN = {
    "ppcls_ext": [[2, 768, 1, 1], True],
    "detection": [[192, 384, 768], "detection.nms", "detection.operators"],
}
BOTH = pytest.mark.parametrize("package", ["ppcls_ext", "detection"])


def run(arguments: list[str], folder: Path, python_path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    """Runs Python with ``arguments`` in ``folder``; what a real checkout needs may be on PYTHONPATH already."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_TRAINER")}
    environment |= {"PYTHONPATH": os.pathsep.join([python_path, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder, env={**environment, "OMP_NUM_THREADS": "1"}, check=False, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip


def succeed(arguments: list[str], folder: Path, python_path: str = str(ROOT)) -> str:
    """Returns what a run printed, which must have ended well."""
    done = run(arguments, folder, python_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def write_script(folder: Path, text: str) -> Path:
    """Writes a script, and a module beside it; returns its path."""
    script = folder / "tools" / "train.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text)
    (script.parent / "beside.py").touch()
    return script


def make_checkout(package: str, folder: Path, text: str = "") -> Path:
    """Makes a checkout of the installed toolkit with a script, which tells what it sees unless given; returns it."""
    if package == "ppcls_ext":
        wheel = Path(next(iter(find_spec("paddleclas").submodule_search_locations)))
        shutil.copytree(wheel / "ppcls", folder / "ppcls")
        (folder / "paddleclas.py").write_text("raise RuntimeError('imported in place of the wheel')\n")
    else:
        folder.mkdir()
        (folder / "ppdet").symlink_to(Path(next(iter(find_spec("ppdet").submodule_search_locations))))
    return write_script(folder, text or SEE.format(body=BODIES[package]))


def check_seen(package: str, file: Path, script: Path, arguments: list[str]) -> None:
    checkout = script.parents[1]
    seen = json.loads(file.read_text())
    assert seen["argv"] == [str(script), *arguments]
    assert seen["path"][0] == str(checkout)
    assert str(ROOT / package) not in seen["path"]
    assert Path(seen["module"]).is_relative_to(checkout)
    assert seen["model"] == SEEN[package]


@BOTH
def test_a_script_of_a_checkout_finds_our_models_and_its_status_is_passed_on(package, tmp_path):
    script = make_checkout(package, tmp_path / "Checkout")
    main = ROOT / package / "__main__.py"
    for form, python_path in ([["-m", package], str(ROOT)], [[str(main)], ""]):
        done = run([*form, str(script), "7", "-o", "a=b"], tmp_path, python_path)
        assert done.returncode == 7, done.stderr
        assert "Traceback" not in done.stderr
        check_seen(package, tmp_path / "seen_alone.json", script, ["7", "-o", "a=b"])


@pytest.mark.slow
@BOTH
def test_under_the_launcher(package, tmp_path):
    script = make_checkout(package, tmp_path / "Checkout")
    launch = [*LAUNCH, "--log_dir", str(tmp_path / "logs"), str(ROOT / package / "__main__.py")]
    succeed([*launch, str(script), "0"], tmp_path, python_path="")
    for rank in (0, 1):
        check_seen(package, tmp_path / f"seen_{rank}.json", script, ["0"])


@BOTH
def test_mistakes_are_one_line(package, tmp_path):
    done = run(["-m", package, "no/where.py"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: script 'no/where.py' does not exist"
    assert "Traceback" not in done.stderr


def losses_of(text: str, line: str) -> list[float]:
    return [float(loss) for loss in re.findall(line + r".*? loss: ([\d.]+|nan)", text)]


# --- The real PaddleClas -------------------------------------------------------------------------------------------


def real_script(variable: str, name: str = "train") -> Path:
    """Returns a script of a real checkout; skips the test where there is none."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name a checkout: its scripts are not run")
    script = Path(folder).resolve() / "tools" / f"{name}.py"
    assert script.is_file(), f"{variable}={folder} holds no tools/{name}.py"
    return script


@pytest.fixture
def images(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(generator.integers(0, 256, (72, 80, 3), dtype=np.uint8)).save(tmp_path / f"{index}.jpg")
    (tmp_path / "list.txt").write_text("".join(f"{index}.jpg {index % 2}\n" for index in range(8)))
    return tmp_path


@pytest.mark.parametrize(("case", "steps"), [("published", 2), ("two processes", 2)])
def test_the_real_paddleclas_trains_our_models(images, case, steps):
    """Our published recipe, shortened; at 64 px but for ``published``, which keeps all else as it is."""
    from ppcls_ext import build_model
    from ppcls_ext.weights import load_weights, read_weights

    script = real_script("PADDLECLAS_DIR")
    config = yaml.safe_load((ROOT / "configs" / "econvnext_mini.yaml").read_text())
    config["Global"] |= {
        "device": "cpu", "epochs": 1, "print_batch_step": 1, "output_dir": str(images / "output"), "update_freq": 1,
        # PaddleClas's evaluation over several ranks asks for the number of the GPU and fails without one.
        "eval_during_train": case != "two processes",
    }  # fmt: skip
    config["Optimizer"]["lr"]["warmup_epoch"] = 0
    for part in ("Train", "Eval"):
        loader = config["DataLoader"][part]
        loader["dataset"] |= {"image_root": str(images), "cls_label_path": str(images / "list.txt")}
        loader["sampler"]["batch_size"] = 4 if case == "published" else 2
        loader["loader"]["num_workers"] = 0
        if case != "published":
            for operator in loader["dataset"]["transform_ops"]:
                for name in {"RandCropImage", "CropImage"} & set(operator):
                    operator[name]["size"] = 64
    (images / "config.yaml").write_text(yaml.safe_dump(config))
    options = [str(script), "-c", str(images / "config.yaml")]
    if case == "two processes":
        launch = [*LAUNCH, "--log_dir", str(images / "logs"), str(ROOT / "ppcls_ext" / "__main__.py")]
        succeed([*launch, *options], images, python_path="")
        text = next((images / "output").rglob("train.log")).read_text()
    else:
        text = succeed(["-m", "ppcls_ext", *options], images)
        assert re.search(r"\[Eval\]\[Epoch 1\]\[Avg\].*top1: [\d.]+", text)
    losses = losses_of(text, r"\[Train\]\[Epoch 1/1\]\[Iter: \d+/\d+\]")
    assert len(losses) == steps, text[-3000:]
    assert np.isfinite(losses).all()
    weights = read_weights(next((images / "output").rglob("latest.pdparams")))
    model = build_model("EConvNeXt_mini", class_num=config["Arch"].get("class_num", 1000))
    assert load_weights(model, weights).complete
    # Norm weights begin at one: after some steps of the optimizer they do not stand there any more.
    assert (weights["norm.weight"] != 1).any()


# --- PaddleDetection: the installed one, and the real one ------------------------------------------------------------

# What the four scripts of 2.6 do, in one: `MODE -c CONFIG [-o KEY=VALUE ...]`.
WORK = """
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
EITHER = pytest.mark.parametrize("name", ["ppyoloe", "yolov10"])
LEARNED = {"ppyoloe": "backbone.stages.0.merge.norm", "yolov10": "backbone.to_p3.0.norm"}
BATCHES = {"ppyoloe": STEPS, "yolov10": 2 * STEPS}


def small_run(name: str, folder: Path) -> Path:
    """Writes a short training: PP-YOLOE for one epoch; YOLOv10 for one with mosaics and one with letterboxes."""
    frames = make_frames(folder / "data", empty=False)
    test = {"name": "ImageFolder", "dataset_dir": str(frames.root), "anno_path": "annotations/val.json"}
    if name == "ppyoloe":
        return run_config(folder, frames, epoch=1, log_iter=1, TestDataset=test)
    mosaic = {"MosaicPerspective": {"target_size": [64, 64], "translate": 0.1, "scale": 0.5}}
    training = {
        "sample_transforms": [{"Decode": {}}, mosaic, {"RandomHSV": {}}],
        "batch_transforms": [PLAIN, {"Permute": {}}, {"PadGT": {}}, {"LabelsToInt64": {}}],
        "batch_size": 4, "shuffle": True, "drop_last": True, "mosaic_epoch": 1,
    }  # fmt: skip
    return yolov10_run_config(
        folder, frames.root, len(NAMES), 64, log_iter=1, TestDataset=test, TrainReader=training,
        EvalReader__sample_transforms=LETTERBOX, TestReader__sample_transforms=LETTERBOX,
    )  # fmt: skip


def check_trained(name: str, config: Path, text: str, steps: int) -> None:
    """Checks the losses that PaddleDetection printed, and that the weights are our detector's and have learned."""
    from detection.configuration import load_config
    from detection.toolkit import build_model
    from ppcls_ext.weights import load_weights, read_weights

    losses = losses_of(text, r"Epoch: \[\d+\] \[\d+/\d+\]")
    assert len(losses) == steps, text[-3000:]
    assert np.isfinite(losses).all()
    # 2.6 saves below the name of the configuration, newer trees right in save_dir.
    saved = read_weights(next((config.parent / "runs").rglob("model_final.pdparams")))
    assert load_weights(build_model(load_config(config)), saved).complete
    assert (saved[f"{LEARNED[name]}.weight"] != 1).any()
    assert not any(np.isnan(value).any() for value in saved.values())


def lively_detector(name: str, config: Path) -> Any:
    """Writes ``lively.pdparams`` beside ``config``: weights of a detector that finds something; returns it."""
    from detection.configuration import load_config
    from detection.toolkit import build_model
    from ppcls_ext.weights import write_weights

    model = build_model(load_config(config))
    if name == "ppyoloe":
        make_lively(model)
        # Sides of one or two cells of the grid, so that boxes lie inside the image and are seen.
        for layer in model.yolo_head.pred_reg:
            layer.bias.set_value(np.tile(-np.arange(17, dtype=np.float32), 4))
    else:
        make_yolov10_lively(model)
    write_weights(config.with_name("lively.pdparams"), model.state_dict())
    model.eval()
    return model


def check_drawn_and_exported(name: str, folder: Path, model: Any) -> None:
    """Compares the drawing with the picture, and the export with the detector; equal scores may change places."""
    import paddle

    with Image.open(folder / "data" / "images" / "val_00.png") as before, Image.open(
        folder / "drawn" / "val_00.png"
    ) as after:
        assert (np.asarray(before.convert("RGB")) != np.asarray(after)).any()
    batch = {
        "image": np.random.default_rng(0).normal(size=(2, 3, 64, 64)),
        "scale_factor": np.array([[0.8, 0.7], [1.0, 1.0]]),
    }
    if name == "yolov10":  # The first picture is padded by 5 pixels above and 10 at the left.
        batch |= {"im_shape": np.array([[53, 43], [64, 64]]), "pad": np.array([[5, 10], [0, 0]])}
    batch = {key: paddle.to_tensor(value.astype(np.float32)) for key, value in batch.items()}
    with paddle.no_grad():
        expected = model({"im_shape": paddle.to_tensor(np.full((2, 2), 64, np.float32)), **batch})
    inputs = [batch[key] for key in ("im_shape", "image", "scale_factor") if key in batch]
    boxes, counts = paddle.jit.load(str(folder / "exported" / "run" / "model"))(*inputs)
    assert int(counts.sum()) > 0, "nothing was found: nothing is tested"
    np.testing.assert_array_equal(counts.numpy(), expected["bbox_num"].numpy())
    first = int(counts[0])
    for part in (slice(None, first), slice(first, None)):
        rows, wanted = boxes.numpy()[part], expected["bbox"].numpy()[part]
        np.testing.assert_allclose(rows[:, 1], wanted[:, 1], rtol=1e-3, atol=1e-3)
        near = (np.abs(rows[:, None] - wanted[None]) <= 1e-3 + 1e-3 * np.abs(wanted)[None]).all(axis=2)
        assert near.any(axis=0).all() and near.any(axis=1).all()


@pytest.mark.parametrize("real", [pytest.param(False, marks=pytest.mark.slow), True])
@EITHER
def test_paddledetection_trains_evaluates_draws_and_exports_our_detectors(name, real, tmp_path):
    config = small_run(name, tmp_path)
    image, weights = str(tmp_path / "data/images/val_00.png"), f"weights={tmp_path / 'lively.pdparams'}"
    written = None if real else str(make_checkout("detection", tmp_path / "checkout", WORK))

    def tool(tool_name: str, *options: str) -> str:
        script = [str(real_script("PADDLEDET_DIR", tool_name))] if written is None else [written, tool_name]
        return succeed(["-m", "detection", *script, "-c", str(config), *options], tmp_path)

    check_trained(name, config, tool("train", *(["--eval"] if real else [])), BATCHES[name])
    model = lively_detector(name, config)
    if real:
        assert PRECISION in tool("eval", "-o", weights)
        drawing = ["--infer_img", image, "--output_dir", str(tmp_path / "drawn"), "--draw_threshold", "0.0"]
        tool("infer", *drawing, "-o", weights)
        tool("export_model", "--output_dir", str(tmp_path / "exported"), "-o", weights)
    else:
        assert PRECISION in tool("rest", "--image", image, "-o", weights)
    check_drawn_and_exported(name, tmp_path, model)


@pytest.mark.parametrize(
    ("name", "options"), [("ppyoloe_s_econvnext_mini", ["width_mult=0.25"]), ("yolov10_s_econvnext_mini", [])]
)
def test_the_real_paddledetection_takes_our_configurations(name, options, tmp_path):
    frames = make_frames(tmp_path / "data", empty=False)
    settings = ["use_gpu=false", "epoch=1", "log_iter=1", "worker_num=0", f"save_dir={tmp_path / 'runs'}"]
    settings += [f"{part}Dataset.dataset_dir={frames.root}" for part in ("Train", "Eval", "Test")]
    settings += ["num_classes=3", "TrainReader.batch_size=6", "EvalReader.batch_size=6", *options]
    config = ROOT / "configs" / "detection" / "marine_debris" / f"{name}.yml"
    script = real_script("PADDLEDET_DIR")
    text = succeed(["-m", "detection", str(script), "-c", str(config), "--eval", "-o", *settings], tmp_path)
    losses = losses_of(text, r"Epoch: \[\d+\] \[\d+/\d+\]")
    assert len(losses) == 3
    assert np.isfinite(losses).all()
