"""The two files that ``torch.save`` writes: a zip archive, and before PyTorch 1.6 pickles followed by raw numbers.

Nothing is unpacked to the disk: an entry's name is only ever compared.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from ppcls_ext.weights.names import shown
from ppcls_ext.weights.pickle_claims import RefusedError, refuse_claims
from ppcls_ext.weights.torch_pickles import StorageRecord, TorchUnpickler

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
# The number that opens a file of the older format, and the only version of it.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
OLD_VERSION = 1001
# Before the numbers of each storage there stands their count, as 8 bytes.
COUNT_BYTES = 8
PICKLE = "data.pkl"
BYTE_ORDERS = {b"little": "<", b"big": ">"}
ZIP_FAULTS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error)
RESAVE = "save it anew with today's PyTorch"


@dataclass(frozen=True)
class TorchContent:
    """What a file of ``torch.save`` holds.

    Attributes:
        value: the saved object; tensors in it are ``TensorRecord``.
        read: returns the bytes of a storage, as many as its record says or more; valid while the file is open.
        byte_order: of all numbers, "<" or ">".
    """

    value: Any
    read: Callable[[StorageRecord], bytes]
    byte_order: str


def open_torch_file(stream: IO[bytes], size: int) -> TorchContent:
    """Reads all of a file of ``torch.save`` but the numbers.

    Args:
        stream: the file, at its beginning.
        size: its bytes.

    Raises:
        RefusedError: it is of neither format, holds what weights never need, or contradicts itself.
    """
    start = stream.read(len(ZIP_START))
    stream.seek(0)
    if start == ZIP_START:
        return _open_archive(stream, size)
    if start.startswith(PICKLE_START):
        return _open_old(stream, size)
    raise RefusedError(f"it begins neither as a zip archive nor as a pickle, as files of torch.save do; {RESAVE}")


def _open_archive(stream: IO[bytes], size: int) -> TorchContent:
    try:
        archive = zipfile.ZipFile(stream)
    except ZIP_FAULTS as error:
        raise RefusedError(f"its zip archive is cut short or damaged ({shown(error)})") from error
    entries = _checked_entries(archive, size)
    pickles = [name for name in entries if name.rpartition("/")[2] == PICKLE]
    if len(pickles) != 1:
        raise RefusedError(f"its zip archive holds {len(pickles)} {PICKLE}, expected one: not a file of torch.save")
    folder = pickles[0].removesuffix(PICKLE)
    if any(name.startswith(f"{folder}code/") for name in entries):
        raise RefusedError("it is a TorchScript program, not a checkpoint: save the weights alone")
    stream_of_pickle = io.BytesIO(_content(archive, entries[pickles[0]]))
    order = _content(archive, entries[f"{folder}byteorder"]) if f"{folder}byteorder" in entries else b"little"
    if order not in BYTE_ORDERS:
        raise RefusedError(f"its byte order is {order[:20]!r}")

    def read(record: StorageRecord) -> bytes:
        entry = entries.get(f"{folder}data/{record.key}")
        key = shown(record.key)
        if entry is None:
            raise RefusedError(f"the numbers '{key}' are missing in it")
        if entry.file_size < record.bytes:
            raise RefusedError(f"the numbers '{key}' are {entry.file_size} bytes instead of {record.bytes}")
        return _content(archive, entry)

    return TorchContent(_unpickled(stream_of_pickle)[0], read, BYTE_ORDERS[order])


def _unpickled(stream: IO[bytes]) -> tuple[Any, dict[str, StorageRecord]]:
    """Returns what the pickle at the place of ``stream`` holds, and the storages that it names."""
    refuse_claims(stream)
    unpickler = TorchUnpickler(stream)
    return unpickler.load(), unpickler.storages


def _checked_entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the archive's entries by name. PyTorch compresses nothing, so that no entry is larger than the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name, fault = entry.filename, None
        if name in entries:
            fault = "twice"
        elif name.startswith("/") or "\\" in name or ".." in name.split("/"):
            fault = "a path out of the archive"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            fault = "compressed or encrypted, which torch.save never does"
        if fault:
            raise RefusedError(f"its zip archive holds '{shown(name)}', {fault}")
        entries[name] = entry
    if sum(entry.file_size for entry in entries.values()) > size:
        raise RefusedError("its zip archive claims more content than the file has bytes")
    return entries


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        content = archive.read(entry)
    except ZIP_FAULTS as error:  # among others, the checksum of the content
        raise RefusedError(f"its zip archive is damaged at '{shown(entry.filename)}' ({shown(error)})") from error
    if len(content) != entry.file_size:
        raise RefusedError(f"its zip archive is cut short at '{shown(entry.filename)}'")
    return content


def _open_old(stream: IO[bytes], size: int) -> TorchContent:
    if _unpickled(stream)[0] != MAGIC_NUMBER:
        raise RefusedError("it is a pickle, but none of torch.save")
    version, _ = _unpickled(stream)
    if version != OLD_VERSION:
        raise RefusedError(f"it is of version {shown(repr(version))} of the older format of torch.save; {RESAVE}")
    system, _ = _unpickled(stream)
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    value, storages = _unpickled(stream)
    keys, _ = _unpickled(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedError("it does not list its numbers")
    places = _places_of_storages(stream, size, keys, storages, "little" if little else "big")

    def read(record: StorageRecord) -> bytes:
        if record.key not in places:
            raise RefusedError(f"the numbers '{shown(record.key)}' are missing in it")
        stream.seek(places[record.key])
        return stream.read(record.bytes)

    return TorchContent(value, read, "<" if little else ">")


def _places_of_storages(
    stream: IO[bytes], size: int, keys: list[str], storages: dict[str, StorageRecord], byte_order: str
) -> dict[str, int]:
    """Returns where the numbers of each storage begin in a file of the older format."""
    places = {}
    for key in keys:
        if key not in storages or key in places:
            raise RefusedError(f"it lists the numbers '{shown(key)}', which no tensor has, or lists them twice")
        record = storages[key]
        count = int.from_bytes(stream.read(COUNT_BYTES), byte_order)
        places[key] = stream.tell()
        if count != record.count or places[key] + record.bytes > size:
            raise RefusedError(f"it is cut short or damaged at the numbers '{shown(key)}'")
        stream.seek(places[key] + record.bytes)
    return places
