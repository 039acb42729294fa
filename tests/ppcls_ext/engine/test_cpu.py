"""CPU kernels: as near to float64 as Paddle's own, the same bits with any number of threads, Paddle's own elsewhere."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext import build_model
from ppcls_ext.engine import cpu
from ppcls_ext.engine.cpu import accelerate, restore

pytestmark = pytest.mark.portable
ROOT = Path(__file__).resolve().parents[3]
# Largest error over the largest value of the reference.
TOLERANCE = 1e-5
CONVOLUTIONS = {
    "depthwise 7x7": (dict(in_channels=6, out_channels=6, kernel_size=7, padding=3, groups=6), (2, 9, 12)),
    "depthwise 7x7 of a map smaller than the kernel": (
        dict(in_channels=6, out_channels=6, kernel_size=7, padding=3, groups=6), (3, 2, 3)
    ),
    "depthwise 3x3, stride 2, odd map": (
        dict(in_channels=5, out_channels=5, kernel_size=3, stride=2, padding=1, groups=5), (2, 7, 9)
    ),
    "1x1": (dict(in_channels=5, out_channels=7, kernel_size=1), (3, 4, 5)),
    "1x1, stride 2": (dict(in_channels=3, out_channels=4, kernel_size=1, stride=2), (2, 7, 8)),
    "4x4, stride 4": (dict(in_channels=3, out_channels=8, kernel_size=4, stride=4), (2, 16, 20)),
    "3x3, stride 2, odd map": (dict(in_channels=5, out_channels=6, kernel_size=3, stride=2, padding=1), (2, 9, 7)),
    "5x5, padding 1, no bias": (
        dict(in_channels=2, out_channels=3, kernel_size=5, padding=1, bias_attr=False), (1, 8, 9)
    ),
}  # fmt: skip


def random_array(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_float64(layer: nn.Layer) -> nn.Layer:
    exact = copy.deepcopy(layer)
    exact.to(dtype="float64")
    return exact


def outputs_and_gradients(layer: nn.Layer, image: np.ndarray, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Output, gradients of a random weighting of it by input and parameters, and the buffers afterwards."""
    x = paddle.to_tensor(image.astype(dtype), stop_gradient=False)
    paddle.seed(5)
    y = layer(x)
    (y * paddle.to_tensor(random_array(y.shape, 1).astype(dtype))).sum().backward()
    found = {"output": y.numpy(), "input": x.grad.numpy()}
    found |= {name: p.grad.numpy() for name, p in layer.named_parameters() if p.grad is not None}
    return found | {name: buffer.numpy() for name, buffer in layer.named_buffers()}


def assert_near(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    scale = max(abs(values).max() for values in expected.values())
    for name, values in expected.items():
        # A bias in front of a batch norm has rounding noise as its gradient.
        limit = tolerance * max(abs(values).max(), 1e-3 * scale)
        error = abs(found[name].astype(np.float64) - values).max()
        assert error <= limit, f"{name}: {error:.2e}, allowed {limit:.2e}"


def check_layer(layer: nn.Layer, image: np.ndarray) -> None:
    """An accelerated layer is as near to float64 as Paddle's own kernels must be."""
    exact = as_float64(layer)
    assert accelerate(layer) > 0
    assert_near(outputs_and_gradients(layer, image), outputs_and_gradients(exact, image, "float64"))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    arguments, (images, height, width) = CONVOLUTIONS[name]
    paddle.seed(0)
    check_layer(nn.Conv2D(**arguments), random_array((images, arguments["in_channels"], height, width)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (1, 3, 33, 40)])
def test_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    norm = nn.BatchNorm2D(shape[1])
    for index, array in enumerate((norm.weight, norm.bias, norm._mean)):
        array.set_value(random_array([shape[1]], index) + 1.5)
    norm.train() if training else norm.eval()
    check_layer(norm, 3 * random_array(shape) + 2)


@pytest.mark.parametrize("shape", [(5, 12), (2, 7, 12), (1, 3, 4, 12)])
@pytest.mark.parametrize("bias", [None, False])
def test_linear(shape: tuple[int, ...], bias: bool | None) -> None:
    check_layer(nn.Linear(12, 9, bias_attr=bias), random_array(shape))


@pytest.mark.parametrize("activation", [nn.GELU, nn.Silu, nn.Swish])
def test_activations(activation: type[nn.Layer]) -> None:
    image = np.linspace(-90, 90, 2 * 3 * 31 * 33, dtype=np.float32).reshape(2, 3, 31, 33)
    check_layer(activation(), image)
    check_layer(activation(), random_array((2, 3, 4, 5)))


SMALL = {"class_num": 5, "width_multiplier": 0.25, "drop_path_rate": 0.2}


NETWORKS = ["EConvNeXt_mini", "ConvNeXtV1_tiny", "ConvNeXtV2_atto"]


def check_network(name: str, shape: tuple[int, ...], **switches: object) -> None:
    """Values and gradients of a whole network in float32, by our kernels and by Paddle's, beside float64."""
    paddle.seed(0)
    model = build_model(name, **SMALL, **switches)
    for parameter in model.parameters():
        # Layer scales, response norms and biases begin too small or at zero, where they would hide mistakes.
        if parameter.ndim == 1 and not parameter.stop_gradient:
            parameter.set_value(parameter + 0.2 * paddle.to_tensor(random_array(parameter.shape, 3)))
    model.train()
    own, exact = copy.deepcopy(model), as_float64(model)
    assert accelerate(own) > 0
    image = random_array(shape)
    reference = outputs_and_gradients(exact, image, "float64")
    by_paddle = outputs_and_gradients(model, image)
    scale = max(abs(values).max() for values in reference.values())
    paddles_error = max(
        abs(by_paddle[name] - values).max() / max(abs(values).max(), 1e-3 * scale) for name, values in reference.items()
    )
    assert_near(outputs_and_gradients(own, image), reference, tolerance=max(TOLERANCE, 3 * paddles_error))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str) -> None:
    check_network(name, (4, 3, 96, 64))


