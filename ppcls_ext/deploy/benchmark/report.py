"""Benchmark results as a Markdown page."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = (
    "paddlepaddle",
    "paddlepaddle-gpu",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "onnxruntime",
    "openvino",
    "paddle2onnx",
    "pycocotools",
    "faster-coco-eval",
)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows, the head first, as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def markdown_page(sections: Mapping[str, tuple[str, Sequence[Sequence[str]]]], cores: int) -> str:
    """Returns the whole page.

    Args:
        sections: heading -> (what was measured and the verdicts, rows of the table).
        cores: how many cores the process could use.
    """
    parts = ["# Benchmark", f"{machine_line(cores)}."]
    for heading, (text, rows) in sections.items():
        parts += [f"## {heading}", text, markdown_table(rows)]
    return "\n\n".join(parts) + "\n"


def machine_line(cores: int) -> str:
    """Returns what was measured on: processor, cores that the process could use, versions of the packages."""
    return f"{processor_name()}, {cores} cores, Python {platform.python_version()}, {_versions()}"


def verdict(text: str, met: bool) -> str:
    """Returns one line of a list that says whether a target was met."""
    return f"- {text}: **{'met' if met else 'NOT met'}**"


def processor_name() -> str:
    """Returns the processor's name as the system knows it."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
