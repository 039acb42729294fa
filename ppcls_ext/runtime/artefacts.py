"""The files of an export: one artefact for each format and precision, each with its checksums and measured error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of


@dataclass(kw_only=True)
class Artefact:
    """The network in one format and precision.

    Attributes:
        format: ``paddle``, ``onnx`` or ``openvino``.
        precision: ``fp32``, ``fp16``, ``bf16``, ...
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
        """Checks that the files are those that were exported.

        Raises:
            UserError: a file is missing or was changed since the export.
        """
        for name in self.files:
            file = folder / name
            if not file.is_file():
                raise UserError(f"{file}: missing from the export; run tools/export_model.py again")
            if sha256_of(file) != self.checksums.get(name):
                raise UserError(
                    f"{file}: refused, its content is not what was exported (its SHA-256 differs from the one in the "
                    "description); copy the folder again or run tools/export_model.py again"
                )


def read_artefacts(document: Mapping[str, Any], first_format: bool) -> list[Artefact]:
    """Reads the artefacts of an ``inference.yml``.

    Args:
        document: its content.
        first_format: it has the first format version, which held Paddle's files only and told no precision.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a key is missing or of the wrong type.
    """
    if first_format:
        files = document["files"]
        entry = {"format": "paddle", "precision": "fp32", "verification": document.get("verification")}
        names = {"model": files["model"], "weights": files["params"]}
        return [_read_entry({**entry, "files": names, "sha256": files["sha256"]})]
    artefacts = [_read_entry(entry) for entry in document["artefacts"]]
    if not artefacts:
        raise ValueError("artefacts: none")
    return artefacts


def _read_entry(entry: Mapping[str, Any]) -> Artefact:
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
