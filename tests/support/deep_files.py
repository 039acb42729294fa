"""Files with more than 8 bits a sample, of every kind that is read, made by the tests."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.image_files import encoded_with_opencv, encoded_with_pillow
from tests.support.pictures import smooth_picture


def twelve_bits(seed: int, width: int = 48, height: int = 40) -> np.ndarray:
    """Returns a grey picture of values from 0 to 4095 that holds both, ``uint16`` ``[height, width]``."""
    values = smooth_picture(seed, width, height)[:, :, 0].astype(np.uint16) * 16 + 7
    values[0, :2] = 0, 4095
    return values


def packed_tiff(values: np.ndarray) -> bytes:
    """Returns an uncompressed TIFF whose samples, ``uint16`` ``[H, W]`` with W even, take 12 bits each."""
    pairs = values.reshape(-1, 2).astype(np.uint32)
    joined = pairs[:, 0] << 12 | pairs[:, 1]
    data = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], axis=1).astype(np.uint8).tobytes()
    return plain_tiff(data, *values.shape, bits=12)


def plain_tiff(data: bytes, height: int, width: int, bits: int, form: int = 1) -> bytes:
    """Returns an uncompressed grey TIFF; ``form`` is 1 for whole numbers without a sign, 2 with one, 3 for floats."""
    # Width, height, bits, no compression, black is zero, where the data begin, one channel, rows, bytes, form.
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
            (279, len(data)), (339, form)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def grey_files(values: np.ndarray) -> dict[str, bytes]:
    """Returns kind -> bytes of a file with these samples, ``uint16`` ``[H, W]`` up to 4095, without colour."""
    height, width = values.shape
    picture = Image.fromarray(values)
    swapped = Image.frombytes("I;16B", (width, height), values.astype(">u2").tobytes())
    return {
        "png": encoded_with_pillow(picture, "PNG"),
        "tiff": encoded_with_pillow(picture, "TIFF"),
        "tiff, compressed": encoded_with_pillow(picture, "TIFF", compression="tiff_lzw"),
        "tiff, big-endian": encoded_with_pillow(swapped, "TIFF"),
        "tiff of 12 bits, packed": packed_tiff(values),
        "tiff of 32 bits": encoded_with_pillow(Image.fromarray(values.astype(np.int32)), "TIFF"),
        "tiff of floats": encoded_with_pillow(Image.fromarray(values.astype(np.float32)), "TIFF"),
        "pgm of 16 bits": f"P5 {width} {height} 65535\n".encode() + values.astype(">u2").tobytes(),
        "pgm of 12 bits": f"P5 {width} {height} 4095\n".encode() + values.astype(">u2").tobytes(),
    }


def colour_files(values: np.ndarray) -> dict[str, bytes]:
    """Returns kind -> bytes of a file with these samples, ``uint16`` RGB ``[H, W, 3]``."""
    height, width = values.shape[:2]
    opaque = np.full((height, width, 1), 65535, np.uint16)
    turned = np.ascontiguousarray(values[::-1, :, ::-1])
    return {
        "png": encoded_with_opencv(".png", np.ascontiguousarray(values[:, :, ::-1])),
        "png with alpha": encoded_with_opencv(".png", np.dstack([values[:, :, ::-1], opaque])),
        "tiff": encoded_with_opencv(".tiff", np.ascontiguousarray(values[:, :, ::-1])),
        "tiff held upside down": with_orientation(encoded_with_opencv(".tiff", turned), 4),
        "ppm": f"P6 {width} {height} 65535\n".encode() + values.astype(">u2").tobytes(),
    }


def with_orientation(tiff: bytes, orientation: int) -> bytes:
    """Returns a little-endian TIFF whose picture is to be turned; the directory, one tag longer, moves to the end."""
    (place,) = struct.unpack("<I", tiff[4:8])
    (count,) = struct.unpack("<H", tiff[place : place + 2])
    entries = [tiff[place + 2 + 12 * row : place + 14 + 12 * row] for row in range(count)]
    entries = [entry for entry in entries if struct.unpack("<H", entry[:2]) != (274,)]
    entries = sorted([*entries, struct.pack("<HHIHH", 274, 3, 1, orientation, 0)], key=lambda entry: entry[1::-1])
    tiff += bytes(len(tiff) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory


def write_deep_folders(root: Path, classes: int = 2, images: int = 6) -> Path:
    """Writes ``root/class_0/00.png`` and so on, 12 bits in files of 16; returns ``root``."""
    for label in range(classes):
        (root / f"class_{label}").mkdir(parents=True)
        for number in range(images):
            values = twelve_bits(1000 * label + number)
            Image.fromarray(values).save(root / f"class_{label}" / f"{number:02d}.png")
    return root
