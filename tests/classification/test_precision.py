"""Mixed precision: one line and plain float32 on the CPU; what needs a GPU is written and waits for one."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest

from classification.optimizers import AdamW
from ppcls_ext.engine.precision import Precision
from ppcls_ext.engine.shared_keys import AmpSettings

MODES = [("O1", "float16"), ("O2", "bfloat16")]
needs_gpu = pytest.mark.skipif(not paddle.is_compiled_with_cuda(), reason="needs a GPU: mixed precision not run")


def make(seed: int = 0):
    paddle.seed(seed)
    model = paddle.nn.Sequential(paddle.nn.Linear(8, 16), paddle.nn.GELU(), paddle.nn.Linear(16, 4))
    named = list(model.named_parameters())
    return model, named, AdamW(weight_decay=0.0).build(named)


def batch(scale: float = 1.0) -> tuple[paddle.Tensor, paddle.Tensor]:
    generator = np.random.default_rng(0)
    features = generator.normal(scale=scale, size=(16, 8)).astype("float32")
    return paddle.to_tensor(features), paddle.to_tensor(generator.integers(0, 4, 16))


def train(precision: Precision, model, optimizer, steps: int = 3) -> list[float]:
    features, label = batch()
    losses = []
    for _ in range(steps):
        with precision.autocast():
            logits = model(features)
        loss = paddle.nn.functional.cross_entropy(logits.astype("float32"), label)
        precision.backward(loss)
        optimizer.set_lr(0.01)
        precision.step(optimizer)
        optimizer.clear_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize(("level", "dtype"), MODES)
def test_the_cpu_says_one_line_and_computes_in_float32(caplog, level, dtype):
    with caplog.at_level(logging.INFO):
        precision = Precision(AmpSettings(level=level), dtype, on_gpu=False)
        model, _, optimizer = make()
        decorated, same_optimizer = precision.decorate(model, optimizer)
        losses = train(precision, decorated, same_optimizer)
    assert [record.getMessage() for record in caplog.records] == ["AMP needs a GPU: computing in float32 on the CPU"]
    assert decorated is model
    assert {parameter.dtype for parameter in model.parameters()} == {paddle.float32}
    plain_model, _, plain_optimizer = make()
    assert losses == train(Precision(None, dtype, on_gpu=False), plain_model, plain_optimizer)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("wanted", [True, False])
def test_evaluation_computes_in_low_precision_only_where_asked_to(wanted):
    precision = Precision(AmpSettings(use_fp16_test=wanted), "float16", on_gpu=True)
    model, _, _ = make()
    with precision.autocast(training=False):
        assert model(batch()[0]).dtype == (paddle.float16 if wanted else paddle.float32)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_step_with_infinite_gradients_is_left_out_and_lowers_the_scale(level):
    precision = Precision(AmpSettings(level=level, scale_loss=2.0**15), "float16", on_gpu=True)
    model, _, optimizer = make()
    model, optimizer = precision.decorate(model, optimizer)
    before = [parameter.astype("float32").numpy().copy() for parameter in model.parameters()]
    optimizer.set_lr(0.01)
    for _ in range(2):
        with precision.autocast():
            logits = model(batch(scale=1e3)[0])
        precision.backward(logits.astype("float32").sum() * 1e30)
        precision.step(optimizer)
        optimizer.clear_grad()
    after = [parameter.astype("float32").numpy() for parameter in model.parameters()]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert precision.state()["scale"] < 2.0**15


@pytest.mark.gpu
@needs_gpu
def test_the_scalers_state_is_restored():
    first = Precision(AmpSettings(scale_loss=4096.0), "float16", on_gpu=True)
    model, _, optimizer = make()
    train(first, model, optimizer)
    second = Precision(AmpSettings(scale_loss=2.0), "float16", on_gpu=True)
    second.restore(first.state())
    assert second.state() == first.state()
    assert second.state()["scale"] == 4096.0
