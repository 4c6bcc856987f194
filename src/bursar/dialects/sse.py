"""Server-sent events: cutting a byte stream into events, and the data of one event."""

from __future__ import annotations

import re

EVENT_BYTES_MAX = 16 * 1024 * 1024
"""The longest event that is kept to be read: the last one of the Responses API repeats the whole response."""

_BOM = b"\xef\xbb\xbf"
# An empty line. A CR at the very end may be half of a CRLF, so it ends a line only when the next byte is known:
# else the LF would begin the next event, and be lost with it when that one is left out.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?=[^\n])){2}")
_BOUNDARY_BYTES_MAX = 4


class Splitter:
    """Cuts chunks into whole events, terminators included; the pieces joined are the bytes that went in."""

    __slots__ = ("_held", "is_overflowed")

    def __init__(self) -> None:
        self._held = bytearray()
        self.is_overflowed = False
        """Whether an event was longer than EVENT_BYTES_MAX; it was given back as it was, and so is all that follows."""

    @property
    def is_empty(self) -> bool:
        """Whether the last byte seen was the end of an event."""
        return not self._held

    def push(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; give the events that are complete with them."""
        held = self._held
        search_from = max(0, len(held) - _BOUNDARY_BYTES_MAX + 1)
        held += chunk
        ends = [match.end() for match in _BOUNDARY.finditer(held, search_from)]
        events = []
        start = 0
        for end in ends:
            events.append(bytes(held[start:end]))
            start = end
        del held[:start]
        if len(held) > EVENT_BYTES_MAX:
            self.is_overflowed = True
            events.append(self.rest())
        return events

    def rest(self) -> bytes:
        """Give the bytes after the last whole event, and forget them."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


def data_of(event: bytes) -> bytes:
    """Give the data of an event: its `data:` lines without their name, joined by line feeds."""
    lines = []
    for line in event.removeprefix(_BOM).splitlines():
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)
