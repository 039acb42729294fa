"""Videos, cameras and streams through the command, with networks whose answers are known."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import os
import signal
import sys
import threading
from contextlib import closing

import cv2
import numpy as np
import pytest

from ppcls_ext.runtime import command, video
from ppcls_ext.utils.command_line import run
from tests.support.predictors import Known, made_classifier, made_detector

RATE, WIDTH, HEIGHT, FRAMES = 10.0, 64, 48, 12


def white_square(image):
    """Finds the white square of a frame, as class 1."""
    y, x = np.nonzero(image.mean(axis=0) > 0.5)
    return [[1, 0.9, x.min(), y.min(), x.max() + 1, y.max() + 1]]


def interrupted_at(number):
    """A network that is told to stop by Ctrl-C when it gets this frame."""
    numbers = itertools.count()

    def answer(image):
        if next(numbers) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return white_square(image)

    return Known(answer)


def frames():
    for number in range(FRAMES):
        image = np.zeros([HEIGHT, WIDTH, 3], np.uint8)
        image[20:36, 3 * number : 3 * number + 16] = 255
        # The blue of OpenCV's order, where nothing is found.
        image[:8, :, 0] = 200
        yield image


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, code in (("dive.mp4", "mp4v"), ("dive.avi", "MJPG")):
        writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*code), RATE, (WIDTH, HEIGHT))
        for image in frames():
            writer.write(image)
        writer.release()
    (tmp_path / "export").mkdir()
    return tmp_path


@pytest.fixture
def predict(project, monkeypatch, capsys):
    """Runs the command with a stub for the export; returns its exit status and what it wrote to the terminal."""

    def predict(arguments, backend=None, classifier=False):
        if classifier:
            logits = Known(lambda image: [0.0, 5.0])
            predictor = made_classifier(logits, [{"NormalizeImage": {"order": ""}}], classes=["mud", "tyre"], topk=1)
        else:
            predictor = made_detector(backend or Known(white_square), classes=["mud", "tyre"])
        monkeypatch.setattr(command, "load", lambda *_, **__: predictor)
        monkeypatch.setattr(sys, "argv", ["econvnext-predict", "--model", "export", *arguments.split()])
        with pytest.raises(SystemExit) as left:
            run(command.predict)
        shown = capsys.readouterr()
        return left.value.code, shown.out + shown.err

    return predict


def played(file):
    capture = cv2.VideoCapture(str(file))
    images = []
    while (found := capture.read())[0]:
        images.append(found[1])
    return images, capture.get(cv2.CAP_PROP_FPS)


def test_a_video_is_drawn_and_described(project, predict):
    status, text = predict("--input dive.mp4 --save out.mp4 --json out.jsonl --track")
    assert status == 0, text
    for words in ("12 of 12 frames predicted", "boxes in 12 of 12 frames: 12 tyre", "objects seen: 1 tyre"):
        assert words in text
    images, rate = played(project / "out.mp4")
    assert (len(images), rate) == (FRAMES, RATE)
    # Small frames are enlarged by whole factors, so that labels have room; blue stays blue.
    assert images[0].shape == (480, 640, 3)
    blue, _, red = images[0][40, 500].astype(int)
    assert blue > 150 > 60 > red
    records = [json.loads(line) for line in (project / "out.jsonl").read_text().splitlines()]
    assert [(one["frame"], one["seconds"]) for one in records[:3]] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    (found,) = records[4]["detections"]
    assert (found["label"], found["identity"], records[4]["width"]) == ("tyre", 1, WIDTH)
    np.testing.assert_allclose(found["box"], [12, 20, 28, 36], atol=1.5)
    # The same command may run again, and a hand-made file is not replaced.
    assert predict("--input dive.mp4 --save out.mp4")[0] == 0
    assert predict("--input dive.mp4 --quiet") == (0, "")
    (project / "mine.mp4").write_bytes(b"mine")
    assert predict("--input dive.mp4 --save mine.mp4")[0] == 2
    assert (project / "mine.mp4").read_bytes() == b"mine"


def test_every_third_frame_plays_as_long(project, predict):
    status, text = predict("--input dive.mp4 --every 3 --save out.mp4 --json out.jsonl")
    assert status == 0, text
    images, rate = played(project / "out.mp4")
    assert (len(images), rate) == (4, pytest.approx(RATE / 3, abs=0.01))
    assert [json.loads(line)["frame"] for line in (project / "out.jsonl").read_text().splitlines()] == [0, 3, 6, 9]


def test_a_classifier_names_each_frame(project, predict):
    status, text = predict("--input dive.avi --save out.avi --json out.jsonl", classifier=True)
    assert status == 0, text
    assert "frames by their best class: 12 tyre" in text
    assert json.loads((project / "out.jsonl").read_text().splitlines()[0])["predictions"][0]["label"] == "tyre"
    drawn, plain = played(project / "out.avi")[0][0], cv2.resize(next(frames()), (640, 480))
    assert np.abs(drawn.astype(int) - plain).max(axis=2)[:30].mean() > 10
    assert "--track is for detectors" in predict("--input dive.avi --track", classifier=True)[1]


def test_after_ctrl_c_what_is_written_plays(project, predict, ctrl_c):
    status, text = predict("--input dive.mp4 --save out.mp4 --json out.jsonl", interrupted_at(5))
    assert status == 130
    assert "5 of 12 frames predicted" in text
    assert text.endswith("interrupted\n")
    assert len(played(project / "out.mp4")[0]) == len((project / "out.jsonl").read_text().splitlines()) == 5
    # Before the first frame there is nothing to keep.
    assert predict("--input dive.mp4 --save none.mp4", interrupted_at(0))[0] == 130
    assert sorted(file.name for file in project.glob("*none*")) == []


def test_a_disk_that_is_full_leaves_no_half_video(project, predict, monkeypatch):
    draw = command.draw_prediction

    def draw_and_lose(*arguments):
        for half in project.glob(".none*.mp4"):
            half.write_bytes(b"")
        return draw(*arguments)

    monkeypatch.setattr(command, "draw_prediction", draw_and_lose)
    monkeypatch.setattr(cv2.VideoWriter, "release", lambda self: None, raising=False)
    status, text = predict("--input dive.mp4 --save none.mp4")
    assert (status, list(project.glob("*none*"))) == (2, [])
    assert text == "error: --save: the video could not be written whole; is the disk full?\n"


def test_a_cut_video_is_told(project, predict):
    data = (project / "dive.avi").read_bytes()
    (project / "cut.avi").write_bytes(data[: len(data) * 3 // 4])
    status, text = predict("--input cut.avi --json out.jsonl")
    assert status == 0
    assert "of 12 frames: cut off or damaged" in text
    assert 0 < len((project / "out.jsonl").read_text().splitlines()) < FRAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--input notes.mp4", "--input notes.mp4: cannot be opened as a video: it is a text file"),
        ("--input cut.mp4 --save o.mp4", "cut.mp4: cannot be opened as a video: damaged, cut off, or of a codec"),
        ("--input camera:front", "name a camera by its number, such as camera:0"),
        ("--input camera:97", "--input camera:97: cannot be opened as a video: no such camera"),
        ("--input dive.mp4 notes.mp4", "give one video, camera or stream, and no other input beside it"),
        ("--input /dev/video2", "--input /dev/video2: a camera is named by its number: camera:2"),
        ("--input rtsp://boat/\udcba.mp4", "no such file"),
        ("--input dive.mp4 --save drawn", "--save drawn: frames are drawn into a video: FILE.mp4 or FILE.avi"),
        ("--input dive.mp4 --coco out.json", "--coco is for images"),
        ("--input dive.mp4 --save dive.mp4 --overwrite", "is read by this command"),
        ("--input frame.png --save run_2026.11", "unknown picture format '.11'; use .png, .jpg or a folder (one with"),
        ("--input frame.png --every 2", "--every is for videos"),
        ("--input frame.png --coco c.json --annotations a.json", "--annotations needs the training packages"),
    ],
)
def test_mistakes_are_one_clear_line(project, predict, arguments, message):
    (project / "notes.mp4").write_text("dive 7, good visibility")
    (project / "cut.mp4").write_bytes((project / "dive.mp4").read_bytes()[:900])
    cv2.imwrite("frame.png", next(frames()))
    before = sorted(project.iterdir())
    status, text = predict(arguments)
    assert (status, text.count("\n"), text.startswith("error: "), message in text) == (2, 1, True, True), text
    assert sorted(project.iterdir()) == before


def test_an_input_in_any_spelling_is_not_written_over(project, predict):
    (project / "photos").mkdir()
    cv2.imwrite("photos/frame.png", next(frames()))
    for start in (".\\", f"{project.as_uri()}/"):
        for name, save, message in (("dive.mp4", "dive.mp4", "is read by this"), ("photos", "photos/new", "is read,")):
            status, text = predict(f"--input {start}{name} --save {save} --overwrite")
            assert (status, message in text) == (2, True), text


class StubCamera:
    """Stands for ``cv2.VideoCapture`` of a camera or stream: gives the frames once, and says nothing about itself."""

    opened: list = []

    def __init__(self, *arguments):
        StubCamera.opened.append(arguments)
        self.images = frames()
        self.image = None

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return True

    def get(self, _):
        return 0.0

    def grab(self):
        self.image = next(self.images, None)
        return self.image is not None

    def retrieve(self):
        return True, self.image

    def release(self):
        self.images = None


@pytest.mark.parametrize("source", ["camera:3", "rtsp://me:secret@boat/front"])
def test_a_live_source_ends(project, predict, monkeypatch, source):
    monkeypatch.setattr(cv2, "VideoCapture", StubCamera)
    StubCamera.opened.clear()
    status, text = predict(f"--input {source} --json out.jsonl")
    assert status == 0, text
    assert "the camera or stream ended after 12 frames" in text
    assert "secret" not in text
    ((first, *others),) = StubCamera.opened
    assert first == (3 if source == "camera:3" else source)
    assert others[:1] == ([] if source == "camera:3" else [cv2.CAP_FFMPEG])
    numbers = [json.loads(line)["frame"] for line in (project / "out.jsonl").read_text().splitlines()]
    # Frames that came while the network was busy are passed over and counted; the last one is always seen.
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == FRAMES - 1
    if len(numbers) < FRAMES:
        assert f"{FRAMES - len(numbers)} that came meanwhile passed over" in text


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_file_behind_an_address_loses_no_frame(project):
    handler = functools.partial(Quiet, directory=project)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(video.Video(f"http://127.0.0.1:{server.server_port}/dive.avi")) as source:
            found = [(frame.number, frame.seconds) for frame in source.frames()]
        assert found == [(number, number / RATE) for number in range(FRAMES)]
        server.shutdown()


def test_names_that_are_not_utf8(project, predict):
    folder = os.fsdecode(b"\xba\xa3")
    os.mkdir(folder)
    os.rename("dive.avi", f"{folder}/\udcba.avi")
    status, text = predict(f"--input {folder}/\udcba.avi --save {folder}/out\udca3.mp4 --json {folder}/out.jsonl")
    assert status == 0, text
    assert len((project / folder / "out.jsonl").read_text().splitlines()) == FRAMES
    os.rename(f"{folder}/out\udca3.mp4", "out.mp4")
    assert len(played("out.mp4")[0]) == FRAMES


def test_frames_of_a_folder_are_followed_by_their_numbers(project, predict):
    for number, image in enumerate(frames()):
        cv2.imwrite(f"photos_{number}.png", image)
    status, text = predict("--input photos_*.png --track --json out.jsonl")
    assert status == 0, text
    assert "objects seen: 1 tyre" in text
    records = [json.loads(line) for line in (project / "out.jsonl").read_text().splitlines()]
    assert [one["file"] for one in records] == [f"photos_{number}.png" for number in range(FRAMES)]


def test_a_slow_camera_is_written_at_its_own_pace_and_other_sizes_are_resized(tmp_path):
    with closing(video.VideoFile(tmp_path / "out.avi", rate=10.0)) as file:
        for seconds, level in ((0.0, 0), (0.5, 0), (0.51, 0), (1.0, 200)):
            side = 62 if level else 31
            file.write(np.full([side, side + 2, 3], level, np.uint8), seconds)
    images, _ = played(tmp_path / "out.avi")
    assert len(images) == 11
    assert images[0].shape == images[-1].shape == (30, 32, 3)
    assert images[-1].mean() == pytest.approx(200, abs=4)
