"""What is not answered: each with a status, one clear line, and a server that goes on."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from ppcls_ext.deploy.serve import Limits, ServedModel, is_loopback, open_server
from ppcls_ext.utils.errors import UserError
from tests.support.serving import ask, form, picture, running, send_raw

RED = (220, 10, 20)
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(autouse=True)
def still_there(colour_server):
    """After each test the server answers the next visitor."""
    yield
    answer = ask(colour_server, "POST", "/predict", picture(RED))
    assert (answer.status, answer.json["predictions"][0]["label"]) == (200, "red")


@contextlib.contextmanager
def limited(server, **limits):
    """Serves the same model with other limits."""
    with ServedModel(server.model.predictor, Limits(**limits)) as model, running(model) as other:
        yield other


def refused(answer, status, *words):
    assert answer.status == status
    assert answer.json["status"] == status
    assert answer.headers["content-type"].startswith("application/json")
    for word in words:
        assert word in answer.json["error"]
    assert "\n" not in answer.json["error"]


def png_of_size(width, height):
    """A PNG whose header states this size, with hardly any data."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"just words, and a few more of them", "a text file"), (b"%PDF-1.7 ...", "a PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"), (b"\x00\x00\x00\x20ftypheic" + bytes(90), "HEIC"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(90), "a video"), (b"PK\x03\x04" + bytes(30), "an archive"),
        # Pillow could read it, by starting Ghostscript.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a text file"), (os.urandom(0) + b"\x80" * 99, "not a"),
    ],
)  # fmt: skip
def test_other_files_are_named(colour_server, data, words):
    body, headers = form(data, "photo.png")
    for answer in (
        ask(colour_server, "POST", "/predict", data, {"Content-Type": "image/png"}),
        ask(colour_server, "POST", "/predict", body, headers),
    ):
        refused(answer, 415, words, "JPEG, PNG")


def test_an_empty_picture(colour_server):
    refused(ask(colour_server, "POST", "/predict", b""), 400, "empty")
    body, headers = form(b"", "a.png")
    refused(ask(colour_server, "POST", "/predict", body, headers), 400, "empty")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.1, 0.6])
def test_truncated_pictures(colour_server, kind, kept):
    data = picture(RED, kind, (300, 200))
    answer = ask(colour_server, "POST", "/predict", data[: max(14, int(kept * len(data)))])
    # Of the shortest pieces not even the type is left.
    assert answer.status in (415, 422)
    if kept > 0.5:
        refused(answer, 422)


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header(colour_server, width, height):
    data = png_of_size(width, height)
    assert len(data) < 100
    refused(ask(colour_server, "POST", "/predict", data), 413, "pixels", "1 megapixels")


def test_a_large_picture_behind_the_header_of_a_small_one(colour_server, monkeypatch):
    # A TIFF of 8 x 8 pixels that Pillow's reader of IFUNC files, which has no signature, takes for one of 2000 x 2000.
    # Readers are asked in the order in which they were loaded: here that of IFUNC first, as in a fresh process.
    Image.init()
    monkeypatch.setattr(Image, "ID", ["IM", *(name for name in Image.ID if name != "IM")])
    lines = b"II*\0" + struct.pack("<I", 1024) + b":\r\nImage type: L image\r\nImage size (x*y): 2000*2000\r\n"
    entries = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 1200, 277: 1, 278: 8, 279: 64}
    folder = struct.pack("<H", len(entries))
    folder += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()) + bytes(4)
    data = (lines.ljust(511, b"\0") + b"\x1a").ljust(1024, b"\0") + folder
    data = data.ljust(1200, b"\0") + bytes(4_000)
    with Image.open(io.BytesIO(data), formats=["TIFF"]) as small, Image.open(io.BytesIO(data)) as large:
        assert (small.size, large.size) == ((8, 8), (2000, 2000))
    refused(ask(colour_server, "POST", "/predict", data), 422, "header of this TIFF picture is damaged")


