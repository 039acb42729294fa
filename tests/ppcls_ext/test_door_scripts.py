"""``python -m ppcls_ext SCRIPT`` with a miniature PaddleClas checkout, and with a real one if PADDLECLAS_DIR says so.

The real one is run, never read: PADDLECLAS_DIR=path/to/PaddleClas pytest tests/ppcls_ext/test_door_scripts.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "ppcls_ext" / "__main__.py"
AS_MODULE = ["-m", "ppcls_ext"]
AS_FILE = [str(MAIN)]

# A checkout in miniature: what the door relies on, and a script that tells what it sees.
CHECKOUT = {
    "paddleclas.py": "raise RuntimeError('the checkout was imported in place of the wheel')\n",
    "ppcls/__init__.py": "from . import arch\n",
    "ppcls/arch/__init__.py": """
import importlib
from . import backbone
from .backbone import *
from .backbone.base import TheseusLayer

def build_model(config):
    arguments = dict(config)
    return getattr(importlib.import_module(__name__), arguments.pop("name"))(**arguments)
""",
    "ppcls/arch/backbone/__init__.py": "from .net import Net\n",
    "ppcls/arch/backbone/net.py": """
from .base import TheseusLayer

class Net(TheseusLayer):
    pass
""",
    "ppcls/arch/backbone/base.py": """
from paddle import nn

class TheseusLayer(nn.Layer):
    def __init__(self, *args, **kwargs):
        super().__init__()
        self.init_net(*args, **kwargs)

    def init_net(self, stages_pattern=None, return_patterns=None, return_stages=None, freeze_befor=None,
                 stop_after=None, *args, **kwargs):
        self.asked = [stages_pattern, return_stages]
        if stop_after is not None:
            names = list(self._sub_layers)
            for name in names[names.index(stop_after) + 1:]:
                setattr(self, name, nn.Identity())
""",
    "tools/beside.py": "",
    "tools/train.py": """
