"""The benchmark of models and backends, and the profile of operators; how fast anything is, no test asserts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ppcls_ext.deploy import benchmark, operator_profile
from ppcls_ext.deploy.benchmark import BenchmarkRequest, find_network, find_rows
from ppcls_ext.deploy.published import PUBLISHED
from ppcls_ext.utils import workers
from ppcls_ext.utils.errors import UserError
from tests.support.deployment import NEEDS_ONNX, NEEDS_OPENVINO, export_small


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return export_small(tmp_path_factory.mktemp("exports") / "small")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(workers, "SETTLE_SECONDS", 0)


# What is measured


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backends": ["openvin"]}, r"unknown backend 'openvin' \(did you mean 'openvino'\?\)"),
        ({"precisions": ["fp31"]}, "unknown precision 'fp31'"),
        ({"models": ["EConvNeXt_minni"]}, "unknown model 'EConvNeXt_minni'.*EConvNeXt_mini"),
        ({"models": ["EConvNeXt_mini@big"]}, "after @ stands the side"),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_work(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        find_rows(BenchmarkRequest(cache=tmp_path, **wrong))
    assert list(tmp_path.iterdir()) == []


def test_networks_are_models_of_a_size_detectors_and_exports(export, tmp_path):
    config = tmp_path / "small.yml"
    config.write_text("architecture: YOLOv10\n")
    names = ["EConvNeXt_mini", "EConvNeXt_mini+mean_pooled@96", str(config), f"{config}@960", str(export)]
    networks = [find_network(name, 224)[0] for name in names]
    assert [network["size"] for network in networks] == [224, 96, 640, 960, "32 x 32"]
    assert [network["model"] for network in networks] == [*names[:2], "small", "small", str(export)]
    assert networks[-1]["architecture"] == "small" and networks[0]["top1"] == 78.3


def test_of_an_export_all_that_it_holds_is_measured_unless_precisions_are_asked_for(export, tmp_path):
    def found(**changes):
        rows = find_rows(BenchmarkRequest(models=[str(export)], cache=tmp_path, **changes))
        return [(row["backend"], row["precision"], row["batch"], row.get("reason", "")) for row in rows]

    assert found(batches=[1, 2, 1]) == [("paddle", "fp32", 1, ""), ("paddle", "fp32", 2, "")]
    (bf16,) = found(backends=["paddle"], precisions=["bf16"])
    assert "has nothing for paddle bf16, it holds paddle fp32" in bf16[-1]
    assert "it holds paddle fp32" in found(backends=["openvino"])[0][-1], "it is told what the export holds"
    ready, int8 = found(backends=["paddle"], precisions=["fp32", "int8"])
    assert ready[-1] == "" and "openvino: fp32, fp16, bf16, int8" in int8[-1]


# Exports


def test_exports_are_kept_until_code_changes_and_failures_are_reasons(tmp_path, export, monkeypatch):
    asked = []

    def answer(export, exporter, model, size, format_name, precision, folder, seconds):
        asked.append((model, size, format_name, precision))
        if precision == "bf16":
            raise UserError("the process ended with signal 11")
        export_small(folder)
        return {"parameters": 9, "multiply_adds": 5_000_000}

    monkeypatch.setattr(benchmark, "run_in_process", answer)
    request = BenchmarkRequest(models=["EConvNeXt_mini@32"], backends=["paddle"], cache=tmp_path)
    ready, failed = find_rows(request)
    assert (ready["parameters"], ready["multiply_adds"], ready["top1"]) == (9, 5_000_000, 78.3)
    assert ready["file_size_mb"] > 0 and ready["folder"].is_dir()
    assert (failed["status"], failed["reason"]) == ("failed", "the process ended with signal 11")
    find_rows(request)
    assert [precision for *_, precision in asked] == ["fp32", "bf16", "bf16"], "only the failure is tried again"
    monkeypatch.setattr(benchmark, "export_digest", lambda architecture: "other code")
    find_rows(request)
    assert len(asked) == 5
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.yml").write_text("architecture: PPYOLOE\n")
    files = [str(tmp_path / folder / "x.yml") for folder in ("one", "two")]
    rows = find_rows(BenchmarkRequest(models=files, backends=["paddle"], precisions=["fp32"], cache=tmp_path), len)
    assert [row["model"] for row in rows] == files and rows[0]["folder"] != rows[1]["folder"]


def test_a_change_of_a_base_file_makes_other_exports(tmp_path):
    base, config, digests = tmp_path / "my base.yml", tmp_path / "small.yml", set()
    config.write_text("_BASE_: ['my base.yml']\nTrainDataset: !COCODataSet {}\n")
    for depth in (1, 1, 2):
        # A base that leads back to the file is the exporter's to refuse.
        base.write_text(f"_BASE_: [small.yml]\ndepth_mult: {depth}\n")
        benchmark.export_digest.cache_clear()
        digests.add(benchmark.export_digest(str(config)))
    assert len(digests) == 2


def test_the_mean_pooled_form_computes_the_same_with_other_operators():
    import paddle

    from ppcls_ext import build_model

    paddle.seed(0)
    model = build_model("EConvNeXt_mini", class_num=10, depth_multiplier=0.3, width_multiplier=0.25)
    model.eval()
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32))
    with paddle.no_grad():
        expected = model(images).numpy()
        benchmark.use_mean_pooling(model)
        np.testing.assert_allclose(model(images).numpy(), expected, rtol=1e-4, atol=1e-6)
    names = [type(layer).__name__ for layer in model.sublayers()]
    assert "MeanPool" in names and "GlobalAveragePool" not in names
    foreign = paddle.nn.Sequential(paddle.nn.AdaptiveAvgPool2D((1, 1)), paddle.nn.AdaptiveAvgPool2D(2))
    benchmark.use_mean_pooling(foreign)
    assert [type(layer).__name__ for layer in foreign] == ["MeanPool", "AdaptiveAvgPool2D"]
    with pytest.raises(UserError, match="has no global average pool to exchange"):
        benchmark.use_mean_pooling(foreign)


# Measuring


def test_a_run_measures_an_export_and_reports_everything(export, tmp_path):
    request = BenchmarkRequest(
        models=[str(export)], backends=["paddle"], precisions=["fp32", "bf16", "int8"], threads=[1], batches=[2],
        cache=tmp_path, rounds=2, runs=2, starts=1,
    )  # fmt: skip
    result = benchmark.measure_models(request, np.full([40, 50, 3], 99, np.uint8))
    measured, held, unsupported = result["rows"]
    assert [row["status"] for row in result["rows"]] == ["measured", "failed", "unsupported"]
    assert measured["samples"] == 4 and measured["batch"] == 2 and measured["computed_in"] == "float32"
    for key in ("median_ms", "p90_ms", "images_per_second", "peak_memory_mb", "file_size_mb", "cold_start_s"):
        assert measured[key] > 0, key
    assert "holds paddle fp32" in held["reason"] and "openvino: fp32" in unsupported["reason"]
    assert result["peaks"][0]["library"] == "numpy" and result["peaks"][0]["gflops_per_second"] > 0
    json.dumps(result)
    page = benchmark.models_page(result)
    assert f"| {export} | 32 x 32 | paddle | fp32 | 1 | 2 |" in page
    assert "failed: " in page and "unsupported: " in page and "| numpy | float32 | 1 |" in page
    assert not benchmark.draw_models(result, tmp_path / "chart.png"), "an export has no published accuracy"
    assert not (tmp_path / "chart.png").exists()


def test_the_page_and_the_chart_tell_shares_of_the_peak_and_other_image_sizes(monkeypatch, tmp_path):
    def measure(subjects, rounds, runs, starts):
        for subject in subjects:
            subject.seconds, subject.starts, subject.cores_while_waiting = [0.02], [1.0], [0.0]
            subject.facts = {"computed_in": "float32"}

    def row(model, **changes):
        published = PUBLISHED[model]
        return {"model": model, "architecture": model, "size": 224, "backend": "paddle", "precision": "fp32",
                "threads": 2, "batch": 1, "folder": tmp_path, "multiply_adds": 1_000_000_000, "top1": published.top1,
                "top1_size": published.size, "top1_source": published.source, **changes}  # fmt: skip

    rows = [row("EConvNeXt_mini"), row("EConvNeXt_mini", backend="openvino"), row("EfficientNetV2_S"),
            row("ResNet50", batch=8),
            {"status": "failed", "reason": "a | b", "model": "y", "precision": ""}]  # fmt: skip
    monkeypatch.setattr(benchmark, "measure_interleaved", measure)
    monkeypatch.setattr(benchmark, "find_rows", lambda request, exporter: rows)
    result = benchmark.measure_models(BenchmarkRequest(cache=tmp_path), np.zeros([4, 4, 3], np.uint8))
    peak = 2 * benchmark.MATRIX_SIDE**3 / 0.02 / 1e9
    assert result["rows"][0]["gflops_per_second"] == pytest.approx(100), "a multiply-add is two operations"
    assert result["rows"][0]["share_of_peak"] == pytest.approx(100 / peak)
    assert benchmark.draw_models(result, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1
    page = benchmark.models_page(result)
    assert "| 78.3 |" in page and "| 83.9 (at 384 px) |" in page and "failed: a / b" in page
    assert f"- ResNet50: 76.5 at 224 px ({PUBLISHED['ResNet50'].source})" in page


# Operators


@pytest.mark.parametrize(
    ("backend", "file_format"),
    [
        ("paddle", "paddle"),
        pytest.param("onnxruntime", "onnx", marks=NEEDS_ONNX),
        pytest.param("openvino", "openvino", marks=NEEDS_OPENVINO),
    ],
)
def test_every_engine_tells_the_operations_of_the_whole_network(tmp_path, backend, file_format):
    folder = export_small(tmp_path / "small", formats=[file_format])
    request = BenchmarkRequest(
        models=[str(folder)], backends=[backend], precisions=["fp32", "bf16"], threads=[1],
        cache=tmp_path / "cache", rounds=1, runs=1,
    )  # fmt: skip
    result = operator_profile.profile_operators(request)
    network, *missing = result["networks"]
    # Two for each multiply-add of the convolutions and of the classifier; ONNX Runtime fills 24 channels up to 32.
    channels = 32 if backend == "onnxruntime" else 24
    expected = 2 * (channels * 8 * 8 * 3 * 4 * 4 + 32 * 4 * 4 * channels * 3 * 3 + 32 * 4)
    assert sum(operator["flops"] for operator in network["operators"]) == expected
    total = sum(group["milliseconds"] for group in network["groups"])
    assert total == pytest.approx(network["milliseconds"])
    assert network["groups"][-1]["operation"] == operator_profile.REST
    assert all(row["status"] in ("failed", "unsupported") and row["reason"] for row in missing)
    assert any(peak["status"] == "measured" for peak in result["peaks"])
    page = operator_profile.operators_page(result)
    assert f"| whole run |  |  | {network['milliseconds']:.2f} | 100 % | {expected / 1e9:.3f} |" in page
    json.dumps(result)