def test_as_many_pixels_as_allowed(colour_server):
    assert ask(colour_server, "POST", "/predict", picture(RED, size=(1000, 1000))).status == 200
    refused(ask(colour_server, "POST", "/predict", picture(RED, size=(1000, 1001))), 413, "1000 x 1001 pixels")


# ---------------------------------------------------------------- sizes and speeds


def test_too_large_a_body_is_refused_and_the_client_hears_why(colour_server):
    for size in (1_000_001, 9_000_000):
        answer = ask(colour_server, "POST", "/predict", bytes(size))
        refused(answer, 413, f"{size / 1e6:.1f} MB", "at most 1 MB")
        assert answer.headers["connection"] == "close"


def test_as_large_a_body_as_allowed(colour_server):
    data = picture(RED, "BMP", (600, 500))
    assert ask(colour_server, "POST", "/predict", data + bytes(1_000_000 - len(data))).status == 200


def test_too_large_a_picture_in_a_form(colour_server):
    # Within what is allowed for the form, above what is allowed for the picture.
    body, headers = form(bytes(1_000_100), "a.png")
    refused(ask(colour_server, "POST", "/predict", body, headers), 413, "at most 1 MB")
    body, headers = form(bytes(5_000_000), "a.png")
    refused(ask(colour_server, "POST", "/predict", body, headers), 413, "5.0 MB")


def test_who_asks_before_sending_is_told_before_sending(colour_server):
    head = POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n"
    received = send_raw(colour_server, head % 1_000_000_000 + b"\r\n")
    assert received.startswith(b"HTTP/1.1 413 ")
    data = picture(RED)
    received = send_raw(colour_server, head % len(data) + b"Connection: close\r\n\r\n" + data)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n")
    assert b"HTTP/1.1 200 OK" in received


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 411), (b"Transfer-Encoding: chunked\r\n", 411), (b"Content-Length: -5\r\n", 400),
        (b"Content-Length: +5\r\n", 400), (b"Content-Length: 1_0\r\n", 400), (b"Content-Length: many\r\n", 400),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400), (b"Content-Length: " + b"9" * 400 + b"\r\n", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 411),
    ],
)  # fmt: skip
def test_lengths_that_say_nothing(colour_server, headers, status):
    received = send_raw(colour_server, POST + headers + b"\r\n5\r\nhello\r\n0\r\n\r\n", finish=True)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    # What follows is not taken for another request.
    assert received.count(b"HTTP/1.1") == 1


def test_an_upload_that_ends_early(colour_server):
    received = send_raw(colour_server, POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 400, finish=True)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"ended after 400 of 1000 bytes" in received


def test_an_upload_that_does_not_end(colour_server):
    with limited(colour_server, upload_seconds=0.2) as server:
        received = send_raw(server, POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 400)
    assert received.startswith(b"HTTP/1.1 408 ")


