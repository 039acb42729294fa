"""What a client gets for a picture: the runtime's own answer, whatever way the picture came."""

from __future__ import annotations

import base64
import io
import re
import threading

import numpy as np
import pytest
from PIL import Image

import ppcls_ext
from ppcls_ext.runtime import load
from tests.support.serving import COLOURS, ask, form, picture, send_raw

RED, GREEN, BLUE = (220, 10, 20), (10, 220, 20), (20, 10, 220)


def test_a_classifier_answers_as_the_runtime_does(colours, colour_server):
    data = picture(GREEN)
    (expected,) = load(colours, threads=1)(data)
    answer = ask(colour_server, "POST", "/predict", data)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert [one["label"] for one in answer.json["predictions"]] == expected.labels
    assert [one["class_id"] for one in answer.json["predictions"]] == expected.class_ids
    np.testing.assert_allclose([one["score"] for one in answer.json["predictions"]], expected.scores, rtol=1e-5)
    assert answer.json["predictions"][0]["label"] == "green"
    assert (answer.json["task"], answer.json["model"], answer.json["type"]) == ("classification", "Colours", "PNG")
    assert answer.json["milliseconds"] > 0
    assert "preview" not in answer.json


def test_a_detector_answers_as_the_runtime_does(detector, detector_server):
    files = sorted((detector.parent / "frames").iterdir())
    predictions = load(detector, threads=1)(files, batch_size=1, threshold=0.1)
    assert sum(len(expected.scores) for expected in predictions) > 1
    for file, expected in zip(files, predictions, strict=True):
        answer = ask(detector_server, "POST", "/predict?threshold=0.1", file.read_bytes()).json
        found = answer["detections"]
        assert [one["class_id"] for one in found] == expected.labels.tolist()
        np.testing.assert_allclose([one["score"] for one in found], expected.scores, rtol=1e-4)
        boxes = np.reshape([one["box"] for one in found], (-1, 4))
        np.testing.assert_allclose(boxes, expected.boxes, atol=1e-2)
        assert {one["label"] for one in found} <= {"cube", "ball", "tyre"}
        assert (answer["width"], answer["height"]) == (expected.width, expected.height)


def test_threshold_of_a_detector(detector, detector_server):
    data = (detector.parent / "frames" / "frame_0.png").read_bytes()
    everything = ask(detector_server, "POST", "/predict?threshold=0", data).json["detections"]
    scores = sorted(one["score"] for one in everything)
    middle = (scores[0] + scores[-1]) / 2
    some = ask(detector_server, "POST", f"/predict?threshold={middle}", data).json["detections"]
    assert 0 < len(some) < len(everything)
    assert some == [one for one in everything if one["score"] >= middle]
    usual = ask(detector_server, "POST", "/predict", data).json["detections"]
    assert usual == [one for one in everything if one["score"] >= 0.3]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