import json, os, sys
sys.path.append(os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../")))
import beside
import paddle
from ppcls.arch import build_model

if __name__ == "__main__":
    with open(sys.argv[sys.argv.index("-c") + 1]) as file:
        model = build_model(json.load(file))
    rank = os.environ.get("PADDLE_TRAINER_ID", "alone")
    seen = {
        "argv": sys.argv,
        "path": sys.path,
        "bases": [base.__name__ for base in type(model).__mro__],
        "asked": model.asked,
        "output": model(paddle.zeros([2, 3, 64, 64])).shape,
    }
    with open(f"seen_{rank}.json", "w") as file:
        json.dump(seen, file)
""",
}


def write_checkout(folder: Path, **changes: str) -> Path:
    for name, text in {**CHECKOUT, **changes}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture
def checkout(tmp_path) -> Path:
    return write_checkout(tmp_path / "Checkout")


@pytest.fixture
def config(tmp_path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"name": "EConvNeXt_mini", "class_num": 5, "stop_after": "pool"}))
    return file


def run(arguments: list[str], folder: Path, python_path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": python_path}
    for name in [name for name in environment if name.startswith("PADDLE_TRAINER")]:
        del environment[name]
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def check_seen(file: Path, script: Path, arguments: list[str]) -> None:
    seen = json.loads(file.read_text())
    assert seen["argv"] == [str(script), *arguments]
    assert seen["path"][0] == str(script.parents[1])
    assert str(MAIN.parent) not in seen["path"]
    assert seen["bases"][:2] == ["EConvNeXt_mini", "EConvNeXt"]
    assert "TheseusLayer" in seen["bases"], "the class of the model is not built on the checkout's own base"
    assert seen["asked"] == [["stages[0]", "stages[1]", "stages[2]", "stages[3]"], None]
    assert seen["output"] == [2, 768, 1, 1]


@pytest.mark.parametrize(("form", "python_path"), [(AS_MODULE, str(ROOT)), (AS_FILE, "")], ids=["module", "file"])
def test_the_script_of_a_checkout_finds_our_models(checkout, config, tmp_path, form, python_path):
    script = checkout / "tools" / "train.py"
    done = run([*form, str(script), "-c", str(config), "--more", "-o", "a=b"], tmp_path, python_path)
    assert done.returncode == 0, done.stderr
    check_seen(tmp_path / "seen_alone.json", script, ["-c", str(config), "--more", "-o", "a=b"])


def test_under_the_launcher(checkout, config, tmp_path):
    script = checkout / "tools" / "train.py"
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "logs")]
    done = run([*launch, *AS_FILE, str(script), "-c", str(config)], tmp_path, python_path="")
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in (0, 1):
        check_seen(tmp_path / f"seen_{rank}.json", script, ["-c", str(config)])


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a failed run, which must be one line and no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_wrong_scripts_are_refused_in_one_line(tmp_path):
    assert "no script given; usage: python -m ppcls_ext" in only_line(run(AS_MODULE, tmp_path))
    assert "script 'no/where.py' does not exist" in only_line(run([*AS_MODULE, "no/where.py"], tmp_path))
    (tmp_path / "lonely.py").touch()
    assert "script 'lonely.py' is not in a PaddleClas checkout" in only_line(run([*AS_MODULE, "lonely.py"], tmp_path))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ppcls/arch/backbone/net.py", "import no_such_package.part\n", "needs the package 'no_such_package'"),
        ("tools/train.py", "\nimport no_such_package\n", "needs the package 'no_such_package'"),
        ("tools/train.py", "from ppcls import engine\n", "does not load on this machine"),
        ("tools/train.py", "import ppcls.engine\n", "is incomplete: it has no module 'ppcls.engine'"),
        ("ppcls/arch/backbone/net.py", "import numpy\nnumpy.no_such_alias\n", "module 'numpy' has no attribute"),
    ],
)  # fmt: skip
def test_what_a_checkout_lacks_is_named_in_one_line(config, tmp_path, file, text, message):
    script = write_checkout(tmp_path / "Checkout", **{file: text}) / "tools" / "train.py"
    line = only_line(run([*AS_MODULE, str(script), "-c", str(config)], tmp_path))
    assert message in line
    assert f"{file}, line {len(text.splitlines())}" in line


def test_errors_of_the_script_itself_keep_their_traceback(checkout, config, tmp_path):
    script = checkout / "tools" / "train.py"
    script.write_text("raise ZeroDivisionError('a fault of the script')\n")
    done = run([*AS_MODULE, str(script), "-c", str(config)], tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a fault of the script" in done.stderr


# --- The real PaddleClas -------------------------------------------------------------------------------------------

NORMALISE = {
    "NormalizeImage": {
        "scale": "1.0/255.0",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "order": "",
    }
}
CLASSES = 2
IMAGES = 8


@pytest.fixture
def real_script() -> Path:
    folder = os.environ.get("PADDLECLAS_DIR")
    if not folder:
        pytest.skip("PADDLECLAS_DIR does not name a PaddleClas checkout: the real trainer is not run")
    script = Path(folder).resolve() / "tools" / "train.py"
    assert script.is_file(), f"PADDLECLAS_DIR={folder} holds no tools/train.py"
    return script


@pytest.fixture
def images(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    lines = []
    for index in range(IMAGES):
        pixels = generator.integers(0, 256, (72, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.jpg")
        lines.append(f"{index}.jpg {index % CLASSES}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    return tmp_path


def small_config(folder: Path) -> Path:
    """A configuration in PaddleClas's schema that trains EConvNeXt_mini on a few images of 64 x 64."""

    def loader(shuffle: bool) -> dict:
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(folder),
                "cls_label_path": str(folder / "list.txt"),
                "transform_ops": [
                    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
                    {"ResizeImage": {"size": 64}},
                    NORMALISE,
                ],
            },
            "sampler": {
                "name": "DistributedBatchSampler",
                "batch_size": 2,
                "drop_last": False,
                "shuffle": shuffle,
            },
            "loader": {"num_workers": 0, "use_shared_memory": False},
        }

    config = {
        "Global": {
            "checkpoints": None,
            "pretrained_model": None,
            "output_dir": str(folder / "output"),
            "device": "cpu",
            "save_interval": 1,
            "eval_during_train": True,
            "eval_interval": 1,
            "epochs": 1,
            "print_batch_step": 1,
            "use_visualdl": False,
            "image_shape": [3, 64, 64],
            "save_inference_dir": str(folder / "inference"),
        },
        "Arch": {"name": "EConvNeXt_mini", "class_num": CLASSES, "drop_path_rate": "1e-1"},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {
            "name": "AdamW",
            "weight_decay": 0.05,
            "one_dim_param_no_weight_decay": True,
            "lr": {"name": "Cosine", "learning_rate": 0.001, "warmup_epoch": 0},
        },
        "DataLoader": {"Train": loader(True), "Eval": loader(False)},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def check_trained(folder: Path, text: str, steps: int, class_num: int) -> None:
    """Checks what the trainer printed, and that its weights are those of our plain model and have learned."""
    import paddle

    from ppcls_ext import build_model

    losses = [
        float(loss) for loss in re.findall(r"\[Train\]\[Epoch 1/1\]\[Iter: \d+/\d+\].*? loss: ([\d.]+|nan)", text)
    ]
    assert len(losses) == steps, text[-3000:]
    assert np.isfinite(losses).all()
    weights = paddle.load(str(next((folder / "output").rglob("latest.pdparams"))))
    model = build_model("EConvNeXt_mini", class_num=class_num)
    assert model.set_state_dict(weights) == ([], [])
    # Norm weights begin at one: after some steps of the optimizer they do not stand there any more.
    assert (weights["stages.0.merge.norm.weight"].numpy() != 1).any()
    assert not any(np.isnan(value.numpy()).any() for value in weights.values())


def test_the_real_trainer_trains_our_model(real_script, images):
    done = run([*AS_MODULE, str(real_script), "-c", str(small_config(images))], images)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_trained(images, done.stdout, steps=IMAGES // 2, class_num=CLASSES)
    assert re.search(r"\[Eval\]\[Epoch 1\]\[Avg\].*top1: [\d.]+", done.stdout)


def test_the_real_trainer_trains_the_published_recipe(real_script, images):
    overrides = [
        "Global.device=cpu",
        "Global.epochs=1",
        "Global.print_batch_step=1",
        f"Global.output_dir={images / 'output'}",
        "Global.update_freq=1",
        "Optimizer.lr.warmup_epoch=0",
    ]
    for part in ("Train", "Eval"):
        overrides += [
            f"DataLoader.{part}.dataset.image_root={images}",
            f"DataLoader.{part}.dataset.cls_label_path={images / 'list.txt'}",
            f"DataLoader.{part}.sampler.batch_size=4",
            f"DataLoader.{part}.loader.num_workers=0",
        ]
    options = [word for override in overrides for word in ("-o", override)]
    config = ROOT / "configs" / "econvnext_mini.yaml"
    done = run([*AS_MODULE, str(real_script), "-c", str(config), *options], images)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_trained(images, done.stdout, steps=IMAGES // 4, class_num=1000)


def test_the_real_trainer_under_the_launcher(real_script, images):
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(images / "logs")]
    # PaddleClas's evaluation over several ranks asks for the number of the GPU and fails without one.
    options = ["-o", "Global.eval_during_train=False"]
    done = run([*launch, *AS_FILE, str(real_script), "-c", str(small_config(images)), *options], images, python_path="")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    logs = (images / "output").rglob("train.log")
    check_trained(images, next(logs).read_text(), steps=IMAGES // 4, class_num=CLASSES)
