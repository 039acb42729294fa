"""What a visitor is told when a request is not answered as asked."""

from __future__ import annotations

from http import HTTPStatus


class RefusalError(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of the HTTP answer.
        message: one line for a person; it becomes ``error`` of the JSON answer.
        headers: more headers of the answer.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.message = message
        self.headers = headers or {}
        super().__init__(message)
