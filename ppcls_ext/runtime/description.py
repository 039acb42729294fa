"""``inference.yml``: what an export folder holds, how images are prepared for it, and what its outputs mean."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.common.errors import UserError
from ppcls_ext.common.files import sha256_of

DESCRIPTION_FILE = "inference.yml"
FORMAT_VERSION = 1
SECTIONS = ("format_version", "task", "model", "input", "preprocess", "postprocess", "files")


@dataclass
class Description:
    """The content of ``inference.yml``.

    Attributes:
        folder: where the files stand.
        model_name: the architecture, for people.
        class_num: length of the model's output vector (logits).
        input_shape: ``[-1, 3, H, W]``; -1 is free.
        preprocess: operators that make a model input of an image, as in the ``Infer.transforms`` of a configuration.
        topk: how many classes a prediction shows.
        classes: their names, or None where unknown.
        model_file, params_file: file names inside ``folder``.
        checksums: SHA-256 of the files by name.
        verification: what the export measured when it compared itself with the trained model.
    """

    folder: Path
    model_name: str
    class_num: int
    input_shape: list[int]
    preprocess: list[Any]
    topk: int
    classes: list[str] | None
    model_file: str
    params_file: str
    checksums: dict[str, str]
    verification: dict[str, Any] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """Returns the content of ``inference.yml``."""
        return {
            "format_version": FORMAT_VERSION,
            "task": "classification",
            "model": {"name": self.model_name, "class_num": self.class_num},
            "input": {"name": "image", "shape": self.input_shape, "dtype": "float32"},
            "output": {"name": "logits", "shape": [-1, self.class_num], "dtype": "float32"},
            "preprocess": self.preprocess,
            "postprocess": {"name": "Topk", "topk": self.topk},
            "classes": self.classes,
            "files": {"model": self.model_file, "params": self.params_file, "sha256": self.checksums},
            "verification": self.verification,
        }


def read_description(folder: str | os.PathLike[str]) -> Description:
    """Reads the ``inference.yml`` of an export folder and checks that its files are those that were exported.

    Raises:
        UserError: the folder is no export, of an unknown version, incomplete, or a file was changed since.
    """
    root = Path(folder)
    file = root / DESCRIPTION_FILE
    if not file.is_file():
        raise UserError(f"{root}: not an export folder (no {DESCRIPTION_FILE}); tools/export_model.py makes one")
    document = _read_document(file)
    try:
        description = Description(
            folder=root,
            model_name=str(document["model"]["name"]),
            class_num=int(document["model"]["class_num"]),
            input_shape=[int(size) for size in document["input"]["shape"]],
            preprocess=list(document["preprocess"]),
            topk=int(document["postprocess"]["topk"]),
            classes=[str(name) for name in document["classes"]] if document.get("classes") else None,
            model_file=str(document["files"]["model"]),
            params_file=str(document["files"]["params"]),
            checksums={str(name): str(digest) for name, digest in document["files"]["sha256"].items()},
            verification=dict(document.get("verification") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: damaged, a key is missing or of the wrong type ({error!r})") from error
    _check_files(description)
    return description


def _read_document(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())})") from error
    missing = [key for key in SECTIONS if not isinstance(document, dict) or key not in document]
    if missing:
        raise UserError(f"{file}: damaged, without {', '.join(missing)}")
    if document["format_version"] != FORMAT_VERSION or document["task"] != "classification":
        raise UserError(
            f"{file}: format {document['format_version']} of task '{document['task']}' is not supported; this version "
            f"reads format {FORMAT_VERSION} of 'classification'"
        )
    return document


def _check_files(description: Description) -> None:
    for name in (description.model_file, description.params_file):
        file = description.folder / name
        if Path(name).name != name:
            raise UserError(f"{description.folder / DESCRIPTION_FILE}: '{name}' must be a file name without a folder")
        if not file.is_file():
            raise UserError(f"{file}: missing from the export; run tools/export_model.py again")
        if sha256_of(file) != description.checksums.get(name):
            raise UserError(
                f"{file}: refused, its content is not what was exported (its SHA-256 differs from {DESCRIPTION_FILE}); "
                "copy the folder again or run tools/export_model.py again"
            )
