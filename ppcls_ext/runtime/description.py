"""``inference.yml``: what an export folder holds, how images are prepared for it, and what its outputs mean."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppcls_ext.preprocess.detection import Prepared
from ppcls_ext.runtime.nms import NmsSettings, TopkSettings, suppress_across_classes
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of
from ppcls_ext.utils.texts import read_text

DESCRIPTION_FILE = "inference.yml"
FORMAT_VERSION = 2
SECTIONS = ("format_version", "task", "model", "input", "preprocess", "postprocess")
CLASSIFICATION, DETECTION = "classification", "detection"
# How detections are chosen among candidates, by the name in the file.
SELECTIONS: dict[str, type[NmsSettings] | type[TopkSettings]] = {"MultiClassNMS": NmsSettings, "TopK": TopkSettings}
NO_SELECTION = "none"


@dataclass(kw_only=True)
class Artefact:
    """The network in one format and precision.

    Attributes:
        format: ``paddle``, ``onnx`` or ``openvino``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        model_file: name of the file to open, inside the export folder.
        weights_file: name of a second file with the weights, or None if they are inside the first.
        checksums: SHA-256 of the files by name.
        computed_in: type of the numbers that the engine computed with when the export was checked.
        verification: what the export measured when it compared this artefact with the trained model.
    """

    format: str
    precision: str
    model_file: str
    weights_file: str | None
    checksums: dict[str, str]
    computed_in: str = "float32"
    verification: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Format and precision, for people."""
        return f"{self.format} {self.precision}"

    @property
    def files(self) -> list[str]:
        """Names of the files inside the export folder."""
        return [name for name in (self.model_file, self.weights_file) if name is not None]

    def to_document(self) -> dict[str, Any]:
        """Returns the entry of ``inference.yml``."""
        return {
            "format": self.format,
            "precision": self.precision,
            "computed_in": self.computed_in,
            "files": {"model": self.model_file, "weights": self.weights_file},
            "sha256": self.checksums,
            "verification": self.verification,
        }

    def check_files(self, folder: Path) -> None:
        """Checks that the files are those that were exported; a ``UserError`` if one is missing or was changed."""
        for name in self.files:
            file = folder / name
            if not file.is_file():
                raise UserError(f"{file}: missing from the export; run tools/export_model.py again")
            if sha256_of(file) != self.checksums.get(name):
                raise UserError(
                    f"{file}: refused, its content is not what was exported (its SHA-256 differs from the one in the "
                    "description); copy the folder again or run tools/export_model.py again"
                )


