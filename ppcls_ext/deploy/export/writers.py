"""Writes the files of each format, checks them in the engine that will run them, and describes them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ppcls_ext.deploy.export.formats import FORMATS, PRECISIONS, PrecisionRow, Request, supported_pairs
from ppcls_ext.deploy.export.onnx_conversion import convert, halve_weights
from ppcls_ext.runtime.backends import open_backend
from ppcls_ext.runtime.description import DESCRIPTION_FILE, Artefact, Description, DetectionDescription
from ppcls_ext.utils.errors import UserError
from ppcls_ext.utils.files import atomic_folder, sha256_of
from ppcls_ext.utils.machine import available_cores

if TYPE_CHECKING:
    import onnx

FILE_STEM = "inference"
# The precision that every model bears.
EXACT = "fp32"
# Names of the engines in reports.
ENGINES = {"paddle": "Paddle Inference", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass
class Network:
    """A network in the forms that files are made of; each is made once, when it is first asked for.

    Attributes:
        scratch: a folder that is thrown away afterwards.
        save: writes Paddle's files ``STEM.json`` and ``STEM.pdiparams`` of the whole network, given the path of STEM.
        outputs: names of its outputs.
        save_core: the same of the part that is converted to ONNX; None for all of it.
        core_outputs: names of the outputs of that part.
        complete: adds to the converted part what was left out of it.
    """

    scratch: Path
    save: Callable[[Path], None]
    outputs: Sequence[str]
    save_core: Callable[[Path], None] | None = None
    core_outputs: Sequence[str] = ()
    complete: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None
    _made: dict[str, Any] = field(default_factory=dict)

    def paddle(self) -> list[Path]:
        """Returns the files ``.json`` and ``.pdiparams`` of the whole network."""
        return self._saved("whole", self.save)

    def onnx(self) -> onnx.ModelProto:
        """Returns the network as ONNX, whole and with undamaged epsilons."""
        if "onnx" not in self._made:
            if self.save_core is None:
                model = convert(*self.paddle(), self.outputs)
            else:
                model = convert(*self._saved("core", self.save_core), self.core_outputs)
            self._made["onnx"] = model if self.complete is None else self.complete(model)
        return self._made["onnx"]

    def _saved(self, name: str, save: Callable[[Path], None]) -> list[Path]:
        if name not in self._made:
            save(self.scratch / name)
            self._made[name] = [self.scratch / f"{name}{suffix}" for suffix in (".json", ".pdiparams")]
        return self._made[name]


def write_paddle(network: Network, folder: Path, stem: str, precision: str) -> list[str]:
    """Writes ``inference.json`` and ``.pdiparams``. The precision is chosen by the engine: all share these files."""
    # A network without weights has one file only.
    files = {f"{FILE_STEM}{file.suffix}": file for file in network.paddle() if file.is_file()}
    for name, file in files.items():
        shutil.copyfile(file, folder / name)
    return list(files)


def write_onnx(network: Network, folder: Path, stem: str, precision: str) -> list[str]:
    """Writes ``STEM.onnx``."""
    import onnx

    model = halve_weights(network.onnx()) if precision == "fp16" else network.onnx()
    onnx.save(model, str(folder / f"{stem}.onnx"))
    return [f"{stem}.onnx"]


def write_openvino(network: Network, folder: Path, stem: str, precision: str) -> list[str]:
    """Writes ``STEM.xml`` and ``STEM.bin``; 16-bit precisions store their weights in float16.

    Raises:
        UserError: OpenVINO does not know an operator of the network.
    """
    from ppcls_ext.runtime.backends import import_openvino

    openvino = import_openvino()
    source = network.onnx().SerializeToString()
    try:
        model = openvino.Core().read_model(source)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"OpenVINO cannot read this network, whose ONNX form it is made of: {reason}") from error
    openvino.save_model(model, str(folder / f"{stem}.xml"), compress_to_fp16=precision in ("fp16", "bf16"))
    return [f"{stem}.xml", f"{stem}.bin"]


WRITERS: dict[str, Callable[[Network, Path, str, str], list[str]]] = {
    "paddle": write_paddle,
    "onnx": write_onnx,
    "openvino": write_openvino,
}
Check = Callable[[dict[str, Any], PrecisionRow], dict[str, Any]]


def write_export(
    target: Path,
    description: Description | DetectionDescription,
    network_in: Callable[[Path], Network],
    requests: Sequence[Request],
    check: Check,
) -> None:
    """Writes an export folder in one step, and only if everything agrees.

    Args:
        target: is replaced.
        description: of the export; its ``artefacts`` are filled and its ``folder`` becomes ``target``.
        network_in: makes the network to write, given a folder that is thrown away afterwards.
        requests, check: see ``write_artefacts``.

    Raises:
        UserError: see ``write_artefacts``.
    """
    with atomic_folder(target) as temporary, tempfile.TemporaryDirectory(prefix="export-") as scratch:
        description.folder = temporary
        write_artefacts(network_in(Path(scratch)), requests, description, check)
        text = yaml.safe_dump(description.to_document(), sort_keys=False, allow_unicode=True)
        (temporary / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
    description.folder = target


def write_artefacts(
    network: Network, requests: Sequence[Request], description: Description | DetectionDescription, check: Check
) -> None:
    """Writes, reopens and checks every artefact that is asked for, and adds them to ``description``.

    Args:
        network: what to write.
        requests: see ``plan``.
        description: names the folder to write to; its ``artefacts`` are filled.
        check: given engines by name and the limits of their precision, compares them with the model and returns what
            was measured.

    Raises:
        UserError: the network cannot be converted, or what ``check`` raises.
    """
    for request in requests:
        first = all(artefact.format != request.format for artefact in description.artefacts)
        stem = FILE_STEM if first else f"{FILE_STEM}_{request.precision}"
        files = WRITERS[request.format](network, description.folder, stem, request.precision)
        artefact = Artefact(
            format=request.format,
            precision=request.precision,
            model_file=files[0],
            weights_file=files[1] if len(files) > 1 else None,
            checksums={name: sha256_of(description.folder / name) for name in files},
        )
        engines = open_engines(description, artefact)
        artefact.computed_in = next(iter(engines.values())).computed_in
        artefact.verification = _checked(check, engines, request)
        description.artefacts.append(artefact)


def _checked(check: Check, engines: dict[str, Any], request: Request) -> dict[str, Any]:
    """Returns what ``check`` measured.

    Raises:
        UserError: it refused the artefact. Whether a model bears few bits is seen only here: the line then says which
            other pairs there are.
    """
    try:
        return check(engines, PRECISIONS[request.precision])
    except UserError as error:
        if request.precision == EXACT:
            raise
        others = supported_pairs(without=request)
        raise UserError(
            f"{error}: {request.precision} of format '{request.format}' does not suit this model; other pairs are "
            f"{others}"
        ) from error


def open_engines(description: Description | DetectionDescription, artefact: Artefact) -> dict[str, Any]:
    """Opens an artefact with every engine that it will run on, by a name for reports."""
    name = ENGINES[artefact.format]
    backend = FORMATS[artefact.format].backend
    threads = available_cores()
    if artefact.format != "paddle":
        label = name if artefact.precision == "fp32" else f"{name}, {artefact.precision}"
        return {label: open_backend(description, artefact, backend, threads)}
    if artefact.precision != "fp32":
        # Without oneDNN Paddle computes in float32, which is checked as such.
        return {f"{name}, oneDNN, {artefact.precision}": open_backend(description, artefact, backend, threads)}
    return {
        f"{name}, oneDNN {'on' if onednn else 'off'}": open_backend(description, artefact, backend, threads, onednn)
        for onednn in (True, False)
    }
