"""``inference.yml``: what an export folder holds, how images are prepared for it, and what its outputs mean."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.runtime.artefacts import Artefact, read_artefacts
from ppcls_ext.runtime.nms import NmsSettings
from ppcls_ext.runtime.outputs import OutputForm
from ppcls_ext.runtime.topk import TopkSettings
from ppcls_ext.utils.errors import UserError

DESCRIPTION_FILE = "inference.yml"
# The first version described the files of Paddle alone; it is still read.
FIRST_VERSION, FORMAT_VERSION = 1, 2
SECTIONS = ("format_version", "task", "model", "input", "preprocess", "postprocess")
CLASSIFICATION, DETECTION = "classification", "detection"
# How detections are chosen among candidates, by the name in the file.
SELECTIONS: dict[str, type[NmsSettings] | type[TopkSettings]] = {"MultiClassNMS": NmsSettings, "TopK": TopkSettings}
NO_SELECTION = "none"


@dataclass(kw_only=True)
class Export:
    """What ``inference.yml`` says of every export.

    Attributes:
        folder: where the files stand.
        model_name: the architecture, for people.
        class_num: how many classes the model tells apart.
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

    def document_of(self, task: str, output: Any, postprocess: dict[str, Any]) -> dict[str, Any]:
        """Returns the content of ``inference.yml``, given what differs between the tasks."""
        return {
            "format_version": FORMAT_VERSION,
            "task": task,
            "model": {"name": self.model_name, "class_num": self.class_num},
            "input": {"name": "image", "shape": self.input_shape, "dtype": "float32"},
            "output": output,
            "preprocess": self.preprocess,
            "postprocess": postprocess,
            "classes": self.classes,
            "artefacts": [artefact.to_document() for artefact in self.artefacts],
        }


@dataclass(kw_only=True)
class Description(Export):
    """The content of a classifier's ``inference.yml``.

    Attributes:
        topk: how many classes a prediction shows.
    """

    topk: int

    def to_document(self) -> dict[str, Any]:
        """Returns the content of ``inference.yml``."""
        output = {"name": "logits", "shape": [-1, self.class_num], "dtype": "float32"}
        return self.document_of(CLASSIFICATION, output, {"name": "Topk", "topk": self.topk})


@dataclass(kw_only=True)
class DetectionDescription(Export):
    """The content of a detector's ``inference.yml``.

    Attributes:
        form: what the outputs of the network mean.
    """

    form: OutputForm

    def to_document(self) -> dict[str, Any]:
        """Returns the content of ``inference.yml``."""
        selection = self.form.selection
        settings = {} if selection is None else dataclasses.asdict(selection)
        names = [name for name, kind in SELECTIONS.items() if isinstance(selection, kind)]
        postprocess = {"name": names[0] if names else NO_SELECTION, "in_graph": self.form.final, **settings}
        document = self.document_of(DETECTION, self._outputs(), postprocess)
        if self.form.scaled:
            document["input"]["scale_factor"] = {
                "name": "scale_factor", "shape": [-1, 2], "dtype": "float32",
                "meaning": "height and width of the input, divided by those of the image",
            }  # fmt: skip
        return document

    def _outputs(self) -> list[dict[str, Any]]:
        corners = ["x1", "y1", "x2", "y2"]
        common = {"dtype": "float32", "pixels_of": "image" if self.form.scaled else "input"}
        columns = ["class", "score", *corners]
        meanings: dict[str, Any] = {
            "detections": {"shape": [-1, -1, 6], "columns": columns, **common},
            "boxes": {"shape": [-1, 6], "columns": columns, **common},
            "count": {"shape": [-1], "dtype": "int32", "meaning": "boxes of each image"},
        }
        if not self.form.final:
            meanings = {
                "boxes": {"shape": [-1, -1, 4], "columns": corners, **common},
                "scores": {"shape": [-1, self.class_num, -1], "dtype": "float32"},
            }
        return [{"name": name, **meanings[name]} for name in self.form.outputs]


def read_description(folder: str | os.PathLike[str]) -> Description | DetectionDescription:
    """Reads the ``inference.yml`` of an export folder. The files are not looked at: see ``Artefact.check_files``.

    Raises:
        UserError: the folder is no export, of an unknown version, or the file is incomplete.
    """
    root = Path(folder)
    file = root / DESCRIPTION_FILE
    if not file.is_file():
        raise UserError(f"{root}: not an export folder (no {DESCRIPTION_FILE}); tools/export_model.py makes one")
    document = _read_document(file)
    try:
        read = _read_classification if document["task"] == CLASSIFICATION else _read_detection
        return read(document, _read_common(document, root))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: damaged, a key is missing or of the wrong type ({error!r})") from error


def _read_common(document: dict[str, Any], root: Path) -> dict[str, Any]:
    return {
        "folder": root,
        "model_name": str(document["model"]["name"]),
        "class_num": int(document["model"]["class_num"]),
        "input_shape": [int(size) for size in document["input"]["shape"]],
        "preprocess": list(document["preprocess"]),
        "classes": [str(name) for name in document["classes"]] if document.get("classes") else None,
        "artefacts": read_artefacts(document, document["format_version"] == FIRST_VERSION),
    }


def _read_classification(document: dict[str, Any], common: dict[str, Any]) -> Description:
    return Description(**common, topk=int(document["postprocess"]["topk"]))


def _read_detection(document: dict[str, Any], common: dict[str, Any]) -> DetectionDescription:
    postprocess = dict(document["postprocess"])
    name, final = postprocess.pop("name"), postprocess.pop("in_graph")
    if name not in (*SELECTIONS, NO_SELECTION) or not isinstance(final, bool) or (name == NO_SELECTION and not final):
        raise ValueError(f"postprocess: name {name}, in_graph {final}")
    scaled = "scale_factor" in document["input"]
    if name == NO_SELECTION:
        return DetectionDescription(**common, form=OutputForm(None, final, scaled))
    types = {field.name: type(field.default) for field in dataclasses.fields(SELECTIONS[name])}
    settings = {key: types[key](value) for key, value in postprocess.items()}
    return DetectionDescription(**common, form=OutputForm(SELECTIONS[name](**settings), final, scaled))


def _read_document(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())})") from error
    missing = [key for key in SECTIONS if not isinstance(document, dict) or key not in document]
    if missing:
        raise UserError(f"{file}: damaged, without {', '.join(missing)}")
    versions = (FIRST_VERSION, FORMAT_VERSION)
    if document["format_version"] not in versions or document["task"] not in (CLASSIFICATION, DETECTION):
        raise UserError(
            f"{file}: format {document['format_version']} of task '{document['task']}' is not supported; this version "
            f"reads formats {FIRST_VERSION} and {FORMAT_VERSION} of '{CLASSIFICATION}' and '{DETECTION}'; "
            "export again with tools/export_model.py"
        )
    return document