def test_too_many_pictures_at_a_time(colour_server):
    with limited(colour_server, uploads=1, patience=0.1) as server:
        with socket.create_connection(("127.0.0.1", server.server_port)) as slow:
            slow.sendall(POST + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
            assert slow.recv(100).startswith(b"HTTP/1.1 100")
            answer = None
            # The other request is admitted just before it takes its place.
            for _ in range(50):
                answer = ask(server, "POST", "/predict", picture(RED))
                if answer.status == 503:
                    break
            refused(answer, 503, "try again")
            assert "retry-after" in answer.headers
        answers = [ask(server, "POST", "/predict", picture(RED)).status for _ in range(50)]
    assert 200 in answers


def test_too_many_connections(colour_server):
    with (
        limited(colour_server, connections=1) as server,
        socket.create_connection(("127.0.0.1", server.server_port)) as first,
    ):
        first.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        received = send_raw(server, b"", finish=True)
        assert received.startswith(b"HTTP/1.1 503 ")


# ---------------------------------------------------------------- forms and names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/passwd", "passwd"), ("C:\\windows\\a.png", "a.png"), ("/etc/cron.d/x", "x"),
        ("<script>alert(1)</script>.png", "script>.png"), ("a\x1b[31m\u202egnp.exe", "a?[31m?gnp.exe"),
        ("x" * 500, "x" * 120 + "..."), ("'; rm -rf *; $(id).png", "'; rm -rf *; $(id).png"), ("..", ".."),
    ],
)  # fmt: skip
def test_hostile_names_are_shown_tamed_and_touch_nothing(colour_server, tmp_path, monkeypatch, caplog, name, shown):
    monkeypatch.chdir(tmp_path)
    quoted = name.replace("\\", "\\\\")
    body, headers = form(picture(RED), quoted)
    with caplog.at_level(logging.DEBUG):
        answer = ask(colour_server, "POST", "/predict", body, headers)
    assert (answer.status, answer.json["file"]) == (200, shown)
    assert answer.json["predictions"][0]["label"] == "red"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert list(tmp_path.iterdir()) == []
    # Nor does it steer the terminal.
    assert name not in caplog.text


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"", "multipart/form-data", "boundary"), (b"x", "multipart/form-data; boundary=" + "b" * 71, "boundary"),
        (b"no boundary at all", "multipart/form-data; boundary=b", "last boundary"),
        (b"x", 'multipart/form-data; boundary*0="a"; boundary*="b"', "the request is not understood"),
        (b'--b\r\nContent-Disposition: form-data; name*0="a"; name*="b"\r\n\r\nx\r\n--b--\r\n',
         "multipart/form-data; boundary=b", "cannot be read"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n", "multipart/form-data; boundary=b", "last boundary"),
        (b"--b\r\nno header\r\n--b--\r\n", "multipart/form-data; boundary=b", "no header"),
        (b"--b\r\nno colon\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", "no colon"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", "last boundary"),
        (b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nx\r\n--b--\r\n',
         "multipart/form-data; boundary=b", "one picture in the field 'image', it holds 0"),
    ],
)  # fmt: skip
def test_damaged_forms(colour_server, body, content_type, words):
    refused(ask(colour_server, "POST", "/predict", body, {"Content-Type": content_type}), 400, words)


def test_two_pictures_in_a_form(colour_server):
    one, headers = form(picture(RED), "a.png", "file")
    two, _ = form(picture(RED), "b.png", "other")
    body = one.removesuffix(b"--limit--\r\n") + two
    refused(ask(colour_server, "POST", "/predict", body, headers), 400, "it holds 2")


# ---------------------------------------------------------------- addresses, methods, hosts


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/page", "/page/", "/page.html", "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/", "//",
        "/page.js/", "/static/", "/.git/config", "/server.py", "/predict/", "/PREDICT", "/\\..\\", "*",
    ],
)  # fmt: skip
def test_unknown_paths_list_nothing(colour_server, path):
    answer = ask(colour_server, "GET", path)
    assert answer.status in (400, 404) if path != "//" else answer.status in (200, 404)
    if answer.status != 200:
        assert b"passwd" not in answer.body
        assert set(answer.json) == {"error", "status"}


def test_a_malformed_address(colour_server):
    received = send_raw(colour_server, b"GET http://[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"the address is malformed" in received


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"), ("PUT", "/predict", "POST"), ("DELETE", "/predict", "POST"),
        ("POST", "/", "GET, HEAD"), ("POST", "/model", "GET, HEAD"), ("OPTIONS", "/predict", "POST"),
        ("TRACE", "/", "GET, HEAD"), ("BREW", "/health", "GET, HEAD"),
    ],
)  # fmt: skip
def test_wrong_methods(colour_server, method, path, allowed):
    answer = ask(colour_server, method, path)
    refused(answer, 405, method)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]", "localhost.evil"]
)
def test_other_host_names_are_refused_on_loopback(colour_server, host):
    refused(ask(colour_server, "GET", "/model", headers={"Host": host}), 421, "host name")
    refused(ask(colour_server, "POST", "/predict", picture(RED), {"Host": host}), 421, "host name")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:9", "127.9.9.9", "[::1]:8000"])
