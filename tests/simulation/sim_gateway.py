"""One gateway of the simulation: the real money path, ledger and reaper, in a process that can be killed or paused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sim_database import NOON, Database
from sim_loop import Process, SimLoop
from sim_plan import TEAM
from sim_provider import INPUT_NANODOLLARS, OUTPUT_NANODOLLARS, Provider
from sim_store import Network, SimStore

from bursar.call import Call, Head
from bursar.clock import SECOND, Instant
from bursar.dialects.openai_chat import OpenAIChat
from bursar.dialects.protocol import Quirks, Request
from bursar.ledger.account import Denied
from bursar.ledger.hold import Ledger, OpenHold
from bursar.ledger.reaper import reap
from bursar.ledger.store import LedgerUnavailableError
from bursar.money import Rate
from bursar.pricing.counted import CountedBy, InputCount
from bursar.pricing.quote import OutputPolicy, Quote
from bursar.pricing.rates import FOREVER, Card, Family, Rates, Step, Unpriced
from bursar.proxy import Failure, Gate, proxy
from bursar.upstream.client import Reply, Upstream
from bursar.upstream.providers import PROVIDERS, Endpoint

REAP_EVERY_SECONDS = 1.0
TOTAL_SECONDS_MAX = 20.0
READ_ON_SECONDS_MAX = 2.0
DIALECT = OpenAIChat()
UPSTREAMS = ("openai", "spare")
ENDPOINTS: Mapping[str, Endpoint] = {
    name: Endpoint(
        name=name,
        base_url="http://provider.test",
        secret="",
        provider=PROVIDERS["openai"],
        quirks=Quirks(),
        connect_seconds_max=5.0,
        idle_seconds_max=8.0,
        total_seconds_max=TOTAL_SECONDS_MAX,
        read_on_seconds_max=READ_ON_SECONDS_MAX,
    )
    for name in UPSTREAMS
}
_INPUT, _OUTPUT = Rate(INPUT_NANODOLLARS * 1_000), Rate(OUTPUT_NANODOLLARS * 1_000)
_CARD = Card(
    model="m1",
    provider="test",
    family=Family.BYTE_LEVEL,
    context_tokens=100_000,
    output_tokens_max=8_000,
    tiers={"default": (Step(0, Rates(_INPUT, _OUTPUT, _INPUT, _INPUT, _INPUT)),)},
    image_tokens_max=0,
    source="test",
    valid_until=FOREVER,
)


class _Book:
    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced:
        return _CARD


class _Clock:
    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> Instant:
        return Instant(NOON + int(self._loop.time() * SECOND))


class _Spares:
    """One more upstream for every call, or none."""

    def __init__(self, call: Call | None) -> None:
        self._call = call

    def take(self) -> Call | None:
        call, self._call = self._call, None
        return call


class _Counting:
    """Counts the input of some calls as a provider would, after a while."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def count(self, quote: Quote) -> InputCount | None:
        await asyncio.sleep(self._rng.uniform(0, 1))
        return (
            InputCount(quote.call, quote.call.input.text_bytes, CountedBy.PROVIDER)
            if self._rng.random() < 0.5
            else None
        )


@dataclass(slots=True)
class Asked:
    """One call as its client sees it: what it asks, how it ends."""

    call_id: str
    scopes: tuple[str, ...]
    body: bytes
    asked_at: float
    ended: asyncio.Future[str]
    """`answered`, `broken`, `denied REASON`, `failed CODE`, `unavailable`, `left`, `gone`, `error`."""
    holds: dict[str, OpenHold] = field(default_factory=dict)
    """By the id of the attempt, in their order."""
    is_denied: bool = False
    also: tuple[str, ...] = (TEAM, "user:without-a-budget")

    def end(self, how: str) -> None:
        """Note how the call has ended for its client."""
        if not self.ended.done():
            self.ended.set_result(how)


def request_body(call_id: str, text_bytes: int, bound: int | None, *, is_stream: bool) -> bytes:
    """Give the body of a call; the provider finds the call's name in it."""
    body: dict[str, Any] = {"model": "m1", "user": call_id, "messages": [{"role": "user", "content": "x" * text_bytes}]}
    if bound is not None:
        body["max_tokens"] = bound
    if is_stream:
        body["stream"] = True
    return json.dumps(body).encode()


