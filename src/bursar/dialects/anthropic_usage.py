"""Usage as Anthropic reports it: whole in a message, cumulative over the events of a stream."""

from __future__ import annotations

from bursar.call import CacheWrite, ServerTools, Usage
from bursar.dialects.fields import member_of
from bursar.dialects.meters import (
    UntrustedError,
    count,
    inner,
    json_object,
    reported_model,
    reported_tier,
    required_count,
)
from bursar.dialects.server_tools import anthropic_uses

_SUMMED = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
_PLAIN_REGIONS = (None, "", "global", "not_available")


class EventTally:
    """Keeps the last value of each field: the events repeat their counts, so nothing is ever added up."""

    def __init__(self, cache_write: CacheWrite, offered: ServerTools) -> None:
        self._cache_write = cache_write
        self._offered = offered
        self._message: dict[str, object] = {}
        self._usage: dict[str, object] = {}
        self._tool_blocks: list[object] = []
        self._has_output = False
        self._has_all_input = False
        self._is_done = False

    def take(self, data: bytes) -> bool:
        """Take the data of an event; no event is ever left out."""
        try:
            event = json_object(data)
        except UntrustedError:
            return False
        kind = event.get("type")
        if kind == "message_start":
            message = event.get("message")
            self._message = message if isinstance(message, dict) else {}
            self._keep(self._message.get("usage"))
        elif kind == "content_block_start":
            self._tool_blocks.append(event.get("content_block"))
        elif kind == "message_delta":
            self._keep(event.get("usage"))
            self._has_output = True
            self._has_all_input = member_of(event.get("usage"), "input_tokens") is not None
        elif kind == "message_stop":
            self._is_done = True
        return False

    def result(self) -> Usage:
        """Give the usage of the whole stream; raises UntrustedError."""
        if not self._is_done or not self._has_output:
            raise UntrustedError("the stream ended before its end")
        message = {**self._message, "usage": self._usage, "content": self._tool_blocks}
        usage = usage_of(message, self._cache_write, self._offered)
        if usage.tool_uses and not self._has_all_input:
            # What the tools have brought is input that the beginning of the stream knew nothing of.
            raise UntrustedError("a tool on the provider's side was used, and the input it brought is not in the usage")
        return usage

    def _keep(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}


def usage_of(message: dict[str, object], cache_write: CacheWrite, offered: ServerTools) -> Usage:
    """Give the usage of a whole message; raises UntrustedError."""
    usage = inner(message, "usage")
    model = reported_model(message.get("model"))
    _only_this_call(usage, model)
    five_minutes, one_hour = _cache_writes(usage, cache_write)
    output = required_count(usage, "output_tokens")
    if count(inner(usage, "output_tokens_details"), "thinking_tokens") > output:
        raise UntrustedError("the usage contradicts itself: more thinking tokens than output")
    return Usage(
        input_tokens=required_count(usage, "input_tokens"),
        output_tokens=output,
        cache_read_tokens=count(usage, "cache_read_input_tokens"),
        cache_write_5m_tokens=five_minutes,
        cache_write_1h_tokens=one_hour,
        service_tier=_tier(usage),
        model=model,
        tool_uses=anthropic_uses(message, offered),
    )


def _only_this_call(usage: dict[str, object], model: str) -> None:
    """Refuse usage that says there was more than this call, or more than it counts."""
    iterations = usage.get("iterations")
    parts = iterations if isinstance(iterations, list) else []
    for iteration in parts:
        other = member_of(iteration, "model")
        if member_of(iteration, "type") != "message" or other not in (None, model):
            raise UntrustedError("the provider did more than this call: a compaction, or another model")
    for name in _SUMMED:
        # A tool on the provider's side makes several inferences, and all of them are billed.
        if sum(count(iteration, name) for iteration in parts) > count(usage, name):
            raise UntrustedError("the usage contradicts itself: less than its iterations have used")


def _cache_writes(usage: dict[str, object], cache_write: CacheWrite) -> tuple[int, int]:
    written = count(usage, "cache_creation_input_tokens")
    split = inner(usage, "cache_creation")
    five_minutes, one_hour = count(split, "ephemeral_5m_input_tokens"), count(split, "ephemeral_1h_input_tokens")
    if five_minutes + one_hour == written:
        return five_minutes, one_hour
    if split:
        raise UntrustedError("the usage contradicts itself: cache writes are not the sum of their parts")
    return (0, written) if cache_write is CacheWrite.ONE_HOUR else (written, 0)


def _tier(usage: dict[str, object]) -> str:
    """Give the tier with its region, as the price book names them: `default`, `fast`, `default@us`."""
    tier = reported_tier(usage.get("service_tier"))
    speed, region = usage.get("speed"), usage.get("inference_geo")
    if speed not in (None, "", "standard"):
        tier = str(speed) if tier == "default" else f"{tier}-{speed}"
    return tier if region in _PLAIN_REGIONS else f"{tier}@{region}"
