"""Meters: they watch a reply go by, keep what they need, and never hold up or change anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Protocol

from bursar.call import Unmetered, Usage
from bursar.dialects.sse import Splitter, data_of

BODY_BYTES_MAX = 32 * 1024 * 1024
"""The longest JSON reply that is kept to be read; a longer one passes, and its hold is captured whole."""
TOKENS_REPORTED_MAX = 1_000_000_000
"""No call uses more; a larger number is not a count."""

_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
_PLAIN_TIERS = frozenset({None, "", "default", "standard", "on_demand"})


class UntrustedError(Exception):
    """Usage that contradicts itself or is no count; carries the reason to the meter, which gives it as Unmetered."""


class Tally(Protocol):
    """Reads the events of one dialect's stream."""

    def take(self, data: bytes) -> bool:
        """Take the data of an event; say whether the client did not ask for this event."""
        ...

    def result(self) -> Usage:
        """Give the usage of the whole stream; raises UntrustedError."""
        ...


class PassMeter:
    """Lets everything by and knows no usage."""

    def __init__(self, why: str) -> None:
        self._why = why

    def feed(self, chunk: bytes) -> bytes:
        """Give the chunk back."""
        return chunk

    def finish(self) -> tuple[bytes, Usage | Unmetered]:
        """Say why there is no usage."""
        return b"", Unmetered(self._why)


class JsonMeter:
    """Reads the usage of a reply that is one JSON object."""

    def __init__(self, usage_of: Callable[[dict[str, object]], Usage]) -> None:
        self._usage_of = usage_of
        self._chunks: list[bytes] = []
        self._bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """Give the chunk back, and keep a copy as long as the whole is not too long."""
        self._bytes += len(chunk)
        if self._bytes <= BODY_BYTES_MAX:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()
        return chunk

    def finish(self) -> tuple[bytes, Usage | Unmetered]:
        """Read the usage out of the whole reply."""
        if self._bytes > BODY_BYTES_MAX:
            return b"", Unmetered("the reply is too long to be read")
        try:
            return b"", self._usage_of(json_object(b"".join(self._chunks)))
        except UntrustedError as error:
            return b"", Unmetered(str(error))


class EventMeter:
    """Reads the usage of a stream of server-sent events; only events that may carry usage are ever cut out and read."""

    def __init__(self, tally: Tally, end: bytes, *also: bytes) -> None:
        """Read the events that have usage in them, or any of these marks."""
        self._tally = tally
        self._marks = (end, *also)
        self._splitter = Splitter()

    def feed(self, chunk: bytes) -> bytes:
        """Give the chunk back as it is, at once."""
        # The common case costs two searches: whole events, none of which can matter.
        if not (self._splitter.is_empty and chunk.endswith(b"\n\n") and not self._may_matter(chunk)):
            self._passed(chunk)
        return chunk

    def finish(self) -> tuple[bytes, Usage | Unmetered]:
        """Give what is kept back, and the usage of the stream."""
        rest = self._passed_last(self._splitter.rest())
        if self._splitter.is_overflowed:
            return rest, Unmetered("an event of the stream is too long to be read")
        try:
            return rest, self._tally.result()
        except UntrustedError as error:
            return rest, Unmetered(str(error))

    def _may_matter(self, data: bytes) -> bool:
        for mark in self._marks:
            if mark in data:
                return True
        # With usage asked for, all other chunks say `"usage":null`: those are the many, and must not be read.
        return b'"usage"' in data and _USAGE_OBJECT.search(data) is not None

    def _is_unasked(self, event: bytes) -> bool:
        return self._may_matter(event) and self._tally.take(data_of(event))

    def _passed(self, chunk: bytes) -> bytes:
        """Read the events that become whole with this chunk; give the bytes that the client gets."""
        if not self._splitter.is_overflowed:
            for event in self._splitter.push(chunk):
                self._is_unasked(event)
        return chunk

    def _passed_last(self, rest: bytes) -> bytes:
        self._is_unasked(rest)
        return b""


class DroppingMeter(EventMeter):
    """As EventMeter, but events that the client did not ask for are left out; so an event goes on when it is whole."""

    def feed(self, chunk: bytes) -> bytes:
        """Give the whole events so far, but for those that the client did not ask for."""
        if self._splitter.is_empty and chunk.endswith(b"\n\n") and not self._may_matter(chunk):
            return chunk
        return self._passed(chunk)

    def _passed(self, chunk: bytes) -> bytes:
        if self._splitter.is_overflowed:
            return chunk
        return b"".join([event for event in self._splitter.push(chunk) if not self._is_unasked(event)])

    def _passed_last(self, rest: bytes) -> bytes:
        return b"" if self._is_unasked(rest) else rest


def json_object(data: bytes) -> dict[str, object]:
    """Read a JSON object; raises UntrustedError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise UntrustedError("the reply is not JSON") from None
    if not isinstance(value, dict):
        raise UntrustedError("the reply is not a JSON object")
    return value


def inner(value: dict[str, object], name: str) -> dict[str, object]:
    """Give an object inside a reply; absent and null are empty; raises UntrustedError for anything else."""
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UntrustedError(f"`{name}` is not an object")
    return found


def required_count(usage: dict[str, object], name: str) -> int:
    """Give a count that every reply has; raises UntrustedError."""
    if usage.get(name) is None:
        raise UntrustedError(f"the usage has no `{name}`")
    return count(usage, name)


def count(usage: dict[str, object], name: str) -> int:
    """Give a count of tokens; absent and null are zero; raises UntrustedError for what is no count."""
    value = usage.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= TOKENS_REPORTED_MAX:
        raise UntrustedError(f"`{name}` is not a count of tokens")
    return value


def reported_tier(value: object) -> str:
    """Give the tier that the provider reports, the ordinary one spelled `default`; raises UntrustedError."""
    if value is not None and not isinstance(value, str):
        raise UntrustedError("`service_tier` is not a name")
    return "default" if value is None or value in _PLAIN_TIERS else value


def reported_model(value: object) -> str:
    """Give the model that the reply names, or nothing."""
    return value if isinstance(value, str) else ""
