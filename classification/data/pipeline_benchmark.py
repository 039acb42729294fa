"""Time of the ImageNet training recipe's operators on one core, beside PaddleClas's own in the same run."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from classification.data.operators import TRAIN_OPERATORS
from ppcls_ext.preprocess.operators import build_operators
from ppcls_ext.utils.config import load_config_file
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import images_in
from ppcls_ext.utils.tables import markdown_table
from ppcls_ext.utils.workers import THREAD_VARIABLES, run_in_process

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "econvnext_mini.yaml"
# Seconds; PaddleClas may take a while with many photographs.
LONGEST = 3600.0
Operators = Sequence[Callable[[Any], Any]]


def sample_photos(count: int = 36, seed: int = 0) -> list[bytes]:
    """Returns JPEG files of different sizes, 300 x 400 to 640 x 480 pixels, lying and standing, quality 88 to 96.

    They are parts of the two photographs that scikit-learn ships (a palace and a flower, 640 x 427).
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UserError("the photographs come with scikit-learn: install it, or give --photos FOLDER") from error
    # Large enough that every part lies inside.
    images = load_sample_images().images
    originals = [cv2.cvtColor(cv2.resize(image, (720, 480)), cv2.COLOR_RGB2BGR) for image in images]
    generator = np.random.default_rng(seed)
    files = []
    for number in range(count):
        height, width = generator.integers((300, 400), (481, 641))
        top, left = generator.integers((481 - height, 721 - width))
        photo = originals[number % len(originals)][top : top + height, left : left + width]
        if generator.random() < 0.3:
            photo = np.ascontiguousarray(np.rot90(photo))
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(generator.integers(88, 97))]
        files.append(cv2.imencode(".jpg", photo, quality)[1].tobytes())
    return files


def run_pipeline_benchmark(
    photo_folder: str | os.PathLike[str] | None = None,
    paddleclas_dir: str | os.PathLike[str] | None = None,
    repeats: int = 10,
) -> dict[str, Any]:
    """Measures the training operators of the ImageNet recipe on one core, in a fresh process without loader workers.

    It takes the JPEG photographs of a folder (else `sample_photos`), ``repeats`` times after once to warm up, and a
    PaddleClas checkout to measure in the same run.

    Returns:
        ``ours`` and ``paddleclas`` (if asked for): ``milliseconds`` by operator, ``images_per_second``,
        ``images_per_second_without_decoding``, ``images``, ``failed``, ``failure`` (the last message); ``speedup`` with
        and ``speedup_bare`` without JPEG decoding; ``photos`` and ``repeats``.

    Raises:
        UserError: the photographs or the checkout cannot be used.
    """
    # The number of threads of the numerical libraries is fixed when they are loaded.
    environment = dict.fromkeys(THREAD_VARIABLES, "1")
    return run_in_process(_measure, photo_folder, paddleclas_dir, repeats, seconds=LONGEST, environment=environment)


def _measure(photo_folder: Any, paddleclas_dir: Any, repeats: int) -> dict[str, Any]:
    """Measures in this process; both sides take turns photo by photo, so that a busy machine slows both alike."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    random.seed(0)
    np.random.seed(0)
    photos = [path.read_bytes() for path in images_in(Path(photo_folder))] if photo_folder else sample_photos()
    if not photos:
        raise UserError(f"{photo_folder} holds no images to measure with")
    recipe = load_config_file(CONFIG).data["DataLoader"]["Train"]["dataset"]["transform_ops"]
    generator = np.random.default_rng(0)

    def bound(operator: Any) -> Callable[[Any], Any]:
        return (lambda image: operator(image, generator)) if getattr(operator, "random", False) else operator

    sides: dict[str, Operators] = {
        "ours": [bound(operator) for operator in build_operators(recipe, "recipe", TRAIN_OPERATORS)]
    }
    if paddleclas_dir is not None:
        # Loads PaddleClas and with it Paddle, which nothing else here needs.
        from ppcls_ext.plugin import checkout_operators

        sides["paddleclas"] = checkout_operators(paddleclas_dir, recipe)
    names = [next(iter(entry)) for entry in recipe]
    seconds = {side: np.zeros(len(names)) for side in sides}
    counts: dict[str, dict[str, Any]] = {side: {"images": 0, "failed": 0, "failure": ""} for side in sides}
    for repeat in range(repeats + 1):
        for photo in photos:
            for side, operators in sides.items():
                times = np.zeros(len(names))
                image: Any = photo
                try:
                    for number, operator in enumerate(operators):
                        # CPU time of this thread: other processes do not count.
                        start = time.thread_time()
                        image = operator(image)
                        times[number] = time.thread_time() - start
                except Exception as error:  # noqa: BLE001  (foreign operators; their failures are a result)
                    counts[side]["failed"] += repeat > 0
                    counts[side]["failure"] = str(error)
                    continue
                if repeat:
                    seconds[side] += times
                    counts[side]["images"] += 1
    results: dict[str, Any] = {"photos": len(photos), "repeats": repeats}
    for side, sums in seconds.items():
        milliseconds = 1e3 * sums / max(counts[side]["images"], 1)
        done = counts[side]["images"] > 0
        results[side] = {
            "milliseconds": dict(zip(names, milliseconds.tolist(), strict=True)),
            "images_per_second": 1e3 / float(milliseconds.sum()) if done else 0.0,
            "images_per_second_without_decoding": 1e3 / float(milliseconds[1:].sum()) if done else 0.0,
            **counts[side],
        }
    if "paddleclas" in results:
        for key, name in (("images_per_second", "speedup"), ("images_per_second_without_decoding", "speedup_bare")):
            theirs = results["paddleclas"][key]
            results[name] = results["ours"][key] / theirs if theirs else None
    return results


def pipeline_table(results: dict[str, Any]) -> str:
    """Returns the results as a Markdown table: one row an operator, images/s, failures."""
    sides = [side for side in ("ours", "paddleclas") if side in results]
    columns = []
    for result in (results[side] for side in sides):
        speeds = [result["images_per_second"], result["images_per_second_without_decoding"]]
        attempts = result["images"] + result["failed"]
        columns.append([*(f"{time:.2f}" for time in result["milliseconds"].values()),
                        *(f"{speed:.0f}" for speed in speeds), f"{result['failed']} of {attempts}"])  # fmt: skip
    titles = [*results["ours"]["milliseconds"], "images/s", "images/s without decoding", "images that failed"]
    rows = [list(row) for row in zip(titles, *columns, strict=True)]
    return markdown_table(["operator, ms an image", *sides], rows)
