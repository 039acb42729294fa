"""Data sets out of data sets: pictures as files in class folders, and a smaller CIFAR-100 in the official layout."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from classification.build import evaluation_numbering, open_dataset
from classification.config import Config
from classification.data.datasets import Cifar100
from ppcls_ext.engine.loader import copies_before
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.decode import decode_image
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, atomic_path
from ppcls_ext.utils.names import folded_name
from ppcls_ext.utils.outputs import SAMPLES, Output, claim_outputs, record_outputs

CIFAR_FOLDER = "cifar-100-python"
# As in the official archive, whose files Python 2 wrote.
PICKLE_PROTOCOL = 2


def write_samples(config: Config, part: str, count: int, output: Path, seed: int = 0) -> int:
    """Writes ``count`` images (0: all) of ``DataLoader.PART``, as even over the classes as it goes; returns how many.

    They go to ``output/CLASS/INDEX.png``, a folder that is written whole or not at all.

    Raises:
        UserError: a number is negative, the section or the data are missing, or ``output`` holds something else.
    """
    for option, value in (("--count", count), ("--seed", seed)):
        if value < 0:
            raise UserError(f"{option} must not be negative, got {value}")
    settings = config.eval if part == "Eval" else config.train
    if settings is None:
        raise UserError(f"{config.document.path}: has no section DataLoader.{part}")
    claim_outputs([Output("--output", output, "samples")])
    dataset = open_dataset(config, settings, evaluation_numbering(config) if part == "Eval" else None)
    chosen = choose_evenly(dataset.labels, count or len(dataset), seed)
    value_range = depth.range_of(depth.settle(config.document.data, lambda index: dataset.load(index)[0], len(dataset)))
    folders: dict[int, str] = {}
    used: set[str] = set()
    with atomic_folder(output) as folder:
        for index in chosen.tolist():
            image, label = dataset.load(index)
            if isinstance(image, bytes):
                image = decode_image(image, dataset.name_of(index), value_range)
            if label not in folders:
                # A class may be called "n/a"; a folder may not. Two classes never share one.
                name = dataset.class_names[label] if dataset.class_names else str(label)
                name = re.sub(r"[^\w .+-]", "_", name)
                folders[label] = f"{name}_{label}" if folded_name(name) in used else name
                used.add(folded_name(folders[label]))
            target = folder / folders[label]
            target.mkdir(exist_ok=True)
            Image.fromarray(image).save(target / f"{index:06d}.png")
        text = f"{len(chosen)} samples of {settings.key} of {config.document.path}\n"
        (folder / SAMPLES).write_text(text, encoding="utf-8", errors="backslashreplace")
    return len(chosen)


def choose_evenly(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns up to ``count`` indices into labels, ``int64`` rising, taking one of each class in turn."""
    order = np.random.default_rng(seed).permutation(len(labels))
    # The how-manieth of its class each image is: all first ones come before all second ones.
    turn = copies_before(labels[order])
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def write_subset(source: str, every: int, output: Path, overwrite: bool = False) -> list[str]:
    """Writes every ``every``-th class in alphabetical order to a new archive, with labels from 0; returns their names.

    Source is the official archive. Coarse labels are all 0: of the official ones each groups five classes, of which few
    are left. With ``overwrite`` a file that is there and not ours is replaced.

    Raises:
        UserError: a number is out of range, the source is missing or damaged, or the output may not be
            written.
    """
    if not output.name.endswith(".tar.gz"):
        raise UserError(f"--output {output}: must end with .tar.gz")
    claim_outputs([Output("--output", output)], [source], overwrite=overwrite)
    parts = {mode: Cifar100(source, mode) for mode in ("train", "test")}
    names = parts["train"].class_names
    if not names:
        raise UserError(f"{source}: has no 'meta' with the names of its classes")
    if not 1 <= every <= len(names):
        raise UserError(f"--every must be from 1 to {len(names)}, the number of classes, got {every}")
    kept = sorted(range(len(names)), key=lambda label: names[label])[::every]
    kept_names = [names[label] for label in kept]
    contents: dict[str, Any] = {mode: _batch(data, kept) for mode, data in parts.items()}
    contents["meta"] = {b"fine_label_names": [name.encode() for name in kept_names], b"coarse_label_names": [b"all"]}
    with atomic_path(output) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for name, content in contents.items():
            data = pickle.dumps(content, protocol=PICKLE_PROTOCOL)
            member = tarfile.TarInfo(f"{CIFAR_FOLDER}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    record_outputs([output])
    return kept_names


def _batch(data: Cifar100, kept: list[int]) -> dict[bytes, Any]:
    """Returns the images of the classes ``kept`` in their order in ``data``, in the form of the official archive."""
    indices = np.flatnonzero(np.isin(data.labels, kept))
    # [N, 32, 32, 3] -> [N, 3072], channel after channel.
    pixels = data.images[indices].transpose(0, 3, 1, 2).reshape(len(indices), -1)
    return {
        b"data": np.ascontiguousarray(pixels),
        b"fine_labels": [kept.index(label) for label in data.labels[indices].tolist()],
        b"coarse_labels": [0] * len(indices),
        b"filenames": [b"%d.png" % index for index in indices],
    }
