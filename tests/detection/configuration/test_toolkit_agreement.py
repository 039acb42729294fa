"""PaddleDetection itself reads our configurations to the same values as we do, resolved or not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from detection.configuration import load_config
from tests.golden.make_detectors import detector_configs
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


# One of each kind; all of them take half a minute.
FEW = ("quickstart", "ppyoloe_s_econvnext_mini_sonar", "yolov10_m_econvnext_tiny_sonar")


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([file for file in detector_configs() if file.stem in FEW], id="few"),
        pytest.param(detector_configs(), id="all", marks=pytest.mark.slow),
    ],
)
def test_paddledetection_reads_the_same(read_by_toolkit, tmp_path, files):
    configs = [load_config(file) for file in files]
    resolved = [tmp_path / f"resolved_{number}.yml" for number in range(len(files))]
    for config, saved in zip(configs, resolved, strict=True):
        saved.write_text(config.to_yaml(), encoding="utf-8")
    found = read_by_toolkit([*files, *resolved])
    for config, direct, saved in zip(configs, found[: len(files)], found[len(files) :], strict=True):
        assert {key: direct[key] for key in config.data} == config.data, config.path.name
        assert {key: saved[key] for key in config.data} == config.data, f"{config.path.name}, resolved"
