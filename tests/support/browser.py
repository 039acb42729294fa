"""A headless Chromium, driven through ChromeDriver by the W3C WebDriver protocol: JSON over HTTP, no package needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and CHROMEDRIVER else (
    "needs Chromium and ChromeDriver (Debian: apt-get install chromium chromium-driver)"
)  # fmt: skip
# Set by `make test-browser`: there, a browser that is missing is a failure.
REQUIRED = os.environ.get("BROWSER_REQUIRED") == "1"
PATIENCE = 60.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
LEFT_ARROW, RIGHT_ARROW, TAB, END = "\ue012", "\ue014", "\ue004", "\ue010"
SWITCHES = (
    "--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
    "--force-device-scale-factor=1", "--window-size=1280,900",
)  # fmt: skip


class Browser:
    """One window.

    Args:
        driver: address of ChromeDriver.
        profile: an empty folder.
    """

    def __init__(self, driver: str, profile: Path) -> None:
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # Chromium's own sandbox does not start as root.
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        options = {"binary": CHROMIUM, "args": [*SWITCHES, *sandbox, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._base = driver
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base = f"{driver}/session/{session['sessionId']}"

    def _call(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._base + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=180) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise AssertionError(f"{path}: {value['error']}: {value['message']}") from None

    def close(self) -> None:
        """Ends the browser."""
        self._call("DELETE", "")

    def open(self, address: str) -> None:
        """Goes to a page and waits until it is loaded."""
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *values: Any) -> Any:
        """Runs the body of a JavaScript function with ``arguments`` and returns its value."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(values)})

    def wait(self, what: str, script: str, wanted: Callable[[Any], bool] = bool) -> Any:
        """Runs a script until its value is as wanted; returns the value."""
        deadline = time.monotonic() + PATIENCE
        while not wanted(value := self.run(script)):
            assert time.monotonic() < deadline, f"waited in vain for {what}; last: {value!r}"
            time.sleep(0.05)
        return value

    def send_keys(self, selector: str, keys: str) -> None:
        """Types into an element; into a file field the path of a file."""
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{found[ELEMENT]}/value", {"text": keys})

    def press(self, *keys: str) -> None:
        """Presses keys, wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def drop(self, file: Path, selector: str) -> None:
        """Drags a file from outside onto the middle of an element and lets it go."""
        x, y = self.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2];",
            selector,
        )
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def command(self, name: str, **values: Any) -> Any:
        """Gives a command of Chromium's DevTools."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": values})

    def complaints(self) -> list[str]:
        """Returns what the browser wrote to its console since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, file: Path) -> None:
        """Saves the window as PNG."""
        file.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Starts ChromeDriver on a free port, and a browser with a new profile in ``folder``."""
    with subprocess.Popen(
        [str(CHROMEDRIVER), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            port = None
            while port is None:
                line = process.stdout.readline()
                assert line, "ChromeDriver did not start"
                port = re.search(r"started successfully on port (\d+)", line)
            browser = Browser(f"http://127.0.0.1:{port[1]}", folder)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()
