"""PaddleDetection itself reads our configurations to the same values as we do, resolved or not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from detection.configuration import load_config
from detection.golden import CONFIGS, detector_configs
from tests.support.runs import ROOT, tool_environment

# PaddleDetection merges every file into one global dictionary: each is read in a process of its own.
PROGRAM = """
import json, os, sys
from detection.toolkit import register
register()
from ppdet.core.workspace import load_config
for source, result in zip(sys.argv[1::2], sys.argv[2::2]):
    child = os.fork()
    if child == 0:
        config = load_config(source)
        with open(result, "w", encoding="utf-8") as file:
            json.dump({key: value for key, value in config.items() if key.isidentifier()}, file, default=str)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, source
"""


@pytest.fixture(scope="module")
def read_by_toolkit(tmp_path_factory):
    """Reads files with PaddleDetection's own ``load_config``; returns the data of each."""
    folder = tmp_path_factory.mktemp("read")

    def read(files):
        results = [folder / f"{number}.json" for number in range(len(files))]
        pairs = [str(path) for pair in zip(files, results, strict=True) for path in pair]
        command = [sys.executable, "-c", PROGRAM, *pairs]
        result = subprocess.run(command, cwd=ROOT, env=tool_environment(), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
        return [json.loads(path.read_text(encoding="utf-8")) for path in results]

    return read


def test_paddledetection_reads_the_same(read_by_toolkit, tmp_path):
    files = detector_configs()
    resolved = []
    for number, file in enumerate(files):
        saved = tmp_path / f"resolved_{number}.yml"
        saved.write_text(load_config(file).to_yaml(), encoding="utf-8")
        resolved.append(saved)
    found = read_by_toolkit([*files, *resolved])
    for file, direct, saved in zip(files, found[: len(files)], found[len(files) :], strict=True):
        data = load_config(file).data
        name = str(file.relative_to(CONFIGS))
        assert {key: direct[key] for key in data} == data, name
        assert {key: saved[key] for key in data} == data, f"{name}, resolved"
