"""The manifest of a checkpoint folder: size and SHA-256 of each file in it, compared before a file is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import sha256_of

MANIFEST = "manifest.json"
FORMAT = "econvnext-paddle checkpoint"
FORMAT_VERSION = 1
STATE = "state.json"


def write_manifest(folder: Path) -> None:
    """Lists every file that stands in ``folder`` now."""
    files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "version": FORMAT_VERSION, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns ``{"bytes": size, "sha256": hexadecimal digits}`` of each file of a checkpoint, by name.

    Raises:
        UserError: there is no manifest, it is damaged or of another format, or it names files outside the folder.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: not a checkpoint of this trainer: {MANIFEST} is missing") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}: damaged checkpoint: {MANIFEST} cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{folder}: not a checkpoint of this trainer: {MANIFEST} does not say '{FORMAT}'")
    if manifest.get("version") != FORMAT_VERSION:
        raise UserError(f"{folder}: checkpoint version {manifest.get('version')}; this software reads {FORMAT_VERSION}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not {"model.pdparams", STATE} <= set(files):
        raise UserError(f"{folder}: damaged checkpoint: {MANIFEST} lists no model.pdparams and {STATE}")
    if any(Path(name).name != name or name == ".." for name in files):
        raise UserError(f"{folder}: refused: {MANIFEST} names files outside the checkpoint")
    if not all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values()):
        raise UserError(f"{folder}: damaged checkpoint: {MANIFEST} lacks a size or a checksum")
    return files


def verify_file(folder: Path, name: str, expected: dict[str, Any]) -> None:
    """Compares one file of a checkpoint with its entry of :func:`read_manifest`.

    Raises:
        UserError: it is missing, cut short or changed; the message names it.
    """
    file = folder / name
    if not file.is_file():
        raise UserError(f"{folder}: damaged checkpoint: {name} is missing")
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise UserError(f"{folder}: damaged checkpoint: {name} has {size} bytes instead of {expected['bytes']}")
    if sha256_of(file) != expected["sha256"]:
        raise UserError(f"{folder}: damaged checkpoint: the content of {name} has changed (SHA-256 differs)")


def verify_weights(file: Path, chosen_by_name: bool) -> None:
    """Compares a weight file, and the ``state.json`` beside it, with the manifest beside them, if there is one.

    Args:
        file: the weight file.
        chosen_by_name: the user named this very file, and not the folder; it may then have been put there later, as a
            converted file is, and a manifest of other software beside it is none of our business.

    Raises:
        UserError: a file is damaged, or the manifest does not list it.
    """
    folder = file.parent
    if not (folder / MANIFEST).is_file() or (chosen_by_name and not (folder / STATE).is_file()):
        return
    files = read_manifest(folder)
    if file.name not in files:
        if chosen_by_name:
            return
        raise UserError(f"{folder}: damaged checkpoint: {MANIFEST} does not list {file.name}")
    for name in (STATE, file.name):
        verify_file(folder, name, files[name])