@pytest.mark.parametrize("switches", [{}, {"kernel_size": 5}, {"activation": "relu"}, {"branch_norm": False}])
def test_plain_stages(switches: dict[str, object]) -> None:
    """Of a network with switches, stages whose blocks compute something else are computed layer by layer."""
    check_network("EConvNeXt_mini", (4, 3, 96, 64), csp=False, **switches)
    model = build_model("EConvNeXt_mini", **SMALL, csp=False, **switches)
    accelerate(model)
    assert all(("forward" in vars(stage)) == (switches.keys() <= {"kernel_size"}) for stage in model.stages)


@pytest.fixture
def three_threads():
    cpu.load_kernels()
    before = cpu.kernels.threads
    cpu.kernels.use_threads(3)
    yield
    cpu.kernels.use_threads(before)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(4, 3, 96, 64), (1, 3, 72, 88)])
def test_networks_in_parts_that_threads_share(monkeypatch, three_threads, name: str, shape: tuple[int, ...]) -> None:
    """As large maps are: several parts of an MLP, the last one narrower; shared products. Odd maps, a batch of one."""
    for constant, value in (("CACHED", 0), ("NARROWEST", 70), ("LARGE_PRODUCT", 0)):
        monkeypatch.setattr(cpu, constant, value)
    check_network(name, shape)


