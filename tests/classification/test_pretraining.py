"""Pretraining without labels: what it writes, that it resumes to the same bits, and what users do wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest

from classification import train
from classification.check import check_config_data
from classification.config import load_config
from classification.distillation import TeacherFiles
from classification.onnx_teacher import OnnxTeacher, external_data
from classification.sections import OnnxTeacherSettings
from classification.task import train_config
from ppcls_ext import build_model
from ppcls_ext.utils.errors import UserError
from ppcls_ext.weights import find_weights, load_weights
from tests.support.runs import NORMALIZE, TINY, launch_tool, same_files, small_config, write_config

TENSORS = ("model.pdparams", "ema.pdparams", "optimizer.pdopt", "auxiliary.pdparams")
NETWORK = {key: value for key, value in TINY.items() if key != "name"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of gradients and blobs in two folders."""
    folder = tmp_path_factory.mktemp("frames")
    generator = np.random.default_rng(0)
    for number in range(16):
        path = folder / f"dive {number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        image = cv2.resize(generator.integers(0, 256, (6, 6, 3), np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), image)
    return folder


def masked(output: Path, frames: Path, **changes: Any) -> dict[str, Any]:
    """Returns a configuration that paints the hidden patches of the frames, at 32 px enlarged to 128."""
    config = small_config(output, Arch=dict(TINY), **{"Global__save_steps": 2, **changes})
    for section in ("Loss", "Infer", "Metric"):
        del config[section]
    del config["DataLoader"]["Eval"]
    config.setdefault("Pretraining", {"name": "Masked", "decoder_channels": 8, "picture_interval": 1})
    operators = [{"RandCropImage": {"size": 32, "scale": [0.6, 1.0]}}, {"RandFlipImage": {}}, NORMALIZE]
    config["DataLoader"]["Train"] = {
        "dataset": {"name": "UnlabelledImages", "image_root": str(frames), "transform_ops": operators},
        "sampler": {"batch_size": 4, "drop_last": True, "shuffle": True},
    }
    return config


def pretrain(folder: Path, config: dict[str, Any], resume: str | None = None, *changes: str) -> dict[str, Any]:
    return train(write_config(folder, config), changes, resume)


