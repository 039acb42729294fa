"""Time of the ImageNet training recipe's operators on one core, beside PaddleClas's own in the same run.

Run as a module it measures and writes JSON; :func:`run_pipeline_benchmark` starts that in a fresh process, because the
number of threads of the numerical libraries is fixed when they are loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from classification.data.operators import TRAIN_OPERATORS
from ppcls_ext.preprocess.pipeline import build_operators
from ppcls_ext.utils.config import load_config_file
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import images_in

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "econvnext_mini.yaml"
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FLAGS_paddle_num_threads"), "1"
)
MARKER = "PIPELINE_BENCHMARK "

Operators = Sequence[Callable[[Any], Any]]


def read_recipe() -> list[dict[str, dict[str, Any]]]:
    """Returns the training operators of the ImageNet configuration, ``{name: arguments}`` each."""
    return load_config_file(CONFIG).data["DataLoader"]["Train"]["dataset"]["transform_ops"]


def sample_photos(count: int = 36, seed: int = 0) -> list[bytes]:
    """Returns JPEG files of different sizes, 300 x 400 to 640 x 480 pixels, lying and standing, quality 88 to 96.

    They are parts of the two photographs that scikit-learn ships (a palace and a flower, 640 x 427).

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UserError("the photographs come with scikit-learn: install it, or give --photos FOLDER") from error
    originals = load_sample_images().images
    generator = np.random.default_rng(seed)
    files = []
    for number in range(count):
        picture = originals[number % len(originals)]
        width, height = int(generator.integers(400, 641)), int(generator.integers(300, 481))
        largest = min(picture.shape[1] / width, picture.shape[0] / height)
        share = generator.uniform(0.8, 1.0) * largest
        part_width, part_height = int(width * share), int(height * share)
        left = int(generator.integers(picture.shape[1] - part_width + 1))
        top = int(generator.integers(picture.shape[0] - part_height + 1))
        part = picture[top : top + part_height, left : left + part_width, ::-1]
        photo = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if share > 1 else cv2.INTER_CUBIC)
        if generator.random() < 0.3:
            photo = cv2.rotate(photo, cv2.ROTATE_90_CLOCKWISE)
        quality = int(generator.integers(88, 97))
        done, encoded = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        files.append(encoded.tobytes())
    return files


def read_photos(folder: str | None) -> list[bytes]:
    """Returns the encoded images of a folder, or :func:`sample_photos` where it is None.

    Raises:
        UserError: the folder does not exist or holds no images.
    """
    if folder is None:
        return sample_photos()
    paths = images_in(Path(folder))
    if not paths:
        raise UserError(f"{folder} holds no images to measure with")
    return [path.read_bytes() for path in paths]


