"""Loops: a run that asks the same again and again, or calls the same tools with the same results, is refused.

What the tools repeat is read from the conversation alone. That whole requests are the same can only be remembered: as
keyed hashes, in this process, of the runs that were seen last.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bursar.call import Call
from bursar.clock import SECOND, Clock, Instant
from bursar.dialects.body import shown
from bursar.dialects.turns import timeless

RUNS_MAX = 10_000
"""How many runs are remembered, the latest."""
QUIET_SECONDS = 60
"""Who asks the same again after so long is a clock, not a loop."""
_SIZE_BYTES = 256
_SIZE_SHARE = 64
"""Requests whose sizes differ by more than these bytes and this share of them are taken to differ, and are not read."""

# Names of a session, a user or a cache, and how the answer comes: they make it no other request.
_APART = frozenset(
    {
        "metadata",
        "client_metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "stream",
        "stream_options",
        "store",
        "labels",
        "requestMetadata",
        "request_metadata",
    }
)
_INSTRUCTIONS = frozenset({"system", "instructions", "systemInstruction", "system_instruction"})
_CONVERSATIONS = frozenset({"messages", "input", "contents"})
# Ids are told anew for what is the same, and cache markers move.
_MARKS = frozenset(
    {
        "id",
        "call_id",
        "tool_call_id",
        "tool_use_id",
        "toolUseId",
        "cache_control",
        "cachePoint",
        "cache_point",
        "prompt_cache_breakpoint",
    }
)
# What is inside these is somebody's data: an `id` in it is told by no client.
_DATA = frozenset(
    {
        "input",
        "arguments",
        "args",
        "response",
        "json",
        "parameters",
        "input_schema",
        "inputSchema",
        "parametersJsonSchema",
        "schema",
    }
)


@dataclass(frozen=True, slots=True)
class Looped:
    """The run repeats itself."""

    repeats: Literal["request", "tool"]
    tools: tuple[str, ...]
    """The names of the tools that are called again and again."""
    count: int


@dataclass(slots=True)
class _Row:
    """The requests of a run that are the same, one after another."""

    shape: tuple[object, ...]
    size: int
    at: Instant
    digest: bytes = b""
    """Of the second of them and those after it; the first is the one that most runs never repeat, and is not read."""
    answered: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that may go out; to be handed back when it was answered."""

    row: _Row | None = None
    digest: bytes = b""
    place: int = 0
    """Its place in the row: one behind the last that was answered before it came."""


_UNSEEN = Seen()


class Loops:
    """Looks for loops in the requests that pass through this process."""

    def __init__(self, allowed: Callable[[str], int | None], clock: Clock) -> None:
        self._allowed = allowed
        """How often a run of this key may do the same; None where nobody looks."""
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._rows: OrderedDict[str, _Row] = OrderedDict()

    def look(self, call: Call, run: str, key: str) -> Seen | Looped:
        """Say that the call is one too many of its kind, or give what to hand back when it was answered."""
        most = self._allowed(key)
        if most is None:
            return _UNSEEN
        if call.repeated.times >= most:
            return Looped("tool", tuple(map(shown, call.repeated.tools)), call.repeated.times)
        if call.output.tokens_asked == 0:
            return _UNSEEN  # an embedding is no step of an agent
        return self._look_back(call, run, most)

    def _look_back(self, call: Call, run: str, most: int) -> Seen | Looped:
        now, size = self._clock.now(), call.input.text_bytes
        shape = (call.dialect, call.upstream, call.model, call.input.messages, call.input.tools)
        row = self._rows.get(run)
        if row is None or row.shape != shape or not _is_near(row.size, size) or now - row.at > QUIET_SECONDS * SECOND:
            self._rows[run] = _Row(shape, size, now)
            self._rows.move_to_end(run)
            if len(self._rows) > RUNS_MAX:
                self._rows.popitem(last=False)
            return _UNSEEN
        self._rows.move_to_end(run)
        row.at, digest = now, self._digest(call)
        if row.digest != digest:
            row.digest, row.size, row.answered = digest, size, 0
        if row.answered >= most:
            return Looped("request", (), row.answered)
        return Seen(row, digest, row.answered + 1)

    def answered(self, seen: Seen) -> None:
        """Count a request that got its answer whole; one that did not is sent again for a reason."""
        row = seen.row
        if row is not None and row.digest == seen.digest:
            # Those that were under way together, such as several samples of one prompt, count as one.
            row.answered, row.at = max(row.answered, seen.place), self._clock.now()

    def _digest(self, call: Call) -> bytes:
        values = json.loads(call.body.text)
        if "conversation" in values:
            return secrets.token_bytes(16)  # the server has the conversation, and it may have gone on
        text = json.dumps(_normal(values), sort_keys=True)
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=16).digest()


def _is_near(one: int, other: int) -> bool:
    return abs(one - other) <= _SIZE_BYTES + max(one, other) // _SIZE_SHARE


def _normal(values: dict[str, object]) -> dict[str, object]:
    """Give a request without what changes from one sending of it to the next."""
    found: dict[str, object] = {}
    for name, value in values.items():
        if name in _INSTRUCTIONS:
            found[name] = _timeless(_bare(value))
        elif name in _CONVERSATIONS:
            found[name] = [_message(item) for item in value] if isinstance(value, list) else _bare(value)
        elif name not in _APART:
            found[name] = _bare(value)
    return found


def _message(item: object) -> object:
    bare = _bare(item)
    is_instruction = isinstance(item, dict) and item.get("role") in ("system", "developer")
    return _timeless(bare) if is_instruction else bare


def _bare(value: object) -> object:
    """Give a value without ids and cache markers; what a tool was given and what it gave stay as they are."""
    if isinstance(value, list):
        return [bare for item in value if (bare := _bare(item)) != {}]
    if not isinstance(value, dict) or value.get("type") == "item_reference":
        return value
    return {name: inner if name in _DATA else _bare(inner) for name, inner in value.items() if name not in _MARKS}


def _timeless(value: object) -> object:
    """Give instructions without the time, which many agents tell in them."""
    if isinstance(value, str):
        return timeless(value)
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items()}
    return value
