"""An HTTP demonstration of an export: a page that takes a picture and shows classes or boxes, and a JSON endpoint.

Flask and Werkzeug's own threaded server; no Paddle beyond what the export's engine loads. It is a demonstration:
nothing that a visitor sends chooses a file, pictures are kept in memory and forgotten, and there is no password.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import importlib.resources
import io
import ipaddress
import logging
import os
import re
import secrets
import socket
import threading
import time
import urllib.parse
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, NoReturn

import flask
import numpy as np
from PIL import Image
from werkzeug.exceptions import ClientDisconnected, HTTPException, ServiceUnavailable
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

import ppcls_ext
from ppcls_ext.preprocess import ImageError, decode_image
from ppcls_ext.preprocess.content import READ, kind_of
from ppcls_ext.preprocess.decode import TooManyPixelsError, header_of
from ppcls_ext.preprocess.samples import AnyRange
from ppcls_ext.runtime import BACKENDS, DetectionPredictor, Predictor
from ppcls_ext.runtime.predictor import RECOMMENDED, threshold_of
from ppcls_ext.runtime.report import results_of
from ppcls_ext.utils.errors import UserError, suggestion

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.3
TYPES = ("JPEG", "PNG", "BMP", "WebP", "TIFF", "GIF", "PPM", "PGM")
# The decoder itself refuses more than MOST_PIXELS; a larger limit would promise what it does not keep.
LARGEST_MEGAPIXELS = 170
PREVIEW_SIDE, LOSSLESS_PIXELS = 1280, 256 * 256
# Headers and boundaries of a form around the picture.
FORM_OVERHEAD = 16_384
# Pictures in memory at a time, seconds that a request waits for a place, and seconds of grace when the server stops.
MOST_AT_A_TIME, WAIT_SECONDS, STOP_SECONDS = 8, 20.0, 10.0
HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
}  # fmt: skip
# The page's own script and style, known by a number that is new for each visit, and nothing from elsewhere.
PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


class OneThread:
    """Runs a predictor in one thread of its own, one call after the other, whoever calls.

    An engine keeps a pool of threads, and Paddle's oneDNN its cached kernels, for every thread that ever called it, and
    every visitor comes with a new one.

    Raises:
        UserError: the export's preprocessing does not fit its network (a black picture is tried).
    """

    def __init__(self, predictor: Predictor | DetectionPredictor) -> None:
        self.predictor = predictor
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self.closed = False
        try:
            self([np.zeros([96, 128, 3], np.uint8)])
        except BaseException:
            self.executor.shutdown()
            raise

    def __call__(self, images: list[Any], **options: Any) -> tuple[list[Any], float]:
        """Returns what the predictor does and its seconds, without the wait for other calls; RuntimeError or
        CancelledError once it is closed."""
        return self.executor.submit(self._timed, images, **options).result()

    def _timed(self, images: list[Any], **options: Any) -> tuple[list[Any], float]:
        started = time.perf_counter()
        return self.predictor(images, **options), time.perf_counter() - started

    def __enter__(self) -> OneThread:
        return self

    def __exit__(self, *reason: object) -> None:
        self.closed = True
        self.executor.shutdown(wait=True, cancel_futures=True)


def is_loopback(host: str) -> bool:
    """Tells whether only programs of this computer reach ``host``; a UserError if it is not known."""
    try:
        found = socket.getaddrinfo(host or "?", 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host}: unknown; give an address of this computer, such as 127.0.0.1") from None
    return all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for *_, address in found)


def create_app(
    model: OneThread, host: str = "127.0.0.1", megabytes: float = 20.0, megapixels: float = 50.0
) -> flask.Flask:
    """Builds the application: ``/`` is the page, POST ``/predict`` answers a picture, GET ``/model`` and ``/health``.

    Args:
        model: the predictor.
        host: name or address that is listened on. On loopback, requests for other names are refused: a site whose name
            was made to lead here (DNS rebinding) could otherwise use a visitor's browser to read the answers.
        megabytes: largest file, in units of 1,000,000 bytes.
        megapixels: largest width times height, read from the header before anything is decoded.

    Raises:
        UserError: a limit is not positive, or larger than the decoder's own.
    """
    for name, value, most in (("megabytes", megabytes, 1000), ("megapixels", megapixels, LARGEST_MEGAPIXELS)):
        if not 0 < value <= most:
            raise UserError(f"--max-{name} must be above 0 and at most {most}, got {value:g}")
    predictor = model.predictor
    detects = isinstance(predictor, DetectionPredictor)
    page = importlib.resources.files("ppcls_ext.deploy").joinpath("serve.html").read_text(encoding="utf-8")
    places = threading.BoundedSemaphore(MOST_AT_A_TIME)
    most_bytes, most_pixels = round(megabytes * 1e6), round(megapixels * 1e6)

    app = flask.Flask(__name__, static_folder=None)
    app.extensions["places"] = places
    app.config["MAX_CONTENT_LENGTH"] = most_bytes + FORM_OVERHEAD
    app.config["MAX_FORM_PARTS"] = 16
    # Not Flask's TRUSTED_HOSTS, which cannot hold an IPv6 address.
    own_names = {"localhost", "127.0.0.1", "::1", host.lower()} if is_loopback(host) else None

    @app.before_request
    def refuse_other_sites() -> None:
        if own_names and urllib.parse.urlsplit(f"//{flask.request.host}").hostname not in own_names:
            flask.abort(421, "this server does not answer to that host name")
        origin = flask.request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != flask.request.host:
            flask.abort(403, "pages of other sites may not use this server")

    @app.after_request
    def add_headers(response: flask.Response) -> flask.Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> flask.Response:
        response = error.get_response()
        asked = flask.request
        messages = {404: "nothing is here; there are /, /predict, /model and /health",
                    405: f"{asked.method} is not for {asked.path}"}  # fmt: skip
        if isinstance(error, ClientDisconnected):
            messages[400] = "the upload ended before its announced length"
        if error.code == 413 and asked.content_length and asked.content_length > most_bytes:
            messages[413] = too_large(asked.content_length)
        message = messages.get(error.code, error.description)
        response.data = flask.json.dumps({"error": message, "status": error.code})
        response.content_type = "application/json"
        return response

    @app.errorhandler(Exception)
    def unforeseen(error: Exception) -> tuple[dict[str, Any], int]:
        status, text = 500, "an error of this program; see its terminal"
        if model.closed and isinstance(error, RuntimeError | CancelledError):
            status, text = 503, "the server is stopping"
        elif isinstance(error, UserError):
            logger.error("%s", error)
            text = f"the model cannot be used: {error}"
        else:
            logger.error("a request ended in an error of this program", exc_info=error)
        return {"error": text, "status": status}, status

    def too_large(size: int) -> str:
        return f"the picture has {size / 1e6:.1f} MB; at most {megabytes:g} MB are taken"

    @app.get("/")
    def show_page() -> flask.Response:
        nonce = secrets.token_urlsafe(16)
        response = flask.Response(page.replace("{{ nonce }}", nonce))
        response.headers["Content-Security-Policy"] = PAGE_POLICY.format(nonce)
        return response

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/model")
    def describe() -> dict[str, Any]:
        """Public facts about the model: no paths, no checksums."""
        engine = type(predictor.backend)
        backend = next((name for name, row in BACKENDS.items() if row.engine is engine), engine.__name__)
        description = {
            "task": "detection" if detects else "classification", "name": predictor.model_name,
            "classes": predictor.classes, "input_shape": predictor.input_shape, "backend": backend,
            "computed_in": predictor.backend.computed_in, "version": ppcls_ext.__version__,
            "limits": {"megabytes": megabytes, "megapixels": megapixels, "types": TYPES},
        }  # fmt: skip
        if not detects:
            return {**description, "topk": predictor.topk}
        enhances = predictor.enhance is not None
        return {
            **description, "class_num": predictor.class_num, "threshold": DEFAULT_THRESHOLD, "enhances": enhances,
            "recommended": predictor.thresholds.limits().tolist() if predictor.thresholds else None,
        }  # fmt: skip

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        """Answers one picture.

        Returns:
            ``task``, ``model``, ``file`` (its name, if it came in a form), ``type``, ``milliseconds`` of decoding,
            preparation and network; of a classifier ``predictions`` (``class_id, label, score``, best first); of a
            detector ``width, height`` and ``detections`` (``class_id, label, score, box``: x1, y1, x2, y2 in pixels of
            the upright picture); and ``preview``, a ``data:`` address, with ``?preview=1``.
        """
        options, preview = read_parameters(flask.request.args.to_dict(), detects)
        if options.get("threshold") == RECOMMENDED and predictor.thresholds is None:
            flask.abort(400, "this model has no recommended thresholds; threshold must be a number from 0 to 1")
        if not places.acquire(timeout=WAIT_SECONDS):
            raise ServiceUnavailable("too many pictures at a time; try again", retry_after=2)

        @flask.after_this_request
        def give_back(response: flask.Response) -> flask.Response:
            # Only once it has been sent, so that a server that stops waits for it.
            response.call_on_close(places.release)
            return response

        data, name = read_picture()
        if len(data) > most_bytes:
            flask.abort(413, too_large(len(data)))
        kind = check_picture(data, most_pixels)
        (prediction,), seconds = model([data], **options)
        if prediction.error is not None:
            refuse(prediction.error)
        answer = {
            "task": "detection" if detects else "classification", "model": predictor.model_name, "file": name,
            "type": kind, "milliseconds": round(1000 * seconds, 1),
        }  # fmt: skip
        if preview:
            answer["preview"] = preview_of(data, getattr(predictor, "enhance", None), predictor.value_range)
        return {**answer, **results_of(prediction, predictor)}

    return app


def refuse(cause: str) -> NoReturn:
    """Aborts with 422."""
    flask.abort(422, f"the picture cannot be used: {' '.join(cause.split())}")


def read_parameters(values: dict[str, str], detects: bool) -> tuple[dict[str, Any], bool]:
    """Returns the options of the prediction and whether a preview is wanted; aborts with 400 over a wrong parameter."""
    allowed = ("threshold" if detects else "topk", "preview")
    for name in values:
        if name not in allowed:
            flask.abort(400, f"unknown parameter{suggestion(name, allowed)}; allowed: {', '.join(allowed)}")
    if values.get("preview", "0") not in ("0", "1"):
        flask.abort(400, "preview must be 0 or 1")
    options: dict[str, Any] = {"threshold": DEFAULT_THRESHOLD} if detects else {}
    if "topk" in values:
        if not re.fullmatch(r"[1-9][0-9]{0,3}", values["topk"]):
            flask.abort(400, "topk must be a whole number from 1 to 9999")
        options["topk"] = int(values["topk"])
    if "threshold" in values:
        try:
            options["threshold"] = threshold_of(values["threshold"])
        except UserError as error:
            flask.abort(400, str(error))
    return options, values.get("preview") == "1"


def read_picture() -> tuple[bytes, str | None]:
    """Returns the picture in the body of the request, or in a form's field ``image`` (or its only file), and its name.

    The name is only shown, never used. Aborts with 400 if the form holds no picture or several.
    """
    if flask.request.mimetype != "multipart/form-data":
        return flask.request.get_data(cache=False), None
    files = flask.request.files.getlist("image") or [file for _, file in flask.request.files.items(multi=True)]
    if len(files) != 1:
        flask.abort(400, f"the form must hold one picture in the field 'image', it holds {len(files)}")
    return files[0].read(), PurePosixPath((files[0].filename or "").replace("\\", "/")).name[:120]


def check_picture(data: bytes, most_pixels: int) -> str:
    """Returns the type of a picture by its content; aborts with 400, 413, 415 or 422 before anything is decoded."""
    if not data:
        flask.abort(400, "the picture is empty (0 bytes)")
    try:
        kind, _, _ = header_of(data, most=most_pixels)
    except TooManyPixelsError as error:
        flask.abort(413, f"the picture {error.cause}")
    except ImageError as error:
        found = kind_of(data)
        if found not in READ:
            flask.abort(415, f"this is {found.words}; it must be one of {', '.join(TYPES)}")
        refuse(error.cause)
    return "JPEG" if kind == "MPO" else kind


def preview_of(data: bytes, enhance: Any, value_range: AnyRange = None) -> str:
    """Returns a ``data:`` address of a checked picture, upright, at most ``PREVIEW_SIDE`` pixels wide and high.

    ``enhance`` (or None) raises the contrast of ``uint8`` RGB ``[H, W, 3]``, so that people see what the detector sees;
    for ``value_range`` see ``decode_image``.
    """
    try:
        pixels = decode_image(data, value_range=value_range)
    except ImageError as error:
        refuse(error.cause)
    picture = Image.fromarray(np.ascontiguousarray(pixels if enhance is None else enhance(pixels)))
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    # Smaller previews keep every pixel; larger ones are photographs to look at.
    kind = "PNG" if picture.width * picture.height <= LOSSLESS_PIXELS else "JPEG"
    stream = io.BytesIO()
    picture.save(stream, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


class RequestHandler(WSGIRequestHandler):
    """Logs one line for each request and names this program, not the version of Python."""

    # Seconds for a connection to say nothing.
    timeout = 20

    def version_string(self) -> str:
        """Returns the ``Server`` header."""
        return "ppcls_ext"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Logs client, method, address (in ASCII, without control characters) and status."""
        path = ascii(getattr(self, "path", ""))[1:-1][:80]
        logger.info("%s %s %s %s", self.address_string(), self.command, path, code)

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (Werkzeug's name)
        """Logs what Werkzeug says of connections, where somebody looks for it."""
        logger.debug(message, *args)


def listen(app: flask.Flask, host: str, port: int) -> BaseWSGIServer:
    """Starts to listen (port 0 takes any free one, ``server.port``); ``run_until_interrupted`` answers requests.

    Raises:
        UserError: the port is in use or not allowed, or the host is not an address of this computer.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must be from 0 to 65535, got {port}")
    is_loopback(host)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    try:
        listening = socket.create_server(address[:2], family=family, backlog=64)
    except OSError as error:
        advice = "; choose another port, or 0 for any that is free" if error.errno == errno.EADDRINUSE else ""
        raise UserError(f"--host {host} --port {port}: {os.strerror(error.errno or 0)}{advice}") from error
    with listening:
        # Of an address, not of a name, Werkzeug knows the family.
        return make_server(address[0], port, app, threaded=True, request_handler=RequestHandler, fd=listening.fileno())


def run_until_interrupted(server: BaseWSGIServer) -> None:
    """Answers requests until Ctrl-C; pictures that came before are answered before it returns."""
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.2)
    server.server_close()
    deadline = time.monotonic() + STOP_SECONDS
    for _ in range(MOST_AT_A_TIME):
        server.app.extensions["places"].acquire(timeout=max(0.0, deadline - time.monotonic()))