def test_names_of_loopback_are_answered(colour_server, host):
    assert ask(colour_server, "GET", "/model", headers={"Host": host}).status == 200


def test_no_host_and_two_hosts(colour_server):
    for head in (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n"):
        assert send_raw(colour_server, head + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://[", ""])
def test_pages_of_other_sites_may_not_use_it(colour_server, origin):
    answer = ask(colour_server, "POST", "/predict", picture(RED), {"Origin": origin, "Content-Type": "text/plain"})
    refused(answer, 403, "other sites")


def test_its_own_page_may(colour_server):
    own = f"http://127.0.0.1:{colour_server.server_port}"
    assert ask(colour_server, "POST", "/predict", picture(RED), {"Origin": own}).status == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/model"), ("GET", "/nothing"), ("OPTIONS", "/")])
def test_every_answer_has_the_security_headers_and_no_leave_for_others(colour_server, method, path):
    headers = ask(colour_server, method, path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "Python" not in headers["server"]


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
             b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % number for number in range(200)) + b"\r\n",
             b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
)  # fmt: skip
def test_malformed_requests_get_no_page_of_the_library(colour_server, data):
    received = send_raw(colour_server, data, finish=True)
    assert b"<html" not in received.lower()
    assert b"Traceback" not in received
    assert b'"error"' in received


def test_a_fault_of_the_program_is_no_silence(colour_server, monkeypatch, caplog):
    package = logging.getLogger("ppcls_ext")
    monkeypatch.setattr(package, "propagate", True)
    with limited(colour_server) as server:
        monkeypatch.setattr(server.model, "answer", lambda *_: 1 / 0)
        answer = ask(server, "POST", "/predict", picture(RED))
        refused(answer, 500, "error of this program")
        assert b"ZeroDivision" not in answer.body
        assert "ZeroDivisionError" in caplog.text
        monkeypatch.undo()


# ---------------------------------------------------------------- the listening address


def test_the_port_is_in_use(colour_server):
    port = colour_server.server_port
    with pytest.raises(UserError, match=rf"^--port {port}: in use by another program; choose another"):
        open_server(colour_server.model, port=port)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 70_000, "--port must be from 0 to 65535"), ("127.0.0.1", -1, "--port must be"),
        ("192.0.2.1", 0, "not an address of this computer"), ("no such host", 0, "--host no such host: unknown"),
        ("", 0, "--host must not be empty"),
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_listened_on(colour_server, host, port, words):
    with pytest.raises(UserError, match=words):
        open_server(colour_server.model, host, port)


def test_beyond_loopback_any_one_name_is_answered(colour_server):
    with open_server(colour_server.model, "0.0.0.0", 0) as server:
        assert not server.on_loopback
        assert server.is_own_name(["robot.local:8000"])
        assert not server.is_own_name([])
        assert not server.is_own_name([""])
        assert not server.is_own_name(["robot.local", "robot.local"])
    assert not colour_server.is_own_name(["0.0.0.0"])


def test_what_is_loopback():
    assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "127.3.2.1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.0.2.1", "::"))


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"megabytes": 0}, "--max-megabytes"), ({"megapixels": 500}, "--max-megapixels must be above 0 and at most 170")],
)
def test_wrong_limits(limits, words):
    with pytest.raises(UserError, match=words):
        Limits(**limits)


def test_the_export_is_checked(colours, tmp_path):
    copy = tmp_path / "export"
    copy.mkdir()
    for file in colours.iterdir():
        content = file.read_bytes()
        (copy / file.name).write_bytes(content[:-1] if file.suffix == ".pdiparams" else content)
    with pytest.raises(UserError, match="refused, its content is not what was exported"):
        ServedModel.open(copy)
    with pytest.raises(UserError, match="not an export folder"):
        ServedModel.open(Path("nowhere"))
    with pytest.raises(UserError, match="unknown backend 'padle'"):
        ServedModel.open(colours, backend="padle")
