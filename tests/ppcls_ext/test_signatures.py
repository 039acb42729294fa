"""Constructor signatures read from source text, against what Python itself says."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest

from ppcls_ext.arch.signatures import our_parameters, toolkit_architectures, toolkit_parameters
from ppcls_ext.arch.toolkit import Toolkit, find_toolkit
from ppcls_ext.arch.variants import FAMILIES
from ppcls_ext.utils.signature import REQUIRED, parameters_of

PACKAGE = {
    "backbone/__init__.py": (
        "from .zoo.nets import Net_a, Net_b, Net_c, Net_d, Net_e, Net_f\nfrom .zoo import Renamed\n"
    ),
    "backbone/zoo/__init__.py": "from .nets import Net_a as Renamed\n",
    "backbone/base.py": (
        "class Base:\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        self.init_net(*args, **kwargs)\n"
        "    def init_net(self, stages=None, stop_after=None, *args, **kwargs):\n"
        "        pass\n"
    ),
    "backbone/zoo/nets.py": (
        "from ..base import Base\n"
        "import numpy as np\n"
        "class Net(Base):\n"
        "    def __init__(self, width, depth, class_num=1000, rate=0.0, *, act='relu', init=np.zeros, **swallowed):\n"
        "        super().__init__()\n"
        "class Deeper(Net):\n"
        "    def __init__(self, *args, extra: int | None = None, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "class Tapped(Base):\n"
        "    def __init__(self, class_num=10, **kwargs):\n"
        "        super().__init__(stages=[1], **kwargs)\n"
        "def Net_a(pretrained=False, **kwargs):\n"
        "    return Net(8, depth=2, **kwargs)\n"
        "def Net_b(pretrained=False, **kwargs):\n"
        "    return Deeper(8, 2, rate=0.5, **kwargs)\n"
        "def Net_c(**kwargs):\n"
        "    row = [8, 2]\n"
        "    return Net(*row, **kwargs)\n"
        "def Net_d(pretrained=False, **options):\n"
        "    merged = dict(width=4, **options)\n"
        "    flag = options.get('flag', True)\n"
        "    return Net_inner(flag, **merged)\n"
        "def Net_inner(flag, **kwargs):\n"
        "    other = kwargs.copy()\n"
        "    name = other.pop('name')\n"
        "    return Net(**other)\n"
        "def Net_e(plain, class_num=10):\n"
        "    return Net(1, 2, class_num)\n"
        "Net_f = Tapped\n"
    ),
}


@pytest.fixture
def toolkit(tmp_path) -> Toolkit:
    for name, text in PACKAGE.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Toolkit("made.up", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Net_a", {"pretrained", "class_num", "rate", "act", "init"}),
        ("Renamed", {"pretrained", "class_num", "rate", "act", "init"}),
        ("Net_b", {"pretrained", "class_num", "act", "init", "extra"}),
        ("Net_c", {"class_num", "rate", "act", "init"}),
        ("Net_d", {"pretrained", "flag", "name", "width", "depth", "class_num", "rate", "act", "init"}),
        ("Net_e", {"plain", "class_num"}),
        ("Net_f", {"class_num", "stop_after"}),
    ],
)
def test_kwargs_are_followed(toolkit, name, expected):
    assert set(toolkit_parameters(toolkit, name)) == expected


def test_defaults_and_annotations(toolkit):
    parameters = toolkit_parameters(toolkit, "Net_b")
    assert parameters["pretrained"].default is False
    assert parameters["pretrained"].annotation is Any
    assert parameters["class_num"].annotation is int
    assert parameters["act"].default == "relu"
    assert parameters["init"].default is ...
    assert parameters["extra"].annotation == int | None
    assert toolkit_parameters(toolkit, "Net_a")["rate"].annotation == int | float | None
    assert toolkit_parameters(toolkit, "Net_e")["plain"].default is REQUIRED


def test_names_of_a_toolkit(toolkit):
    assert toolkit_architectures(toolkit) == ["Net_a", "Net_b", "Net_c", "Net_d", "Net_e", "Net_f", "Renamed"]
    with pytest.raises(KeyError):
        toolkit_parameters(toolkit, "Net_z")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.class_name)
def test_our_parameters_are_those_of_the_constructor(family):
    from ppcls_ext.arch.registry import class_of

    imported = parameters_of(class_of(family))
    row = {field.name for variant in family.rows.values() for field in fields(variant)}
    read = our_parameters(family)
    assert read == {name: parameter for name, parameter in imported.items() if name not in row}
    assert read["stem_stride"].annotation == Literal[1, 2, 4]


def test_every_architecture_of_the_wheel_can_be_read():
    toolkit = find_toolkit()
    names = toolkit_architectures(toolkit)
    assert len(names) > 300
    # One that takes nothing would mean that its **kwargs were lost on the way.
    assert [name for name in names if not toolkit_parameters(toolkit, name)] == []
    missing = [name for name in names if not {"class_num", "num_classes"} & set(toolkit_parameters(toolkit, name))]
    # The first take embeddings' sizes, the others fix the number of classes themselves.
    families = (
        "AdaFace",
        "MobileFaceNet",
        "CLIP_large_patch14_224_aesthetic",
        "EVA",
        "MAE_vit_huge",
        "PPLCNet_x2_5_Tanh",
    )
    assert [name for name in missing if not name.startswith(families)] == []


@pytest.mark.parametrize(
    "name",
    [
        "AlexNet", "ConvNeXt_tiny", "DenseNet121", "GhostNet_x0_5", "MobileNetV1_x0_25", "MobileNetV3_small_x0_35",
        "MobileNetV4_conv_small", "PPHGNetV2_B0", "PPLCNet_x0_25", "PVT_V2_B0", "RegNetX_200MF", "ResNet18",
        "ShuffleNetV2_x0_25", "SqueezeNet1_0", "StarNet_S1", "TNT_small", "ViT_small_patch16_224",
    ],
)  # fmt: skip
def test_signatures_of_the_wheel_agree_with_python(name):
    from paddle.utils import unique_name

    from ppcls_ext import plugin

    function = plugin.toolkit_architecture(name)
    read = toolkit_parameters(find_toolkit(), name)
    own = named_parameters(function)
    with unique_name.guard():  # Some give their parameters fixed names, which two models may not share.
        model_class = type(function())
    of_class = named_parameters(model_class.__init__)
    # Some hand the rest on to PaddleClas's base class.
    tapping = named_parameters(model_class.init_net) if "stop_after" in read else {}
    tapping.pop("stages_pattern", None)
    of_class = {**tapping, **of_class}
    of_class.pop("self")
    assert set(own) <= set(read)
    assert set(read) <= set(own) | set(of_class)
    for parameter in read.values():
        stated = own.get(parameter.name) or of_class[parameter.name]
        if parameter.default not in (..., REQUIRED):
            assert parameter.default == stated.default, parameter.name
    # What was left out is what the function fills in itself; Python refuses to be given it twice.
    for left_out in set(of_class) - set(read):
        with pytest.raises(TypeError, match="multiple values"):
            function(**{left_out: None})


def named_parameters(function: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {parameter.name: parameter for parameter in parameters if parameter.kind not in variable}


def test_a_checkout_goes_before_the_wheel(tmp_path, monkeypatch):
    assert find_toolkit().package == "paddleclas.ppcls.arch"
    arch = tmp_path / "ppcls" / "arch"
    arch.mkdir(parents=True)
    (tmp_path / "ppcls" / "__init__.py").touch()
    (arch / "__init__.py").touch()
    (tmp_path / "paddleclas.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_toolkit() == Toolkit("ppcls.arch", Path(arch).resolve())
