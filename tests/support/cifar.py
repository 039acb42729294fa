"""CIFAR-100's archive in small."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np


def cifar_archive(path: Path, images: int = 32) -> Path:
    """Writes an archive of the official layout with random pictures of three classes."""
    generator = np.random.default_rng(1)
    with tarfile.open(path, "w:gz") as archive:
        parts = {name: images for name in ("train", "test")}
        contents: dict[str, Any] = {
            name: {
                b"data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
                b"fine_labels": [index % 3 for index in range(count)],
                b"coarse_labels": [0] * count,
                b"filenames": [b"%d.png" % index for index in range(count)],
            }
            for name, count in parts.items()
        }
        contents["meta"] = {b"fine_label_names": [b"apple", b"bear", b"cloud"], b"coarse_label_names": [b"all"]}
        for name, content in contents.items():
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
