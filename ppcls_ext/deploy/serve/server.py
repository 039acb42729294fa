"""The listening socket: its address, how many connections it takes, whom it answers, and how it stops."""

from __future__ import annotations

import contextlib
import errno
import importlib.resources
import ipaddress
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from ppcls_ext.deploy.serve.handler import Handler
from ppcls_ext.deploy.serve.model import ServedModel
from ppcls_ext.deploy.serve.refusal import RefusalError
from ppcls_ext.utils.errors import UserError

logger = logging.getLogger(__name__)

PAGES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
TURNED_AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
FAREWELL_SECONDS = 10.0


def is_loopback(host: str) -> bool:
    """Tells whether only programs of this computer reach ``host``.

    Raises:
        UserError: ``host`` is not known.
    """
    return all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for _, address in _resolved(host, 0))


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Returns the families and addresses that ``host`` means.

    Raises:
        UserError: it means none.
    """
    if not host:
        raise UserError("--host must not be empty; 127.0.0.1 is this computer alone, 0.0.0.0 every network")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host}: unknown; give an address of this computer, such as 127.0.0.1") from None
    return [(family, address) for family, _, _, _, address in found]


def open_server(model: ServedModel, host: str = "127.0.0.1", port: int = 8000) -> DemoServer:
    """Starts to listen; requests are answered from ``serve_until_interrupted`` (or ``serve_forever``) on.

    Args:
        model: answers the pictures; its limits are the server's.
        host: name or address; that of another network than loopback lets other computers in.
        port: 0 takes any free one; see ``DemoServer.url``.

    Raises:
        UserError: the port is in use or not allowed, or the host is not an address of this computer.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must be from 0 to 65535, got {port}")
    family, address = _resolved(host, port)[0]
    try:
        return DemoServer(model, host, family, address)
    except OSError as error:
        raise UserError(_why_not(error, host, port)) from error


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: in use by another program; choose another, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"--port {port}: not allowed to this user; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: not an address of this computer"
    return f"--host {host} --port {port}: {error.strerror or error}"


class DemoServer(ThreadingHTTPServer):
    """Listens on one address and answers with one model.

    Args:
        model: answers the pictures.
        host: as the user named it.
        family: of ``address``.
        address: what ``host`` and the port mean.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, model: ServedModel, host: str, family: socket.AddressFamily, address: Any) -> None:
        self.model = model
        self.limits = model.limits
        self.host = host
        self.address_family = family
        self.on_loopback = is_loopback(host)
        folder = importlib.resources.files("ppcls_ext.deploy.serve") / "page"
        self.pages = {path: (kind, (folder / name).read_bytes()) for path, (name, kind) in PAGES.items()}
        self._connections = threading.BoundedSemaphore(self.limits.connections)
        self._uploads = threading.BoundedSemaphore(self.limits.uploads)
        self._requests = 0
        self._idle = threading.Condition()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Binds without asking the name service for this computer's name, as the standard library would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_port}/"

    def is_own_name(self, hosts: Sequence[str]) -> bool:
        """Tells whether a request with these ``Host`` headers is meant for this server.

        On loopback only the names of loopback are: a site whose name was made to lead here (DNS rebinding) could use
        the visitor's browser to read the answers. The port may differ, as it does through a tunnel.
        """
        if len(hosts) != 1:
            return False
        name = hosts[0].strip().lower()
        # What is left of the port; an IPv6 address keeps its colons inside brackets.
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if not self.on_loopback or name in ("localhost", self.host.lower()):
            return bool(name)
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    @contextlib.contextmanager
    def place_for_upload(self) -> Iterator[None]:
        """Bounds how many pictures are in memory.

        Raises:
            RefusalError: 503, no place became free in time.
        """
        if not self._uploads.acquire(timeout=self.limits.patience):
            raise RefusalError(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many pictures at a time; try again", {"Retry-After": "2"}
            )
        try:
            yield
        finally:
            self._uploads.release()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Marks a request as being answered, so that the server waits for it when it stops."""
        with self._idle:
            self._requests += 1
        try:
            yield
        finally:
            with self._idle:
                self._requests -= 1
                self._idle.notify_all()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, or turns it away if there are too many."""
        if self._connections.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:
                # No thread could be started, so none will give the place back.
                self._connections.release()
                raise
            return
        with contextlib.suppress(OSError):
            request.sendall(TURNED_AWAY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Notes that a connection broke; the standard library would print a traceback."""
        logger.debug("connection of %s broke", client_address[0], exc_info=True)

    def serve_until_interrupted(self) -> None:
        """Answers requests until Ctrl-C; those that have begun are answered before it returns."""
        with contextlib.suppress(KeyboardInterrupt):
            self.serve_forever(poll_interval=0.2)
        self.socket.close()
        deadline = time.monotonic() + FAREWELL_SECONDS
        with self._idle:
            self._idle.wait_for(lambda: self._requests == 0, timeout=max(0.0, deadline - time.monotonic()))
