"""Finds images and annotation files below a folder, in any nesting, and tells which belong together."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detection.prepare.layout import best
from detection.prepare.records import Frame, Ledger, shown_path
from detection.prepare.voc import VocAnnotation, read_voc
from detection.prepare.xml_files import XmlError
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.image_files import files_in, images_in


@dataclass
class Pairing:
    """Frames of a folder.

    Attributes:
        annotated: images with an annotation file.
        bare: images without one.
    """

    annotated: list[Frame] = field(default_factory=list)
    bare: list[Frame] = field(default_factory=list)


def annotation_files(folder: Path) -> list[Path]:
    """Returns the ``.xml`` files below a folder, sorted; hidden files and folders are left out."""
    return files_in(folder, {".xml"})


def pair_folder(source: Path, ledger: Ledger) -> Pairing:
    """Reads all annotation files below ``source`` and finds the image of each.

    Args:
        source: the raw folder.
        ledger: gets what could not be read or paired; boxes that were read are counted as input.

    Raises:
        UserError: ``source`` is no folder or holds no image.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    images = images_in(source)
    if not images:
        raise UserError(f"{source}: no image below this folder")
    ledger.images["input"] += len(images)
    files = annotation_files(source)
    finder = _Finder(images, files)
    claims: dict[Path, list[tuple[Path, VocAnnotation]]] = defaultdict(list)
    spoilt: set[Path] = set()
    for file in files:
        shown = shown_path(file, source)
        try:
            annotation = read_voc(file)
        except (XmlError, OSError) as error:
            ledger.reject("malformed_xml", shown, str(error))
            spoilt.update(finder.find(file, file.stem)[:1])
            continue
        ledger.take_in(annotation.boxes)
        image = _image_of(file, annotation, finder, shown, ledger)
        if image is not None:
            claims[image].append((file, annotation))
    return _frames(source, images, claims, spoilt, ledger)


class _Finder:
    """Finds the image of an annotation file among those of a name.

    Args:
        images: all images.
        files: all annotation files.
    """

    def __init__(self, images: Sequence[Path], files: Sequence[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for image in images:
            self._by_stem[image.stem].append(image)
        # How many annotation files of one folder have an image of their name in another.
        self._shared = Counter(
            (file.parent, folder)
            for file in files
            for folder in {image.parent for image in self._by_stem.get(file.stem, [])}
        )

    def find(self, file: Path, stem: str, folder: str = "") -> list[Path]:
        """Returns the images that ``file`` may belong to: one if it is clear.

        Of several, those count that share the longest path with the annotation file, then those in the folder that it
        states, then those in the folder with most images for the annotation files beside it.

        Args:
            file: the annotation file.
            stem: name of the image without suffix.
            folder: name of its folder as the annotation states it.
        """
        found = best(self._by_stem.get(stem, []), lambda image: len(_common(file, image).parts))
        found = best(found, lambda image: image.parent.name == folder)
        return best(found, lambda image: self._shared[(file.parent, image.parent)])


def _common(file: Path, image: Path) -> Path:
    return Path(os.path.commonpath([file.parent, image.parent]))


def _image_of(file: Path, annotation: VocAnnotation, finder: _Finder, shown: str, ledger: Ledger) -> Path | None:
    """Finds the image of an annotation: by the file's own name, then by the name that it states."""
    stated = annotation.filename
    candidates = finder.find(file, file.stem, annotation.folder)
    if not candidates:
        candidates = finder.find(file, Path(stated).stem, annotation.folder) if stated else []
        if not candidates:
            ledger.reject("missing_image", shown, "has no image", len(annotation.boxes))
            return None
        ledger.repair("paired_by_stated_name", shown, f"belongs to {candidates[0].name}, which it names")
    elif Path(stated).suffix and Path(stated).stem != file.stem:
        ledger.note("other_name_stated", shown, f"names {stated}, taken for {candidates[0].name}")
    candidates = best(candidates, lambda image: image.name == stated)
    if len(candidates) > 1:
        names = ", ".join(shown_path(image, image.parent) for image in candidates)
        ledger.reject("ambiguous_image", shown, f"fits several images: {names}", len(annotation.boxes))
        return None
    return candidates[0]


def _frames(
    source: Path,
    images: Sequence[Path],
    claims: dict[Path, list[tuple[Path, VocAnnotation]]],
    spoilt: set[Path],
    ledger: Ledger,
) -> Pairing:
    result = Pairing()
    for image in images:
        name = shown_path(image, source)
        found = claims.get(image, [])
        if not found and image in spoilt:
            ledger.reject("malformed_xml", name, "its annotation file could not be read")
            ledger.images["rejected"] += 1
            continue
        if not found:
            result.bare.append(Frame(name, image))
            continue
        shown = [shown_path(file, source) for file, _ in found]
        first = found[0][1]
        if any(other != first for _, other in found[1:]):
            boxes = sum(len(annotation.boxes) for _, annotation in found)
            ledger.reject("two_annotations", name, f"has annotation files that differ: {', '.join(shown)}", boxes)
            ledger.images["rejected"] += 1
            continue
        for file in shown[1:]:
            ledger.reject("two_annotations", file, f"says the same as {shown[0]}", len(first.boxes))
        result.annotated.append(Frame(name, image, first.boxes, shown[0], first.size, first.metadata))
    return result
