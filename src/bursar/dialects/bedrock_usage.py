"""Usage as Bedrock's Converse API reports it: in the reply, or in the last frame of a stream."""

from __future__ import annotations

from bursar.call import CacheWrite, Call, Unmetered, Usage
from bursar.dialects.bedrock_frames import Frame, FrameError, Frames
from bursar.dialects.fields import member_of
from bursar.dialects.meters import UntrustedError, count, inner, json_object, reported_model, required_count


def tier_text(tier: str, latency: str) -> str:
    """Give the price tier: the one of the capacity, and whether it was bought faster (`default`, `flex+optimized`)."""
    return tier if latency == "standard" else f"{tier}+{latency}"


class FrameMeter:
    """Reads the usage of an AWS event stream; every byte goes on as it came, and at once."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._frames = Frames()
        self._broken = ""
        self._stop_reason: object = None
        self._metadata: dict[str, object] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Give the chunk back, and read the frames that become whole with it."""
        if not self._broken:
            try:
                for frame in self._frames.feed(chunk):
                    self._take(frame)
            except (FrameError, UntrustedError) as error:
                self._broken = str(error)
        return chunk

    def finish(self) -> tuple[bytes, Usage | Unmetered]:
        """Give the usage of the stream."""
        if self._broken:
            return b"", Unmetered(self._broken)
        if self._metadata is None or self._stop_reason is None or not self._frames.is_empty:
            return b"", Unmetered("the stream ended before its end")
        try:
            return b"", usage_of({**self._metadata, "stopReason": self._stop_reason}, self._call)
        except UntrustedError as error:
            return b"", Unmetered(str(error))

    def _take(self, frame: Frame) -> None:
        if frame.headers.get(":message-type", "event") != "event":
            raise UntrustedError("the stream ended with an error of the provider's")
        match frame.headers.get(":event-type"):
            case "messageStop":
                self._stop_reason = json_object(frame.payload).get("stopReason", "")
            case "metadata":
                self._metadata = json_object(frame.payload)
            case _:
                pass  # the words of the reply: they carry no count


def usage_of(reply: dict[str, object], call: Call) -> Usage:
    """Give the usage of a whole reply; raises UntrustedError."""
    if reply.get("stopReason") == "guardrail_intervened" or member_of(reply.get("trace"), "guardrail") is not None:
        raise UntrustedError("a guardrail of the account's was applied, and its fee is not held")
    usage = inner(reply, "usage")
    given, made = required_count(usage, "inputTokens"), required_count(usage, "outputTokens")
    read, written = count(usage, "cacheReadInputTokens"), count(usage, "cacheWriteInputTokens")
    total = given + made if usage.get("totalTokens") is None else count(usage, "totalTokens")
    if not given + made <= total <= given + made + read + written:  # with or without the cache: both have been seen
        raise UntrustedError("the usage contradicts itself: the total is not the sum of its parts")
    five_minutes, one_hour = _cache_writes(usage, written, call.cache_write)
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cache_read_tokens=read,
        cache_write_5m_tokens=five_minutes,
        cache_write_1h_tokens=one_hour,
        service_tier=_tier(reply, call.service_tier),
        model=reported_model(member_of(member_of(reply.get("trace"), "promptRouter"), "invokedModelId")),
    )


def _cache_writes(usage: dict[str, object], written: int, dearest: CacheWrite) -> tuple[int, int]:
    details = usage.get("cacheDetails")
    if not details:
        return (0, written) if dearest is CacheWrite.ONE_HOUR else (written, 0)
    found = {"5m": 0, "1h": 0}
    for detail in details if isinstance(details, list) else ({},):
        ttl = member_of(detail, "ttl")
        if not isinstance(detail, dict) or not isinstance(ttl, str) or ttl not in found:
            raise UntrustedError("`cacheDetails` has a write of an unknown kind")
        found[ttl] += count(detail, "inputTokens")
    if sum(found.values()) != written:
        raise UntrustedError("the usage contradicts itself: cache writes are not the sum of their parts")
    return found["5m"], found["1h"]


def _tier(reply: dict[str, object], asked: str) -> str:
    """Give the tier that was served; what a reply does not say was served as it was asked for."""
    asked_tier, _plus, asked_latency = asked.partition("+")
    tier = inner(reply, "serviceTier").get("type") or asked_tier
    latency = inner(reply, "performanceConfig").get("latency") or asked_latency or "standard"
    if not isinstance(tier, str) or not isinstance(latency, str):
        raise UntrustedError("the tier that was served is not a name")
    return tier_text(tier, latency)
