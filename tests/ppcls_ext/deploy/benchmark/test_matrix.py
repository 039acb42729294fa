"""The interleaved benchmark of models and backends; how fast anything is, no test asserts."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from ppcls_ext.arch.catalog import architecture_parameters
from ppcls_ext.deploy.benchmark.matrix import chart, export_worker, exports, measure, operators, plan, report, run
from ppcls_ext.deploy.benchmark.matrix.operator_worker import flops_of_problem, runs_of_events
from ppcls_ext.deploy.benchmark.matrix.processes import AnsweringProcess, run_once
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.utils.errors import UserError
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, small_classifier

PREPROCESS = [{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}]


def tiny_classifier():
    import paddle
    from paddle import nn

    paddle.seed(0)
    return nn.Sequential(nn.Conv2D(3, 8, 4, 4), nn.GELU(), nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    from ppcls_ext.deploy.export import export_classifier

    folder = tmp_path_factory.mktemp("exports") / "tiny"
    export_classifier(
        tiny_classifier(), folder, model_name="Tiny", class_num=4, image_shape=[3, 32, 32], preprocess=PREPROCESS,
        topk=2,
    )  # fmt: skip
    return folder


# What is measured


def test_pairs_are_those_that_work_unless_others_are_asked_for():
    pairs, refused = plan.choose_pairs(None, None)
    assert ("onnxruntime", "bf16") not in pairs and ("openvino", "bf16") in pairs
    assert refused == {}
    pairs, refused = plan.choose_pairs(["paddle", "onnxruntime"], ["fp32", "int8"])
    assert pairs == [("paddle", "fp32"), ("onnxruntime", "fp32")]
    assert set(refused) == {("paddle", "int8"), ("onnxruntime", "int8")}
    assert "openvino: fp32, fp16, bf16, int8" in refused["paddle", "int8"]


@pytest.mark.parametrize(
    ("backends", "precisions", "message"),
    [
        (["openvin"], None, r"unknown backend 'openvin' \(did you mean 'openvino'\?\); allowed: paddle, onnx"),
        (None, ["fp31"], r"unknown precision 'fp31' \(did you mean 'fp32'\?\)"),
        (["paddle"], ["int8"], "no backend of paddle takes int8; paddle: fp32, bf16"),
    ],
)
def test_wrong_names_of_backends_and_precisions_are_told(backends, precisions, message):
    with pytest.raises(UserError, match=message):
        plan.choose_pairs(backends, precisions)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EConvNeXt_minni", "unknown model 'EConvNeXt_minni'; did you mean EConvNeXt_mini"),
        ("EConvNeXt_mini@big", "after @ stands the side"),
        ("no/such/folder", "not an export folder"),
    ],
)
def test_wrong_names_of_models_are_told(name, message):
    with pytest.raises(UserError, match=message):
        plan.find_sources([name], 224)


def test_sources_are_models_of_a_size_and_exports(export):
    sources, missing = plan.find_sources(["EConvNeXt_mini", "EConvNeXt_mini@96", str(export)], 224)
    assert [source.size for source in sources] == [224, 96, "32 x 32"]
    assert [source.model for source in sources] == ["EConvNeXt_mini", "EConvNeXt_mini", "Tiny"]
    assert missing == {}


def test_of_an_export_all_that_it_holds_is_measured_unless_precisions_are_asked_for(export):
    (source,), _ = plan.find_sources([str(export)], 224)
    pairs, _ = plan.choose_pairs(["paddle", "openvino"], None)
    assert plan.pairs_of(source, pairs, asked=False) == [("paddle", "fp32")]
    assert plan.pairs_of(source, pairs, asked=True) == pairs
    only_openvino = [("openvino", "fp32")]
    assert plan.pairs_of(source, only_openvino, asked=False) == only_openvino, "it is told what the export holds"


def test_combinations_are_products_and_numbers_are_checked(export):
    (source,), _ = plan.find_sources([str(export)], 224)
    combinations = plan.combine({source: [("paddle", "fp32")]}, [1, 2, 1], [4])
    assert [(one.threads, one.batch) for one in combinations] == [(1, 4), (2, 4)]
    assert combinations[0].title == f"{export}, paddle fp32, 1 thread, batch 4"
    with pytest.raises(UserError, match="--batch must be at least 1, got 4 0"):
        plan.combine({source: []}, [1], [4, 0])


def test_default_models_that_are_not_installed_are_left_out_with_the_reason(monkeypatch):
    def without_paddleclas(name):
        if name.startswith("EConvNeXt"):
            return {}
        raise ValueError(f"unknown model '{name}'")

    monkeypatch.setattr("ppcls_ext.arch.catalog.architecture_parameters", without_paddleclas)
    sources, missing = plan.find_sources(None, 224)
    assert [source.label for source in sources] == ["EConvNeXt_mini", "EConvNeXt_tiny", "EConvNeXt_small"]
    assert "unknown model 'ResNet50'" in missing["ResNet50"]
    assert len(sources) + len(missing) == len(plan.DEFAULT_MODELS)


def test_a_detector_is_named_by_its_configuration(tmp_path):
    config = tmp_path / "small.yml"
    config.write_text("architecture: YOLOv10\n")
    (default, larger), missing = plan.find_sources([str(config), f"{config}@960"], 224)
    assert (default.label, default.size, larger.size, missing) == ("small", 640, 960, {})
    assert default.worker == "detection.benchmark_worker"
    with pytest.raises(UserError, match=r"none.yml@320: there is no such configuration"):
        plan.find_sources([str(tmp_path / "none.yml@320")], 224)


def test_every_published_accuracy_has_a_source_and_belongs_to_a_model():
    for name, row in PUBLISHED.items():
        assert architecture_parameters(name), name
        assert 50 < row.top1 < 100 and row.size >= 224 and row.source
    assert set(plan.DEFAULT_MODELS) <= set(PUBLISHED)


# Processes


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of the given source that processes can run."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(source: str) -> str:
        (tmp_path / "answering.py").write_text(source)
        return "answering"

    return make


def test_answers_are_told_from_what_libraries_print(module):
    name = module("import sys\nprint('note')\nprint('ANSWER [1, 2]')\nfor line in sys.stdin: print('ANSWER', line)\n")
    process = AnsweringProcess(name, [], {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.answer(60) == [1, 2]
        assert process.ask("7", 60) == 7
    finally:
        process.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no such kernel')", "exit status 1: RuntimeError: no such kernel"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the process ended with signal 9"),
        ("""print('ANSWER {"error": "weights are missing"}')""", "^weights are missing$"),
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
    ],
)
def test_a_process_that_fails_tells_why(module, source, message):
    with pytest.raises(UserError, match=message):
        run_once(module(source), [], 0.5 if "sleep" in source else 60)


# Turns


class _FakeProcess:
    """Answers at once; fails in the turn that its request names."""

    log: list[tuple[str, str]] = []
    alive: set[str] = set()

    def __init__(self, module, arguments, environment):
        self.request = json.loads(arguments[0])
        self.name = self.request["name"]
        self.started = 0.0
        self.turns = 0
        assert environment["OMP_NUM_THREADS"] == "2"

    def answer(self, seconds):
        self.log.append(("start", self.name))
        self.alive.add(self.name)
        return {"computed_in": "float32"}

    def ask(self, question, seconds):
        self.turns += 1
        self.log.append(("turn", self.name))
        if self.turns == self.request.get("fails_in"):
            raise UserError("it\ndied")
        return {"seconds": [0.01, 0.03], "peak_bytes": 1000 * self.turns, "cores_while_waiting": 0.0}

    def close(self):
        self.alive.discard(self.name)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(_FakeProcess, "log", [])
    monkeypatch.setattr(_FakeProcess, "alive", set())
    monkeypatch.setattr(measure, "SETTLE_SECONDS", 0)
    return _FakeProcess


def subjects(count, **requests):
    names = [f"model {number}" for number in range(count)]
    return [measure.Subject(name, {"name": name, **requests.get(name[-1:], {})}, 2) for name in names]


def test_every_process_works_once_in_a_round_and_in_another_order_each_round(fake):
    measured = subjects(6)
    measure.Rotation(measured, measure.Schedule(rounds=4, runs=2, cold_starts=2), fake).run()
    turns = [name for kind, name in fake.log if kind == "turn"]
    rounds = [tuple(turns[start : start + 6]) for start in range(0, 24, 6)]
    assert all(sorted(names) == [subject.title for subject in measured] for names in rounds)
    assert len(set(rounds)) == 4
    assert [len(subject.seconds) for subject in measured] == [8] * 6
    assert [len(subject.starts) for subject in measured] == [2] * 6
    assert measured[0].peak_bytes == 4000
    assert measured[0].statistics()["median_ms"] == pytest.approx(20)
    assert fake.alive == set()


def test_a_process_that_fails_is_left_out_and_the_others_go_on(fake):
    first, second, third = [measure.Subject(name, {"name": name}, 2) for name in "abc"]
    second.request["fails_in"] = 2
    measure.Rotation([first, second, third], measure.Schedule(rounds=3, cold_starts=1), fake).run()
    assert second.reason == "it died"
    assert [len(first.seconds), len(third.seconds)] == [6, 6]
    assert sum(entry == ("turn", "b") for entry in fake.log) == 2


def test_processes_are_started_again_where_memory_is_short(fake, monkeypatch):
    monkeypatch.setattr(measure, "read_machine", lambda: SimpleNamespace(memory_available=1))
    (only,) = subjects(1)
    measure.Rotation([only], measure.Schedule(rounds=2, cold_starts=1), fake).run()
    assert only.restarts == 3 and len(only.starts) == 3
    assert len(only.seconds) == 4 and only.reason is None


# Exports


@pytest.fixture
def exporter(monkeypatch):
    """Counts the exports and makes the files that a real one would make."""
    requests = []

    def answer(module, arguments, seconds):
        request = json.loads(arguments[0])
        requests.append(request)
        if request["format"] == "onnx":
            raise UserError("the process ended with signal 11")
        _write_export(request)
        return {"reasons": dict.fromkeys(request["precisions"]), "flops": 5_000_000, "parameters": 9}

    monkeypatch.setattr(exports, "run_once", answer)
    return requests


def _write_export(request):
    from pathlib import Path

    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.bin").write_bytes(bytes(100))
    files = [
        {"format": request["format"], "precision": precision, "files": {"model": "net.bin", "weights": None},
         "sha256": {"net.bin": "0"}}
        for precision in request["precisions"]
    ]  # fmt: skip
    document = {
        "format_version": 2, "task": "classification", "model": {"name": "EConvNeXt_mini", "class_num": 4},
        "input": {"shape": [-1, 3, 32, 32]}, "preprocess": [], "postprocess": {"name": "Topk", "topk": 1},
        "artefacts": files,
    }  # fmt: skip
    (folder / "inference.yml").write_text(json.dumps(document))


def test_exports_are_kept_until_code_changes_and_failures_are_reasons(tmp_path, exporter, monkeypatch):
    (source,), _ = plan.find_sources(["EConvNeXt_mini@32"], 224)
    pairs = [("paddle", "fp32"), ("onnxruntime", "fp32")]
    found = exports.prepare(source, pairs, tmp_path)
    ready = found["paddle", "fp32"]
    assert (ready.size_bytes, ready.flops, ready.parameters) == (100, 5_000_000, 9)
    assert found["onnxruntime", "fp32"] == "the process ended with signal 11"
    exports.prepare(source, pairs, tmp_path)
    assert [request["format"] for request in exporter] == ["paddle", "onnx", "onnx"], "only the failure is tried again"
    exports.prepare(source, [("paddle", "bf16")], tmp_path)
    assert exporter[-1]["precisions"] == ["fp32", "bf16"], "what is there already stays"
    monkeypatch.setattr(exports, "_digest", lambda source: "other code")
    exports.prepare(source, [("paddle", "fp32")], tmp_path)
    assert len(exporter) == 5


def test_an_export_without_the_precision_says_what_it_holds(export, tmp_path):
    (source,), _ = plan.find_sources([str(export)], 224)
    found = exports.prepare(source, [("paddle", "fp32"), ("paddle", "bf16")], tmp_path)
    assert found["paddle", "fp32"].size_bytes > 0
    assert "has nothing for paddle bf16, it holds paddle fp32" in found["paddle", "bf16"]


def test_one_precision_that_fails_does_not_take_the_others_along(monkeypatch, tmp_path):
    calls = []

    def fake_export(model, folder, precisions, **others):
        calls.append(list(precisions))
        if "bf16" in precisions:
            raise UserError("differs\ntoo much")

    monkeypatch.setattr("ppcls_ext.deploy.export.classifier.export_classifier", fake_export)
    monkeypatch.setattr("ppcls_ext.arch.registry.build_model", lambda name, class_num: tiny_classifier())
    answer = export_worker.export_model("Tiny", 32, "openvino", ["fp32", "bf16", "fp16"], tmp_path)
    assert answer["reasons"] == {"fp32": None, "bf16": "differs too much", "fp16": None}
    assert calls[-1] == ["fp32", "fp16"]
    assert answer["flops"] > 8 * 8 * 8 * 48 and answer["parameters"] == 8 * 48 + 8 + 8 * 4 + 4


def test_random_weights_that_blow_pictures_up_are_settled(monkeypatch, tmp_path):
    import paddle
    from paddle import nn

    class Wild(nn.Layer):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm2D(3), nn.Linear(3, 1000)
            self.norm._mean.set_value(np.full(3, 50.0, np.float32))

        def forward(self, x):
            """``[N, 3, H, W]`` -> ``[N, 1000]``, which grows fast with the brightness."""
            return self.head(paddle.exp(4 * self.norm(x + 50.0)).mean([2, 3]))

    models = []

    def build(name, class_num):
        models.append(Wild())
        return models[-1]

    monkeypatch.setattr("ppcls_ext.arch.registry.build_model", build)
    answer = export_worker.export_model("Wild", 32, "paddle", ["fp32"], tmp_path / "export")
    assert answer["reasons"] == {"fp32": None}
    means = models[0].norm._mean.numpy()
    assert np.abs(means - 50.0).min() > 1e-3 and not models[0].norm.training and models[0].norm._momentum == 0.9


# The whole run


def test_a_run_measures_an_export_and_reports_everything(export, tmp_path):
    wish = run.Wish(
        models=[str(export)], backends=["paddle"], precisions=["fp32", "bf16", "int8"], threads=[1], batches=[2],
        cache=tmp_path, schedule=measure.Schedule(rounds=2, runs=2, cold_starts=1),
    )  # fmt: skip
    result = run.run_matrix(wish, np.full([40, 50, 3], 99, np.uint8))
    measured, held, unsupported = result["rows"]
    assert [row["status"] for row in result["rows"]] == ["measured", "failed", "unsupported"]
    assert measured["samples"] == 4 and measured["batch"] == 2 and measured["computed_in"] == "float32"
    for key in ("median_ms", "p90_ms", "images_per_second", "peak_memory_mb", "file_size_mb", "cold_start_s"):
        assert measured[key] > 0, key
    assert "holds paddle fp32" in held["reason"] and "openvino: fp32" in unsupported["reason"]
    assert result["peaks"][0]["library"] == "numpy" and result["peaks"][0]["gflops_per_second"] > 0
    json.dumps(result)
    rows = report.markdown_rows(result)
    assert [len(row) for row in rows] == [len(rows[0])] * 4
    assert "failed: " in rows[2][6] and rows[3][0] == run.EVERY_MODEL
    assert "| numpy | float32 | 1 |" in report.markdown_text(result)
    assert not chart.draw_chart(result, tmp_path / "chart.png"), "an export has no published accuracy"
    assert not (tmp_path / "chart.png").exists()


def _row(model, backend, milliseconds, size=224):
    published = PUBLISHED[model]
    return {
        "model": model, "architecture": model, "size": size, "backend": backend, "precision": "fp32", "threads": 2,
        "batch": 1, "status": "measured", "computed_in": "float32", "median_ms": milliseconds,
        "multiply_adds": 1_000_000_000, "top1": published.top1, "top1_size": published.size,
        "top1_source": published.source,
    }  # fmt: skip


def test_the_share_of_the_peak_counts_a_multiply_add_twice():
    peaks = [
        {"status": "measured", "computed_in": "float32", "threads": 2, "gflops_per_second": 100.0},
        {"status": "measured", "computed_in": "float32", "threads": 2, "gflops_per_second": 200.0},
        {"status": "measured", "computed_in": "float32", "threads": 1, "gflops_per_second": 900.0},
        {"status": "failed", "computed_in": "float32", "threads": 2, "reason": "why"},
    ]
    speed = run._speed(_row("EConvNeXt_mini", "paddle", 20.0), peaks)
    assert speed == pytest.approx({"gflops_per_second": 100.0, "share_of_peak": 0.5})
    assert run._speed({**_row("EConvNeXt_mini", "paddle", 20.0), "computed_in": "int8"}, peaks).keys() == {
        "gflops_per_second"
    }


def test_the_chart_is_written_whole_and_other_image_sizes_are_said(tmp_path):
    rows = [_row("EConvNeXt_mini", "paddle", 20.0), _row("EConvNeXt_mini", "openvino", 10.0),
            _row("EfficientNetV2_S", "paddle", 40.0), {**_row("ResNet50", "paddle", 9.0), "batch": 8}]  # fmt: skip
    result = {"rows": [*rows, {"status": "failed", "reason": "why"}]}
    assert [row["model"] for row in chart.drawable_rows(result)] == ["EConvNeXt_mini"] * 2 + ["EfficientNetV2_S"]
    assert chart.draw_chart(result, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]
    accuracy = dict(report.COLUMNS)["top-1, published"]
    assert accuracy(rows[0]) == "78.3" and accuracy(rows[2]) == "83.9 (at 384 px)"


# Operators


def test_events_of_onnx_runtime_are_sorted_into_runs():
    def event(name, start, duration, **arguments):
        return {"name": name, "ts": start, "dur": duration, "args": arguments}

    shapes = [{"float": [1, 8, 4, 4]}, {"float": [8, 1, 7, 7]}]
    convolution = {"op_name": "Conv", "input_type_shape": shapes, "output_type_shape": [{"float": [1, 8, 4, 4]}]}
    events = [
        event("model_run", 100, 50), event("model_run", 200, 60),
        event("conv_nchwc_kernel_time", 110, 30, **convolution),
        event("conv_nchwc_kernel_time", 210, 40, **convolution),
        event("act_kernel_time", 250, 5, op_name="Gelu", input_type_shape=[{"float": [1]}]),
    ]  # fmt: skip
    first, second = runs_of_events(events)
    assert first == {"milliseconds": 0.05, "operators": [("conv_nchwc", "Conv, depthwise 7x7", "NCHWc", 0.03, 12544)]}
    assert [operator[1] for operator in second["operators"]] == ["Conv, depthwise 7x7", "Gelu"]


@pytest.mark.parametrize(
    ("primitive", "problem", "flops"),
    [
        ("convolution", "mb2_ic3oc8_ih16oh4kh4sh4dh0ph0_iw16ow4kw4sw4dw0pw0", 2 * 2 * 8 * 4 * 4 * 3 * 4 * 4),
        ("convolution", "g8mb1_ic8oc8_ih4oh4kh7sh1dh0ph3_iw4ow4kw7sw1dw0pw3", 2 * 8 * 4 * 4 * 7 * 7),
        ("inner_product", "mb3ic16oc10", 2 * 3 * 16 * 10),
        ("matmul", "3x16:16x10", 2 * 3 * 16 * 10),
        ("matmul", "2x3x16:2x16x10", 2 * 2 * 3 * 16 * 10),
        ("eltwise", "1x8x4x4", 0),
        ("binary", "1x8x4x4:1x1x4x4", 0),
    ],
)
def test_operations_of_a_problem_of_onednn(primitive, problem, flops):
    assert flops_of_problem(primitive, problem) == flops


@pytest.mark.parametrize(
    ("backend", "file_format"),
    [
        ("paddle", "paddle"),
        pytest.param("onnxruntime", "onnx", marks=NEEDS_ONNX),
        pytest.param("openvino", "openvino", marks=NEEDS_OPENVINO),
    ],
)
def test_every_engine_tells_the_operations_of_the_whole_network(tmp_path, backend, file_format):
    from ppcls_ext.deploy.export import export_classifier

    folder = tmp_path / "small"
    export_classifier(
        small_classifier(), folder, model_name="Small", class_num=4, image_shape=[3, 32, 32], preprocess=PREPROCESS,
        topk=2, formats=[file_format],
    )  # fmt: skip
    wish = run.Wish(
        models=[str(folder)], backends=[backend], precisions=["fp32"], threads=[1], cache=tmp_path / "cache",
        schedule=measure.Schedule(rounds=1, runs=1),
    )  # fmt: skip
    result = operators.profile_operators(wish, runs=1)
    (network,) = result["networks"]
    # Two for each multiply-add of the convolutions and of the classifier; ONNX Runtime fills 24 channels up to 32.
    channels = 32 if backend == "onnxruntime" else 24
    expected = 2 * (channels * 8 * 8 * 3 * 4 * 4 + 32 * 4 * 4 * channels * 3 * 3 + 32 * 4)
    assert sum(operator["flops"] for operator in network["operators"]) == expected
    assert any(peak["status"] == "measured" for peak in result["peaks"])
    whole = operators.markdown_rows(result)[1]
    assert whole[8] == f"{expected / 1e9:.3f}" and whole[10].endswith(" %")


def test_operators_of_an_export_are_told_by_paddle(export, tmp_path):
    wish = run.Wish(models=[str(export)], backends=["paddle"], precisions=["fp32", "bf16"], threads=[1], cache=tmp_path)
    wish = dataclasses.replace(wish, schedule=measure.Schedule(rounds=1, runs=1))
    result = operators.profile_operators(wish, runs=3)
    network, missing = result["networks"]
    assert network["groups"][-1]["operation"] == operators.REST
    total = sum(group["milliseconds"] for group in network["groups"])
    assert total == pytest.approx(network["milliseconds"])
    assert any(operator["operation"] == "convolution, 4x4" for operator in network["operators"])
    assert missing["status"] == "failed" and "holds paddle fp32" in missing["reason"]
    rows = operators.markdown_rows(result)
    assert [len(row) for row in rows] == [11] * len(rows)
    assert rows[1][3] == "whole run" and rows[-1][3].startswith("failed: ")
