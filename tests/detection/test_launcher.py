"""``python -m detection SCRIPT``: scripts for the installed ppdet, miniature checkouts, and a real one.

The real one is run, never read: PADDLEDET_DIR=path/to/PaddleDetection pytest tests/detection/test_launcher.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.script_door import Door, run_script
from tests.support.detector_runs import STEPS, make_frames, run_config
from tests.support.launcher import (
    AS_FILE,
    AS_MODULE,
    LAUNCH,
    MAIN,
    WORK,
    check_real_training_of_ours,
    check_real_training_under_the_launcher,
    check_rest_of_the_installed_one,
    check_rest_of_the_real_one,
    check_trained,
    final_weights,
    real_tools,
    run,
    run_tool,
    write_script,
)

LEARNED = "backbone.stages.0.merge.norm"

# Tells what a script sees, and leaves with the status that it is given.
SEE = """
import json, os, sys
import beside
import ppdet.data.transform
from ppdet.core.workspace import create

if __name__ == "__main__":
    seen = {
        "argv": sys.argv,
        "path": sys.path,
        "ppdet": ppdet.__file__,
        "channels": [shape.channels for shape in create(sys.argv[1]).out_shape],
        "operator": ppdet.data.transform.LabelsToInt64.__module__,
        "nms": type(create("MultiClassNMS3")).__module__,
    }
    with open("seen_" + os.environ.get("PADDLE_TRAINER_ID", "alone") + ".json", "w") as file:
        json.dump(seen, file)
    sys.exit(int(sys.argv[2]))
