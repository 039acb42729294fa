"""tools/serve.py as a person starts and stops it."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.support.runs import ROOT, refusal, run_tool, start_tool
from tests.support.serving import export_colours, picture


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_colours(tmp_path_factory.mktemp("colours") / "export")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(colours: Path, number: int) -> None:
    process = start_tool("serve.py", colours, "--port", "0", "--threads", "1")
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if " is at " in line:
                break
        match = re.search(r"^Colours \(classification, backend paddle\) is at (http://127.0.0.1:\d+/) ", lines[-1])
        assert match, lines
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{match[1]}predict", data=picture((220, 10, 20)), timeout=60) as response:
            assert json.load(response)["predictions"][0]["label"] == "red"
        if number == signal.SIGINT:
            port = match[1].rstrip("/").rpartition(":")[2]
            second = run_tool("serve.py", colours, "--port", port, "--threads", "1")
            assert second.returncode == 2
            assert second.stderr.splitlines()[-1] == (
                f"error: --port {port}: in use by another program; choose another, or 0 for any that is free"
            )
        process.send_signal(number)
        lines += process.communicate(timeout=60)[0].splitlines(keepends=True)
    finally:
        process.kill()
    assert process.returncode == 0, lines
    assert lines[-1] == "stopped\n"
    assert "127.0.0.1 POST /predict 200\n" in lines
    assert "Traceback" not in "".join(lines)


def test_mistakes_are_told_in_one_line() -> None:
    assert refusal(ROOT, "serve.py", "nowhere").startswith("error: nowhere: not an export folder")
    host = "no.such.host.invalid"
    assert refusal(ROOT, "serve.py", "nowhere", "--host", host).startswith(f"error: --host {host}: unknown")
    warned = run_tool("serve.py", "nowhere", "--host", "0.0.0.0")
    assert warned.returncode == 2
    first, second = warned.stderr.splitlines()
    assert re.search(r"^warning: --host 0\.0\.0\.0 lets every computer .* neither a password", first)
    assert "not an export folder" in second