class Timer:
    """CPU time of each operator over many images; the time of other processes does not count.

    Args:
        names: of the operators.

    Attributes:
        seconds: sum for each operator, over the images that all operators accepted.
        done, failed: numbers of images.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.seconds = np.zeros(len(self.names))
        self.done = 0
        self.failed = 0
        self.failure = ""

    def run(self, operators: Operators, photo: bytes, count: bool) -> None:
        """Applies the operators to one photograph; its time counts if ``count``."""
        image: Any = photo
        seconds = np.zeros(len(self.names))
        try:
            for number, operator in enumerate(operators):
                start = time.thread_time()
                image = operator(image)
                seconds[number] = time.thread_time() - start
        except Exception as error:  # noqa: BLE001  (foreign operators; their failures are a result)
            self.failed += count
            self.failure = str(error)
            return
        if count:
            self.seconds += seconds
            self.done += 1

    def result(self) -> dict[str, Any]:
        """Returns milliseconds by operator, images/s with and without decoding, and the failures."""
        milliseconds = 1e3 * self.seconds / max(self.done, 1)
        return {
            "milliseconds": dict(zip(self.names, milliseconds.tolist(), strict=True)),
            "images_per_second": 1e3 / float(milliseconds.sum()) if self.done else 0.0,
            "images_per_second_without_decoding": 1e3 / float(milliseconds[1:].sum()) if self.done else 0.0,
            "images": self.done,
            "failed": self.failed,
            "failure": self.failure,
        }


def our_operators(recipe: Any) -> Operators:
    """Returns our operators of the recipe as functions of the image alone."""
    generator = np.random.default_rng(0)

    def bound(operator: Any) -> Callable[[Any], Any]:
        return (lambda image: operator(image, generator)) if getattr(operator, "random", False) else operator

    return [bound(operator) for operator in build_operators(recipe, "recipe", TRAIN_OPERATORS)]


def measure(photos: Sequence[bytes], paddleclas_dir: str | None, repeats: int) -> dict[str, Any]:
    """Measures in this process. The two sides take turns photo by photo, so that a busy machine slows both alike."""
    cv2.setNumThreads(1)
    random.seed(0)
    np.random.seed(0)
    recipe = read_recipe()
    sides = {"ours": our_operators(recipe)}
    if paddleclas_dir is not None:
        # Loads PaddleClas and with it Paddle, which nothing else here needs.
        from ppcls_ext.plugin import checkout_operators

        sides["paddleclas"] = checkout_operators(paddleclas_dir, recipe)
    names = [next(iter(entry)) for entry in recipe]
    timers = {side: Timer(names) for side in sides}
    for repeat in range(repeats + 1):
        for photo in photos:
            for side, operators in sides.items():
                timers[side].run(operators, photo, count=repeat > 0)
    results: dict[str, Any] = {side: timer.result() for side, timer in timers.items()}
    results["photos"] = len(photos)
    results["repeats"] = repeats
    if paddleclas_dir is not None:
        ours, theirs = results["ours"], results["paddleclas"]
        for key, name in (("images_per_second", "speedup"), ("images_per_second_without_decoding", "speedup_bare")):
            results[name] = ours[key] / theirs[key] if theirs[key] else None
    return results


def run_pipeline_benchmark(
    photo_folder: str | os.PathLike[str] | None = None,
    paddleclas_dir: str | os.PathLike[str] | None = None,
    repeats: int = 10,
) -> dict[str, Any]:
    """Measures the input pipeline of the ImageNet recipe on one core, without worker processes.

    Args:
        photo_folder: JPEG photographs; :func:`sample_photos` when absent.
        paddleclas_dir: a PaddleClas checkout to measure in the same run.
        repeats: passes over the photographs after one to warm up.

    Returns:
        ``ours`` and ``paddleclas`` (if asked for): ``milliseconds`` by operator, ``images_per_second``,
        ``images_per_second_without_decoding``, ``images``, ``failed``, ``failure`` (the last message); ``speedup`` with
        and ``speedup_bare`` without JPEG decoding; ``photos`` and ``repeats``.

    Raises:
        UserError: the photographs or the checkout cannot be used.
    """
    command = [sys.executable, "-m", "classification.data.pipeline_benchmark", "--repeats", str(repeats)]
    if photo_folder is not None:
        command += ["--photos", os.path.abspath(photo_folder)]
    if paddleclas_dir is not None:
        command += ["--paddleclas", os.path.abspath(paddleclas_dir)]
    search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": search_path}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    for line in finished.stdout.splitlines():
        if line.startswith(MARKER):
            answer = json.loads(line[len(MARKER) :])
            if "error" in answer:
                raise UserError(answer["error"])
            return answer
    last_line = (finished.stderr.strip().splitlines() or ["no output"])[-1]
    raise UserError(f"the pipeline benchmark failed with exit status {finished.returncode}: {last_line}")


def markdown_rows(results: dict[str, Any]) -> list[list[str]]:
    """Returns the results as rows of a table: head, one row an operator, sums, images/s, failures."""
    sides = [side for side in ("ours", "paddleclas") if side in results]
    rows = [["operator, ms an image", *sides]]
    for name in results["ours"]["milliseconds"]:
        rows.append([name, *(f"{results[side]['milliseconds'][name]:.2f}" for side in sides)])
    for key, title in (
        ("images_per_second", "images/s"),
        ("images_per_second_without_decoding", "images/s without decoding"),
    ):
        rows.append([title, *(f"{results[side][key]:.0f}" for side in sides)])
    rows.append(["images that failed", *(f"{results[side]['failed']} of {_attempts(results[side])}" for side in sides)])
    return rows


def _attempts(result: dict[str, Any]) -> int:
    return result["images"] + result["failed"]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos")
    parser.add_argument("--paddleclas")
    parser.add_argument("--repeats", type=int, required=True)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        answer = measure(read_photos(arguments.photos), arguments.paddleclas, arguments.repeats)
    except UserError as error:
        answer = {"error": str(error)}
    sys.stdout.write(f"\n{MARKER}{json.dumps(answer)}\n")


if __name__ == "__main__":
    _main()
