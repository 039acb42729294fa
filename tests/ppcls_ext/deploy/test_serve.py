"""What a client of tools/serve.py gets: the runtime's answer, or a status with one clear line."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

import ppcls_ext
from ppcls_ext.deploy import serve
from ppcls_ext.deploy.serve import OneThread, create_app, is_loopback, listen
from ppcls_ext.runtime import load
from ppcls_ext.utils.errors import UserError
from tests.support.predictors import made_classifier, made_detector
from tests.support.serving import COLOURS, export_colours, export_tiny_detector, picture

RED, GREEN, BLUE = (220, 10, 20), (10, 220, 20), (20, 10, 220)


class Client(FlaskClient):
    """Reads and closes every response, as a server does."""

    def open(self, *args, **options):
        return super().open(*args, buffered=True, **options)


def client_of(model: OneThread, **options) -> Client:
    app = create_app(model, **options)
    app.test_client_class = Client
    return app.test_client()


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """The export of a classifier that names the strongest colour."""
    return export_colours(tmp_path_factory.mktemp("colours") / "export")


@pytest.fixture(scope="module")
def classifier(colours):
    """A client of the classifier; pictures of 1 MB and of 1 megapixel at most."""
    with OneThread(load(colours, threads=1)) as model:
        yield client_of(model, megabytes=1.0, megapixels=1.0)


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    return export_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector(detector_folder):
    with OneThread(load(detector_folder, threads=1)) as model:
        yield client_of(model)


def refused(answer: TestResponse, status: int, *words: str) -> None:
    assert (answer.status_code, answer.json["status"], answer.mimetype) == (status, status, "application/json")
    assert "\n" not in answer.json["error"]
    for word in words:
        assert word in answer.json["error"]


# answers


def test_a_classifier_answers_as_the_runtime_does(colours, classifier):
    data = picture(GREEN)
    (expected,) = load(colours, threads=1)(data)
    answer = classifier.post("/predict", data=data, content_type="text/html").json
    assert [(one["class_id"], one["label"]) for one in answer["predictions"]] == list(
        zip(expected.class_ids, expected.labels, strict=True)
    )
    np.testing.assert_allclose([one["score"] for one in answer["predictions"]], expected.scores, rtol=1e-5)
    assert answer["predictions"][0]["label"] == "green"
    assert (answer["task"], answer["model"], answer["type"]) == ("classification", "Colours", "PNG")
    assert answer["milliseconds"] > 0 and "preview" not in answer


def test_a_detector_answers_as_the_runtime_does(detector_folder, detector):
    files = sorted((detector_folder.parent / "frames").iterdir())
    predictions = load(detector_folder, threads=1)(files, batch_size=1, threshold=0.1)
    assert sum(len(expected.scores) for expected in predictions) > 1
    for file, expected in zip(files, predictions, strict=True):
        answer = detector.post("/predict?threshold=0.1", data=file.read_bytes()).json
        assert [one["class_id"] for one in answer["detections"]] == expected.labels.tolist()
        np.testing.assert_allclose([one["score"] for one in answer["detections"]], expected.scores, rtol=1e-4)
        boxes = np.reshape([one["box"] for one in answer["detections"]], (-1, 4))
        np.testing.assert_allclose(boxes, expected.boxes, atol=1e-2)
        assert (answer["width"], answer["height"]) == (expected.width, expected.height)
    found, usual, chosen = (
        detector.post(f"/predict?threshold={threshold}", data=files[0].read_bytes()).json["detections"]
        for threshold in ("0.1", "0.3", "recommended")
    )
    assert usual == detector.post("/predict", data=files[0].read_bytes()).json["detections"]
    assert usual == [one for one in found if one["score"] >= 0.3]
    limits = detector.get("/model").json["recommended"]
    assert limits == [0.2, 0.3, 0.12]
    assert chosen == [one for one in found if one["score"] >= limits[one["class_id"]]] != usual


def test_a_detector_that_nobody_evaluated_has_no_recommended_thresholds():
    with OneThread(made_detector(Corner())) as model:
        client = client_of(model)
        assert client.get("/model").json["recommended"] is None
        answer = client.post("/predict?threshold=recommended", data=picture(RED))
        refused(answer, 400, "no recommended thresholds; threshold must be a number")


def test_a_form_is_taken_as_well_and_its_name_is_only_shown(classifier):
    for field in ("image", "file"):
        form = {field: (io.BytesIO(picture(RED)), "../../etc/sea.png"), "note": "hello"}
        answer = classifier.post("/predict", data=form).json
        assert (answer["file"], answer["predictions"][0]["label"]) == ("sea.png", "red")
    refused(classifier.post("/predict", data={"image": "words"}, content_type="multipart/form-data"), 400, "holds 0")
    form = {"a": (io.BytesIO(picture(RED)), "a.png"), "b": (io.BytesIO(picture(RED)), "b.png")}
    refused(classifier.post("/predict", data=form), 400, "one picture in the field 'image', it holds 2")


def test_parameters(classifier, detector):
    counts = [len(classifier.post(f"/predict{query}", data=picture(RED)).json["predictions"])
              for query in ("", "?topk=1", "?topk=100")]  # fmt: skip
    assert counts == [3, 1, 4]
    for query, word in (("topk=0", "topk"), ("top=3", "did you mean 'topk'"), ("threshold=0.5", "unknown parameter"),
                        ("preview=yes", "preview")):  # fmt: skip
        refused(classifier.post(f"/predict?{query}", data=picture(RED)), 400, word)
    for value in ("1.5", "nan", "half"):
        refused(detector.post(f"/predict?threshold={value}", data=picture(RED)), 400, "threshold must be a number")


def test_model_health_and_page(classifier, detector):
    model = classifier.get("/model").json
    assert (model["task"], model["name"], model["topk"], model["classes"]) == ("classification", "Colours", 3, COLOURS)
    assert (model["backend"], model["computed_in"], model["version"]) == ("paddle", "float32", ppcls_ext.__version__)
    assert model["limits"]["megabytes"] == model["limits"]["megapixels"] == 1.0
    model = detector.get("/model").json
    assert (model["task"], model["class_num"], model["threshold"]) == ("detection", 3, 0.3)
    assert classifier.get("/health").json == {"status": "ok"}
    first, second = classifier.get("/"), classifier.get("/")
    policies = [answer.headers["Content-Security-Policy"] for answer in (first, second)]
    assert policies[0] != policies[1] and "default-src 'none'" in policies[0]
    assert first.text.count(policies[0].split("'nonce-")[1].split("'")[0]) == 2
    assert "{{" not in first.text and "https://" not in first.text.replace("https://www.w3.org", "")
    assert first.headers["X-Content-Type-Options"] == "nosniff"


# previews, on made predictors


class Watched:
    """A classifier that notes in which threads it ran."""

    computed_in = "float32"

    def __init__(self):
        self.threads = set()

    def run(self, images):
        self.threads.add(threading.current_thread().name)
        level = images.mean(axis=(1, 2, 3))
        return np.stack([-level, level], axis=1)


class Corner:
    """A detector that finds the upper left quarter of every picture."""

    computed_in = "float32"

    def detect(self, images, scale_factors):
        heights, widths = images.shape[2] / scale_factors[:, 0], images.shape[3] / scale_factors[:, 1]
        rows = [[0, 0.9, 0, 0, width / 2, height / 2] for height, width in zip(heights, widths, strict=True)]
        return np.array(rows, np.float32), np.ones(len(images), np.int32)


def watched(size=32):
    operators = [{"ResizeImage": {"size": size}}, {"NormalizeImage": {"order": ""}}]
    return made_classifier(Watched(), operators, classes=["dark", "light"], input_shape=[-1, 3, 32, 32])


def shown(answer: TestResponse) -> Image.Image:
    head, _, encoded = answer.json["preview"].partition(",")
    assert head.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_a_preview_shows_what_browsers_do_not_know(classifier):
    preview = shown(classifier.post("/predict?preview=1", data=picture(RED, "TIFF", (600, 500))))
    assert preview.size == (600, 500)
    np.testing.assert_allclose(preview.getpixel((5, 5)), RED, atol=3)


def test_previews_are_enhanced_and_upright_as_the_detector_sees_them():
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), (10, 10, 10)).save(stream, "JPEG", exif=exif)
    detector = made_detector(Corner())
    detector.enhance = lambda pixels: pixels * 8
    with OneThread(detector) as model:
        client = client_of(model)
        assert client.get("/model").json["enhances"]
        answer = client.post("/predict?preview=1", data=stream.getvalue())
    (found,) = answer.json["detections"]
    assert (found["class_id"], found["label"], found["box"]) == (0, "cube", pytest.approx([0, 0, 15, 20], abs=1e-3))
    assert (answer.json["width"], answer.json["height"]) == shown(answer).size == (30, 40)
    assert shown(answer).getpixel((3, 3)) == (80, 80, 80)


# many at a time


def test_the_network_runs_in_one_thread_for_one_asker_at_a_time():
    predictor = watched()
    dark, light = picture((0, 0, 0)), picture((255, 255, 255))
    with OneThread(predictor) as model, ThreadPoolExecutor(8) as askers:
        app = client_of(model).application
        answers = askers.map(lambda data: app.test_client().post("/predict", data=data).json, [dark, light] * 30)
        assert [answer["predictions"][0]["label"] for answer in answers] == ["dark", "light"] * 30
    assert len(predictor.backend.threads) == 1


def test_the_wait_for_others_is_not_the_time_of_the_network():
    with OneThread(watched()) as model:
        model.executor.submit(time.sleep, 1.0)
        assert 0 < client_of(model).post("/predict", data=picture(RED)).json["milliseconds"] < 1000


def test_too_many_pictures_at_a_time(monkeypatch):
    monkeypatch.setattr(serve, "WAIT_SECONDS", 0.05)
    with OneThread(watched()) as model:
        client = client_of(model)
        places = client.application.extensions["places"]
        for _ in range(serve.MOST_AT_A_TIME):
            places.acquire()
        answer = client.post("/predict", data=picture(RED))
        refused(answer, 503, "try again")
        assert answer.headers["Retry-After"] == "2"
        places.release()
        # A place is given back after answers and refusals alike.
        for data in (picture(RED), b"words", picture(RED)):
            assert client.post("/predict", data=data).status_code in (200, 415)


def test_a_closed_model_answers_nobody_and_one_that_does_not_fit_is_never_opened(caplog):
    with OneThread(watched()) as model:
        client = client_of(model)
    refused(client.post("/predict", data=picture(RED)), 503, "the server is stopping")
    assert "error of this program" not in caplog.text
    with pytest.raises(UserError, match="the model takes"):
        OneThread(watched(16))


def test_an_error_of_the_program_is_logged_and_not_shown(monkeypatch, caplog, classifier):
    monkeypatch.setattr(serve, "check_picture", lambda *_: 1 / 0)
    answer = classifier.post("/predict", data=picture(RED))
    refused(answer, 500, "error of this program")
    assert "ZeroDivision" not in answer.text and "ZeroDivisionError" in caplog.text


# refused pictures


def test_other_files_are_named(classifier):
    # Pillow could read PostScript, by starting Ghostscript.
    for data, words in ((b"just words, and a few more of them", "a text file"),
                        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript")):  # fmt: skip
        refused(classifier.post("/predict", data=data), 415, words, "JPEG, PNG")


def test_empty_and_truncated_pictures(classifier):
    data = picture(RED, "JPEG", (300, 200))
    refused(classifier.post("/predict", data=data[: int(0.6 * len(data))]), 422)
    refused(classifier.post("/predict"), 400, "empty")


@pytest.mark.parametrize("size", [(1001, 1000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header(classifier, size):
    data = bytearray(picture(RED))
    struct.pack_into(">II", data, 16, *size)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    refused(classifier.post("/predict", data=bytes(data)), 413, "pixels", "1 megapixels")


def test_a_large_picture_behind_the_header_of_a_small_one(classifier, monkeypatch):
    """Only readers of the formats that are let through are asked, when the header is looked at and when it is decoded.
    """
    # A TIFF of 8 x 8 pixels that Pillow's reader of IFUNC files, which has no signature, takes for one of 2000 x 2000.
    # Readers are asked in the order in which they were loaded: here that of IFUNC first, as in a fresh process.
    Image.init()
    monkeypatch.setattr(Image, "ID", ["IM", *(name for name in Image.ID if name != "IM")])
    lines = b"II*\0" + struct.pack("<I", 1024) + b":\r\nImage type: L image\r\nImage size (x*y): 2000*2000\r\n"
    entries = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 1200, 277: 1, 278: 8, 279: 64}
    folder = struct.pack("<H", len(entries))
    folder += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()) + bytes(4)
    data = (lines.ljust(511, b"\0") + b"\x1a").ljust(1024, b"\0") + folder
    answer = classifier.post("/predict", data=data.ljust(5200, b"\0"))
    assert (answer.status_code, answer.json["type"]) == (200, "TIFF")


def test_how_large_a_body_may_be(classifier):
    data = picture(RED, "BMP", (600, 500))
    assert classifier.post("/predict", data=data + bytes(1_000_000 - len(data))).status_code == 200
    # Within what is allowed for a form, above what is allowed for the picture.
    refused(classifier.post("/predict", data=bytes(1_000_001)), 413, "1.0 MB")
    refused(classifier.post("/predict", data={"image": (io.BytesIO(bytes(1_000_100)), "a.png")}), 413, "at most 1 MB")
    answer = classifier.post("/predict", data=b"x" * 400, environ_overrides={"CONTENT_LENGTH": "1000"})
    refused(answer, 400, "the upload ended before its announced length")


# addresses, methods, hosts


def test_unknown_paths_and_wrong_methods(classifier):
    for path in ("/nothing", "/..%2f..%2fetc/passwd"):
        refused(classifier.get(path), 404, "nothing is here")
    answer = classifier.get("/predict")
    refused(answer, 405, "GET is not for /predict")
    assert "POST" in answer.headers["Allow"]


def test_on_loopback_only_its_own_names_and_pages_are_answered(classifier):
    for host in ("evil.example:8000", "127.0.0.1.evil.example", "[::2]"):
        refused(classifier.post("/predict", data=picture(RED), headers={"Host": host}), 421, "host name")
    for host in ("localhost", "127.0.0.1:9", "[::1]:8000"):
        assert classifier.get("/model", headers={"Host": host}).status_code == 200
    with OneThread(watched()) as model:
        client = client_of(model, host="0.0.0.0")
        assert client.get("/health", headers={"Host": "robot.local:8000"}).status_code == 200
    assert is_loopback("127.3.2.1") and not any(is_loopback(host) for host in ("0.0.0.0", "192.0.2.1", "::"))
    for origin in ("http://evil.example", "null", "http://localhost:9"):
        refused(classifier.post("/predict", data=picture(RED), headers={"Origin": origin}), 403, "other sites")
    own = {"Origin": "http://localhost:8000", "Host": "localhost:8000"}
    assert classifier.post("/predict", data=picture(RED), headers=own).status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_name_is_listened_on_at_its_first_address(classifier, monkeypatch, address):
    try:
        found = [one for one in socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)]
        socket.create_server((address, 0), family=found[0][0]).close()
    except OSError:
        pytest.skip(f"this computer has no {address}")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        server = listen(classifier.application, "localhost", 0)
    with contextlib.closing(server.socket), socket.create_connection((address, server.port)):
        assert server.server_address[0] == address


def test_addresses_and_limits_that_cannot_be(classifier):
    for host, port, words in (
        ("127.0.0.1", 70_000, "--port must be from 0 to 65535"), ("192.0.2.1", 0, "192.0.2.1 --port 0: Cannot assign"),
        ("no such host", 0, "--host no such host: unknown"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            listen(classifier.application, host, port)
    for name, value in (("megabytes", 0), ("megapixels", 500)):
        with pytest.raises(UserError, match=f"--max-{name} must be above 0 and at most"):
            create_app(None, **{name: value})
