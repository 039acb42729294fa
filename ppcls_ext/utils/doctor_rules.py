"""Which version of which package is accepted, and why: the one table that `tools/doctor.py` goes by.

Standard library only, like everything that the doctor uses: it must work on a machine where nothing is installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Purpose = Literal["run", "train", "detection", "deploy", "develop", "checkout"]

PURPOSES: dict[Purpose, str] = {
    "run": "preprocess images and predict",
    "train": "train, evaluate and export",
    "detection": "train and evaluate detectors",
    "deploy": "write ONNX, run OpenVINO, quantise to 8 bits",
    "develop": "run the tests and ruff",
    "checkout": "run a PaddleClas checkout through the plug-in",
}
REQUIRED_PURPOSES: tuple[Purpose, ...] = ("run", "train")
ACCEPTED_PYTHON = ">=3.10,<3.13"


@dataclass(frozen=True)
class Rule:
    """One package.

    Args:
        package: name of the distribution, as pip knows it.
        accepted: range of versions, a comma-separated list of ``==``, ``>=`` and ``<``; all must hold.
        reason: why it is needed, or why other versions are refused; completes "because ...".
        needed_for: what does not work without it.
        install: what to hand to pip to mend it; the version of the lock file.
        substitutes: distributions that bring the same modules and serve as well.
        python: range of Python versions for which the rule holds; empty for all.
    """

    package: str
    accepted: str
    reason: str
    needed_for: Purpose
    install: str
    substitutes: tuple[str, ...] = ()
    python: str = ""

    @property
    def remedy(self) -> str:
        """The command that installs the version of the lock file."""
        return f"python -m pip install --no-deps {self.install}"


RULES: tuple[Rule, ...] = (
    Rule("numpy", ">=1.24,<2", "with numpy 2, paddle.flops and Paddle's int(tensor) fail", "run", "numpy==1.26.4"),
    Rule("pillow", ">=9.4,<14", "images are decoded and drawn with it", "run", "pillow==12.3.0"),
    Rule(
        "opencv-python-headless",
        ">=4.7,<4.12",
        "later versions want numpy 2, which Paddle does not bear",
        "run",
        "opencv-python-headless==4.11.0.86",
        substitutes=("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
    Rule("simplejpeg", ">=1.7.3,<2", "JPEG files are decoded with it", "run", "simplejpeg==1.9.0"),
    Rule("PyYAML", ">=6.0,<7", "configurations are YAML", "run", "PyYAML==6.0.3"),
    Rule(
        "paddlepaddle",
        "==3.2.2",
        "3.3.0 and 3.3.1 break oneDNN inference on the CPU (Paddle issue 77340), "
        "2.6.2 crashes in zlib beside other wheels",
        "train",
        "paddlepaddle==3.2.2",
        substitutes=("paddlepaddle-gpu",),
    ),
    Rule("safetensors", ">=0.6,<1", "weights are exchanged in it, and Paddle wants it", "train", "safetensors==0.8.0"),
    Rule(
        "paddleclas",
        "==2.6.0",
        "its architectures and TheseusLayer are read from this wheel's sources",
        "train",
        "paddleclas==2.6.0",
    ),
    Rule(
        "scikit-learn", ">=1.3,<2", "has the quickstart's digits; paddleclas imports it", "train", "scikit-learn==1.7.2"
    ),
    Rule("matplotlib", ">=3.7,<4", "draws curves.png; paddledet imports it", "train", "matplotlib==3.10.9"),
    Rule("rich", ">=13,<16", "progress bar and tables", "train", "rich==15.0.0"),
    Rule("visualdl", ">=2.5.3,<3", "scalars in a browser", "train", "visualdl==2.5.3"),
    Rule("paddledet", "==2.6.0", "the detectors register in its workspace", "detection", "paddledet==2.6.0"),
    Rule("pycocotools", ">=2.0.7,<3", "COCO annotations; paddledet imports it", "detection", "pycocotools==2.0.11"),
    Rule("faster-coco-eval", ">=1.6,<2", "fast average precision", "detection", "faster-coco-eval==1.8.0"),
    Rule("pandas", ">=2,<3", "paddledet imports it, and 3.x needs numpy 2", "detection", "pandas==2.3.3"),
    Rule("terminaltables", ">=3.1,<4", "average precision by class", "detection", "terminaltables==3.1.10"),
    Rule(
        "setuptools",
        ">=65.5,<80",
        "paddledet imports pkg_resources, which newer ones no longer have",
        "detection",
        "setuptools==65.5.0",
        python="<3.12",
    ),
    Rule(
        "setuptools",
        ">=66.1,<80",
        "paddledet imports pkg_resources, which newer ones no longer have and older ones break on Python 3.12",
        "detection",
        "setuptools==69.5.1",
        python=">=3.12",
    ),
    Rule("paddle2onnx", "==2.1.0", "reads Paddle 3's .json programs", "deploy", "paddle2onnx==2.1.0"),
    Rule("onnx", ">=1.16.1,<1.17.1", "paddle2onnx 2.1.0 caps it at 1.17.0", "deploy", "onnx==1.17.0"),
    Rule("onnxruntime", ">=1.17,<2", "runs ONNX files", "deploy", "onnxruntime==1.23.2"),
    Rule("openvino", ">=2025.0,<2027", "runs models on small Intel computers", "deploy", "openvino==2026.4.1"),
    Rule("nncf", ">=2.14,<4", "8-bit quantisation", "deploy", "nncf==3.4.0"),
    Rule("pytest", ">=8,<10", "runs the tests", "develop", "pytest==9.2.0"),
    Rule("pytest-timeout", ">=2.3,<3", "names a test that hangs", "develop", "pytest-timeout==2.4.0"),
    Rule("ruff", "==0.17.5", "another version knows other rules", "develop", "ruff==0.17.5"),
    Rule("wheel", ">=0.42,<1", "pip builds the editable install with it", "develop", "wheel==0.48.0"),
    Rule("easydict", ">=1.10,<2", "PaddleClas's metric module imports it", "checkout", "easydict==1.14"),
)


def release(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version without trailing zeros: ``3.2.0.post1`` -> ``(3, 2)``.

    Pre- and post-releases count as their release: the ranges of the table do not tell them apart.
    """
    match = re.match(r"(?:\d+!)?v?(\d+(?:\.\d+)*)", version.strip())
    if match is None:
        return ()
    numbers = [int(number) for number in match.group(1).split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def accepts(accepted: str, version: str) -> bool:
    """Says whether ``version`` lies in the range ``accepted``, such as ``>=1.24,<2``; an empty range takes all."""
    present = release(version)
    for condition in filter(None, (part.strip() for part in accepted.split(","))):
        match = re.fullmatch(r"(==|>=|<)(.+)", condition)
        assert match is not None, f"a rule's range holds '{condition}': only ==, >= and < are known"
        bound = release(match.group(2))
        holds = {"==": present == bound, ">=": present >= bound, "<": present < bound}[match.group(1)]
        if not holds:
            return False
    return True


def rules_for(python_version: str) -> list[Rule]:
    """Returns the rules that hold for a Python, e.g. ``3.11.7``, in the order of the table."""
    return [rule for rule in RULES if accepts(rule.python, python_version)]
