"""A smaller CIFAR-100: every n-th class, in the layout of the official archive, for whatever reads that."""

from __future__ import annotations

import argparse
import io
import logging
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from classification.data.datasets.cifar import Cifar100
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_path

logger = logging.getLogger(__name__)
FOLDER = "cifar-100-python"
# As in the official archive, whose files Python 2 wrote.
PICKLE_PROTOCOL = 2


def add_cifar100_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``prepare_data.py cifar100`` takes."""
    parser.add_argument("source", metavar="ARCHIVE", help="the official cifar-100-python.tar.gz")
    parser.add_argument("--every", type=int, default=5, metavar="N", help="keep every N-th class by name (5)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.tar.gz", help="archive to write")


def prepare_cifar100(arguments: argparse.Namespace) -> None:
    """Writes the subset that the command line asks for."""
    names = write_subset(arguments.source, arguments.every, arguments.output)
    logger.info("%s: %d classes: %s", arguments.output, len(names), ", ".join(names))


def write_subset(source: str, every: int, output: Path) -> list[str]:
    """Writes every ``every``-th class in alphabetical order to a new archive, with labels from 0 in that order.

    Coarse labels are all 0: of the official ones each groups five classes, of which few are left.

    Args:
        source: the official archive.
        every: 1 keeps all classes.
        output: archive to write, ``.tar.gz``.

    Returns:
        The names of the classes kept.

    Raises:
        UserError: a number is out of range, the source is missing or damaged, or the output would replace it.
    """
    if not output.name.endswith(".tar.gz"):
        raise UserError(f"--output {output}: must end with .tar.gz")
    if output.exists() and output.samefile(source):
        raise UserError(f"--output {output}: is the archive that is read; choose another file")
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
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
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
