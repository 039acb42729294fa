"""Data sets out of data sets: pictures as files in class folders, and CIFAR-100 or a part in the official layout."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from classification.build import evaluation_label_order, open_dataset
from classification.config import Config
from classification.data.datasets import Cifar100, DatasetError, ImageFolder
from ppcls_ext.engine.loader import copies_before
from ppcls_ext.preprocess import depth
from ppcls_ext.preprocess.decode import decode_image, read_image
from ppcls_ext.utils.errors import UserError, suggestion
from ppcls_ext.utils.files import atomic_folder, atomic_path
from ppcls_ext.utils.names import meant_path, unused_name
from ppcls_ext.utils.outputs import SAMPLES, Output, claim_outputs, record_outputs

CIFAR_FOLDER = "cifar-100-python"
# As in the official archive, whose files Python 2 wrote.
PICKLE_PROTOCOL = 2
# Officially numbered in alphabetical order.
CLASSES = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
]  # fmt: skip
IMAGES_A_CLASS = {"train": 500, "test": 100}


class _Part(NamedTuple):
    """Pictures ``uint8`` RGB ``[N, 32, 32, 3]`` and the classes' numbers ``[N]``."""

    images: np.ndarray
    labels: np.ndarray


def write_samples(config: Config, part: str, count: int, output: Path, seed: int = 0) -> int:
    """Writes ``count`` images (0: all) of ``DataLoader.PART``, as even over the classes as it goes; returns how many.

    They go to ``output/CLASS/INDEX.png``, a folder that is written whole or not at all.

    Raises:
        UserError: a number is negative, or the section or the data are missing.
    """
    for option, value in (("--count", count), ("--seed", seed)):
        if value < 0:
            raise UserError(f"{option} must not be negative, got {value}")
    settings = config.eval if part == "Eval" else config.train
    if settings is None:
        raise UserError(f"{config.document.path}: has no section DataLoader.{part}")
    dataset = open_dataset(config, settings, evaluation_label_order(config) if part == "Eval" else None)
    chosen = choose_evenly(dataset.labels, count or len(dataset), seed)
    statement = depth.resolve_auto_range(config.document.data, lambda index: dataset.load(index)[0], len(dataset))
    value_range = depth.range_of(statement)
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
                folders[label] = unused_name(re.sub(r"[^\w .+-]", "_", name), used)
            target = folder / folders[label]
            target.mkdir(exist_ok=True)
            Image.fromarray(image).save(target / f"{index:06d}.png")
        text = f"{len(chosen)} samples of {settings.key} of {config.document.path}\n"
        (folder / SAMPLES).write_text(text, encoding="utf-8", errors="backslashreplace")
    return len(chosen)


def choose_evenly(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns up to ``count`` indices into labels, ``int64`` rising, taking one of each class in turn."""
    order = np.random.default_rng(seed).permutation(len(labels))
    # Rank of each image within its class: all first ones come before all second ones.
    turn = copies_before(labels[order])
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def write_subset(source: str, every: int | None, output: Path, overwrite: bool = False) -> list[str]:
    """Writes every ``every``-th class in alphabetical order to a new archive, with labels from 0; returns their names.

    Source is the official archive or a folder with ``train/CLASS/*.png`` and ``test/CLASS/*.png``; without ``every``,
    the fifth part of an archive and the whole of a folder are written. Coarse labels are left out: each groups five
    classes, of which few are left. With ``overwrite`` a file that is there and not ours is replaced.

    Raises:
        UserError: a number is out of range, the source is missing, damaged or not CIFAR-100, or the output may not be
            written.
    """
    if not output.name.endswith(".tar.gz"):
        raise UserError(f"--output {output}: must end with .tar.gz")
    claim_outputs([Output("--output", output)], [source], overwrite=overwrite)
    parts: dict[str, Cifar100 | _Part]
    if is_folder := (folder := meant_path(source)).is_dir():
        parts, names = {mode: _read_part(folder / mode, count) for mode, count in IMAGES_A_CLASS.items()}, CLASSES
    else:
        archive_parts = {mode: Cifar100(source, mode) for mode in IMAGES_A_CLASS}
        parts, names = {**archive_parts}, archive_parts["train"].class_names
    if not names:
        raise UserError(f"{source}: has no 'meta' with the names of its classes")
    every = every if every is not None else 1 if is_folder else 5
    if not 1 <= every <= len(names):
        raise UserError(f"--every must be from 1 to {len(names)}, the number of classes, got {every}")
    kept = sorted(range(len(names)), key=lambda label: names[label])[::every]
    kept_names = [names[label] for label in kept]
    contents: dict[str, Any] = {mode: _batch(data, kept) for mode, data in parts.items()}
    contents["meta"] = {b"fine_label_names": [name.encode() for name in kept_names]}
    with atomic_path(output) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for name, content in contents.items():
            data = pickle.dumps(content, protocol=PICKLE_PROTOCOL)
            member = tarfile.TarInfo(f"{CIFAR_FOLDER}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    record_outputs([output])
    return kept_names


def _read_part(root: Path, wanted: int) -> _Part:
    """Reads ``root/CLASS/*.png``, ``wanted`` images a class, sorted by class and name.

    A class may be spelled with spaces or hyphens in the place of its underscores.

    Raises:
        UserError: a folder is missing or no class of CIFAR-100, or a class has another number or size of images.
    """
    try:
        folder = ImageFolder(str(root))
    except DatasetError as error:
        raise UserError(f"{error.message} (a folder holds train/CLASS/*.png and test/CLASS/*.png)") from error
    labels_of = []
    for stated in folder.class_names or ():
        name = re.sub(r"[ _-]+", "_", stated.strip().lower())
        if name not in CLASSES:
            raise UserError(f"{root}: '{stated}' is no class of CIFAR-100{suggestion(name, CLASSES)}")
        labels_of.append(CLASSES.index(name))
    labels = np.array(labels_of)[folder.labels]
    counts = np.bincount(labels, minlength=len(CLASSES))
    if len(wrong := np.flatnonzero(counts != wanted)):
        others = f" (and another number of {len(wrong) - 1} more classes)" if len(wrong) > 1 else ""
        raise UserError(f"{root}: has {counts[wrong[0]]} images of '{CLASSES[wrong[0]]}' in place of {wanted}{others}")
    # Class folders may be spelled so that they lie in another order.
    order = np.argsort(labels, kind="stable")
    images = np.empty((len(order), 32, 32, 3), np.uint8)
    for place, index in enumerate(order.tolist()):
        image = read_image(folder.name_of(index))
        if image.shape != images.shape[1:]:
            height, width = image.shape[:2]
            raise UserError(f"{folder.name_of(index)}: has {width} x {height} pixels in place of 32 x 32")
        images[place] = image
    return _Part(images, labels[order])


def _batch(data: Cifar100 | _Part, kept: list[int]) -> dict[bytes, Any]:
    """Returns the images of the classes ``kept`` in their order in ``data``, in the form of the official archive."""
    indices = np.flatnonzero(np.isin(data.labels, kept))
    labels = [kept.index(label) for label in data.labels[indices].tolist()]
    # [N, 32, 32, 3] -> [N, 3072], channel after channel.
    pixels = data.images[indices].transpose(0, 3, 1, 2).reshape(len(indices), -1)
    return {
        b"data": np.ascontiguousarray(pixels),
        b"fine_labels": labels,
        # Texts, because each of Python 3's bytes is a call in this protocol, and a reader has a limit to those.
        b"filenames": [f"{index}.png" for index in indices],
    }
