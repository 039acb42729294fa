"""The page in a real browser: a person drops, chooses or pastes a picture and sees classes, boxes or what is wrong."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ppcls_ext.deploy.serve import OneThread, create_app, listen
from ppcls_ext.runtime import load
from tests.support.serving import COLOURS, export_colours, export_tiny_detector, picture

# Set by `make test-browser`: there, a browser that is missing is a failure.
if os.environ.get("BROWSER_REQUIRED") != "1":
    pytest.importorskip("selenium", reason="needs selenium: make test-browser installs it")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("needs Chromium (Debian: apt-get install chromium chromium-driver)", allow_module_level=True)

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

RED, BLUE = (220, 10, 20), (20, 10, 220)
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--no-proxy-server", "--window-size=1280,900")  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for switch in SWITCHES:
        options.add_argument(switch)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@contextmanager
def running(folder: Path, **limits: float) -> Iterator[str]:
    """Serves an export on a free port; gives the page's address."""
    with OneThread(load(folder, threads=1)) as model:
        server = listen(create_app(model, **limits), "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(export_colours(tmp_path_factory.mktemp("colours")), megabytes=1.0, megapixels=1.0) as address:
        yield address


class Page:
    """The page in a browser."""

    def __init__(self, browser: webdriver.Chrome, address: str, name: str) -> None:
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.text("name") == name)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition: Any) -> Any:
        return WebDriverWait(self.browser, 60).until(lambda _: condition())

    def text(self, name: str) -> str:
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def rows(self) -> list[list[str]]:
        return self.run("return [...document.querySelectorAll('#list li')].map((row) => row.innerText.split('\\n'))")

    def give(self, event: str, data: bytes | None, name: str = "a.png", target: str = "body") -> None:
        """Drops or pastes a file (or words, without data), as a person's hand would."""
        key = "dataTransfer" if event == "drop" else "clipboardData"
        self.run(
            "const [type, key, bytes, name, target] = arguments, transfer = new DataTransfer();"
            "if (bytes) transfer.items.add(new File([Uint8Array.from(bytes)], name));"
            "else transfer.setData('text/plain', 'words');"
            "const init = {bubbles: true, cancelable: true, [key]: transfer};"
            "document.querySelector(target).dispatchEvent("
            "type === 'drop' ? new DragEvent(type, init) : new ClipboardEvent(type, init));",
            event, key, None if data is None else list(data), name, target,
        )  # fmt: skip
        self.wait(lambda: not self.run("return document.body.classList.contains('busy')"))

    def error(self) -> str:
        return self.run("const error = document.getElementById('error'); return error.hidden ? '' : error.textContent")


@pytest.fixture
def page(browser: webdriver.Chrome, classifier: str) -> Iterator[Page]:
    """The classifier's page. Afterwards, nothing was blocked by the page's own policy and no script failed."""
    yield Page(browser, classifier, "Colours")
    # That a refused request failed is told by the browser itself, and wanted.
    assert [line for line in browser.get_log("browser") if "/predict" not in line["message"]] == []


def test_a_dropped_picture_gets_its_classes(page: Page) -> None:
    assert page.run("return document.title") == "Colours: classification"
    assert "4 classes" in page.text("facts") and "up to 1 MB and 1 megapixels" in page.text("limits")
    page.give("drop", picture(RED), "sunset.png", "#drop")
    rows = page.rows()
    # The class whose name is markup is text.
    assert [row[0] for row in rows] == ["red", COLOURS[3], "blue"] and rows[0][1].endswith(" %")
    assert page.text("status").startswith("red, ") and page.text("file-name") == "sunset.png (1 kB)"
    values = page.run("return [...document.querySelectorAll('.fill')].map((one) => parseFloat(one.style.width))")
    assert values == sorted(values, reverse=True) and values[0] > 90
    size = page.run("const i = document.querySelector('#picture img'); return [i.naturalWidth, i.clientWidth]")
    assert size[0] == 40 and size[1] > 400, "a small picture is not enlarged"


def test_chosen_and_pasted_pictures_and_a_drop_beside_the_field(page: Page, tmp_path: Path) -> None:
    for colour, name in ((BLUE, "blue"), (RED, "red")):
        file = tmp_path / f"{name}.jpg"
        file.write_bytes(picture(colour, "JPEG"))
        page.browser.find_element(By.ID, "file").send_keys(str(file))
        page.wait(lambda name=name: page.rows() and page.rows()[0][0] == name)
    page.give("paste", picture(BLUE))
    assert page.rows()[0][0] == "blue"
    page.give("drop", picture(RED), target="h2")
    assert page.rows()[0][0] == "red"
    page.give("paste", None)
    assert "no file" in page.error()


