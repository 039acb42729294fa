"""The picture in a ``multipart/form-data`` body, as ``curl -F image=@photo.jpg`` and HTML forms send it (RFC 7578)."""

from __future__ import annotations

import email.message
import email.utils
import unicodedata
from http import HTTPStatus

from ppcls_ext.deploy.serve.refusal import RefusalError

FIELD = "image"
# Part headers and boundaries around the picture.
OVERHEAD = 16_384
LONGEST_BOUNDARY = 70
LONGEST_NAME = 120


def is_multipart(content_type: str) -> bool:
    """Tells whether a ``Content-Type`` announces a form; anything else is taken as the picture itself."""
    return _header(content_type).get_content_type() == "multipart/form-data"


def picture_of(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Returns the picture in a form and its name as it may be shown; the name decides nothing.

    The field is called ``image``; where none is, a single field that came from a file is taken.

    Raises:
        RefusalError: 400, the form is damaged, or holds no picture or several.
    """
    boundary = _parameter(_header(content_type), "boundary", "content-type")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY or not boundary.isascii():
        raise _damaged("its boundary is missing or too long")
    parts = _parts(body, boundary.encode("ascii"))
    named = [part for part in parts if _parameter(part[0], "name") == FIELD]
    chosen = named or [part for part in parts if _parameter(part[0], "filename")]
    if len(chosen) != 1:
        raise RefusalError(
            HTTPStatus.BAD_REQUEST,
            f"the form must hold one picture in the field '{FIELD}', it holds {len(chosen)}",
        )
    header, content = chosen[0]
    return content, presentable(_parameter(header, "filename"))


def _parts(body: bytes, boundary: bytes) -> list[tuple[email.message.Message, bytes]]:
    """Splits a form into the headers and the content of its fields."""
    delimiter = b"\r\n--" + boundary
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise _damaged("its last boundary is missing")
    parts = []
    for piece in pieces[1:-1]:
        head, separator, content = piece.lstrip(b" \t").partition(b"\r\n\r\n")
        if not separator or not head.startswith(b"\r\n") or len(head) > OVERHEAD:
            raise _damaged("a part has no header")
        message = email.message.Message()
        for line in head[2:].decode("utf-8", errors="replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if not colon:
                raise _damaged("a part's header has no colon")
            message[name.strip()] = value.strip()
        parts.append((message, content))
    return parts


def _parameter(message: email.message.Message, name: str, header: str = "content-disposition") -> str:
    """Returns a parameter of a header, empty without one.

    Raises:
        RefusalError: 400, it is damaged.
    """
    try:
        return email.utils.collapse_rfc2231_value(message.get_param(name, "", header))
    except (TypeError, ValueError, LookupError) as error:
        # The library fails so over parts of a parameter that are numbered wrongly (RFC 2231).
        raise _damaged(f"a parameter of {header} cannot be read") from error


def _header(content_type: str) -> email.message.Message:
    message = email.message.Message()
    message["Content-Type"] = content_type
    return message


def _damaged(why: str) -> RefusalError:
    return RefusalError(HTTPStatus.BAD_REQUEST, f"the form is damaged: {why}")


def presentable(name: str) -> str:
    """Returns the last part of a file name without characters that steer a terminal or turn text around, shortened."""
    last = name.replace("\\", "/").rpartition("/")[2]
    # Categories C*: control, format (direction marks), surrogate, private use, unassigned.
    shown = "".join("?" if unicodedata.category(letter).startswith("C") else letter for letter in last)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[:LONGEST_NAME]}..."
