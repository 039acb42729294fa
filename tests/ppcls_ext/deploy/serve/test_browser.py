"""The page in a real browser: a person drops, chooses or pastes a picture and sees classes, boxes or what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ppcls_ext.deploy.serve import DemoServer
from tests.support.browser import LEFT_ARROW, MISSING, REQUIRED, RIGHT_ARROW, TAB, Browser, open_browser
from tests.support.serving import COLOURS, ask, picture

pytestmark = pytest.mark.skipif(MISSING is not None and not REQUIRED, reason=str(MISSING))
RED, BLUE = (220, 10, 20), (20, 10, 220)
ROWS = "return [...document.querySelectorAll('#list li')].map((row) => row.innerText.split('\\n'))"
ERROR = "const error = document.getElementById('error'); return error.hidden ? '' : error.textContent"
STATUS = "return document.getElementById('status').textContent"
BUSY = "return document.body.classList.contains('busy')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, colour_server: DemoServer) -> Iterator[Browser]:
    """The classifier's page. Afterwards, nothing was blocked by the page's own policy and no script failed."""
    browser.open(colour_server.url)
    browser.wait("the model's name", "return document.getElementById('name').textContent", "Colours".__eq__)
    yield browser
    # That a refused request failed is told by the browser itself, and wanted.
    assert [line for line in browser.complaints() if "/predict" not in line] == []


def write(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


def pixel(browser: Browser, across: float, down: float) -> list[int]:
    """Colour of the canvas at a place from 0 to 1."""
    return browser.run(
        "const c = document.getElementById('canvas');"
        "const at = (part, size) => Math.min(size - 1, Math.floor(part * size));"
        "return [...c.getContext('2d').getImageData(at(arguments[0], c.width), at(arguments[1], c.height), 1, 1).data]",
        across, down,
    )[:3]  # fmt: skip


def test_the_page_says_what_it_is(page: Browser) -> None:
    assert page.run("return document.title") == "Colours: classification"
    assert "4 classes" in page.run("return document.getElementById('facts').textContent")
    limits = page.run("return document.getElementById('limits').textContent")
    assert "up to 1 MB and 1 megapixels" in limits
    assert page.run(STATUS) == "No picture yet."


def test_a_dropped_picture_gets_its_classes(page: Browser, tmp_path: Path) -> None:
    page.drop(write(tmp_path / "sunset.png", picture(RED)), "#drop")
    rows = page.wait("classes", ROWS)
    assert [row[0] for row in rows] == ["red", COLOURS[3], "blue"]
    assert rows[0][1].endswith(" %")
    assert page.run(STATUS).startswith("red, ")
    assert page.run("return document.getElementById('file-name').textContent") == "sunset.png (1 kB)"
    widths = page.run("return [...document.querySelectorAll('.fill')].map((one) => parseFloat(one.style.width))")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 90
    assert pixel(page, 0.5, 0.5) == list(RED)
    # The class whose name is markup is text.
    assert page.run("return document.querySelectorAll('#list img').length") == 0


def test_a_drop_beside_the_field_counts(page: Browser, tmp_path: Path) -> None:
    page.drop(write(tmp_path / "a.png", picture(BLUE)), "#result-heading")
    assert page.wait("classes", ROWS)[0][0] == "blue"


def test_a_chosen_file_gets_its_classes(page: Browser, tmp_path: Path) -> None:
    page.send_keys("#file", str(write(tmp_path / "a.jpg", picture(BLUE, "JPEG"))))
    assert page.wait("classes", ROWS)[0][0] == "blue"
    page.send_keys("#file", str(write(tmp_path / "b.jpg", picture(RED, "JPEG"))))
    page.wait("other classes", ROWS, lambda rows: bool(rows) and rows[0][0] == "red")


def test_a_pasted_picture_gets_its_classes(page: Browser) -> None:
    page.run(
        "const bytes = Uint8Array.from(arguments[0]); const transfer = new DataTransfer();"
        "transfer.items.add(new File([bytes], 'clipboard.png', {type: 'image/png'}));"
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer}));",
        list(picture(BLUE)),
    )
    assert page.wait("classes", ROWS)[0][0] == "blue"
    page.run(
        "const transfer = new DataTransfer(); transfer.setData('text/plain', 'words');"
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer}));"
    )
    assert "no file" in page.wait("an error", ERROR)


def test_the_keyboard_reaches_everything(page: Browser) -> None:
    page.run("document.activeElement.blur()")
    reached = []
    for _ in range(3):
        page.press(TAB)
        reached.append(page.run("return document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["theme", "file", "SUMMARY"]
    labels = page.run("return [...document.getElementById('file').labels].map((one) => one.textContent)")
    assert labels == ["Choose a picture"]


def test_a_picture_that_browsers_do_not_know_is_shown(page: Browser, tmp_path: Path) -> None:
    page.drop(write(tmp_path / "a.tif", picture(RED, "TIFF")), "#drop")
    assert page.wait("classes", ROWS)[0][0] == "red"
    assert pixel(page, 0.5, 0.5) == list(RED)


def test_a_text_file_gets_a_clear_error_and_the_next_picture_its_classes(page: Browser, tmp_path: Path) -> None:
    page.drop(write(tmp_path / "good.png", picture(RED)), "#drop")
    page.wait("classes", ROWS)
    page.drop(write(tmp_path / "notes.png", b"dive 7, good visibility, no currents"), "#drop")
    error = page.wait("an error", ERROR)
    assert error.startswith("This is a text file, not a picture; it must be one of JPEG, PNG")
    # What was there before is not left standing beside it.
    assert page.run(ROWS) == []
    assert page.run("return document.getElementById('canvas').hidden")
    page.drop(write(tmp_path / "blue.png", picture(BLUE)), "#drop")
    assert page.wait("classes", ROWS)[0][0] == "blue"
    assert page.run(ERROR) == ""


def test_a_damaged_picture_gets_a_clear_error(page: Browser, tmp_path: Path) -> None:
    data = picture(RED, "PNG", (300, 200))
    page.drop(write(tmp_path / "cut.png", data[: len(data) // 2]), "#drop")
    assert page.wait("an error", ERROR).startswith("The picture cannot be used: ")


def test_too_large_a_file_is_not_even_sent(page: Browser, tmp_path: Path) -> None:
    page.run("performance.clearResourceTimings()")
    page.drop(write(tmp_path / "large.bmp", picture(RED, "BMP", (800, 500))), "#drop")
    assert page.wait("an error", ERROR) == "large.bmp has 1.2 MB; at most 1 MB are taken."
    sent = page.run("return performance.getEntriesByType('resource').filter((one) => one.name.includes('predict'))")
    assert sent == []


def test_too_many_pixels_get_a_clear_error(page: Browser, tmp_path: Path) -> None:
    page.drop(write(tmp_path / "wide.png", picture(RED, "PNG", (2000, 600))), "#drop")
    assert page.wait("an error", ERROR) == "The picture has 2000 x 600 pixels; at most 1 megapixels are taken."


def test_a_hostile_name_is_only_text(page: Browser, tmp_path: Path) -> None:
    name = "<img src=x onerror='document.title=1'>.png"
    before = page.run("return document.images.length")
    page.drop(write(tmp_path / name, picture(RED)), "#drop")
    page.wait("classes", ROWS)
    assert page.run("return document.getElementById('file-name').textContent").startswith(name)
    page.drop(write(tmp_path / f"{name}.txt", b"words"), "#drop")
    page.wait("an error", ERROR)
    assert page.run("return document.images.length") == before
    assert page.run("return document.title") == "Colours: classification"


def test_light_and_dark(page: Browser) -> None:
    grounds = []
    for _ in range(2):
        page.run("document.getElementById('theme').click()")
        grounds.append(page.run("return getComputedStyle(document.body).backgroundColor"))
    assert sorted(grounds) == ["rgb(18, 22, 28)", "rgb(238, 241, 245)"]


def test_a_server_that_is_gone_is_told(page: Browser, tmp_path: Path) -> None:
    page.command("Network.enable")
    page.command("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    try:
        page.drop(write(tmp_path / "a.png", picture(RED)), "#drop")
        assert "Is the server running" in page.wait("an error", ERROR)
    finally:
        page.command(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )


def test_a_detector_draws_boxes_and_the_slider_thins_them_out(
    browser: Browser, detector: Path, detector_server: DemoServer
) -> None:
    file = detector.parent / "frames" / "frame_0.png"
    found = ask(detector_server, "POST", "/predict?threshold=0.05", file.read_bytes()).json
    scores = [one["score"] for one in found["detections"]]
    browser.open(detector_server.url)
    browser.wait("the model's name", "return document.getElementById('name').textContent", "Tiny".__eq__)
    browser.drop(file, "#drop")
    rows = browser.wait("an answer", f"{STATUS}.includes(' object') ? true : false") and browser.run(ROWS)
    assert len(rows) == sum(score >= 0.3 for score in scores)

    slider = "#threshold"
    browser.send_keys(slider, LEFT_ARROW * 30)
    assert browser.run("return document.getElementById('threshold-value').textContent") == "0.05"
    rows = browser.run(ROWS)
    assert len(rows) == len(scores) > 1
    best = found["detections"][0]
    assert rows[0][0] == best["label"]
    assert rows[0][-1] == f"{100 * best['score']:.1f} %"

    # The best box, pointed at, stands out in its class's colour: the middle of its lower side.
    browser.run("document.querySelector('.found').focus()")
    left, _, right, bottom = best["box"]
    palette = [[255, 196, 0], [0, 188, 255], [255, 92, 92]]
    if bottom < found["height"]:
        middle = (max(left, 0) + min(right, found["width"])) / 2
        assert pixel(browser, middle / found["width"], bottom / found["height"]) == palette[best["class_id"]]

    limit = round(max(scores) - 0.004, 2)
    steps = round((limit - 0.05) / 0.01)
    browser.send_keys(slider, RIGHT_ARROW * steps)
    rows = browser.run(ROWS)
    assert len(rows) == sum(score >= float(f"{0.05 + 0.01 * steps:.2f}") for score in scores) < len(scores)
    assert "not shown" in browser.run(STATUS)
    assert [line for line in browser.complaints() if "/predict" not in line] == []
