"""Looping agents: plain HTTP clients that call a model again and again until somebody makes them stop."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import aiohttp

RETRIES_MAX = 2
"""The SDKs retry a call twice."""
BACKOFF_SECONDS = 0.1
CALL_SECONDS_MAX = 60.0
_RETRIED = frozenset({408, 409, 429})
# What says of itself that it will be the same the next time.
_LASTING = frozenset({401, 403, 404})
# Real vocabularies make one token of each of these and the space before it: of four bytes, a little less on average,
# so that whoever counts the text with them comes out above what the fake provider bills.
_SHORT_WORDS = ("to", "me", "as", "is", "on", "of", "we", "so", "or", "if", "by", "my")
_LONG_WORDS = ("the", "agent", "reads", "a", "file", "and", "writes", "down", "what", "it", "found", "in", "order")
_WORDS = _LONG_WORDS + _SHORT_WORDS

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/{model}:{method}",
}
MODELS = {"chat": "gpt-4.1", "responses": "gpt-4.1", "messages": "claude-haiku-4-5", "gemini": "gemini-2.5-pro"}
_LAST_EVENT = {
    "chat": (b"data: [DONE]",),
    "responses": (b"event: response.completed", b"event: response.incomplete"),
    "messages": (b"event: message_stop",),
    "gemini": (b'"finishReason":',),
}


class Outcome(StrEnum):
    """How one attempt ended, as the agent sees it."""

    ANSWERED = "answered"
    EXHAUSTED = "exhausted"
    """Refused: the cap is spent."""
    HELD = "held"
    """Refused: the rest of the cap is held by others."""
    REFUSED = "refused"
    """Refused by the gateway for any other reason."""
    ERROR = "error"
    """An error status of the provider, or of something in between."""
    BROKEN = "broken"
    """The connection broke, or the answer ended before its end."""
    HUNG_UP = "hung_up"
    """The agent itself left in the middle."""
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    """Not sent: the drill itself has no more money for it."""


_ENDS = frozenset({Outcome.EXHAUSTED, Outcome.HELD, Outcome.REFUSED, Outcome.STOPPED})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP request of one agent."""

    agent: int
    call: int
    """Number of the logical call of this agent; a retry has the same."""
    ended_at_us: int
    """Microseconds since 1970."""
    took_us: int
    outcome: Outcome
    status: int = 0
    code: str = ""
    """The gateway's code in a refusal, for example `cap_exhausted`."""


@dataclass(frozen=True, slots=True)
class Habit:
    """How an agent behaves."""

    dialect: str
    model: str
    stream: bool
    prompt_bytes: int
    max_tokens: int | None
    """None sends no bound where the API allows that."""
    grows: bool
    """Whether each answer is added to the next prompt, as agents do."""
    hangs_up_percent: int
    calls_max: int
    """An agent that nobody stops, stops here; a drill in which that happens has failed."""
    errors_max: int = 1_000_000
    """So many calls in a row without an answer, and it stops."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a gateway is spoken to beyond the API of a provider, and how it says no."""

    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are added to every request."""
    reads: Callable[[int, bytes], tuple[Outcome, str]] | None = None
    """From status and body of what is no answer to what it means, and its code; None: as bursar says it."""


class Purse(Protocol):
    """The drill's own money, where calls cost real money."""

    def take(self, request: bytes, output_tokens_max: int | None) -> int | None:
        """Set the most that a call can cost aside; None when there is not that much left."""
        ...

    def settle(self, taken: int, reply: bytes) -> None:
        """Put back what a reply did not cost; one whose cost is not known has cost everything."""
        ...

    def refund(self, taken: int) -> None:
        """Put back everything: an error of the client's, which nobody bills."""
        ...


