"""The provider of the simulation and its till: what a call costs is decided here, and bursar is not asked."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from sim_loop import SimLoop

from bursar.upstream.http import BrokenError, ConnectError, Origin

INPUT_NANODOLLARS = 1
OUTPUT_NANODOLLARS = 5
FORMATTING_TOKENS = 64
"""A provider may generate a few tokens more than it was told to."""
KINDS = ("json", "stream", "refused", "failed", "hang", "lost", "cut", "unmetered", "lying")


@dataclass(slots=True)
class Bill:
    """What one request costs, and the most that it may still cost while the provider is at work."""

    call_id: str
    kind: str
    usd_max: int
    tokens_max: int
    usd: int
    tokens: int
    is_final: bool = False

    @property
    def due(self) -> tuple[int, int, int]:
        """Give nanodollars, calls and tokens that have to be covered now; a lie is due when it is told."""
        if not self.is_final:
            return self.usd_max, 1, self.tokens_max
        return self.usd, min(self.tokens, 1), self.tokens


@dataclass(slots=True)
class Habits:
    """How a provider behaves, as weights of the kinds of answer and as seconds."""

    weights: dict[str, float] = field(default_factory=lambda: {"json": 1.0, "stream": 1.0})
    connect_failed: float = 0.0
    seconds_max: float = 3.0


class Provider:
    """Serves chat completions, honestly or not."""

    def __init__(self, loop: SimLoop, rng: random.Random, habits: Habits) -> None:
        self.loop = loop
        self.habits = habits
        self.bills: dict[str, Bill] = {}
        self.on_due: Callable[[Bill], None] = lambda bill: None
        """Called when a request arrives and when its bill becomes final."""
        self.attempt_of: Callable[[str], str] = lambda call_id: call_id
        """Gives the id of the hold that pays for the request of a client's call."""
        self.violations: list[str] = []
        self._rng = rng

    def pool(self) -> SimPool:
        """Give a pool of connections for one gateway."""
        return SimPool(self, self._rng)

    def receive(self, request: bytes, connection: SimConnection) -> None:
        """Take a request: it may cost its most from now on, whatever becomes of the gateway."""
        body: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
        call_id = self.attempt_of(body["user"])
        if call_id in self.bills:
            self.violations.append(f"{call_id} was dispatched twice")
        bill = self._price(call_id, body)
        self.bills[call_id] = bill
        self.on_due(bill)
        self._answer(bill, body, connection)

    def _price(self, call_id: str, body: dict[str, Any]) -> Bill:
        rng = self._rng
        kinds = [kind for kind in KINDS if self.habits.weights.get(kind)]
        kind = rng.choices(kinds, [self.habits.weights[kind] for kind in kinds])[0]
        bound = int(body.get("max_completion_tokens") or body["max_tokens"])
        text = sum(len(message["content"]) for message in body["messages"])
        output_max = bound + FORMATTING_TOKENS
        if kind == "refused":
            inputs, outputs = 0, 0
        else:
            inputs = rng.randint(text // 4, text)
            outputs = rng.choice((bound, output_max, rng.randint(1, bound), rng.randint(1, max(1, bound // 8))))
        if kind == "lying":
            inputs, outputs = inputs + 10_000, outputs + rng.randint(1, 5_000)
        if kind == "failed" and rng.random() < 0.5:
            inputs, outputs = 0, 0
        usd_max = text * INPUT_NANODOLLARS + output_max * OUTPUT_NANODOLLARS
        usd = inputs * INPUT_NANODOLLARS + outputs * OUTPUT_NANODOLLARS
        return Bill(call_id, kind, usd_max, text + output_max, usd, inputs + outputs)

    def _answer(self, bill: Bill, body: dict[str, Any], connection: SimConnection) -> None:
        seconds = self._rng.uniform(0.01, self.habits.seconds_max)
        self.later(seconds, self._finish, bill, connection)
        is_stream = bool(body.get("stream"))
        usage = None if bill.kind == "unmetered" else _usage(bill)
        match bill.kind:
            case "refused":
                self.later(seconds, connection.hear, self._rng.choice((400, 429)), b"application/json")
                self.later(seconds, connection.feed, b'{"error":{"message":"no"}}', None)
            case "failed":
                self.later(seconds, connection.hear, 500, b"application/json")
                self.later(seconds, connection.feed, b'{"error":{"message":"oops"}}', None)
            case "hang":
                pass
            case "lost":
                self.later(seconds, connection.end, "the connection was reset")
            case _ if is_stream:
                self._stream(bill, seconds, usage, connection)
            case _:
                self.later(seconds, connection.hear, 200, b"application/json")
                text = json.dumps({"choices": [{}], "usage": usage} if usage else {"choices": [{}]}).encode()
                half = len(text) // 2
                self.later(seconds, connection.feed, text[:half])
                if bill.kind == "cut":
                    self.later(seconds, connection.end, "the connection was reset")
                else:
                    self.later(seconds + 0.001, connection.feed, text[half:], None)

    def _stream(self, bill: Bill, seconds: float, usage: dict[str, int] | None, connection: SimConnection) -> None:
        count = self._rng.randint(1, 5)
        first = seconds * self._rng.random()
        self.later(first, connection.hear, 200, b"text/event-stream")
        for number in range(count):
            at = first + (seconds - first) * number / count
            self.later(at, connection.feed, b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
        if bill.kind == "cut":
            self.later(seconds, connection.end, "the connection was reset")
            return
        if usage:
            event = json.dumps({"choices": [], "usage": usage})
            self.later(seconds, connection.feed, f"data: {event}\n\n".encode())
        self.later(seconds, connection.feed, b"data: [DONE]\n\n", None)

    def _finish(self, bill: Bill, connection: SimConnection) -> None:
        if connection.is_aborted and bill.kind != "lying" and self._rng.random() < 0.5:
            # It has noticed that nobody reads, and bills what it had generated.
            bill.usd, bill.tokens = bill.usd // 2, (bill.tokens + 1) // 2
        bill.is_final = True
        self.on_due(bill)

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        """Have something happen in the world."""
        self.loop.call_later(seconds, function, *args, context=self.loop.world.context)


def _usage(bill: Bill) -> dict[str, int]:
    outputs = (bill.usd - bill.tokens * INPUT_NANODOLLARS) // (OUTPUT_NANODOLLARS - INPUT_NANODOLLARS)
    inputs = bill.tokens - outputs
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": bill.tokens}


class SimPool:
    """Stands where a gateway's pool of connections is; `bursar.upstream.client` above it is the real one."""

    def __init__(self, provider: Provider, rng: random.Random) -> None:
        self._provider = provider
        self._rng = rng
        self.origin = Origin.of("http://provider.test")

    async def take(self) -> SimConnection:
        """Connect; raises ConnectError."""
        await asyncio.sleep(self._rng.choice((0.0, self._rng.uniform(0, 0.2))))
        if self._rng.random() < self._provider.habits.connect_failed:
            raise ConnectError("connection refused")
        return SimConnection(self._provider)

    def give_back(self, connection: SimConnection) -> None:
        """Take a connection back; one whose answer was not read to its end is closed."""
        if not connection.is_complete:
            connection.abort()

    def close(self) -> None:
        """Do nothing: nothing is pooled."""


class SimConnection:
    """One exchange with the provider, with the idle timeout of a real connection."""

    IDLE_SECONDS_MAX = 8.0

    def __init__(self, provider: Provider) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_aborted = False
        self.is_complete = False
        self._provider = provider
        self._chunks: deque[bytes] = deque()
        self._error = ""
        self._news = asyncio.Event()

    async def exchange(self, request: bytes) -> None:
        """Send a request and wait for the head of its response; raises BrokenError."""
        self._provider.receive(request, self)
        while not self.status:
            await self._more()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it arrives; raises BrokenError when it ends before its end."""
        while True:
            while self._chunks:
                yield self._chunks.popleft()
            if self.is_complete:
                return
            await self._more()

    def abort(self) -> None:
        """Close at once."""
        self.is_aborted = True

    async def _more(self) -> None:
        if not self._news.is_set() and not self._error:
            try:
                async with asyncio.timeout(self.IDLE_SECONDS_MAX):
                    await self._news.wait()
            except TimeoutError:
                self.abort()
                raise BrokenError("nothing came for too long") from None
        self._news.clear()
        if self._error and not self._chunks:
            self.abort()
            raise BrokenError(self._error)

    # ---- what arrives ------------------------------------------------------------------------------------------------

    def hear(self, status: int, content_type: bytes) -> None:
        """Take the head of the response."""
        self.status, self.headers = status, [(b"content-type", content_type)]
        self._news.set()

    def feed(self, chunk: bytes, *ends: None) -> None:
        """Take some of the body, and with a second argument its end."""
        self._chunks.append(chunk)
        self.is_complete = self.is_complete or bool(ends)
        self._news.set()

    def end(self, why: str) -> None:
        """Take note that the connection broke."""
        self._error = why
        self._news.set()
