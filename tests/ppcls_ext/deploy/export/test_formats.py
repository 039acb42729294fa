"""Every format and precision computes what the model computes; what cannot be written is told before any work."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from ppcls_ext.deploy import export as writers
from ppcls_ext.deploy import onnx as onnx_conversion
from ppcls_ext.deploy.export import example_images, export_classifier
from ppcls_ext.deploy.formats import FORMATS, PRECISIONS, plan
from ppcls_ext.deploy.onnx import damage, epsilons_of_graph, epsilons_of_program
from ppcls_ext.deploy.verify import ClassifierComparison, EagerBackend, decided, relative_error
from ppcls_ext.runtime import load
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, hide, small_classifier

PREPROCESS = [{"ResizeImage": {"size": [48, 64]}}, {"NormalizeImage": {"order": ""}}]
ARGUMENTS = {"model_name": "small", "class_num": 4, "image_shape": [3, 64, 48], "preprocess": PREPROCESS}
PAIRS = [(name, precision) for name, row in FORMATS.items() for precision in row.precisions]


@pytest.fixture(scope="module")
def model():
    return small_classifier()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """All formats, each in all its precisions, in two folders: the first float32 and float16, the second bfloat16."""
    root = tmp_path_factory.mktemp("formats")
    requests = {"a": (["onnx", "openvino"], ["fp32", "fp16"]), "b": (["paddle", "openvino"], ["bf16", "fp32"])}
    descriptions = {}
    for name, (formats, precisions) in requests.items():
        descriptions[name] = export_classifier(
            model, root / name, classes=list("abcd"), formats=formats, precisions=precisions, **ARGUMENTS
        )
    return descriptions


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_every_artefact_computes_what_the_model_computes(model, exported, name, precision):
    description = exported["b" if name == "paddle" or precision == "bf16" else "a"]
    predictor = load(description.folder, FORMATS[name].backend, threads=1, precision=precision)
    images = np.stack([predictor.prepare(image, key) for key, image in example_images().items()])
    for batch in (images, images[:1], images[1:4], images):
        error = relative_error(predictor.backend.run(batch), EagerBackend(model).run(batch))
        assert error <= PRECISIONS[precision].relative_error
    assert (error > 1e-5) == (precision != "fp32"), "the precision is not the one that was asked for"


@NEEDS_ONNX
@NEEDS_OPENVINO
def test_description_tells_what_was_measured_of_each_file(exported):
    document = yaml.safe_load((exported["a"].folder / "inference.yml").read_text())
    entries = document["artefacts"]
    assert [(entry["format"], entry["precision"]) for entry in entries] == [
        ("onnx", "fp32"), ("onnx", "fp16"), ("openvino", "fp32"), ("openvino", "fp16"),
    ]  # fmt: skip
    assert [entry["files"]["model"] for entry in entries] == [
        "inference.onnx", "inference_fp16.onnx", "inference.xml", "inference_fp16.xml",
    ]  # fmt: skip
    for entry in entries:
        for name, digest in entry["sha256"].items():
            assert sha256_of(exported["a"].folder / name) == digest
        (error,) = entry["verification"]["relative_error"].values()
        assert 0 < error <= entry["verification"]["tolerance"] == PRECISIONS[entry["precision"]].relative_error
        assert list(entry["verification"]["top1_agreement"].values()) == [1.0]
    names = {file.name for file in exported["a"].folder.iterdir()}
    assert names == {"inference.yml", *(name for entry in entries for name in entry["sha256"])}
    assert document["input"]["shape"] == [-1, 3, 64, 48]
    sizes = [(exported["a"].folder / name).stat().st_size for name in ("inference.bin", "inference_fp16.bin")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(
    ("formats", "precisions", "message"),
    [
        (["onx"], ["fp32"], r"unknown format 'onx' \(did you mean 'onnx'\?\); allowed: paddle, onnx, openvino"),
        (["onnx"], ["fp23"], r"unknown precision 'fp23' \(did you mean 'fp32'\?\); allowed: fp32, fp16, bf16, int8"),
        (["onnx"], ["bf16"], "'onnx' cannot be written in bf16; what works is paddle: fp32, bf16; onnx: fp32, fp16; "),
        (["openvino", "paddle"], ["fp16"], "'paddle' cannot be written in fp16; what works is paddle: fp32, bf16"),
        ([], ["fp32"], "no format is named"),
        (["onnx"], ["bf16"], "openvino: fp32, fp16, bf16, int8; nothing was written"),
        (["openvino"], ["int8"], "precision 'int8' needs images to calibrate on: tools/export_model.py"),
    ],
)
def test_what_cannot_be_written_is_told_before_any_work(tmp_path, formats, precisions, message):
    with pytest.raises(UserError, match=message) as caught:
        export_classifier(None, tmp_path / "export", formats=formats, precisions=precisions, **ARGUMENTS)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "package"), [("onnx", "onnxruntime"), ("onnx", "paddle2onnx"), ("openvino", "openvino")]
)
def test_a_missing_package_is_named_with_its_installation(monkeypatch, name, package):
    hide(monkeypatch, package, present=tuple(set(FORMATS[name].packages) - {package}))
    with pytest.raises(UserError, match=rf"'{name}' needs the missing package {package}: pip install"):
        plan([name], ["fp32"])


@NEEDS_ONNX
def test_epsilons_are_those_of_the_model(model, exported, tmp_path):
    import onnx

    export_classifier(model, tmp_path / "export", **ARGUMENTS)
    expected = epsilons_of_program(tmp_path / "export" / "inference.json")
    assert expected == pytest.approx([1e-6, 1e-5, 1e-3], rel=1e-6)
    graph = onnx.load(str(exported["a"].folder / "inference.onnx"))
    assert damage(expected, epsilons_of_graph(graph)) is None


def damaged(graph, value, kind="BatchNormalization"):
    """Returns a copy of an ONNX model with one wrong epsilon: of a layer, or of a normalisation that is written out."""
    from onnx import numpy_helper

    copy = type(graph)()
    copy.CopyFrom(graph)
    if kind == "Sqrt":
        for tensor in copy.graph.initializer:
            numbers = numpy_helper.to_array(tensor)
            if numbers.size == 1 and np.isclose(float(numbers.reshape(-1)[0]), 1e-6, rtol=1e-3, atol=0):
                tensor.CopyFrom(numpy_helper.from_array(np.full_like(numbers, value), tensor.name))
        return copy
    node = next(node for node in copy.graph.node if node.op_type == kind)
    next(attribute for attribute in node.attribute if attribute.name == "epsilon").f = value
    return copy


@NEEDS_ONNX
@pytest.mark.parametrize(("kind", "value"), [("BatchNormalization", 3e-29), ("BatchNormalization", 1e-4), ("Sqrt", 0)])
def test_a_damaged_epsilon_is_found(exported, kind, value):
    import onnx

    graph = onnx.load(str(exported["a"].folder / "inference.onnx"))
    expected = epsilons_of_graph(graph)
    assert damage(expected, expected) is None
    found = damage(expected, epsilons_of_graph(damaged(graph, value, kind)))
    assert found is not None
    assert found.startswith("1 of 3 epsilons are wrong, such as")
    assert damage(expected, expected[1:]) == "it has 2 epsilons, the model has 3"


@pytest.mark.parametrize("value", [0.0, 1e-40, float("nan"), 1.0001e-5])
def test_an_epsilon_is_right_to_its_last_digits_or_damaged(value):
    assert damage([1e-5, 1e-6], [1e-6, float(np.float32(1e-5))]) is None
    assert damage([1e-5, 1e-6], [1e-6, value]) is not None


@NEEDS_ONNX
def test_a_damaged_conversion_is_repeated_and_at_last_refused(model, exported, tmp_path, monkeypatch, caplog):
    import onnx

    good = onnx.load(str(exported["a"].folder / "inference.onnx"))
    results = [damaged(good, 5e-310), damaged(good, 2e20), good]
    monkeypatch.setattr(onnx_conversion, "_converted", lambda program, weights: results.pop(0))
    with caplog.at_level("WARNING"):
        export_classifier(model, tmp_path / "export", formats=["onnx"], **ARGUMENTS)
    assert not results
    first = "(1 of 3 epsilons are wrong, such as 0 in place of 1e-05), attempt 1 of 5"
    second = "(1 of 3 epsilons are wrong, such as 2e+20 in place of 1e-05), attempt 2 of 5"
    assert first in caplog.text
    assert second in caplog.text
    monkeypatch.setattr(onnx_conversion, "_converted", lambda program, weights: damaged(good, 2e20))
    with pytest.raises(UserError, match=r"damaged the network 5 times \(1 of 3 epsilons are wrong"):
        export_classifier(model, tmp_path / "other", formats=["onnx"], **ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@NEEDS_ONNX
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_artefact_that_computes_something_else_leaves_no_file(model, exported, tmp_path, monkeypatch, precision):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(exported["a"].folder / "inference.onnx"))
    largest = max(graph.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.3), largest.name))
    monkeypatch.setattr(writers, "convert", lambda *arguments: graph)
    with pytest.raises(UserError, match=r"does not compute what the model computes: ONNX Runtime.*: relative error"):
        export_classifier(
            model, tmp_path / "export", formats=["paddle", "onnx"] if precision == "fp32" else ["onnx"],
            precisions=[precision], **ARGUMENTS,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


@NEEDS_ONNX
def test_a_network_that_onnx_cannot_hold_is_refused_in_one_line(tmp_path):
    (tmp_path / "network.json").write_text('{"base_code": {"magic": "pir"}, "program": {"regions": []}}')
    with pytest.raises(UserError, match="Paddle2ONNX cannot convert the network: ") as caught:
        onnx_conversion.convert(tmp_path / "network.json", tmp_path / "network.pdiparams", ["logits"])
    assert "\n" not in str(caught.value)


class _Fixed:
    computed_in = "float32"

    def __init__(self, logits):
        self.logits = np.array([logits], dtype=np.float32)

    def run(self, images):
        return self.logits.repeat(len(images), axis=0)


@NEEDS_OPENVINO
@NEEDS_ONNX
def test_a_network_that_openvino_cannot_read_is_refused_in_one_line(tmp_path):
    import onnx

    unknown = onnx.helper.make_node("NobodyKnowsThis", ["image"], ["logits"])
    shapes = {name: onnx.helper.make_tensor_value_info(name, 1, [1, 3]) for name in ("image", "logits")}
    graph = onnx.helper.make_graph([unknown], "network", [shapes["image"]], [shapes["logits"]])
    network = writers.Network(lambda: None, {}, ["logits"], _onnx=onnx.helper.make_model(graph))
    with pytest.raises(UserError, match="OpenVINO cannot read this network") as caught:
        writers.WRITERS["openvino"](network, tmp_path, "inference", "fp32")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_best_class_is_refused_where_the_model_is_decided():
    inputs = {"photo": np.zeros((3, 4, 4), dtype=np.float32)}
    close = ClassifierComparison(_Fixed([1.0, 0.98]), inputs, 0.05)({"engine": _Fixed([0.97, 0.99])})
    assert close["top1_agreement"] == {"engine": 0.0}
    with pytest.raises(UserError, match="engine, photo: another best class"):
        ClassifierComparison(_Fixed([1.0, 0.94]), inputs, 0.05)({"engine": _Fixed([0.96, 0.98])})
    assert decided(np.array([[1.0, 0.94], [1.0, 0.96]]), 0.05).tolist() == [True, False]
    assert decided(np.array([[1.0]]), 0.05).tolist() == [False]
