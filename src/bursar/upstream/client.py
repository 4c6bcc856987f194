"""The only importer of the HTTP client: `send(hold) -> Reply`, where the hold is what pays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass


class NotSentError(Exception):
    """The connection was never made: no byte of the request left; the hold may be voided."""


class UnansweredError(Exception):
    """The request may have been sent and no answer, or only part of one, came: the hold is captured whole."""


@dataclass(slots=True)
class Reply:
    """The provider's answer: status and headers as received, and the body in the chunks in which it arrives."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content_type: str
    chunks: AsyncIterator[bytes]
    """Raises UnansweredError when the body ends before its end."""
