"""Frames of videos, cameras and network streams, and videos of drawn frames, by OpenCV."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ppcls_ext.preprocess.content import LOOKED_AT, UNKNOWN, VIDEO, what_is
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.names import meant_path

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".m2ts", ".3gp", ".ogv"}
)
CAMERA = re.compile(r"camera:(\d+)")
DEVICE = re.compile(r"/dev/video(\d+)")
# Bytes that are not UTF-8, which Python keeps as these characters, would end the process in OpenCV.
STREAM = re.compile(r"(?:rtsps?|rtmps?|https?|udp|tcp|srt)://[^\ud800-\udfff]*\Z", re.IGNORECASE)
# The names of what is written, and the codec of each that OpenCV's own FFmpeg has.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
# Frames a second where the source does not say it, and the most that is believed.
USUAL_RATE, HIGHEST_RATE = 25.0, 1000.0
# A file of which less than this share of the stated frames can be read is told to be cut.
WHOLE = 0.95
TIMEOUT = 10
LOUDNESS = "OPENCV_FFMPEG_LOGLEVEL"
SILENT = "-8"


class Frame(NamedTuple):
    """One frame: its number of all frames of the source, seconds since its beginning, ``uint8`` RGB ``[H, W, 3]``."""

    number: int
    seconds: float
    pixels: np.ndarray


def only_video(inputs: Sequence[str]) -> str | None:
    """Returns the video file, camera (``camera:0``) or stream (``rtsp://...``) among the inputs by its name, or None; a
    ``UserError`` if there is something else beside it, or a camera is named as a device."""
    for source in inputs:
        if device := DEVICE.fullmatch(source):
            raise UserError(f"--input {source}: a camera is named by its number: camera:{device[1]}")
        name = source.lower()
        is_file = Path(name).suffix in SUFFIXES and not os.path.isdir(source)
        if is_file or name.startswith("camera:") or STREAM.match(name):
            if len(inputs) > 1:
                words = "give one video, camera or stream, and no other input beside it"
                raise UserError(f"--input {shown(source)}: {words}")
            return source
    return None


def file_of(source: str) -> Path | None:
    """Returns the file that a source means, whether it is there or not; None for a camera or stream."""
    return None if source.lower().startswith("camera:") or STREAM.match(source) else meant_path(source)


def shown(source: str) -> str:
    """Returns the name of a source without the password that an address may hold."""
    return re.sub(r"//[^/@]*@", "//", source)


class Video:
    """An open video file, camera (``camera:NUMBER``) or stream (``rtsp://host/path``); a ``UserError`` if it cannot be
    opened.

    A camera and a live stream are read by a thread, and whoever is slower gets the newest frame and not a growing queue
    of old ones; ``passed_over`` counts the others. A file behind an address is read as one that lies here.

    Attributes:
        name: of the source, for people.
        is_live: a camera, or a stream that does not say how many frames it has.
        rate: frames a second.
        total: frames that a file says it has, else 0.
    """

    def __init__(self, source: str) -> None:
        self.name = f"--input {shown(source)}"
        camera, path = CAMERA.fullmatch(source), file_of(source)
        self.passed_over = 0
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None
        # FFmpeg's own lines about a damaged file say nothing that ours does not.
        os.environ.setdefault(LOUDNESS, SILENT)
        if camera:
            reason = "no such camera, or another program has it, or this user may not use it"
            self._capture = _opened(int(camera[1]))
        elif STREAM.match(source):
            reason = f"no connection within {TIMEOUT} s, or no video there"
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 1000 * TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 1000 * TIMEOUT]
            self._capture = _opened(source, cv2.CAP_FFMPEG, limits)
        elif path is None:
            raise UserError(f"{self.name}: name a camera by its number, such as camera:0")
        else:
            if not path.is_file():
                raise UserError(f"{self.name}: no such file")
            with open(path, "rb") as stream:
                what = what_is(stream.read(LOOKED_AT), path.name)
            is_known = what not in (VIDEO, UNKNOWN)
            reason = f"it is {what}" if is_known else "damaged, cut off, or of a codec that OpenCV does not read"
            with _plain_name(path) as name:
                self._capture = _opened(name, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: cannot be opened as a video: {reason}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= HIGHEST_RATE else USUAL_RATE
        total = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.total = int(total) if not camera and 0 < total < 1e9 else 0
        self.is_live = path is None and not self.total

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Reads the frames, once; of ``every`` so many one, the first among them. A ``UserError`` if there is none."""
        number = -1
        for number, image in self._newest(every) if self.is_live else self._all(every):
            if image is not None:
                seconds = time.monotonic() - self._begin if self.is_live else number / self.rate
                yield Frame(number, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        if number < 0:
            raise UserError(f"{self.name}: not a single frame can be read: damaged, cut off, or of a codec that OpenCV "
                            "does not read")  # fmt: skip
        if self.is_live:
            logger.warning("%s: the camera or stream ended after %d frames", self.name, number + 1)
        elif number + 1 < WHOLE * self.total:
            logger.warning("%s: ends after %d of %d frames: cut off or damaged", self.name, number + 1, self.total)

    def _all(self, every: int) -> Iterator[tuple[int, np.ndarray | None]]:
        """Gives numbers and frames, without those that are left out, which need not be decoded."""
        for number in itertools.count():
            if not self._capture.grab():
                return
            yield number, self._capture.retrieve()[1] if number % every == 0 else None

    def _newest(self, every: int) -> Iterator[tuple[int, np.ndarray]]:
        """Gives numbers and frames as they come, those left out that were not taken in time."""
        place: queue.Queue[tuple[int, np.ndarray]] = queue.Queue(maxsize=1)
        over = threading.Event()

        def read() -> None:
            try:
                for number, image in self._all(every):
                    if self._stop.is_set():
                        break
                    if image is not None:
                        with contextlib.suppress(queue.Empty):
                            place.get_nowait()
                            self.passed_over += 1
                        place.put((number, image))
            finally:
                over.set()

        self._reader = threading.Thread(target=read, daemon=True, name="camera")
        self._begin = time.monotonic()
        self._reader.start()
        while not (over.is_set() and place.empty()):
            try:
                found = place.get(timeout=0.1)
            except queue.Empty:
                continue
            yield found

    def close(self) -> None:
        """Lets the source go."""
        self._stop.set()
        if self._reader is not None:
            self._reader.join(TIMEOUT)
        self._capture.release()


def _opened(*arguments: Any) -> cv2.VideoCapture:
    """Opens a source; OpenCV's own warnings of one that is not there are kept quiet."""
    before = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        return cv2.VideoCapture(*arguments)
    finally:
        cv2.setLogLevel(before)


@contextlib.contextmanager
def _plain_name(path: Path) -> Iterator[str]:
    """Gives a name of a file for OpenCV, in which one that is not UTF-8 would end the process: that of a link to it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, f"video{path.suffix}")
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


class VideoFile:
    """Writes frames to a video, as many in a second as it plays: those of a slow camera repeatedly, so that the video
    takes as long as what it shows. The suffix is one of ``CODECS``."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = rate
        self._written = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, pixels: np.ndarray, seconds: float) -> None:
        """Adds a picture ``uint8`` RGB ``[H, W, 3]`` that was taken at this time; the first one decides the size. A
        ``UserError`` if OpenCV cannot write such a video."""
        # The codecs want even sides.
        pixels = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
        if self._writer is None:
            self._size = pixels.shape[1::-1]
            code = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            with _plain_name(self.path) as name:
                self._writer = cv2.VideoWriter(name, code, self.rate, self._size)
            if not self._writer.isOpened():
                raise UserError(f"--save: this OpenCV cannot write {self.path.suffix} videos of {self._size} pixels")
        if pixels.shape[1::-1] != self._size:
            pixels = cv2.resize(pixels, self._size, interpolation=cv2.INTER_AREA)
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        while self._written <= math.floor(seconds * self.rate + 0.5):
            self._writer.write(image)
            self._written += 1

    def close(self) -> None:
        """Ends the video; a ``UserError`` if it cannot be read again: OpenCV says nothing where it cannot write."""
        if self._writer is not None:
            self._writer.release()
            with _plain_name(self.path) as name:
                written = _opened(name, cv2.CAP_FFMPEG)
            if not written.isOpened():
                raise UserError("--save: the video could not be written whole; is the disk full?")
            written.release()
