"""The fake provider's mind: what it answers, how much that used, what it bills, and in which timed steps it is sent."""

from __future__ import annotations

import itertools
import json
import random
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from bursar.drill.faults import Dice, Fault, FaultKind
from bursar.drill.prompt import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, Mistake, Prompt, bytes_after_pieces, read
from bursar.drill.shapes import (
    BYTES_PER_TOKEN,
    Answer,
    Choice,
    ToolCall,
    error_body,
    events,
    garbage_usage,
    usage_json,
    whole,
)
from bursar.drill.till import Billed, Metered, Till, bill_nanodollars, now_us

_FILLER = "pay the man his due and not one cent too far for the cap has put out its big arm now " * 8_000
_CACHE_TOKENS_MIN = 1_024
_CACHE_TOKENS_STEP = 128
_CACHE_ENTRIES_MAX = 20_000
_CUT_AFTER_SECONDS = 0.02
_PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Content Too Large"}
_PHRASES |= {426: "Upgrade Required", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Unavailable"}
_ERROR_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Config:
    """How the fake provider behaves; every field can be given in `--json-config`."""

    seed: int = 1
    bytes_per_token: int = 4
    """Bytes of text that make one input token; 3 to 5 is what real tokenizers do."""
    output_tokens_least: int = 50
    output_tokens_most: int = 400
    reasoning_percent: int = 0
    """Share of the output tokens that is billed but not seen."""
    tokens_per_chunk: int = 8
    first_byte_ms: int = 0
    chunk_ms: int = 0
    spread_percent: int = 20
    """How far both latencies wander from their value, by chance."""
    slow_ms: int = 1_500
    """How much longer a slow body takes."""
    caches: bool = True
    """Whether repeated beginnings of prompts are read from a cache, as the real providers do."""
    faults: tuple[Fault, ...] = ()
    replies: tuple[dict[str, Any], ...] = ()
    """Scripted answers; see `Clerk.script_reply`."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Config:
        """Read a config from its JSON form; raises ValueError or TypeError on what is not known."""
        faults = tuple(Fault.from_json(fault) for fault in fields.pop("faults", ()))
        return cls(**{**fields, "faults": faults, "replies": tuple(fields.pop("replies", ()))})


class Then(Enum):
    """What happens to the connection after a step."""

    GO_ON = auto()
    CLOSE = auto()
    ABORT = auto()
    HANG = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """One write of an answer: after how many seconds, which bytes, and what then."""

    after: float
    data: bytes
    then: Then = Then.GO_ON


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """An answer that is written in advance, for the first request that it fits."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    output_tokens: int
    when_model: str
    when_body_has: bytes
    repeats: bool


@dataclass(slots=True)
class Clerk:
    """Answers requests and rings the till; knows nothing of sockets."""

    config: Config
    till: Till
    rng: random.Random = field(init=False)
    dice: Dice = field(init=False)
    replies: list[ScriptedReply] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _cache: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.config.seed)  # noqa: S311 - repeatable chance, no secret
        self.dice = Dice(random.Random(self.config.seed + 1))  # noqa: S311 - as above
        self.dice.script(self.config.faults)
        for reply in self.config.replies:
            self.script_reply(reply)

    def script_reply(self, fields: dict[str, Any]) -> None:
        """Answer the next fitting request with `text` and `tool_calls` ({name, arguments}).

        It fits when the model begins with `when_model` and the body contains `when_body_has`; with `repeat` it stays.
        """
        calls = tuple(ToolCall(call["name"], _as_json(call["arguments"])) for call in fields.get("tool_calls", ()))
        text = str(fields.get("text", ""))
        size = len(text) + sum(len(call.name) + len(call.arguments) for call in calls)
        self.replies.append(
            ScriptedReply(
                text=text,
                tool_calls=calls,
                output_tokens=int(fields.get("output_tokens") or max(1, -(-size // BYTES_PER_TOKEN))),
                when_model=str(fields.get("when_model", "")),
                when_body_has=str(fields.get("when_body_has", "")).encode(),
                repeats=bool(fields.get("repeat")),
            )
        )

    def count_tokens(self, api: str, body: bytes) -> bytes:
        """Answer a token count, which is never billed."""
        prompt = read(api, _with_bound(body))
        tokens = self._input_tokens(prompt) if isinstance(prompt, Prompt) else 0
        return json.dumps({"totalTokens" if api == "gemini" else "input_tokens": tokens}).encode()

    def serve(self, api: str, key: str, body: bytes, takes_gzip: bool) -> Iterator[Step]:
        """Take one request on, bill it, and give the steps of its answer."""
        prompt = read(api, body)
        if isinstance(prompt, Mistake):
            return self._refuse(api, prompt)
        tokens = self._input_tokens(prompt)
        if tokens > prompt.model.context_tokens:
            text = f"prompt is too long: {tokens} tokens > {prompt.model.context_tokens} maximum"
            return self._refuse(api, Mistake(400, "invalid_request_error", text))
        fault = self.dice.throw()
        if fault is not None and not fault.is_billed:
            return self._refuse(api, _as_mistake(fault), self._first_byte())
        choices, output_tokens, reasoning = self._choices(prompt, body, fault)
        used = replace(self._metered_input(prompt, key, tokens), output_tokens=output_tokens)
        used = replace(used, reasoning_tokens=reasoning)
        if fault is not None and fault.kind is FaultKind.LYING_USAGE:
            used = replace(used, output_tokens=2 * prompt.output_tokens_max * prompt.choices + 1_000)
        self._ring(prompt, key, used, fault)
        if fault is not None and fault.kind is FaultKind.STATUS:
            return iter(_plain_steps(api, _as_mistake(fault), self._first_byte()))
        answer = Answer(f"{next(self._numbers):024x}", int(time.time()), prompt, choices, _usage(api, used, fault))
        return self._steps(answer, fault, takes_gzip)

    def _refuse(self, api: str, mistake: Mistake, after: float = 0.0) -> Iterator[Step]:
        self.till.unbilled += 1
        return iter(_plain_steps(api, mistake, after))

    def _ring(self, prompt: Prompt, key: str, used: Metered, fault: Fault | None) -> None:
        self.till.ring(
            Billed(
                at_us=now_us(),
                key=key,
                model=prompt.model_name,
                api=prompt.api,
                stream=prompt.stream,
                used=used,
                nanodollars=bill_nanodollars(prompt.model, used, prompt.percent),
                trouble=fault.name if fault is not None else "",
            )
        )

    # ---- what was used ---------------------------------------------------------------------------------------------

    def _input_tokens(self, prompt: Prompt) -> int:
        *_, text_bytes = bytes_after_pieces(prompt.text)
        frame = TOKENS_PER_MESSAGE * (prompt.text.messages + 1)
        return -(-text_bytes // self.config.bytes_per_token) + frame + prompt.text.images * TOKENS_PER_IMAGE[prompt.api]

    def _metered_input(self, prompt: Prompt, key: str, tokens: int) -> Metered:
        if not self.config.caches or tokens < _CACHE_TOKENS_MIN:
            return Metered(tokens, 0)
        ends = [total // self.config.bytes_per_token for total in bytes_after_pieces(prompt.text)]
        hashes = _chain(prompt, key)
        if prompt.api == "messages":
            return self._metered_by_marks(prompt, tokens, ends, hashes)
        last = len(hashes) - 1
        read_tokens = self._longest_known(ends, hashes, last) // _CACHE_TOKENS_STEP * _CACHE_TOKENS_STEP
        self._remember(ends, hashes, range(1, last + 1))
        written = tokens - read_tokens if prompt.model.writes_cache_by_itself else 0
        return Metered(tokens - read_tokens - written, 0, read_tokens, written)

    def _metered_by_marks(self, prompt: Prompt, tokens: int, ends: Sequence[int], hashes: Sequence[int]) -> Metered:
        if not prompt.text.marks:
            return Metered(tokens, 0)
        last = max(mark.after_pieces for mark in prompt.text.marks)
        if ends[last] < _CACHE_TOKENS_MIN:
            return Metered(tokens, 0)
        known = self._longest_known(ends, hashes, last)
        hourly = max((ends[mark.after_pieces] for mark in prompt.text.marks if mark.ttl == "1h"), default=0)
        self._remember(ends, hashes, (mark.after_pieces for mark in prompt.text.marks))
        written_1h = max(0, hourly - known)
        written_5m = ends[last] - known - written_1h
        return Metered(tokens - ends[last], 0, known, written_5m, written_1h)

    def _longest_known(self, ends: Sequence[int], hashes: Sequence[int], last: int) -> int:
        for position in range(last, 0, -1):
            if hashes[position] in self._cache:
                self._cache.move_to_end(hashes[position])
                return ends[position]
        return 0

    def _remember(self, ends: Sequence[int], hashes: Sequence[int], positions: Iterable[int]) -> None:
        for position in positions:
            if ends[position] >= _CACHE_TOKENS_MIN:
                self._cache[hashes[position]] = None
        while len(self._cache) > _CACHE_ENTRIES_MAX:
            self._cache.popitem(last=False)

    # ---- what is said ----------------------------------------------------------------------------------------------

    def _choices(self, prompt: Prompt, body: bytes, fault: Fault | None) -> tuple[tuple[Choice, ...], int, int]:
        scripted = self._scripted(prompt, body)
        choices, total, reasoning_total = [], 0, 0
        for _ in range(prompt.choices):
            wanted = scripted.output_tokens if scripted else self._length(prompt, fault)
            tokens = min(wanted, prompt.output_tokens_max)
            reasoning = 0 if scripted else tokens * self.config.reasoning_percent // 100
            text = scripted.text if scripted else _FILLER[: (tokens - reasoning) * BYTES_PER_TOKEN]
            is_cut = wanted > tokens
            text = text[: tokens * BYTES_PER_TOKEN] if is_cut else text
            pieces = self._pieces(text) if prompt.stream else (text,) * bool(text)
            calls = scripted.tool_calls if scripted and not is_cut else ()
            choices.append(Choice(pieces, calls, is_cut))
            total += tokens
            reasoning_total += reasoning
        return tuple(choices), total, reasoning_total

    def _scripted(self, prompt: Prompt, body: bytes) -> ScriptedReply | None:
        for index, reply in enumerate(self.replies):
            if prompt.model_name.startswith(reply.when_model) and reply.when_body_has in body:
                return reply if reply.repeats else self.replies.pop(index)
        return None

    def _length(self, prompt: Prompt, fault: Fault | None) -> int:
        if fault is not None and fault.kind is FaultKind.HUGE:
            return prompt.output_tokens_max
        return self.rng.randint(self.config.output_tokens_least, self.config.output_tokens_most)

    def _pieces(self, text: str) -> tuple[str, ...]:
        size = self.config.tokens_per_chunk * BYTES_PER_TOKEN
        return tuple(text[start : start + size] for start in range(0, len(text), size))

    # ---- how it is sent --------------------------------------------------------------------------------------------

    def _first_byte(self) -> float:
        return self._wander(self.config.first_byte_ms)

    def _wander(self, milliseconds: int) -> float:
        spread = self.config.spread_percent
        return milliseconds * (100 + self.rng.randint(-spread, spread)) / 100_000 if milliseconds else 0.0

    def _steps(self, answer: Answer, fault: Fault | None, takes_gzip: bool) -> Iterator[Step]:
        kind = fault.kind if fault is not None else None
        wait = self._first_byte()
        if kind is FaultKind.HANG:
            return iter((Step(0.0, b"", Then.HANG),))
        if kind is FaultKind.CUT_HEAD:
            return iter((Step(wait, b"", Then.ABORT),))
        packed = kind is FaultKind.GZIP and takes_gzip
        if not answer.prompt.stream:
            return iter(self._body_steps(answer, kind, wait, packed))
        return iter(self._stream_steps(answer, kind, wait, packed))

    def _body_steps(self, answer: Answer, kind: FaultKind | None, wait: float, packed: bool) -> list[Step]:
        body = whole(answer)
        body = _gzip([body])[0] if packed else body
        head = _head(200, answer.prompt.api, answer.id, b"application/json", packed, len(body))
        if kind is FaultKind.SLOW:
            size = max(1, len(body) // 10)
            pauses = [Step(self.config.slow_ms / 10_000, body[i : i + size]) for i in range(0, len(body), size)]
            return [Step(wait, head), *pauses]
        if kind in (FaultKind.CUT_MIDDLE, FaultKind.TRUNCATE):
            return [Step(wait, head + body[: len(body) // 2]), _broken_end(kind)]
        return [Step(wait, head + body)]

    def _stream_steps(self, answer: Answer, kind: FaultKind | None, wait: float, packed: bool) -> list[Step]:
        parts = list(events(answer))
        if packed:
            parts = _gzip(parts)
        if kind in (FaultKind.CUT_MIDDLE, FaultKind.TRUNCATE):
            parts = parts[: max(1, len(parts) // 2)]
        chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
        head = _head(200, answer.prompt.api, answer.id, b"text/event-stream; charset=utf-8", packed, None)
        end = _broken_end(kind) if kind in (FaultKind.CUT_MIDDLE, FaultKind.TRUNCATE) else Step(0.0, b"0\r\n\r\n")
        crawl = self.config.slow_ms / 1_000 / len(chunks) if kind is FaultKind.SLOW else 0.0
        if not self.config.chunk_ms and not crawl:
            return [Step(wait, head + b"".join(chunks) + end.data), replace(end, data=b"")]
        paced = [Step(self._wander(self.config.chunk_ms) + crawl, chunk) for chunk in chunks]
        return [Step(wait, head), *paced, end]


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _with_bound(body: bytes) -> bytes:
    try:
        fields = json.loads(body)
    except ValueError:
        return body
    return json.dumps({"max_tokens": 1_024, **fields}).encode() if isinstance(fields, dict) else body


def _as_mistake(fault: Fault) -> Mistake:
    return Mistake(fault.status, _ERROR_KINDS.get(fault.status, "api_error"), f"drill fault {fault.name}")


def _usage(api: str, used: Metered, fault: Fault | None) -> Any:
    if fault is not None and fault.kind is FaultKind.NO_USAGE:
        return None
    if fault is not None and fault.kind is FaultKind.GARBAGE_USAGE:
        return garbage_usage(api)
    return usage_json(api, used)


def _chain(prompt: Prompt, key: str) -> list[int]:
    link = hash((key, prompt.model_name))
    links = [link]
    for piece in prompt.text.pieces:
        link = hash((link, piece))
        links.append(link)
    return links


def _gzip(parts: Sequence[bytes]) -> list[bytes]:
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in parts]
    packed[-1] += packer.flush()
    return packed


def _broken_end(kind: FaultKind) -> Step:
    return Step(_CUT_AFTER_SECONDS, b"", Then.ABORT if kind is FaultKind.CUT_MIDDLE else Then.CLOSE)


def _plain_steps(api: str, mistake: Mistake, after: float) -> tuple[Step]:
    body = error_body(api, mistake)
    return (Step(after, _head(mistake.status, api, "error", b"application/json", False, len(body)) + body),)


def _head(status: int, api: str, request_id: str, content_type: bytes, packed: bool, length: int | None) -> bytes:
    phrase = _PHRASES.get(status, "Overloaded")
    name = "request-id" if api == "messages" else "x-request-id"
    size = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    coding = b"content-encoding: gzip\r\n" if packed else b""
    start = f"HTTP/1.1 {status} {phrase}\r\n{name}: req_{request_id}\r\n".encode()
    return b"%bcontent-type: %b\r\n%b%b\r\n\r\n" % (start, content_type, coding, size)


def response(status: int, body: bytes) -> bytes:
    """Write a plain JSON response."""
    return _head(status, "chat", "plain", b"application/json", False, len(body)) + body