"""


def link_installed(checkout: Path) -> Path:
    """Makes a checkout of the installed ppdet; returns its root."""
    from importlib.util import find_spec

    checkout.mkdir()
    (checkout / "ppdet").symlink_to(Path(next(iter(find_spec("ppdet").submodule_search_locations))))
    return checkout


def check_seen(file: Path, script: Path, first: Path, arguments: list[str]) -> None:
    seen = json.loads(file.read_text())
    assert seen["argv"] == [str(script), *arguments]
    assert seen["path"][0] == str(first)
    assert str(MAIN.parent) not in seen["path"]
    assert seen["channels"] == [192, 384, 768]
    assert seen["operator"] == "detection.data.operators"
    assert seen["nms"] == "detection.nms"
    assert (Path(seen["ppdet"]).parents[1] == first) == ((first / "ppdet").exists())


def test_a_checkout_goes_before_the_installed_one(tmp_path: Path) -> None:
    checkout = link_installed(tmp_path / "Checkout")
    script = write_script(checkout, SEE)
    done = run([*AS_MODULE, str(script), "EConvNeXt", "0", "-o", "a=b"], tmp_path)
    assert done.returncode == 0, done.stderr
    check_seen(tmp_path / "seen_alone.json", script, checkout, ["EConvNeXt", "0", "-o", "a=b"])


def test_a_script_outside_uses_the_installed_one_and_its_status_is_passed_on(tmp_path: Path) -> None:
    script = write_script(tmp_path, SEE)
    done = run([*AS_FILE, str(script), "CSPConvNeXt", "7"], tmp_path, python_path="")
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    check_seen(tmp_path / "seen_alone.json", script, script.parent, ["CSPConvNeXt", "7"])


def test_under_the_launcher(tmp_path: Path) -> None:
    script = write_script(tmp_path, SEE)
    logs = ["--log_dir", str(tmp_path / "logs")]
    done = run([*LAUNCH, *logs, *AS_FILE, str(script), "EConvNeXt", "0"], tmp_path, python_path="")
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in (0, 1):
        check_seen(tmp_path / f"seen_{rank}.json", script, script.parent, ["EConvNeXt", "0"])


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a failed run, which must be one line and no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_wrong_scripts_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "no script given; usage: python -m detection PATH/TO/PaddleDetection" in only_line(run(AS_MODULE, tmp_path))
    assert "script 'no/where.py' does not exist" in only_line(run([*AS_MODULE, "no/where.py"], tmp_path))
    (tmp_path / "lonely.py").write_text("import json\n")
    line = only_line(run([*AS_MODULE, "lonely.py"], tmp_path))
    assert "script 'lonely.py' is not in a PaddleDetection checkout" in line
    assert line.endswith("and it does not import ppdet")
    (tmp_path / "config.yml").write_text("architecture: PPYOLOE\n_BASE_: [\n")
    assert "script 'config.yml' is not Python" in only_line(run([*AS_MODULE, "config.yml"], tmp_path))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ppdet/core/workspace.py", "\nimport imgaug_missing.augmenters\n", "needs the package 'imgaug_missing'"),
        ("ppdet/core/workspace.py", "from ppdet import nowhere\n", "does not load on this machine"),
        ("ppdet/core/workspace.py", "import ppdet.nowhere\n", "is incomplete: it has no module 'ppdet.nowhere'"),
        ("ppdet/core/workspace.py", "import numpy\nnumpy.no_such_alias\n", "module 'numpy' has no attribute"),
    ],
)  # fmt: skip
def test_what_a_checkout_lacks_is_named_in_one_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    checkout = tmp_path / "Checkout"
    for name in ("ppdet/__init__.py", "ppdet/core/__init__.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    (checkout / file).write_text(text)
    line = only_line(run([*AS_MODULE, str(write_script(checkout, "import ppdet\n"))], tmp_path))
    assert f"the checkout {checkout}" in line
    assert message in line
    assert f"{file}, line {len(text.splitlines())}" in line


def test_what_a_script_for_the_installed_one_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    door = Door("PaddleDetection", "ppdet", "ppdet/core", "detection", register=lambda: None, wheel="paddledet")
    script = write_script(tmp_path, "import no_such_package\nimport ppdet.core\n")
    with pytest.raises(UserError) as refusal:
        run_script(door, [str(script)])
    expected = f"the script {script} needs the package 'no_such_package', which is not installed (train.py, line 1)"
    assert str(refusal.value) == expected


def test_without_any_ppdet_the_wheel_is_named(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['ppdet'] = None; sys.argv = sys.argv[1:]; import runpy; "
    command = hide + "runpy.run_module('detection', run_name='__main__')"
    script = write_script(tmp_path, "import ppdet\n")
    line = only_line(run(["-c", command, "detection", str(script)], tmp_path))
    assert f"'{script}' needs PaddleDetection, which is not installed: pip install paddledet --no-deps" in line


def write_lively_weights(config: Path, file: Path) -> Any:
    """Writes weights of a detector that finds something, and returns the detector."""
    from detection.configuration import load_config
    from detection.toolkit import build_model
    from ppcls_ext.weights import write_weights
    from tests.support.detectors import make_lively

    model = build_model(load_config(config))
    make_lively(model)
    # Sides of one or two cells of the grid, so that boxes lie inside the image and are seen.
    for layer in model.yolo_head.pred_reg:
        layer.bias.set_value(np.tile(-np.arange(17, dtype=np.float32), 4))
    write_weights(file, model.state_dict())
    model.eval()
    return model


def small_run(folder: Path, **changes: Any) -> Path:
    frames = make_frames(folder / "data", empty=False)
    test = {"name": "ImageFolder", "dataset_dir": str(frames.root), "anno_path": "annotations/val.json"}
    return run_config(folder, frames, epoch=1, log_iter=1, TestDataset=test, **changes)


def test_the_trainer_of_the_installed_one(tmp_path: Path) -> None:
    config = small_run(tmp_path)
    script = write_script(tmp_path, WORK)
    done = run([*AS_MODULE, str(script), "train", "-c", str(config), "-o", "keep_checkpoints=3"], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_trained(tmp_path / "runs" / "run" / "model_final.pdparams", done.stdout, STEPS, config, LEARNED)


def test_evaluation_drawing_and_export_of_the_installed_one(tmp_path: Path) -> None:
    config = small_run(tmp_path)
    weights = tmp_path / "lively.pdparams"
    check_rest_of_the_installed_one(config, weights, write_lively_weights(config, weights))


# --- The real PaddleDetection --------------------------------------------------------------------------------------


@pytest.fixture
def tools() -> Path:
    return real_tools()


def test_the_real_trainer(tools: Path, tmp_path: Path) -> None:
    config = small_run(tmp_path)
    text = run_tool(tools, "train", config, "--eval")
    check_trained(final_weights(tmp_path), text, STEPS, config, LEARNED)


def test_the_real_evaluation_drawing_and_export(tools: Path, tmp_path: Path) -> None:
    config = small_run(tmp_path)
    weights = tmp_path / "lively.pdparams"
    check_rest_of_the_real_one(tools, config, weights, write_lively_weights(config, weights))


@pytest.mark.parametrize("name", ["ppyoloe_s_econvnext_mini", "ppyoloe_s_cspresnet"])
def test_the_real_trainer_takes_our_configurations(tools: Path, tmp_path: Path, name: str) -> None:
    check_real_training_of_ours(tools, tmp_path, name, "width_mult=0.25")


def test_the_real_trainer_under_the_launcher(tools: Path, tmp_path: Path) -> None:
    check_real_training_under_the_launcher(tools, small_run(tmp_path), STEPS // 2, LEARNED)
