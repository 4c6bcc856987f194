"""Usage as Google reports it: in the reply, or in every chunk of a stream, of which the last counts."""

from __future__ import annotations

import json
from contextlib import suppress

from bursar.call import Call, Unmetered, Usage
from bursar.dialects.fields import member_of
from bursar.dialects.meters import (
    BODY_BYTES_MAX,
    EventMeter,
    JsonMeter,
    PassMeter,
    UntrustedError,
    count,
    inner,
    json_object,
    reported_model,
    required_count,
)
from bursar.dialects.protocol import Meter

_TIERS = {
    "ON_DEMAND": "default",
    "PROVISIONED_THROUGHPUT": "default",
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
}
_UNSAID = (None, "", "TRAFFIC_TYPE_UNSPECIFIED")
_SILENT = ("TEXT", "IMAGE", "VIDEO", "DOCUMENT")
_NO_FINISH = (None, "", "FINISH_REASON_UNSPECIFIED")


def meter_of(call: Call, status: int, content_type: str) -> Meter:
    """Give the meter for one reply: an object, a stream of events, or a stream in the form of a JSON array."""
    if not 200 <= status < 300:
        return PassMeter("error status")
    if content_type.lower().startswith("text/event-stream"):
        return _ChunkMeter(ChunkTally(call), end=b"")
    if call.stream:
        return ArrayMeter(ChunkTally(call))
    return JsonMeter(lambda reply: usage_of(reply, call))


class ChunkTally:
    """Keeps the last usage, and knows whether the stream has come to its end."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._finished: set[object] = set()
        self._is_blocked = False
        self._is_due = False
        self._paid_work = False
        self._reply: dict[str, object] | None = None

    def take(self, data: bytes) -> bool:
        """Take the data of an event; no event is ever left out."""
        with suppress(UntrustedError):
            self.take_chunk(json_object(data))
        return False

    def take_chunk(self, chunk: dict[str, object]) -> None:
        """Take one chunk of the reply."""
        if member_of(chunk.get("promptFeedback"), "blockReason"):
            self._is_blocked = True
        candidates = chunk.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            self._paid_work = self._paid_work or _is_paid_work(candidate)
            if member_of(candidate, "finishReason") not in _NO_FINISH:
                self._finished.add(str(member_of(candidate, "index") or 0))
                self._is_due = True  # what was counted before the end is not the whole
        if isinstance(chunk.get("usageMetadata"), dict):
            self._reply = chunk
            self._is_due = False

    def result(self) -> Usage:
        """Give the usage of the whole stream; raises UntrustedError."""
        if self._paid_work:
            raise UntrustedError(_PAID_WORK)
        is_done = self._is_blocked or len(self._finished) >= self._call.output.choices
        if self._reply is None or self._is_due or not is_done:
            raise UntrustedError("the stream ended before its end")
        return usage_of(self._reply, self._call)


class _ChunkMeter(EventMeter):
    """Every event of Google's carries usage, so every one is read."""

    def _may_matter(self, data: bytes) -> bool:
        return True


class ArrayMeter:
    """Reads a stream that is one JSON array of chunks: what Google sends where no `alt=sse` was asked for."""

    def __init__(self, tally: ChunkTally) -> None:
        self._tally = tally
        self._kept = bytearray()
        self._is_too_long = False

    def feed(self, chunk: bytes) -> bytes:
        """Give the chunk back, and keep a copy as long as the whole is not too long."""
        self._is_too_long = self._is_too_long or len(self._kept) + len(chunk) > BODY_BYTES_MAX
        if not self._is_too_long:
            self._kept += chunk
        return chunk

    def finish(self) -> tuple[bytes, Usage | Unmetered]:
        """Read the usage out of the whole reply."""
        if self._is_too_long:
            return b"", Unmetered("the reply is too long to be read")
        try:
            for chunk in _array(bytes(self._kept)):
                self._tally.take_chunk(chunk)
            return b"", self._tally.result()
        except UntrustedError as error:
            return b"", Unmetered(str(error))


