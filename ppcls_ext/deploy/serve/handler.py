"""One connection: which requests are answered, by what, and how everything else is refused.

Nothing that a visitor sends chooses a file: the page's parts are in memory, under addresses of a table.
"""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from ppcls_ext.deploy.serve.model import Question
from ppcls_ext.deploy.serve.multipart import OVERHEAD, is_multipart, picture_of
from ppcls_ext.deploy.serve.refusal import RefusalError
from ppcls_ext.utils.errors import UserError

if TYPE_CHECKING:
    from ppcls_ext.deploy.serve.server import DemoServer

logger = logging.getLogger(__name__)

JSON_TYPE = "application/json; charset=utf-8"
SECURITY_HEADERS = {
    # The page's own script, style and pictures; nothing from elsewhere, nothing inline, in no frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
READ_METHODS, PREDICT_METHODS = ("GET", "HEAD"), ("POST",)
PREDICT, MODEL, HEALTH = "/predict", "/model", "/health"
CHUNK = 1 << 16
# A refused upload is read on for a moment: if the connection was closed at once, many clients would tell of that
# instead of the answer.
LINGER_SECONDS = 3.0
SHOWN_PATH = 80
UNKNOWN_LENGTH = 1 << 62


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"
    # Seconds for a connection to say nothing.
    timeout = 20
    server: DemoServer
    # Bytes that the client announced and that were not read.
    _unread = 0

    def _respond(self) -> None:
        """Answers one request, whatever its method."""
        try:
            with self.server.busy():
                self._admit()
                self._route()
        except RefusalError as refusal:
            self._refuse(refusal)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except UserError as error:
            logger.error("%s", error)
            self._refuse(RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, f"the model cannot be used: {error}"))
        except Exception:
            logger.exception("a request ended in an error of this program")
            self._refuse(RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this program; see its terminal"))

    def __getattr__(self, name: str) -> Any:
        """Gives every ``do_METHOD`` that the standard library looks for; refusing a method is ours, too."""
        if name.startswith("do_"):
            return self._respond
        raise AttributeError(name)

    def parse_request(self) -> bool:
        """Reads the header of a request; over some, the standard library stumbles where it should refuse."""
        try:
            return super().parse_request()
        except (TypeError, ValueError):
            # Parts of a parameter that are numbered wrongly (RFC 2231), in a header that it looks into.
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False

    def handle_expect_100(self) -> bool:
        """Refuses an upload before it begins, if the client asks first."""
        try:
            self._admit()
        except RefusalError as refusal:
            self._unread = 0
            self.close_connection = True
            self._refuse(refusal)
            return False
        return super().handle_expect_100()

    def _admit(self) -> None:
        """Checks what can be told from the header of a request alone.

        Raises:
            RefusalError: the request is addressed to another host, comes from a page of another site, asks for what is
                not there, or announces too large a body.
        """
        self._unread = self._announced()
        if not self.server.is_own_name(self.headers.get_all("Host", [])):
            raise RefusalError(HTTPStatus.MISDIRECTED_REQUEST, "this server does not answer to that host name")
        origin = self.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != self.headers["Host"]:
            raise RefusalError(HTTPStatus.FORBIDDEN, "pages of other sites may not use this server")
        path = self._address().path
        if path not in (*self.server.pages, PREDICT, MODEL, HEALTH):
            raise RefusalError(HTTPStatus.NOT_FOUND, f"nothing is here; there are /, {PREDICT}, {MODEL} and {HEALTH}")
        methods = PREDICT_METHODS if path == PREDICT else READ_METHODS
        if self.command not in methods:
            wanted = "send the picture with POST" if path == PREDICT else "use GET"
            raise RefusalError(
                HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} is not for {path}: {wanted}",
                {"Allow": ", ".join(methods)},
            )  # fmt: skip
        if path == PREDICT:
            self._check_length()

    def _announced(self) -> int:
        """Returns the length of the body, 0 without one.

        Raises:
            RefusalError: 400 or 411, the length is not stated, or in two ways.
        """
        # Until the length is known, where the next request begins is not, either.
        self._unread = UNKNOWN_LENGTH
        lengths = set(self.headers.get_all("Content-Length", []))
        if self.headers.get("Transfer-Encoding") is not None:
            raise RefusalError(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length; Transfer-Encoding is not supported")
        if len(lengths) > 1 or not all(text.isascii() and text.isdecimal() and len(text) < 16 for text in lengths):
            raise RefusalError(HTTPStatus.BAD_REQUEST, "Content-Length must be one whole number")
        return int(lengths.pop()) if lengths else 0

    def _check_length(self) -> None:
        if "Content-Length" not in self.headers:
            raise RefusalError(HTTPStatus.LENGTH_REQUIRED, "send the picture as the body, with its Content-Length")
        overhead = OVERHEAD if is_multipart(self.headers.get("Content-Type", "")) else 0
        if self._unread > self.server.limits.bytes + overhead:
            raise self._too_large(self._unread)

    def _too_large(self, size: int) -> RefusalError:
        return RefusalError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the picture has {size / 1e6:.1f} MB; at most {self.server.limits.megabytes:g} MB are taken",
        )

    def _address(self) -> urllib.parse.SplitResult:
        try:
            return urllib.parse.urlsplit(self.path)
        except ValueError:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "the address is malformed") from None

    def _route(self) -> None:
        """Answers an admitted request."""
        address = self._address()
        if address.path == PREDICT:
            self._predict(address.query)
        elif address.path == MODEL:
            self._send_json(HTTPStatus.OK, self.server.model.describe())
        elif address.path == HEALTH:
            self._send_json(HTTPStatus.OK, {"status": "ok"})
        else:
            content_type, body = self.server.pages[address.path]
            self._send(HTTPStatus.OK, body, content_type)

    def _predict(self, query: str) -> None:
        try:
            pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=8)
        except ValueError:
            raise RefusalError(HTTPStatus.BAD_REQUEST, "the parameters are malformed; write ?name=value") from None
        values = dict(pairs)
        if len(values) < len(pairs):
            raise RefusalError(HTTPStatus.BAD_REQUEST, "a parameter is given twice")
        question = Question.read(values, self.server.model.task)
        with self.server.place_for_upload():
            picture, name = self._read_picture()
            answer = self.server.model.answer(picture, question)
        self._send_json(HTTPStatus.OK, {"file": name, **answer})

    def _read_picture(self) -> tuple[bytes, str | None]:
        """Reads the body; returns the picture and, if it came in a form, its name as it may be shown."""
        body = self._read_body()
        content_type, name = self.headers.get("Content-Type", ""), None
        if is_multipart(content_type):
            body, name = picture_of(body, content_type)
        if len(body) > self.server.limits.bytes:
            raise self._too_large(len(body))
        return body, name

    def _read_body(self) -> bytes:
        """Reads as many bytes as were announced, and no more.

        Raises:
            RefusalError: 400, the connection ended before; 408, the client is too slow.
        """
        total, parts = self._unread, []
        deadline = time.monotonic() + self.server.limits.upload_seconds
        try:
            while self._unread:
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
                part = self.rfile.read1(min(CHUNK, self._unread))
                if not part:
                    raise RefusalError(
                        HTTPStatus.BAD_REQUEST, f"the upload ended after {total - self._unread} of {total} bytes"
                    )
                parts.append(part)
                self._unread -= len(part)
        except TimeoutError:
            raise RefusalError(HTTPStatus.REQUEST_TIMEOUT, "the upload took too long") from None
        finally:
            self.connection.settimeout(self.timeout)
        return b"".join(parts)

    def _send_json(self, status: HTTPStatus, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content, allow_nan=False).encode("ascii") + b"\n"
        self._send(status, body, JSON_TYPE, headers)

    def _send(
        self, status: HTTPStatus, body: bytes, content_type: str, headers: dict[str, str] | None = None
    ) -> None:
        if self._unread:
            self.close_connection = True
        self.send_response(status)
        sent = {
            **SECURITY_HEADERS, **(headers or {}), "Content-Type": content_type, "Content-Length": str(len(body)),
        }  # fmt: skip
        if self.close_connection:
            sent["Connection"] = "close"
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, refusal: RefusalError) -> None:
        """Sends an error as JSON, and leaves the connection in a state that both sides agree upon."""
        content = {"error": refusal.message, "status": int(refusal.status)}
        try:
            self._send_json(refusal.status, content, refusal.headers)
            if self._unread:
                self._read_on()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _read_on(self) -> None:
        """Reads a refused body for a while and forgets it; see ``LINGER_SECONDS``."""
        self.connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_SECONDS
        while self._unread > 0 and (left := deadline - time.monotonic()) > 0:
            self.connection.settimeout(left)
            part = self.rfile.read1(CHUNK)
            if not part:
                return
            self._unread -= len(part)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuses what the standard library found malformed; it would answer with a page of its own.

        Args:
            code: status.
            message: what is wrong; it may quote the request, so it is not sent back.
            explain: not used.
        """
        self.close_connection = True
        self._unread = 0
        self.command = getattr(self, "command", None) or "GET"
        status = HTTPStatus(code)
        self._refuse(RefusalError(status, f"the request is not understood ({status.phrase.lower()})"))

    def version_string(self) -> str:
        """Names this program and not the version of Python."""
        return "ppcls_ext"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Logs one line; what the client wrote is shown in ASCII, without control characters."""
        path = ascii(getattr(self, "path", ""))[1:-1][:SHOWN_PATH]
        logger.info("%s %s %s %s", self.client_address[0], self.command, path, int(code))

    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002 (the standard library's name)
        """Logs what the standard library says of connections, where somebody looks for it."""
        logger.debug("%s " + format, self.client_address[0], *values)