@dataclass(frozen=True)
class OutputForm:
    """Form of the outputs of a detector's network.

    Attributes:
        selection: how detections are chosen among the candidates; None for a network that says nothing about it.
        final: the network gives detections. If not, it gives the boxes of all anchors, of which ``selection`` chooses.
        scaled: the network takes scale factors and gives boxes in pixels of the image before it was resized. If not,
            its boxes are in pixels of its input.
    """

    selection: NmsSettings | TopkSettings | None = None
    final: bool = True
    scaled: bool = True

    @property
    def suppression(self) -> str:
        """Where overlapping boxes are thinned out (NMS): ``in the file``, ``by the runtime`` or ``none needed``."""
        if not isinstance(self.selection, NmsSettings):
            return "none needed"
        return "in the file" if self.final else "by the runtime"

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in their order."""
        if not self.final:
            return ["boxes", "scores"]
        return ["detections"] if isinstance(self.selection, TopkSettings) else ["boxes", "count"]

    def rows(self, outputs: Sequence[np.ndarray], inputs: Sequence[Prepared]) -> list[np.ndarray]:
        """Reads what ``Engine.detect`` gave for the prepared images of a batch.

        Returns:
            For each image ``float32`` ``[n, 6]``: class, score, x1, y1, x2, y2 in pixels of the image.
        """
        if not self.final:
            selection = self.selection or NmsSettings()
            chosen = [selection.select(boxes, scores) for boxes, scores in zip(*outputs, strict=True)]
        elif len(outputs) == 1:
            chosen = list(outputs[0])
        else:
            rows, counts = outputs
            chosen = np.split(rows.reshape(-1, 6), np.cumsum(counts)[:-1])
        if isinstance(self.selection, NmsSettings) and self.selection.class_agnostic:
            chosen = [suppress_across_classes(rows, self.selection) for rows in chosen]
        return [
            np.concatenate([rows[:, :2], self._in_image(rows[:, 2:], prepared)], axis=1)
            for rows, prepared in zip(chosen, inputs, strict=True)
        ]

    def boxes(self, boxes: np.ndarray, inputs: Sequence[Prepared]) -> np.ndarray:
        """Turns the boxes of all anchors ``[N, A, 4]`` into pixels of the images."""
        return np.stack([self._in_image(own, prepared) for own, prepared in zip(boxes, inputs, strict=True)])

    def _in_image(self, boxes: np.ndarray, prepared: Prepared) -> np.ndarray:
        """Takes boxes ``[n, 4]`` back to the image: off with the padding, then by the scale."""
        scale = np.tile(prepared.scale_factor[::-1], 2)
        offset = np.tile(prepared.pad[::-1], 2)
        return boxes - offset / scale if self.scaled else (boxes - offset) / scale

    def to_document(self, class_num: int) -> list[dict[str, Any]]:
        """Returns the section ``output`` of ``inference.yml``."""
        corners = ["x1", "y1", "x2", "y2"]
        common = {"dtype": "float32", "pixels_of": "image" if self.scaled else "input"}
        meanings: dict[str, Any] = {
            "detections": {"shape": [-1, -1, 6], "columns": ["class", "score", *corners], **common},
            "boxes": {"shape": [-1, 6], "columns": ["class", "score", *corners], **common},
            "count": {"shape": [-1], "dtype": "int32", "meaning": "boxes of each image"},
        }
        if not self.final:
            meanings = {
                "boxes": {"shape": [-1, -1, 4], "columns": corners, **common},
                "scores": {"shape": [-1, class_num, -1], "dtype": "float32"},
            }
        return [{"name": name, **meanings[name]} for name in self.outputs]


@dataclass(frozen=True)
class Thresholds:
    """Score thresholds with the highest F1 on an evaluation set: the recommended ones.

    Attributes:
        overall: of all classes together.
        by_class: by class number; ``None``, for which ``overall`` counts, where no box of the class is annotated or
            found.
        images: how many they were found on.
    """

    overall: float
    by_class: list[float | None]
    images: int

    def limits(self) -> np.ndarray:
        """Returns the threshold of each class, ``[class_num]``."""
        return np.array([self.overall if limit is None else limit for limit in self.by_class])


@dataclass(kw_only=True)
class Export:
    """The fields of ``inference.yml`` that every export has.

    Attributes:
        input_shape: ``[-1, 3, H, W]``; -1 is free.
        preprocess: operators that make a model input of an image, as the configuration writes them.
        classes: their names, or None where unknown.
        artefacts: the network, once for each format and precision; the first is opened unless another is asked for.
    """

    folder: Path
    model_name: str
    class_num: int
    input_shape: list[int]
    preprocess: list[Any]
    classes: list[str] | None
    artefacts: list[Artefact] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """Returns the content of ``inference.yml``; the tasks fill in what is empty here."""
        return {
            "format_version": FORMAT_VERSION,
            "task": None,
            "model": {"name": self.model_name, "class_num": self.class_num},
            "input": {"name": "image", "shape": self.input_shape, "dtype": "float32"},
            "output": None,
            "preprocess": self.preprocess,
            "postprocess": None,
            "classes": self.classes,
            "artefacts": [artefact.to_document() for artefact in self.artefacts],
        }

    def write(self) -> None:
        """Writes ``inference.yml`` into the folder."""
        text = yaml.safe_dump(self.to_document(), sort_keys=False, allow_unicode=True)
        (self.folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")


@dataclass(kw_only=True)
class Description(Export):
    """The content of a classifier's ``inference.yml``; ``topk``: how many classes a prediction shows."""

    topk: int

    def to_document(self) -> dict[str, Any]:
        """Returns the content of ``inference.yml``."""
        return {
            **super().to_document(),
            "task": CLASSIFICATION,
            "output": {"name": "logits", "shape": [-1, self.class_num], "dtype": "float32"},
            "postprocess": {"name": "Topk", "topk": self.topk},
        }


