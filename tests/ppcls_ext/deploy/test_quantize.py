"""int8 networks: added to an export, measured, recorded, and absent where they cost too much."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from ppcls_ext.deploy import quantize
from ppcls_ext.deploy.quantize import Evaluation, LimitExceededError, check_request, quantize_export
from ppcls_ext.runtime import load
from ppcls_ext.runtime.backends import choose
from ppcls_ext.runtime.description import Artefact
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, needs

pytestmark = [NEEDS_ONNX, NEEDS_OPENVINO, needs("nncf")]
PREPROCESS = [
    {"ResizeImage": {"size": 32}},
    {"NormalizeImage": {"scale": "1.0/255.0", "order": ""}},
    {"ToCHWImage": None},
]


def pictures(number: int, seed: int = 0) -> list[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    smooth = generator.integers(0, 256, size=(number, 4, 4, 3), dtype=np.uint8)
    return [(f"picture {index}", np.kron(each, np.ones((9, 9, 1), np.uint8))) for index, each in enumerate(smooth)]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a narrow network, which is quantised in seconds."""
    from ppcls_ext import build_model
    from ppcls_ext.deploy.export import export_classifier
    from tests.support.seeded import seed_weights

    model = build_model("EConvNeXt_mini", class_num=5, depth_multiplier=0.1, width_multiplier=0.25)
    seed_weights(model)
    folder = tmp_path_factory.mktemp("quantization") / "export"
    export_classifier(
        model, folder, model_name="EConvNeXt_mini", class_num=5, image_shape=[3, 32, 32], preprocess=PREPROCESS,
        formats=["openvino", "onnx"],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def judged(export: Path) -> Evaluation:
    """How often a network agrees with the one in float32."""
    images = [image for _, image in pictures(12, seed=1)]
    truth = [one.class_ids[0] for one in load(export)(images)]

    def score(predictor) -> float:
        return float(np.mean([one.class_ids[0] == label for one, label in zip(predictor(images), truth, strict=True)]))

    return Evaluation("top1", score, "drawn pictures", len(images))


@pytest.fixture(scope="module")
def quantized(export: Path, judged: Evaluation):
    """The export with int8 added."""
    folder = export.parent / "with_int8"
    return folder, quantize_export(export, folder, pictures(4), judged, max_drop=100.0, threads=1)


def test_int8_stands_beside_float32_with_its_measurements(quantized):
    folder, result = quantized
    entries = yaml.safe_load((folder / "inference.yml").read_text())["artefacts"]
    pairs = [("openvino", "fp32"), ("onnx", "fp32"), ("openvino", "int8")]
    assert [(entry["format"], entry["precision"]) for entry in entries] == pairs
    record = entries[2]["verification"]
    assert record == result.artefacts[2].verification
    assert record["fp32"] == 1.0
    assert record["drop_points"] == pytest.approx(100 * (1 - record["int8"]))
    assert record["calibration_images"] == 4
    assert record["bytes"]["int8"] < 0.6 * record["bytes"]["fp32"]
    assert set(record["latency_ms"]) == {"fp32", "int8"}
    for name in ("inference_int8.xml", "inference_int8.bin"):
        assert entries[2]["sha256"][name] == sha256_of(folder / name)


def check_nearly_the_same(folder: Path, backend: str) -> None:
    """The int8 network is another than that in float32, and computes nearly the same."""
    exact, rounded = (load(folder, backend, precision=name) for name in ("fp32", "int8"))
    batch = np.stack([exact.prepare(image, name) for name, image in pictures(8, seed=2)])
    expected, found = exact.backend.run(batch), rounded.backend.run(batch)
    assert np.abs(found - expected).max() > 1e-5, "the float32 network was opened"
    # Random weights make more of a rounding than trained ones do.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8


def test_int8_of_openvino_has_weights_of_8_bits(quantized):
    import openvino

    folder, _ = quantized
    check_nearly_the_same(folder, "openvino")
    constants = [one for one in openvino.Core().read_model(folder / "inference_int8.xml").get_ops()
                 if one.get_type_name() == "Constant"]  # fmt: skip
    shapes = [(list(one.get_output_shape(0)), one.get_element_type().get_type_name()) for one in constants]
    # Weights of convolutions; what has one size above 1 is a bias or a scale.
    assert {kind for shape, kind in shapes if len(shape) >= 4 and max(shape) < np.prod(shape)} == {"i8"}


@needs("sympy")
def test_int8_of_onnx_stands_beside_that_of_openvino(quantized, judged: Evaluation, tmp_path: Path):
    import onnx

    folder, _ = quantized
    both = tmp_path / "both"
    result = quantize_export(folder, both, pictures(4), judged, max_drop=100.0, threads=1, format_name="onnx")
    assert [one.title for one in result.artefacts][2:] == ["openvino int8", "onnx int8"]
    record = result.artefacts[3].verification
    assert record["fp32"] == 1.0 and record["bytes"]["int8"] < 0.6 * record["bytes"]["fp32"]
    check_nearly_the_same(both, "onnxruntime")
    graph = onnx.load(both / "inference_int8.onnx").graph
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    inputs = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [kinds.get(inputs.get(node.input[1])) for node in graph.node if node.op_type == "Conv"]
    assert len(weights) > 4 and set(weights) == {onnx.TensorProto.INT8}


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is quantised: where only its surroundings matter, a copy will do."""

    def copy(folder: Path, artefact: Artefact, samples: object, target: Path) -> None:
        for name in artefact.files:
            target.with_suffix(Path(name).suffix).write_bytes((folder / name).read_bytes())

    for name, row in quantize.QUANTIZERS.items():
        monkeypatch.setitem(quantize.QUANTIZERS, name, row._replace(quantize=copy, packages=()))


@pytest.mark.usefixtures("copying")
def test_int8_alone_is_what_every_engine_opens_and_other_files_stay(export: Path, tmp_path: Path):
    class Task:
        """A task module whose model is exported already."""

        @staticmethod
        def load_trained(config: None) -> SimpleNamespace:
            return SimpleNamespace(export=lambda target, **options: shutil.copytree(export, target))

        @staticmethod
        def evaluation_of(config: None) -> None:
            return None

        @staticmethod
        def calibration_images(config: None, count: int) -> list[tuple[str, np.ndarray]]:
            return pictures(count)

    quantize.check_export(["openvino", "onnx"], ["int8"], None, 2)
    folder = tmp_path / "int8"
    result = quantize.export_in_precisions(Task, None, folder, ["openvino", "onnx"], ["int8"], None, 2)
    titles = ["openvino int8", "openvino fp32", "onnx int8", "onnx fp32"]
    assert [artefact.title for artefact in result.artefacts] == titles
    opened = [choose(result, backend)[0].title for backend in (None, "openvino", "onnxruntime")]
    assert opened == ["openvino int8", "openvino int8", "onnx int8"]
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("dear")
    quantize_export(folder, folder, [("broken", b"no picture"), *pictures(1)], None)
    assert (folder / "notes" / "mine.txt").read_text() == "dear"
    assert load(folder, precision="int8")([image for _, image in pictures(1)])[0].labels


@pytest.mark.usefixtures("copying")
def test_what_loses_too_much_leaves_no_file(export: Path, tmp_path: Path):
    # What the network is does not matter here, only what its evaluation says.
    scores = iter([0.9, 0.85])
    evaluation = Evaluation("top1", lambda predictor: next(scores), "invented", 20)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LimitExceededError, match=r"loses 5.00 points of top1 \(90.00 to 85.00 on 20 .*allowed are 0.5"):
        quantize_export(export, tmp_path / "new", pictures(1), evaluation, max_drop=0.5)
    assert sorted(tmp_path.iterdir()) == before
    assert not (export / "inference_int8.xml").exists()


def test_what_cannot_be_quantised_is_refused(export: Path, tmp_path: Path):
    other, changed, mine = (tmp_path / name for name in ("other", "changed", "mine"))
    for folder in (other, changed):
        shutil.copytree(export, folder)
    document = yaml.safe_load((export / "inference.yml").read_text())
    document["artefacts"] = document["artefacts"][1:]
    (other / "inference.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match="has nothing for openvino fp32.*tools/export_model.py --format openvino"):
        quantize_export(other, tmp_path / "new", pictures(1), None)
    with open(changed / "inference.bin", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(UserError, match="SHA-256 differs"):
        quantize_export(changed, tmp_path / "new", pictures(1), None)
    mine.mkdir()
    (mine / "photo.txt").write_text("dear")
    with pytest.raises(UserError, match="exists and is not an export; choose another folder.*nothing was written"):
        quantize_export(export, mine, pictures(1), None)
    assert [file.name for file in mine.iterdir()] == ["photo.txt"]
    with pytest.raises(UserError, match="is the export of a classifier, which has no AP: name its own CONFIG"):
        quantize_export(export, tmp_path / "new", pictures(1), Evaluation("AP", lambda predictor: 1.0, "frames", 9))
    with pytest.raises(UserError, match="no image to calibrate on"):
        quantize_export(export, tmp_path / "new", [("broken", b"no picture")], None)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_done_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="--max-drop: .*labelled"):
        check_request(0.5, labelled=False)
    row = quantize.QUANTIZERS["openvino"]._replace(packages=("openvino", "nncf_that_is_not_there"))
    monkeypatch.setitem(quantize.QUANTIZERS, "openvino", row)
    with pytest.raises(UserError, match="missing package nncf_that_is_not_there.*requirements-deploy.lock"):
        check_request(None, labelled=False)