@pytest.fixture(scope="module")
def run(frames, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    pretrain(folder, masked(folder / "run", frames))
    return folder / "run"


def test_a_run_leaves_a_network_like_every_other_with_loss_and_pictures(run, tmp_path):
    report = json.loads((run / "report.json").read_text())
    assert report["pretraining"]["name"] == "Masked" and report["best"] is None
    assert all("top1" not in record["train"] and record["train"]["loss"] > 0 for record in report["history"])
    assert cv2.imread(str(run / "pictures/epoch_0002.png")).shape[0] > 100 and (run / "curves.png").is_file()
    model = build_model("EConvNeXt_mini", **NETWORK)
    assert load_weights(model, run / "checkpoints/epoch_0002/ema.pdparams").complete
    assert find_weights(run / "checkpoints/latest").name == "ema.pdparams"
    # Any classifier starts from it.
    config = small_config(tmp_path / "run", Arch=dict(TINY), Global__epochs=1)
    config["Global"]["pretrained_model"] = str(run / "checkpoints/latest")
    assert train_config(load_config(write_config(tmp_path, config)))["epochs"] == 1


def test_it_resumes_to_the_same_bits(run, frames, tmp_path):
    part = tmp_path / "run"
    shutil.copytree(run, part, symlinks=True)
    shutil.rmtree(part / "checkpoints/epoch_0002")
    pretrain(tmp_path, masked(part, frames), "auto")
    assert same_files(run / "checkpoints/epoch_0002", part / "checkpoints/epoch_0002", TENSORS) == []
    assert (run / "pictures/epoch_0002.png").read_bytes() == (part / "pictures/epoch_0002.png").read_bytes()


def test_a_teacher_of_this_project_is_followed_without_labels(run, frames, tmp_path):
    teacher = {"name": "EConvNeXt_mini", "pretrained": str(run / "checkpoints/latest")}
    config = masked(tmp_path / "run", frames, Pretraining={"name": "Distilled", "picture_interval": 2})
    config["Distillation"] = {"teacher": teacher, "weight": 0.0, "features": {"stages": [3, 4]}}
    config["DataLoader"]["Train"]["dataset"]["transform_ops"] = [{"ResizeImage": {"size": [32, 32]}}, NORMALIZE]
    report = pretrain(tmp_path, config)
    assert set(report["history"][0]["train"]) >= {"loss", "loss_features"}
    # What is cached gives the same losses but for its rounding to float16, and belongs to these images alone.
    cache = tmp_path / "cache"
    config["Distillation"]["cache"] = str(cache)
    cached = pretrain(tmp_path, config, None, f"Global.output_dir={tmp_path / 'cached'}")
    losses = [[record["train"]["loss"] for record in one["history"]] for one in (report, cached)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    others = shutil.copytree(frames, tmp_path / "others")
    (others / "dive 0/00.png").write_bytes((others / "dive 0/02.png").read_bytes())
    changes = [f"DataLoader.Train.dataset.image_root={others}", f"Global.output_dir={tmp_path / 'third'}"]
    with pytest.raises(UserError, match=r"Distillation\.cache: .*cache is of other images"):
        pretrain(tmp_path, config, None, *changes)
    (cache / "0.npy").write_bytes((cache / "0.npy").read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="damaged"):
        pretrain(tmp_path, config, None, f"Global.output_dir={tmp_path / 'third'}")


def test_a_list_keeps_the_images_of_the_validation_out(frames, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps({"images": [{"file_name": f"dive 0/{n:02d}.png"} for n in (0, 2)]}))
    (tmp_path / "train.txt").write_text("dive 1/01.png\ndive 0/02.png\ndive 1/01.png\n")
    for name in ("train.json", "train.txt"):
        config = masked(tmp_path / f"run of {name}", frames)
        config["DataLoader"]["Train"]["dataset"]["file_list"] = str(tmp_path / name)
        config["DataLoader"]["Train"]["sampler"]["batch_size"] = 2
        assert pretrain(tmp_path, config)["optimizer_steps"] == 2


def test_a_check_of_the_data_asks_for_no_classes(frames, tmp_path):
    result = check_config_data(load_config(write_config(tmp_path, masked(tmp_path / "run", frames))))
    assert len(result.scan.readable("Train")) == 16
    assert not [finding.kind for finding in result.findings if "class" in finding.kind]


def test_mistakes_are_one_line_each(run, frames, tmp_path):
    def problem(**changes: Any) -> str:
        config = masked(tmp_path / "run", frames, **changes)
        with pytest.raises(UserError) as error:
            pretrain(tmp_path, config)
        return str(error.value)

    distilled = {"name": "Distilled"}
    teacher = {"teacher": {"name": "EConvNeXt_mini", "pretrained": str(run / "checkpoints/latest")}}
    onnx = {"teacher": {"onnx": str(tmp_path / "none.onnx")}, "weight": 0.0, "features": {"outputs": ["a"]}}
    (tmp_path / "empty").mkdir()
    assert "Pretraining.mask_ratio" in problem(Pretraining={"name": "Masked", "mask_ratio": 1.0})
    assert "Masked" in problem(Pretraining={"name": "Maskd"})
    assert "Distillation: is missing" in problem(Pretraining=distilled)
    assert "RandFlipImage" in problem(Pretraining=distilled, Distillation={**teacher, "cache": "cache"})
    assert "none.onnx does not exist" in problem(Pretraining=distilled, Distillation=onnx)
    assert "features.outputs" in problem(Pretraining=distilled, Distillation={**onnx, "features": {"stages": [3, 4]}})
    config = masked(tmp_path / "run", tmp_path / "empty")
    with pytest.raises(UserError, match="image_root: .*holds no images"):
        pretrain(tmp_path, config)
    config = masked(tmp_path / "run", frames)
    config["DataLoader"]["Train"]["dataset"]["transform_ops"] = [{"RandCropImage": {"size": 48}}]
    with pytest.raises(UserError, match=r"make images of 48 x 48, but Global\.image_shape is \[3, 32, 32\]"):
        pretrain(tmp_path, config)
    config = masked(run, frames, Pretraining={"name": "Masked", "decoder_channels": 16})
    with pytest.raises(UserError, match=r"trained with Pretraining\.decoder_channels=8, now it is 16"):
        pretrain(tmp_path, config, "auto")
    labelled = small_config(run, Arch=dict(TINY))
    with pytest.raises(UserError, match=r"is of another run \(Pretraining\.name Masked -> None"):
        train_config(load_config(write_config(tmp_path, labelled)), resume="auto")


@pytest.fixture(scope="module")
def onnx_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution whose output is ``map`` [N, 5, H / 8, W / 8], and its mean ``logits`` [N, 5]; weights apart."""
    onnx = pytest.importorskip("onnx", reason="needs the packages of deployment")
    pytest.importorskip("onnxruntime", reason="needs the packages of deployment")
    weight = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["images", "weight"], ["map"], strides=[8, 8]),
        onnx.helper.make_node("ReduceMean", ["map"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["n", 3, 64, 64]), ("map", ["n", 5, 8, 8]), ("logits", ["n", 5]))
    ]
    constants = [onnx.numpy_helper.from_array(weight, "weight")]
    graph = onnx.helper.make_graph(nodes, "teacher", values[:1], values[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    folder = tmp_path_factory.mktemp("onnx")
    onnx.save(model, str(folder / "teacher.onnx"))
    onnx.save(model, str(folder / "apart.onnx"), save_as_external_data=True, size_threshold=0, location="weights.bin")
    (folder / "weights.bin").unlink()
    model = onnx.load(str(folder / "teacher.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(folder / "fixed.onnx"))
    # One that takes colours last, of any size, and one that takes no image at all.
    model = onnx.load(str(folder / "teacher.onnx"))
    pixels = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["n", "h", "w", 3])
    model.graph.input[0].CopyFrom(pixels)
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["pixels"], ["images"], perm=[0, 3, 1, 2]))
    onnx.save(model, str(folder / "last.onnx"))
    model = onnx.load(str(folder / "teacher.onnx"))
    model.graph.input.pop()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 3, 64, 64), np.float32), "images"))
    onnx.save(model, str(folder / "closed.onnx"))
    return folder / "teacher.onnx"


def test_any_onnx_file_teaches(onnx_teacher, frames, tmp_path):
    def run(**changes: Any) -> dict[str, Any]:
        config = masked(tmp_path / "run", frames, Pretraining={"name": "Distilled", "picture_interval": 2})
        teacher = {"onnx": str(onnx_teacher), "mean": [127.0] * 3, "std": [128.0] * 3, **changes.pop("teacher", {})}
        features = {"stages": [2], "outputs": ["map"], **changes.pop("features", {})}
        config["Distillation"] = {"teacher": teacher, "weight": 0.0, "features": features, **changes}
        return pretrain(tmp_path, config, None, *(["Arch.class_num=5"] if changes.get("weight") else []))

    # A path with back slashes, as Windows writes it, is understood.
    report = run(teacher={"onnx": str(onnx_teacher).replace("/", "\\"), "logits": "logits"}, weight=0.5)
    assert set(report["history"][0]["train"]) >= {"loss_distillation", "loss_features"}
    assert report["teacher"]["name"] == "teacher.onnx" and len(report["teacher"]["sha256"]) == 64
    shutil.rmtree(tmp_path / "run")
    for changes, message in (
        ({"features": {"outputs": ["mop"]}}, "no output 'mop' (did you mean 'map'?)"),
        ({"features": {"outputs": ["logits"]}}, "expected [N, C, H, W]"),
        ({"image_size": 32}, "cannot compute three images of 32 x 32: "),
        ({"teacher": {"onnx": str(onnx_teacher.with_name("apart.onnx"))}}, "apart.onnx cannot be opened: "),
        ({"teacher": {"onnx": str(onnx_teacher.with_name("fixed.onnx"))}}, "fixed.onnx cannot compute three images of"),
        (
            {"teacher": {"onnx": str(onnx_teacher.with_name("last.onnx"))}},
            "last.onnx must take images [N, 3, H, W]; it takes pixels ['n', 'h', 'w', 3]; export it with",
        ),
        ({"teacher": {"onnx": str(onnx_teacher.with_name("closed.onnx"))}}, "it takes nothing"),
        ({"weight": 0.5}, "Distillation.teacher.logits: is missing"),
    ):
        with pytest.raises(UserError) as error:
            run(**changes)
        assert message in str(error.value)


def test_weights_beside_the_file_belong_to_the_teacher(onnx_teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # where it is not installed, too
    assert external_data(onnx_teacher) == []
    shutil.copy(onnx_teacher.with_name("apart.onnx"), tmp_path)
    settings = OnnxTeacherSettings(onnx=str(tmp_path / "apart.onnx"))
    sums = set()
    for weights in (b"some", b"others", b"some"):
        (tmp_path / "weights.bin").write_bytes(weights)
        sums.add(TeacherFiles(settings, tmp_path / "apart.onnx", None).sha256)
    assert len(sums) == 2


def test_a_cache_serves_every_weight_of_the_losses(onnx_teacher, frames, tmp_path):
    config = masked(tmp_path / "run", frames, Pretraining={"name": "Distilled"}, Arch__class_num=5, Global__epochs=1)
    config["DataLoader"]["Train"]["dataset"]["transform_ops"] = [{"ResizeImage": {"size": [32, 32]}}, NORMALIZE]
    teacher, features = {"onnx": str(onnx_teacher), "logits": "logits"}, {"stages": [2], "outputs": ["map"]}
    cached = {"teacher": teacher, "features": features, "weight": 0.0, "cache": str(tmp_path / "cache")}
    config["Distillation"] = dict(cached)
    assert "loss_distillation" not in pretrain(tmp_path, config)["history"][0]["train"]
    config["Distillation"].update(weight=0.5, features={**features, "weight": 2.0})
    report = pretrain(tmp_path, config, None, f"Global.output_dir={tmp_path / 'other'}")
    assert "loss_distillation" in report["history"][0]["train"]
    # With labels, of which the teacher knows none, its logits stay unused.
    labelled = small_config(tmp_path / "labelled", Arch=dict(TINY), Global__epochs=1, Global__eval_during_train=False)
    labelled["DataLoader"]["Train"]["dataset"].update(transform_ops=[NORMALIZE], batch_transform_ops=None)
    labelled["Distillation"] = {**cached, "cache": str(tmp_path / "of digits")}
    losses = train_config(load_config(write_config(tmp_path, labelled)))["history"][0]["train"]
    assert "loss_features" in losses and "loss_distillation" not in losses


def test_the_teacher_sees_its_colours_whatever_the_order_of_the_student(onnx_teacher, frames, tmp_path):
    image, maps = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.float32), []
    for decode in ({"to_rgb": True}, {"to_rgb": False}):
        config = masked(tmp_path / "run", frames, Pretraining={"name": "Distilled"})
        config["DataLoader"]["Train"]["dataset"]["transform_ops"] = [{"DecodeImage": decode}]
        features = {"stages": [2], "outputs": ["map"]}
        config["Distillation"] = {"teacher": {"onnx": str(onnx_teacher)}, "weight": 0.0, "features": features}
        loaded = load_config(write_config(tmp_path, config))
        teacher = OnnxTeacher(loaded, loaded.distillation.teacher)
        _, (features,) = teacher.outputs(paddle.to_tensor(image if decode["to_rgb"] else image[:, ::-1].copy()), [2])
        maps.append(features.numpy())
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_processes_end_with_the_same_network(frames, tmp_path):
    config = write_config(tmp_path, masked(tmp_path / "run", frames))
    done = launch_tool("train.py", "-c", config, log=tmp_path / "log")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run/report.json").read_text())["processes"] == 2
