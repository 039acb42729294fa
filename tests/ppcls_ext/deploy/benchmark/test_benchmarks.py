"""The benchmarks measure what they say; how fast anything is, no test asserts."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ppcls_ext.deploy.benchmark import inference, report, startup
from ppcls_ext.utils.errors import UserError


def test_the_mean_pooled_form_computes_the_same_with_other_operators():
    import paddle

    from ppcls_ext import build_model
    from ppcls_ext.arch.layers import GlobalAveragePool

    paddle.seed(0)
    model = build_model("EConvNeXt_mini", class_num=10)
    model.eval()
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32))
    with paddle.no_grad():
        expected = model(images).numpy()
        pools = sum(isinstance(layer, GlobalAveragePool) for layer in model.sublayers())
        inference.use_mean_pooling(model)
        np.testing.assert_allclose(model(images).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert pools == 23, "18 blocks, 4 stages and the classifier pool"
    assert not any(isinstance(layer, GlobalAveragePool) for layer in model.sublayers())


def _fake_prepare(model_name, size, folder):
    script = folder / "engine.py"
    return {inference.ADAPTIVE: ("first", str(script)), inference.ONNX_RUNTIME: ("second", str(script))}, {"x": "why"}


class _FakeEngine:
    """Answers at once; the second engine is twice as slow and computes what the test wants."""

    order: list[str] = []
    difference = 0.0

    def __init__(self, name, arguments):
        self.name = name
        self.slow = arguments[0] == "second"
        np.save(arguments[4], np.ones((1, 3), dtype=np.float32) + (self.difference if self.slow else 0))

    def answer(self):
        return "ready"

    def measure(self, runs):
        self.order.append(self.name)
        return [0.02 if self.slow else 0.01] * runs

    def close(self):
        pass


@pytest.fixture
def fake_engines(monkeypatch):
    _FakeEngine.order = []
    _FakeEngine.difference = 0.0
    monkeypatch.setattr(inference, "EngineProcess", _FakeEngine)
    monkeypatch.setattr(inference, "_prepare_models", _fake_prepare)
    monkeypatch.setattr(inference, "SETTLE_SECONDS", 0)


def test_engines_take_turns_and_are_compared_with_the_first(fake_engines):
    result = inference.run_inference_benchmark(size=8, rounds=3, runs=4)
    first, second = inference.ADAPTIVE, inference.ONNX_RUNTIME
    assert _FakeEngine.order == [first, second, second, first, first, second]
    assert result["samples"] == 12
    assert result["engines"][second]["median_ms"] == pytest.approx(20)
    assert result["ratios"] == pytest.approx({first: 1.0, second: 2.0})
    rows = inference.markdown_rows(result)
    assert rows[2][:2] == [second, "20.0"]
    assert rows[3][:3] == ["x", "not measured", "why"]


@pytest.mark.parametrize("difference", [0.01, float("nan")])
def test_an_engine_that_computes_something_else_is_refused(fake_engines, difference):
    _FakeEngine.difference = difference
    with pytest.raises(UserError, match="ONNX Runtime computes something else"):
        inference.run_inference_benchmark(size=8, rounds=1, runs=1)


def test_an_engine_that_dies_is_named(tmp_path):
    engine = inference.EngineProcess("broken engine", ["paddle", str(tmp_path), "1", "no.npy", "no.npy"])
    try:
        with pytest.raises(UserError, match="broken engine stopped with exit status 1"):
            engine.answer()
    finally:
        engine.close()


def test_startup_runs_both_commands(tmp_path):
    tool = tmp_path / "tool.py"
    tool.write_text("import sys\nsys.exit(0 if '--help' in sys.argv else 2)\n")
    result = startup.run_startup_benchmark(tool, repeats=2)
    assert list(result["seconds"]) == ["tool.py --help", "tool.py, error in the configuration"]
    assert all(0 < row["median"] <= row["slowest"] for row in result["seconds"].values())
    assert len(startup.markdown_rows(result)) == 3
    tool.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match=r"tool\.py -c .* left with status 0"):
        startup.run_startup_benchmark(tool, repeats=1)


def test_the_page_names_the_machine_and_the_versions():
    page = report.markdown_page({"Speed": (report.verdict("faster", met=False), [["a", "b"], ["1", "2"]])}, cores=2)
    assert "## Speed\n\n- faster: **NOT met**\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n" in page
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in page
    assert f"numpy {np.__version__}" in page


@pytest.mark.slow
def test_the_real_engines_answer():
    result = inference.run_inference_benchmark(size=64, rounds=1, runs=2)
    assert all(row["median_ms"] > 0 for row in result["engines"].values())
    assert all(row["relative_error"] <= 1e-4 for row in result["engines"].values())
