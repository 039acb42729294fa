"""Exports to serve, a server for them on a free port, and a client that may send anything."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.deploy.serve import DemoServer, Limits, ServedModel, open_server

# A name that would do harm, were it written into a page as it is.
COLOURS = ["red", "green", "blue", "<img src=x onerror=alert(1)>"]


def export_colours(folder: Path) -> Path:
    """Exports a classifier that names the strongest colour of a picture; returns ``folder``."""
    import paddle
    from paddle import nn

    from ppcls_ext.deploy.export import export_classifier

    model = nn.Sequential(nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(3, 4))
    weight = np.concatenate([4 * np.eye(3), np.ones([3, 1])], axis=1).astype(np.float32)
    model[2].weight.set_value(weight)
    model[2].bias.set_value(np.zeros(4, np.float32))
    paddle.seed(0)
    export_classifier(
        model,
        folder,
        model_name="Colours",
        class_num=4,
        image_shape=[3, 32, 32],
        preprocess=[{"ResizeImage": {"size": 32}}, {"NormalizeImage": {"order": ""}}],
        topk=3,
        classes=COLOURS,
    )
    return folder


def export_tiny_detector(folder: Path) -> Path:
    """Exports a detector with random weights that finds something; returns the export."""
    import paddle

    from detection.configuration import load_config
    from detection.export import export_detector
    from detection.toolkit import build_model
    from tests.support.detectors import CLASSES, draw_frames, make_lively, tiny_config

    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(tiny_config(folder))
    paddle.seed(0)
    model = build_model(config)
    make_lively(model)
    files = draw_frames(folder / "frames", [(100, 80), (200, 120)])
    export_detector(
        model,
        folder / "export",
        model_name="Tiny",
        class_num=len(CLASSES),
        classes=CLASSES,
        preprocess=config.data["TestReader"]["sample_transforms"],
        nms=True,
        images={file.name: np.asarray(Image.open(file)) for file in files},
    )
    return folder / "export"


@contextlib.contextmanager
def serving(folder: Path, **limits: float) -> Iterator[DemoServer]:
    """Serves an export on a free port of loopback."""
    with ServedModel.open(folder, threads=1, limits=Limits(**limits)) as model, running(model) as server:
        yield server


@contextlib.contextmanager
def running(model: ServedModel) -> Iterator[DemoServer]:
    """Serves a model on a free port of loopback."""
    with open_server(model, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Answer:
    """What came back: the header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    server: DemoServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Sends one request on a connection of its own; its Host, if not given, is the server's."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def send_raw(server: DemoServer, data: bytes, finish: bool = False) -> bytes:
    """Sends bytes as they are and returns everything that comes back; ``finish`` closes our side before."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(data)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def form(content: bytes, name: str, field: str = "image", boundary: str = "limit") -> tuple[bytes, dict[str, str]]:
    """Returns the body and the header of a form with one file."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def picture(colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """Returns an encoded picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()