def test_names_state_and_structure_stay() -> None:
    model = build_model("EConvNeXt_mini", **SMALL)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    accelerate(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(np.array_equal(after[name].numpy(), value) for name, value in before.items())
    restore(model)
    assert not any("forward" in vars(layer) for layer in model.sublayers(include_self=True))


def test_a_copy_runs_with_its_own_weights() -> None:
    layer = nn.Conv2D(3, 4, 1)
    accelerate(layer)
    twin = copy.deepcopy(layer)
    twin.weight.set_value(2 * layer.weight)
    twin.bias.set_value(2 * layer.bias)
    image = paddle.to_tensor(random_array((2, 3, 5, 5)))
    np.testing.assert_allclose(twin(image).numpy(), 2 * layer(image).numpy(), rtol=1e-6)


def test_hooks_on_inner_layers_are_called_of_a_copy_as_well() -> None:
    model = build_model("EConvNeXt_mini", **SMALL)
    model.eval()
    image = paddle.to_tensor(random_array((1, 3, 64, 64)))
    expected = model(image).numpy()
    accelerate(model)
    seen = []
    for number, network in enumerate((copy.deepcopy(model), model), start=1):
        network.stages[1].blocks[0].norm.register_forward_post_hook(lambda *_: seen.append(1))
        np.testing.assert_allclose(network(image).numpy(), expected, rtol=1e-4, atol=1e-5)
        assert len(seen) == number


def test_frozen_parameters_and_inputs_get_no_gradient() -> None:
    model = build_model("EConvNeXt_mini", **SMALL)
    accelerate(model)
    frozen = model.stages[0].blocks[0].expand.weight
    frozen.stop_gradient = True
    image = paddle.to_tensor(random_array((2, 3, 64, 64)))
    model(image).sum().backward()
    assert frozen.grad is None and image.grad is None
    assert model.stages[0].blocks[0].depthwise.weight.grad is not None


def test_inputs_that_are_not_contiguous() -> None:
    layer = nn.Conv2D(6, 6, 7, padding=3, groups=6)
    image = paddle.to_tensor(random_array((2, 9, 8, 6))).transpose([0, 3, 1, 2])
    expected = layer(image).numpy()
    accelerate(layer)
    np.testing.assert_allclose(layer(image).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_what_no_kernel_fits_is_left_to_paddle() -> None:
    for layer in (
        nn.Conv2D(4, 6, 3, groups=2), nn.Conv2D(4, 8, 3, groups=4), nn.Conv2D(4, 4, 3, dilation=2),
        nn.Conv2D(4, 4, 3, padding=[0, 1]), nn.Conv2D(4, 4, 3, padding="SAME"),
        nn.Conv2D(4, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2D(4, 4, [1, 3]),
        nn.Conv2D(4, 4, 3, data_format="NHWC"), nn.GELU(approximate=True),
    ):  # fmt: skip
        assert accelerate(layer) == 0, layer


def test_compiled_networks_never_see_the_kernels() -> None:
    model = build_model("EConvNeXt_mini", **SMALL)
    model.eval()
    image = paddle.to_tensor(random_array((1, 3, 64, 64)))
    expected = model(image).numpy()
    accelerate(model)
    specification = [paddle.static.InputSpec([None, 3, 64, 64], "float32")]
    compiled = paddle.jit.to_static(model, input_spec=specification, full_graph=True)
    np.testing.assert_allclose(compiled(image).numpy(), expected, rtol=1e-4, atol=1e-5)


STEP = """
import hashlib, json, sys
import numpy as np, paddle
from ppcls_ext.engine.cpu import accelerate
from paddle import nn

def digests():
    found = {}
    for layer in (nn.Conv2D(40, 40, 7, padding=3, groups=40), nn.BatchNorm2D(40), nn.GELU(), nn.Silu()):
        paddle.seed(0)
        for parameter in layer.parameters():
            parameter.set_value(paddle.randn(parameter.shape))
        accelerate(layer)
        image = np.random.default_rng(0).standard_normal((8, 40, 60, 60)).astype("float32")
        x = paddle.to_tensor(image, stop_gradient=False)
        y = layer(x)
        (y * y * x.detach()).sum().backward()
        tensors = [y, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
        found[type(layer).__name__] = hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()
    return found

sys.stdout.write(json.dumps(digests()))
"""
# A loader worker is forked while the threads of its parent exist. (Paddle's own operators may hang in it.)
FORKED = """
import os, sys
import numpy as np
from ppcls_ext.engine import cpu
cpu.load_kernels()
x, weight, bias = (np.random.default_rng(0).random(shape, np.float32) for shape in ((40, 60, 60, 8), (40, 1, 7, 7), 40))
first = cpu._depthwise(x, weight, bias)[0].tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if cpu._depthwise(x, weight, bias)[0].tobytes() == first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run_script(script: str, threads: int) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True).stdout


def test_the_same_bits_with_any_number_of_threads() -> None:
    assert run_script(STEP, 1) == run_script(STEP, 2) == run_script(STEP, 4)


def test_a_forked_process_has_threads_of_its_own() -> None:
    run_script(FORKED, 2)


def test_the_same_bits_of_maps_with_images_last() -> None:
    cpu.load_kernels()
    before, found = cpu.kernels.threads, []
    x, dy = random_array((40, 60, 60, 8)), random_array((40, 60, 60, 8), 1)
    weight, bias = random_array((40, 1, 7, 7), 2), random_array((40,), 3)
    try:
        for threads in (1, 2, 3):
            cpu.kernels.use_threads(threads)
            results = []
            for y, back in (cpu._depthwise(x, weight, bias), cpu._images_first(x)):
                results += [y, *back(dy.reshape(y.shape))]
            y, back = cpu._layer_norm(x.reshape(40, -1), bias, bias, 1e-6)
            results += [y, *back(dy.reshape(40, -1))]
            found.append([array.tobytes() for array in results])
    finally:
        cpu.kernels.use_threads(before)
    assert found[0] == found[1] == found[2]


def test_there_are_as_many_threads_as_the_container_has_cores(monkeypatch, three_threads) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cpu, "kernels", None)
    monkeypatch.setattr(cpu, "available_cores", lambda: 2)
    cpu.load_kernels()
    assert cpu.kernels.threads == 2


def test_numpy_does_not_warn_of_a_loss_that_is_not_finite_in_any_session() -> None:
    for _ in range(2):
        with warnings.catch_warnings(record=True) as told:
            cpu.use_fast_kernels([nn.Linear(2, 2)])
            warnings.warn_explicit("invalid value", RuntimeWarning, "cpu.py", 1, module=cpu.__name__)
        assert not [warning for warning in told if warning.category is RuntimeWarning]


def test_what_fails_on_another_thread_is_raised(three_threads) -> None:
    with pytest.raises(ZeroDivisionError):
        cpu.kernels.share(lambda begin, end: 1 // (2 - begin), 3)
    seen: list[int] = []
    # A part that shares work itself does all of it.
    cpu.kernels.share(lambda begin, end: cpu.kernels.share(lambda a, b: seen.extend(range(a, b)), 2), 3)
    assert sorted(seen) == [0, 0, 0, 1, 1, 1]


def without_numba(patched: pytest.MonkeyPatch) -> None:
    patched.setitem(sys.modules, "numba", None)
    patched.setattr(cpu, "kernels", None)


def without_compiler(patched: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str):
            raise RuntimeError("cannot compile for this processor")

    patched.setattr(cpu, "kernels", Broken())


def with_wrong_products(patched: pytest.MonkeyPatch) -> None:
    cpu.load_kernels()
    patched.setattr(cpu, "_times", lambda a, b: 1.01 * (a @ b))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(without_numba, "numba"), (without_compiler, "cannot compile"), (with_wrong_products, "something else")],
)
def test_where_the_kernels_fail_paddles_do_the_work_and_one_line_says_why(monkeypatch, caplog, fault, reason) -> None:
    fault(monkeypatch)
    model = build_model("EConvNeXt_mini", **SMALL)
    with caplog.at_level("INFO"):
        assert cpu.use_fast_kernels([model], "auto") == "paddle"
    assert reason in caplog.text and len(caplog.records) == 1
    assert model(paddle.to_tensor(random_array((1, 3, 32, 32)))).shape == [1, 5]
    assert not any("forward" in vars(layer) for layer in model.sublayers(include_self=True))


USE = """
import sys
import paddle
from ppcls_ext.engine.cpu import use_fast_kernels
sys.stdout.write(use_fast_kernels([paddle.nn.Conv2D(3, 3, 7, padding=3, groups=3)]))
"""
# As if no folder but the temporary one could be written.
NO_FOLDER = """
import os, tempfile
from numba.core import caching
ensure = caching._CacheLocator.ensure_cache_path
def refuse(self):
    if not self.get_cache_path().startswith(tempfile.gettempdir()):
        raise OSError("read-only file system")
    return ensure(self)
caching._CacheLocator.ensure_cache_path = refuse
"""


@pytest.mark.slow
def test_without_a_folder_for_the_cache(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", NO_FOLDER + USE], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert run.stdout.endswith("fast")
    assert not list(tmp_path.glob("econvnext_kernels_*"))


def test_other_numbers_of_channels_are_refused() -> None:
    for layer in (nn.BatchNorm2D(8), nn.Conv2D(8, 8, 3, padding=1, groups=8), nn.Conv2D(8, 8, 1)):
        accelerate(layer)
        with pytest.raises(ValueError):
            layer(paddle.to_tensor(random_array((1, 12, 3, 3))))


def test_a_stage_with_a_foreign_part_is_left_to_paddle() -> None:
    model = build_model("EConvNeXt_mini", **SMALL)
    model.stages[0].blocks[0].activation = nn.ReLU()
    accelerate(model)
    assert "forward" not in vars(model.stages[0])
    assert "forward" in vars(model.stages[1])