@dataclass(kw_only=True)
class DetectionDescription(Export):
    """The content of a detector's ``inference.yml``; thresholds are there where these very weights were evaluated."""

    form: OutputForm
    thresholds: Thresholds | None = None

    def to_document(self) -> dict[str, Any]:
        """Returns the content of ``inference.yml``."""
        selection = self.form.selection
        name = next((name for name, kind in SELECTIONS.items() if isinstance(selection, kind)), NO_SELECTION)
        settings = {} if selection is None else dataclasses.asdict(selection)
        document = {
            **super().to_document(),
            "task": DETECTION,
            "output": self.form.to_document(self.class_num),
            "postprocess": {"name": name, "in_graph": self.form.final, **settings},
        }
        if self.thresholds is not None:
            document["thresholds"] = dataclasses.asdict(self.thresholds)
        if self.form.scaled:
            document["input"]["scale_factor"] = {
                "name": "scale_factor", "shape": [-1, 2], "dtype": "float32",
                "meaning": "height and width of the input, divided by those of the image",
            }  # fmt: skip
        return document


def read_description(folder: str | os.PathLike[str]) -> Description | DetectionDescription:
    """Reads the ``inference.yml`` of an export folder. The files are not looked at: see ``Artefact.check_files``.

    Raises:
        UserError: the folder is no export, of an unknown version, or the file is incomplete.
    """
    root = Path(folder)
    file = root / DESCRIPTION_FILE
    if not file.is_file():
        raise UserError(f"{root}: not an export folder (no {DESCRIPTION_FILE}); tools/export_model.py makes one")
    try:
        document = yaml.safe_load(read_text(file))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())})") from error
    missing = [key for key in SECTIONS if not isinstance(document, dict) or key not in document]
    if missing:
        raise UserError(f"{file}: damaged, without {', '.join(missing)}")
    version, task = document["format_version"], document["task"]
    if version != FORMAT_VERSION or task not in (CLASSIFICATION, DETECTION):
        raise UserError(
            f"{file}: format {version} of task '{task}' is not supported; this version reads format {FORMAT_VERSION} "
            f"of '{CLASSIFICATION}' and '{DETECTION}'; export again with tools/export_model.py"
        )
    try:
        if not document["artefacts"]:
            raise ValueError("artefacts: none")
        common = {
            "folder": root,
            "model_name": str(document["model"]["name"]),
            "class_num": int(document["model"]["class_num"]),
            "input_shape": [int(size) for size in document["input"]["shape"]],
            "preprocess": list(document["preprocess"]),
            "classes": [str(name) for name in document["classes"]] if document.get("classes") else None,
            "artefacts": [_read_artefact(entry) for entry in document["artefacts"]],
        }
        postprocess = dict(document["postprocess"])
        if task == CLASSIFICATION:
            return Description(**common, topk=int(postprocess["topk"]))
        name, final = postprocess.pop("name"), postprocess.pop("in_graph")
        if name not in (*SELECTIONS, NO_SELECTION) or not isinstance(final, bool) or (name, final) == ("none", False):
            raise ValueError(f"postprocess: name {name}, in_graph {final}")
        selection = None
        if name != NO_SELECTION:
            kind = SELECTIONS[name]
            types = {field.name: type(field.default) for field in dataclasses.fields(kind)}
            selection = kind(**{key: types[key](value) for key, value in postprocess.items()})
        form = OutputForm(selection, final, scaled="scale_factor" in document["input"])
        thresholds = document.get("thresholds")
        if thresholds is not None:
            by_class = [None if limit is None else float(limit) for limit in thresholds["by_class"]]
            if len(by_class) != common["class_num"]:
                raise ValueError(f"thresholds: {len(by_class)} for {common['class_num']} classes")
            thresholds = Thresholds(float(thresholds["overall"]), by_class, int(thresholds["images"]))
        return DetectionDescription(**common, form=form, thresholds=thresholds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: damaged, a key is missing or of the wrong type ({error!r})") from error


def _read_artefact(entry: Mapping[str, Any]) -> Artefact:
    weights = entry["files"].get("weights")
    artefact = Artefact(
        format=str(entry["format"]),
        precision=str(entry["precision"]),
        model_file=str(entry["files"]["model"]),
        weights_file=None if weights is None else str(weights),
        checksums={str(name): str(digest) for name, digest in entry["sha256"].items()},
        computed_in=str(entry.get("computed_in", "float32")),
        verification=dict(entry.get("verification") or {}),
    )
    for name in artefact.files:
        if Path(name).name != name:
            raise ValueError(f"'{name}' must be a file name without a folder")
    return artefact