def test_every_type_is_known_by_its_content(colour_server, kind):
    # What the client calls it says nothing.
    answer = ask(colour_server, "POST", "/predict", picture(BLUE, kind), {"Content-Type": "text/html"})
    assert (answer.status, answer.json["type"]) == (200, kind)
    assert answer.json["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize("field", ["image", "file"])
def test_a_form_is_taken_as_well(colour_server, field):
    body, headers = form(picture(RED), "sea.png", field)
    answer = ask(colour_server, "POST", "/predict", body, headers).json
    assert (answer["file"], answer["predictions"][0]["label"]) == ("sea.png", "red")


def test_a_form_with_other_fields_and_awkward_bytes(colour_server):
    data = picture(RED, "BMP", (13, 10)) + b"\r\n--limi\r\n\r\n--\r\n"
    picture_part, headers = form(data, "a.bmp")
    note = b'--limit\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    answer = ask(colour_server, "POST", "/predict", note + picture_part, headers)
    assert (answer.status, answer.json["predictions"][0]["label"]) == (200, "red")


def test_topk(colour_server):
    data = picture(RED)
    counts = [
        len(ask(colour_server, "POST", f"/predict{query}", data).json["predictions"])
        for query in ("", "?topk=1", "?topk=4", "?topk=100")
    ]
    assert counts == [3, 1, 4, 4]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("topk=0", "topk must be"), ("topk=-1", "topk must be"), ("topk=two", "topk must be"),
        ("topk=%D9%A3", "topk must be"), ("topk=1e9999", "topk must be"), ("top=3", "did you mean 'topk'"),
        ("threshold=0.5", "unknown parameter"), ("preview=yes", "preview must be"), ("topk", "malformed"),
        ("topk=1&topk=2", "twice"), ("&".join(f"a{n}=1" for n in range(20)), "malformed"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_told(colour_server, query, words):
    answer = ask(colour_server, "POST", f"/predict?{query}", picture(RED))
    assert answer.status == 400
    assert words in answer.json["error"]


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan", "inf", "half", ""])
def test_wrong_thresholds_are_told(detector_server, value):
    answer = ask(detector_server, "POST", f"/predict?threshold={value}", picture(RED))
    assert (answer.status, answer.json["error"]) == (400, "threshold must be a number from 0 to 1")


@pytest.mark.parametrize(("size", "kind", "shown"), [((40, 30), "png", (40, 30)), ((600, 500), "jpeg", (600, 500))])
def test_a_preview_shows_what_browsers_do_not_know(colour_server, size, kind, shown):
    answer = ask(colour_server, "POST", "/predict?preview=1", picture(RED, "TIFF", size)).json
    head, _, encoded = answer["preview"].partition(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as preview:
        assert preview.size == shown
        np.testing.assert_allclose(preview.getpixel((5, 5)), RED, atol=3)


def test_model_and_health(colour_server, detector_server):
    described = ask(colour_server, "GET", "/model").json
    assert (described["task"], described["name"], described["topk"]) == ("classification", "Colours", 3)
    assert (described["classes"], described["backend"]) == (COLOURS, "paddle")
    assert described["computed_in"] == "float32"
    assert described["input_shape"] == [-1, 3, 32, 32]
    assert described["version"] == ppcls_ext.__version__
    assert (described["limits"]["megabytes"], described["limits"]["megapixels"]) == (1.0, 1.0)
    described = ask(detector_server, "GET", "/model").json
    assert (described["task"], described["class_num"], described["threshold"]) == ("detection", 3, 0.3)
    assert ask(colour_server, "GET", "/health").json == {"status": "ok"}


def test_the_page_and_its_parts_need_nothing_else(colour_server):
    page = ask(colour_server, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    text = page.body.decode()
    wanted = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert sorted(set(wanted)) == ["/icon.svg", "/page.css", "/page.js"]
    # What the content security policy forbids would silently not work.
    assert re.search(r"<style|<script>|\bstyle=|\bon\w+=", text) is None
    for path in wanted:
        part = ask(colour_server, "GET", path)
        assert part.status == 200
        assert not [place for place in re.findall(rb"https?://[^\s\"']+", part.body) if b"www.w3.org" not in place]
    head = ask(colour_server, "HEAD", "/")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", page.headers["content-length"])


def test_requests_at_once_get_their_own_answers(colour_server):
    pictures = {"red": picture(RED), "green": picture(GREEN), "blue": picture(BLUE)}
    wrong = []
    ready = threading.Barrier(6)

    def client(label):
        ready.wait()
        for _ in range(5):
            answer = ask(colour_server, "POST", "/predict", pictures[label])
            if answer.status != 200 or answer.json["predictions"][0]["label"] != label:
                wrong.append((label, answer.body))

    threads = [threading.Thread(target=client, args=(label,)) for label in [*pictures] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_connection_is_kept_for_the_next_request(colour_server):
    data = picture(RED)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    received = send_raw(
        colour_server, head.encode() + b"\r\n" + data + head.encode() + b"Connection: close\r\n\r\n" + data
    )
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.count(b'"label": "red"') == 2
