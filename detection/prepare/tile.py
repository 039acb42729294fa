"""Cuts a prepared data set into tiles, the same windows that prediction uses (``prepare_data.py tile``)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detection.annotations import SMALLEST_REST, Box, Frame, Ledger
from detection.prepare.commands import MOST_THREADS, PROGRESS
from detection.prepare.readers import part_of
from detection.prepare.stored import open_prepared, read_stored, write_stored
from detection.prepare.write import place_image, write_made_set
from ppcls_ext.runtime.tiles import OVERLAP, Window, windows
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder
from ppcls_ext.utils.machine import available_cores

logger = logging.getLogger(__name__)
WHOLE = 0.999


def cut_tiles(
    source: Path,
    output: Path,
    tile: int,
    overlap: float = OVERLAP,
    min_visible: float = 0.3,
    keep_empty: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Cuts all parts of a prepared data set; boxes are cut with the pictures.

    A tile is called after its picture and its place (``name_x0640_y0512.png``), and its entry in the COCO file keeps
    both (``tile_of``, ``tile``), by which a later split keeps the tiles of a picture together. A picture that is no
    larger than a tile stays as it is.

    Args:
        source: folder of a prepared data set.
        output: the folder to write.
        tile: side of a tile in pixels.
        overlap: share of a side that neighbours have in common, at least.
        min_visible: a box of which a smaller share lies in a tile is a region to ignore there.
        keep_empty: share of the tiles without boxes that training keeps; an evaluation needs all.
        seed: chooses these.
        overwrite: replace a prepared data set that is there.

    Returns:
        The content of ``report.json``.

    Raises:
        UserError: an option is out of range, the source is no prepared set, or a picture cannot be read.
    """
    for option, share in (("min-visible", min_visible), ("keep-empty", keep_empty)):
        if not 0 <= share <= 1:
            raise UserError(f"--{option} must be from 0 to 1, got {share:g}")
    if seed < 0:
        raise UserError(f"--seed must not be negative, got {seed}")
    windows(1, 1, tile, overlap)
    ledger, counts = Ledger(), Counter(pictures=0, boxes=0, whole=0, cut=0, ignored=0, empty_kept=0, empty_left_out=0)
    sets, classes = open_prepared(source, output, "prepared", overwrite, ledger)
    stems = Counter(PurePosixPath(frame.name).with_suffix("") for coco in sets.values() for frame in coco.frames)

    def tiles_of(frame: Frame) -> tuple[list[tuple[Frame, list[str]]], Counter[str]]:
        """Writes the tiles of a picture; returns them with what became of the boxes in each, and what is counted."""
        places = windows(frame.width, frame.height, tile, overlap)
        pixels = read_stored(frame.image) if len(places) > 1 else None
        if pixels is not None and pixels.shape[:2] != (frame.height, frame.width):
            words = "has {1} x {0} pixels, the annotations say {2} x {3}: prepare it with tools/prepare_data.py first"
            raise UserError(f"{frame.image}: {words.format(*pixels.shape[:2], frame.width, frame.height)}")
        generator = np.random.default_rng([seed, frame.image_id or 0])
        name, tiles = PurePosixPath(frame.name), []
        # a.jpg and a.png keep their suffixes in the names of their tiles.
        stem = name.stem if stems[name.with_suffix("")] == 1 else name.name
        # Range and opening angle of a fan are those of the whole picture.
        kept = {key: value for key, value in frame.metadata.items() if key != "sonar" or pixels is None}
        for place in places:
            boxes = list(_boxes_in(frame.boxes, place, min_visible))
            if not boxes and training and generator.random() >= keep_empty:
                continue
            target = images / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if pixels is None:
                place_image(frame.image, target, "link")
            else:
                part = pixels[place.y : place.y + place.height, place.x : place.x + place.width]
                target = write_stored(target.with_name(f"{stem}_x{place.x:04d}_y{place.y:04d}"), part)
            cut = replace(
                frame,
                target=target.relative_to(images).as_posix(),
                width=place.width,
                height=place.height,
                boxes=[box for box, _ in boxes],
                metadata={"tile_of": frame.name, **kept, "tile": list(place)},
            )
            tiles.append((cut, [kind for _, kind in boxes]))
        return tiles, Counter(empty_left_out=len(places) - len(tiles), pictures=1, boxes=len(frame.boxes))

    parts: dict[str, list[Frame]] = {}
    with atomic_folder(output) as folder, ThreadPoolExecutor(min(available_cores(), MOST_THREADS)) as threads:
        images = folder / "images"
        images.mkdir()
        for part, coco in sets.items():
            parts[part] = []
            training = part_of(coco.path, source) == "train"
            for tiles, own in threads.map(tiles_of, coco.frames):
                for cut, kinds in tiles:
                    parts[part].append(cut)
                    counts.update(kinds or ["empty_kept"])
                counts.update(own)
                if counts["pictures"] % PROGRESS == 0:
                    logger.info("cut %d pictures", counts["pictures"])
        report = write_made_set(
            folder, parts, classes, source=source.name, tile=tile, overlap=overlap, min_visible=min_visible,
            keep_empty=keep_empty, seed=seed, counts=dict(counts), entries=ledger.entries,
        )  # fmt: skip
    for line in ledger.summary():
        logger.warning("%s", line)
    tiles = sum(map(len, parts.values()))
    words = "%d pictures became %d tiles, %d of them without boxes; %d tiles of training without boxes were left out"
    logger.info(words, counts["pictures"], tiles, counts["empty_kept"], counts["empty_left_out"])
    words = "%d boxes became %d whole ones, %d that are cut, and %d regions to ignore (less than %g visible)"
    logger.info(words, *(counts[name] for name in ("boxes", "whole", "cut", "ignored")), min_visible)
    logger.info("wrote %s", output)
    return report


def _boxes_in(boxes: list[Box], place: Window, min_visible: float) -> Iterator[tuple[Box, str]]:
    """Yields what a window shows of each box, and whether it is ``whole``, ``cut`` or ``ignored``."""
    for box in boxes:
        x, y, width, height = box.xywh
        left, top = max(x - place.x, 0.0), max(y - place.y, 0.0)
        sides = min(x + width - place.x, place.width) - left, min(y + height - place.y, place.height) - top
        if min(sides) < min(SMALLEST_REST, width, height):
            continue
        share, extra = sides[0] * sides[1] / (width * height), box.extra
        kind = "whole" if share >= WHOLE else "cut" if share >= min_visible or box.crowd else "ignored"
        if kind != "whole":
            extra = {**extra, "truncated": 1} if kind == "cut" else {**extra, "iscrowd": 1}
        yield Box(box.category, (left, top, *sides), extra), kind