@dataclass(slots=True)
class Agent:
    """One agent in its loop."""

    number: int
    habit: Habit
    base_url: str
    key: str
    rng: random.Random
    seen: Callable[[Attempt], None]
    """Told of every attempt as it ends."""
    manner: Manner = field(default_factory=Manner)
    purse: Purse | None = None
    _text: str = field(init=False)
    _sent: int = 0

    def __post_init__(self) -> None:
        self._text = _prose(self.rng, self.habit.prompt_bytes)

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Call until a refusal that must not be retried, or until retries have run out on one that may."""
        errors = 0
        for call in range(self.habit.calls_max):
            attempt = await self._call(session, call)
            errors = 0 if attempt.outcome is Outcome.ANSWERED else errors + 1
            if attempt.outcome in _ENDS or errors >= self.habit.errors_max:
                return

    async def ask_once(self, session: aiohttp.ClientSession) -> Attempt:
        """Make the same call once more, without retries and without leaving early."""
        attempt, _ = await self._observed(session, self.habit.calls_max, hangs_up=False)
        return attempt

    async def _call(self, session: aiohttp.ClientSession, call: int) -> Attempt:
        """Make one logical call as an SDK does: once, and up to two retries."""
        attempt, retry_after = await self._observed(session, call, self._hangs_up())
        for _ in range(RETRIES_MAX):
            if retry_after is None:
                break
            await asyncio.sleep(retry_after)
            attempt, retry_after = await self._observed(session, call, self._hangs_up())
        return attempt

    def _hangs_up(self) -> bool:
        return self.rng.randrange(100) < self.habit.hangs_up_percent

    async def _observed(
        self, session: aiohttp.ClientSession, call: int, hangs_up: bool
    ) -> tuple[Attempt, float | None]:
        began = time.monotonic_ns()
        outcome, status, code, retry_after = await self._attempt(session, hangs_up)
        took_us = (time.monotonic_ns() - began) // 1_000
        attempt = Attempt(self.number, call, time.time_ns() // 1_000, took_us, outcome, status, code)
        self.seen(attempt)
        return attempt, retry_after

    async def _attempt(self, session: aiohttp.ClientSession, hangs_up: bool) -> tuple[Outcome, int, str, float | None]:
        # Anywhere between before the head and the middle of a stream.
        patience = self.rng.uniform(0.02, 0.5) if hangs_up else CALL_SECONDS_MAX
        try:
            async with asyncio.timeout(patience):
                return await self._exchange(session)
        except TimeoutError:
            return (Outcome.HUNG_UP if hangs_up else Outcome.TIMEOUT), 0, "", None
        except (aiohttp.ClientError, OSError) as error:
            return Outcome.BROKEN, 0, type(error).__name__, BACKOFF_SECONDS

    async def _exchange(self, session: aiohttp.ClientSession) -> tuple[Outcome, int, str, float | None]:
        method = "streamGenerateContent?alt=sse" if self.habit.stream else "generateContent"
        url = self.base_url + PATHS[self.habit.dialect].format(model=self.habit.model, method=method)
        request = self._body()
        taken = self.purse.take(request, self.habit.max_tokens) if self.purse is not None else 0
        if taken is None:
            return Outcome.STOPPED, 0, "", None
        reply, is_free = b"", False
        try:
            async with session.post(url, data=request, headers=self._headers()) as response:
                reply = await response.read()
                is_free = 400 <= response.status < 500
                return self._read(response, reply)
        finally:
            if self.purse is not None and is_free:
                self.purse.refund(taken)
            elif self.purse is not None:
                self.purse.settle(taken, reply)

    def _read(self, response: aiohttp.ClientResponse, body: bytes) -> tuple[Outcome, int, str, float | None]:
        if response.status == 200:
            if not self._is_complete(body):
                return Outcome.BROKEN, 200, "incomplete", None
            self._grow(body)
            return Outcome.ANSWERED, 200, "", None
        reads = self.manner.reads or read_refusal
        outcome, code = reads(response.status, body)
        return outcome, response.status, code, _retry_after(response)

    # ---- the request -----------------------------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": "bursar-drill", **self.manner.headers}
        if self.habit.dialect == "messages":
            return {**headers, "x-api-key": self.key, "anthropic-version": "2023-06-01"}
        if self.habit.dialect == "gemini":
            return {**headers, "x-goog-api-key": self.key}
        return {**headers, "authorization": f"Bearer {self.key}"}

    def _body(self) -> bytes:
        habit = self.habit
        # The same length always, and never the same request: a gateway that stops loops is drilled at its cap.
        self._sent += 1
        text = f"{self._text[:-9]} {self._sent:08}"
        if habit.dialect == "gemini":
            config = {} if habit.max_tokens is None else {"maxOutputTokens": habit.max_tokens}
            contents = [{"role": "user", "parts": [{"text": text}]}]
            return json.dumps({"contents": contents, "generationConfig": config, **self.manner.body}).encode()
        body: dict[str, Any] = {"model": habit.model, **self.manner.body}
        messages = [{"role": "user", "content": text}]
        if habit.dialect == "responses":
            body["input"] = messages
        else:
            body["messages"] = messages
        if habit.dialect == "messages":
            body["max_tokens"] = habit.max_tokens or 4_096
        elif habit.max_tokens is not None:
            body["max_output_tokens" if habit.dialect == "responses" else "max_completion_tokens"] = habit.max_tokens
        if habit.stream:
            body["stream"] = True
        return json.dumps(body).encode()

    # ---- the answer ------------------------------------------------------------------------------------------------

    def _is_complete(self, body: bytes) -> bool:
        if self.habit.stream:
            return any(mark in body for mark in _LAST_EVENT[self.habit.dialect])
        try:
            return isinstance(json.loads(body), dict)
        except ValueError:
            return False

    def _grow(self, body: bytes) -> None:
        if self.habit.grows:
            self._text += "\n" + _prose(self.rng, min(len(body), 1_000))


def refusal_code(body: bytes) -> str:
    """Give the gateway's own code out of an error body of any dialect; empty when the error is not the gateway's."""
    try:
        fields = json.loads(body)
    except ValueError:
        return ""
    error = fields.get("error") if isinstance(fields, dict) else None
    for holder in (error, fields):
        if isinstance(holder, dict) and isinstance(holder.get("bursar"), dict):
            code = holder["bursar"].get("code") or holder.get("code") or holder.get("type")
            return str(code)
    return ""


def read_refusal(_status: int, body: bytes) -> tuple[Outcome, str]:
    """Read what is no answer as bursar says it."""
    code = refusal_code(body)
    return _outcome(code), code


@dataclass(frozen=True, slots=True)
class Sign:
    """What gives a kind of refusal away: a status, a piece of the body, or both."""

    status: int = 0
    """0 stands for any."""
    has: str = ""
    """In any case of letters."""

    def fits(self, status: int, text: str) -> bool:
        """Tell whether an error reads so; `text` is its body in small letters."""
        return self.status in (0, status) and self.has.lower() in text


def reader(spent: Sequence[Sign], held: Sequence[Sign]) -> Callable[[int, bytes], tuple[Outcome, str]]:
    """Make a reader of errors for a gateway that gives a spent and a held cap away by these signs."""

    def read(status: int, body: bytes) -> tuple[Outcome, str]:
        text = body.decode("utf-8", "replace").lower()
        for outcome, signs in ((Outcome.HELD, held), (Outcome.EXHAUSTED, spent)):
            if any(sign.fits(status, text) for sign in signs):
                return outcome, f"{outcome}_{status}"
        return (Outcome.REFUSED if status in _LASTING else Outcome.ERROR), f"status_{status}"

    return read


def _outcome(code: str) -> Outcome:
    match code:
        case "cap_exhausted":
            return Outcome.EXHAUSTED
        case "cap_held":
            return Outcome.HELD
        case "":
            return Outcome.ERROR
        case _:
            # What the gateway says about its upstream is no refusal: the agent may go on.
            return Outcome.ERROR if code.startswith("upstream_") or code == "ledger_unavailable" else Outcome.REFUSED


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Decide as the SDKs do whether to retry, and after how long."""
    should = response.headers.get("x-should-retry", "")
    if should == "false" or (should != "true" and response.status not in _RETRIED and response.status < 500):
        return None
    wait = response.headers.get("retry-after", "")
    return float(wait) if wait.isdigit() else BACKOFF_SECONDS


def _prose(rng: random.Random, size: int) -> str:
    words: list[str] = []
    length = 0
    while length < size:
        word = rng.choice(_WORDS)
        words.append(word)
        length += len(word) + 1
    return " ".join(words)[:size]