def test_a_picture_that_browsers_do_not_know_is_shown(page: Page) -> None:
    page.give("drop", picture(RED, "TIFF"), "a.tif")
    assert page.rows()[0][0] == "red"
    assert page.run("return document.querySelector('#picture img').src").startswith("data:image/png")


def test_mistakes_are_told_and_the_next_picture_is_answered(page: Page) -> None:
    page.give("drop", picture(RED))
    name = "<img src=x onerror='document.title=1'>.png"
    page.give("drop", b"dive 7, good visibility, no currents", name)
    assert page.error().startswith("This is a text file; it must be one of JPEG, PNG")
    # What was there before is not left standing beside it, and a name is only text.
    assert page.rows() == [] and page.run("return document.getElementById('picture').hidden")
    assert page.text("file-name").startswith(name) and page.run("return document.title") == "Colours: classification"
    data = picture(RED, "PNG", (300, 200))
    page.give("drop", data[: len(data) // 2])
    assert page.error().startswith("The picture cannot be used: ")
    page.run("performance.clearResourceTimings()")
    page.give("drop", picture(RED, "BMP", (800, 500)), "large.bmp")
    assert page.error() == "large.bmp has 1.2 MB; at most 1 MB are taken."
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    page.give("drop", picture(RED, "PNG", (2000, 600)))
    assert page.error() == "The picture has 2000 x 600 pixels; at most 1 megapixels are taken."
    page.give("drop", picture(BLUE))
    assert page.rows()[0][0] == "blue" and page.error() == ""


def test_a_server_that_is_gone_is_told(page: Page) -> None:
    page.browser.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        page.give("drop", picture(RED))
        assert "Is the server running" in page.error()
    finally:
        page.browser.delete_network_conditions()


def test_a_detector_draws_boxes_and_the_slider_thins_them_out(
    browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = export_tiny_detector(tmp_path_factory.mktemp("detector"))
    file = folder.parent / "frames" / "frame_0.png"
    with running(folder) as address:
        page = Page(browser, address, "Tiny")
        page.give("drop", file.read_bytes())
        page.wait(lambda: " object" in page.text("status"))
        found = page.run(
            "return fetch('/predict?threshold=0.05', {method: 'POST', body: Uint8Array.from(arguments[0])})"
            ".then((response) => response.json())", list(file.read_bytes()),
        )  # fmt: skip
        scores = [one["score"] for one in found["detections"]]
        assert len(page.rows()) == sum(score >= 0.3 for score in scores)

        slider = browser.find_element(By.ID, "threshold")
        slider.send_keys(Keys.ARROW_LEFT * 30)
        assert page.text("threshold-value") == "0.05" and len(page.rows()) == len(scores) > 1
        best = found["detections"][0]
        assert (page.rows()[0][0], page.rows()[0][-1]) == (best["label"], f"{100 * best['score']:.1f} %")
        # The boxes lie where the answer says, and one that is pointed at stands out.
        page.run("document.querySelector('#list li').focus()")
        left, top, right, bottom, opacity, others = page.run(
            "const box = document.querySelector('.pointed'), own = box.getBoundingClientRect(),"
            "  whole = document.querySelector('#picture').getBoundingClientRect();"
            "return [(own.left - whole.left) / whole.width, (own.top - whole.top) / whole.height,"
            "  (own.right - whole.left) / whole.width, (own.bottom - whole.top) / whole.height,"
            "  getComputedStyle(box).opacity, getComputedStyle(document.querySelector('.box:not(.pointed)')).opacity]"
        )
        sides = (found["width"], found["height"]) * 2
        wanted = [min(max(value / side, 0), 1) for value, side in zip(best["box"], sides, strict=True)]
        assert [left, top, right, bottom] == pytest.approx(wanted, abs=0.01)
        assert (opacity, others) == ("1", "0.25")

        limit = round(max(scores) - 0.004, 2)
        slider.send_keys(Keys.ARROW_RIGHT * round((limit - 0.05) / 0.01))
        shown = float(page.text("threshold-value"))
        assert len(page.rows()) == sum(score >= shown for score in scores) < len(scores)
        assert "not shown" in page.text("status")
        browser.find_element(By.ID, "recommended").click()
        limits = (0.2, 0.3, 0.12)
        assert len(page.rows()) == sum(one["score"] >= limits[one["class_id"]] for one in found["detections"])
        assert not slider.is_enabled()
    assert browser.get_log("browser") == []