def usage_of(reply: dict[str, object], call: Call) -> Usage:
    """Give the usage of a whole reply to this call; raises UntrustedError."""
    candidates = reply.get("candidates")
    if any(map(_is_paid_work, candidates if isinstance(candidates, list) else ())):
        raise UntrustedError(_PAID_WORK)
    usage = inner(reply, "usageMetadata")
    given = required_count(usage, "promptTokenCount") + count(usage, "toolUsePromptTokenCount")
    made = count(usage, "candidatesTokenCount") + count(usage, "thoughtsTokenCount")
    cached = count(usage, "cachedContentTokenCount")
    if usage.get("totalTokenCount") is not None:
        total = count(usage, "totalTokenCount")
        if total < given + made:
            raise UntrustedError("the usage contradicts itself: the total is less than its parts")
        made = total - given  # what is in no part was made, too
    if cached > given:
        raise UntrustedError("the usage contradicts itself: more cached tokens than input")
    if set(_by_modality(usage, "candidatesTokensDetails")) - {"TEXT"}:
        raise UntrustedError("the reply is not text alone, and the rest is billed at rates that are not held")
    audio, cached_audio = _audio(usage, given, cached, call)
    return Usage(
        input_tokens=given - cached,
        output_tokens=made,
        cache_read_tokens=cached,
        audio_input_tokens=audio,
        audio_cache_read_tokens=cached_audio,
        service_tier=_tier(usage, call.service_tier),
        model=reported_model(reply.get("modelVersion")),
    )


_PAID_WORK = "a tool on the provider's side was used, and its fee is not in the usage"


def _audio(usage: dict[str, object], given: int, cached: int, call: Call) -> tuple[int, int]:
    """Give the audio in the fresh and in the cached input; raises UntrustedError."""
    kinds = _by_modality(usage, "promptTokensDetails")
    audio, cached_audio = kinds.get("AUDIO", 0), _by_modality(usage, "cacheTokensDetails").get("AUDIO", 0)
    fresh_audio, fresh = audio - cached_audio, given - cached
    if not cached_audio <= audio <= given or cached_audio > cached or fresh_audio > fresh:
        raise UntrustedError("the usage contradicts itself: more audio than input")
    if not call.input.audio:
        return fresh_audio, cached_audio
    # Audio went in, and of this input the reply does not say what it was: so it was audio.
    unsaid = max(given - audio - sum(kinds.get(kind, 0) for kind in _SILENT), 0)
    more = min(unsaid, fresh - fresh_audio)
    return fresh_audio + more, min(cached_audio + unsaid - more, cached)


def _is_paid_work(candidate: object) -> bool:
    grounding = member_of(candidate, "groundingMetadata")
    return bool(grounding or member_of(candidate, "urlContextMetadata"))


def _tier(usage: dict[str, object], asked: str) -> str:
    """Give the tier that was served; a reply that does not say was served as it was asked for."""
    reported = usage.get("trafficType")
    if reported in _UNSAID:
        return asked
    if not isinstance(reported, str):
        raise UntrustedError("`trafficType` is not a name")
    return _TIERS.get(reported, reported.lower())


def _by_modality(usage: dict[str, object], name: str) -> dict[str, int]:
    """Give the counts that are not zero, by modality; raises UntrustedError."""
    details = usage.get(name)
    if details is None:
        return {}
    if not isinstance(details, list):
        raise UntrustedError(f"`{name}` is not a list")
    found: dict[str, int] = {}
    for detail in details:
        if not isinstance(detail, dict):
            raise UntrustedError(f"`{name}` is not a list of counts")
        if tokens := count(detail, "tokenCount"):
            modality = str(detail.get("modality"))
            found[modality] = found.get(modality, 0) + tokens
    return found


def _array(data: bytes) -> list[dict[str, object]]:
    try:
        chunks = json.loads(data)
    except (ValueError, RecursionError):
        raise UntrustedError("the reply is not JSON") from None
    chunks = [chunks] if isinstance(chunks, dict) else chunks
    if not isinstance(chunks, list) or not all(isinstance(chunk, dict) for chunk in chunks):
        raise UntrustedError("the reply is not a JSON array of chunks")
    return chunks