class _Client:
    """The client of one call, as the money path sees it."""

    def __init__(self, asked: Asked, rng: random.Random) -> None:
        self.asked = asked
        self.call_id = asked.call_id
        self.scopes = asked.scopes
        self.also = asked.also
        self.has_left = False
        self.task: asyncio.Task[None] | None = None
        self._rng = rng
        self._is_queued = False
        self._deadline: tuple[asyncio.Timeout, float] | None = None

    def leave(self) -> None:
        """Hang up."""
        self.has_left = True
        if self._is_queued and self.task is not None:
            self.task.cancel()
        elif self._deadline is not None:
            self._shorten(*self._deadline)

    @contextlib.contextmanager
    def in_queue(self) -> Iterator[None]:
        if self.has_left and self.task is not None:
            self.task.cancel()
        self._is_queued = True
        try:
            yield
        finally:
            self._is_queued = False

    def on_leave(self, deadline: asyncio.Timeout, seconds: float) -> None:
        self._deadline = (deadline, seconds)
        if self.has_left:
            self._shorten(deadline, seconds)

    @staticmethod
    def _shorten(deadline: asyncio.Timeout, seconds: float) -> None:
        at = asyncio.get_running_loop().time() + seconds
        before = deadline.when()
        if not deadline.expired() and (before is None or at < before):
            with contextlib.suppress(RuntimeError):
                deadline.reschedule(at)

    def granted(self, hold: OpenHold) -> None:
        self.asked.holds[hold.granted.call_id] = hold

    async def is_raised(self, denied: Denied) -> bool:
        return False

    async def refuse(self, refusal: Unpriced | Denied | Failure) -> None:
        match refusal:
            case Denied():
                self.asked.is_denied = True
                self.asked.end(f"denied {refusal.reason.value}")
            case Failure():
                self.asked.end(f"failed {refusal.code}")
            case Unpriced():
                self.asked.end("unpriced")

    async def start(self, reply: Reply, hold: OpenHold) -> None:
        await self.write(b"")

    async def write(self, chunk: bytes) -> None:
        if not self.has_left and self._rng.random() < 0.05:
            await asyncio.sleep(self._rng.uniform(0, 3))

    async def end(self, chunk: bytes) -> None:
        await self.write(chunk)
        self.asked.end("answered")


@dataclass(slots=True)
class Way:
    """How gateways are set up in one schedule."""

    wait_seconds_max: float = 5.0
    waiters_max: int = 64
    tokens_default: int = 1_000
    tokens_floor: int = 50
    tokens_comfort: int = 300
    has_spare: bool = False


class Gateway:
    """One life of one gateway; after a crash there is a new one."""

    def __init__(
        self, name: str, loop: SimLoop, database: Database, network: Network, provider: Provider, way: Way,
        rng: random.Random,
    ) -> None:  # fmt: skip
        self.name = name
        self.process: Process = loop.process(name)
        self.is_serving = False
        self.store: SimStore = self.process.context.run(SimStore, self.process, database, network)
        self.ledger = Ledger(self.store, way.wait_seconds_max, waiters_max=way.waiters_max)
        self.clients: dict[str, _Client] = {}
        self._database = database
        self._way = way
        self._rng = rng
        self._reaper: asyncio.Task[None] | None = None
        upstream = Upstream(ENDPOINTS, {DIALECT.name: DIALECT})
        # The wire is the world's; all of `Upstream.send` above it is what runs in a real gateway.
        upstream._pools = {name: provider.pool() for name in UPSTREAMS}  # type: ignore[misc]
        self.gate = Gate(
            book=_Book(),
            ledger=self.ledger,
            upstream=upstream,
            counting=_Counting(rng),  # type: ignore[arg-type]  # the counting of a provider is the world's
            endpoints=ENDPOINTS,
            policy=OutputPolicy(way.tokens_default, way.tokens_floor, way.tokens_comfort),
            clock=_Clock(loop),
        )

    async def start(self) -> None:
        """Connect, again and again until it works, then serve."""
        while True:
            try:
                await self.store.start()
            except LedgerUnavailableError:
                await asyncio.sleep(0.5)
            else:
                break
        self._reaper = asyncio.get_running_loop().create_task(reap(self.store, REAP_EVERY_SECONDS))
        self.is_serving = True

    async def stop(self) -> None:
        """Write every settlement, then close."""
        self.is_serving = False
        if self._reaper is not None:
            self._reaper.cancel()
        await self.ledger.drain()
        await self.store.close()

    def serve(self, asked: Asked) -> _Client:
        """Take a call."""
        client = self.clients[asked.call_id] = _Client(asked, self._rng)
        client.task = self.process.spawn(self._serve(client))
        client.task.add_done_callback(lambda _: self._served(client), context=self.process.context)
        return client

    def _served(self, client: _Client) -> None:
        self.clients.pop(client.call_id, None)
        client.asked.end("left")

    def crash(self) -> None:
        """Die as with kill -9; the operating system closes the connections."""
        self.is_serving = False
        self.process.kill()
        self.store.abandon()
        for client in self.clients.values():
            client.asked.end("gone")

    async def _serve(self, client: _Client) -> None:
        asked = client.asked
        try:
            call = DIALECT.parse(
                Request("openai", "/v1/chat/completions", {}, asked.body, head=Head("/v1/chat/completions"))
            )
            if not isinstance(call, Call):
                raise TypeError(call)
            spares = _Spares(replace(call, upstream="spare") if self._way.has_spare else None)
            await proxy(call, DIALECT, self.gate, client, spares)
            asked.end("broken")
        except LedgerUnavailableError:
            asked.end("unavailable")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            if not self.process.is_dead:
                self._database.violations.append(f"{asked.call_id} failed in its gateway: {error!r}")
                asked.end("error")
