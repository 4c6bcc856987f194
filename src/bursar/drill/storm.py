"""One storm: a fake provider, a gateway, many agents on one run, and somebody who keeps looking at till and books."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from bursar.drill.agents import Agent, Attempt, Habit, Outcome
from bursar.drill.answering import Config
from bursar.drill.gateway import Books, BooksClosedError, Gateway
from bursar.drill.scenarios import Scenario
from bursar.drill.till import now_us
from bursar.drill.verdict import Balance, Look, Measured, Struck
from bursar.drill.witness import Seen, Witness

LOOK_SECONDS = 0.05
STORM_SECONDS_MAX = 120.0
CALM_SECONDS_MAX = 30.0
CALLS_PER_AGENT_MAX = 2_000
OVER_TIMES_MAX = 5
"""A till of so many times the cap says enough: the agents are stopped."""
PROBES_MAX = 20
# The first blow falls when this much of the cap is used, and so on; many blows stand closer.
_BLOW_STEP_PERCENT = 15
_BLOWS_PERCENT_MAX = 75


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a storm is."""

    used: int
    """Of the cap, at the till, in the unit of the cap."""
    calls: int
    refusals: int
    agents_left: int


@dataclass(slots=True)
class Storm:
    """A scenario as it happens."""

    scenario: Scenario
    witness: Witness
    gateway: Gateway
    tell: Callable[[Progress], None]
    attempts: list[Attempt] = field(default_factory=list)
    probes: list[Attempt] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    _seen: Seen = field(default_factory=Seen)
    _agents_left: int = 0
    _limit: asyncio.Timeout | None = None
    _blow: asyncio.Task[None] | None = None

    async def run(self) -> Measured:
        """Let the agents loose, wait until all is quiet, and give what was measured."""
        began, began_at_us = time.monotonic(), now_us()
        rng = random.Random(self.scenario.seed)  # noqa: S311 - repeatable chance, no secret
        watcher = asyncio.create_task(self._watch(rng))
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                agents = await self._agents(rng, session)
                await self._calm()
                await self._ask_again(agents, session)
            books = await self._calm()
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        with contextlib.suppress(BooksClosedError):
            await self._look()
        return Measured(
            scope=self.gateway.scope,
            attempts=tuple(self.attempts),
            probes=tuple(self.probes),
            till=await self.witness.lines(),
            balances=books.balances,
            holds_open=books.holds_open,
            audit=books.audit,
            holds_expired=books.holds_expired,
            looks=tuple(self.looks),
            blows=tuple(blow.name for blow in self.struck),
            seconds=round(time.monotonic() - began),
            began_at_us=began_at_us,
            struck=tuple(self.struck),
            has_books=self.gateway.has_books,
        )

    async def _agents(self, rng: random.Random, session: aiohttp.ClientSession) -> list[Agent]:
        agents = [
            Agent(
                number=number,
                habit=habit(self.scenario, number, rng),
                base_url=self.gateway.base_urls[number % len(self.gateway.base_urls)],
                key=self.gateway.key,
                rng=random.Random(rng.random()),  # noqa: S311 - as above
                seen=self.attempts.append,
                manner=self.gateway.manner,
                purse=self.gateway.purse,
            )
            for number in range(self.scenario.agents)
        ]
        self._agents_left = len(agents)
        with contextlib.suppress(TimeoutError):
            # Agents that nobody stops are cut off here, and the verdict says so.
            async with asyncio.timeout(STORM_SECONDS_MAX) as self._limit, asyncio.TaskGroup() as group:
                for agent in agents:
                    group.create_task(self._live(agent, session))
        return agents

    async def _ask_again(self, agents: list[Agent], session: aiohttp.ClientSession) -> None:
        """Let some of the agents that heard that the cap is spent ask once more, one by one, now that nobody waits."""
        refused = {attempt.agent for attempt in self.attempts if attempt.outcome is Outcome.EXHAUSTED}
        for agent in [agent for agent in agents if agent.number in refused][:PROBES_MAX]:
            agent.seen = self.probes.append
            await agent.ask_once(session)

    async def _live(self, agent: Agent, session: aiohttp.ClientSession) -> None:
        await agent.run(session)
        self._agents_left -= 1

    async def _calm(self) -> Books:
        """Wait until nothing is in flight at the provider and nothing is held, or for as long as that may take."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALM_SECONDS_MAX):
                while not await self._is_calm():  # noqa: ASYNC110 - other processes write the books
                    await asyncio.sleep(LOOK_SECONDS)
        return await self.gateway.ledger.books()

    async def _is_calm(self) -> bool:
        try:
            if (await self.witness.look()).in_flight or self._blow is not None:
                return False
            return not any(balance.held for balance in await self.gateway.ledger.balances())
        except BooksClosedError:
            return False

    async def _watch(self, rng: random.Random) -> None:
        """Compare till and books again and again, and strike when it is time."""
        try:
            while True:
                with contextlib.suppress(BooksClosedError):
                    self._strike(await self._look(), rng)
                if self._used() > OVER_TIMES_MAX * self._cap():
                    self._give_up()
                self.tell(self._progress())
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            if self._blow is not None:
                await self._blow

    async def _look(self) -> tuple[Balance, ...]:
        """Write down what till and books say now; raises BooksClosedError."""
        # The till first: what is billed later can only be covered better by what is booked by then.
        self._seen = seen = await self.witness.look()
        balances = await self.gateway.ledger.balances()
        own = [row for row in balances if row.scope == self.gateway.scope and row.unit == self._unit()]
        self.looks.append(
            Look(
                till=seen.nanodollars,
                booked=Books(balances, 0, ()).booked(self.gateway.scope),
                at_us=now_us(),
                used=self._used(),
                captured=sum(row.captured + row.overrun for row in own) if self.gateway.has_books else None,
                held=sum(row.held for row in own) if self.gateway.has_books else None,
                in_flight=seen.in_flight,
                refusals=self._refusals(),
            )
        )
        return balances

    def _give_up(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())
        self._limit = None

    def _strike(self, balances: tuple[Balance, ...], rng: random.Random) -> None:
        """Let the next blow fall when it is due and the one before is over."""
        if self._blow is not None and self._blow.done():
            self._blow.result()
            self._blow = None
        done = len(self.struck)
        if self._blow is None and done < min(self._blows_due(balances), len(self.scenario.blows)):
            self._blow = asyncio.create_task(self._fall(self.scenario.blows[done], rng))

    async def _fall(self, blow: str, rng: random.Random) -> None:
        began_at_us = now_us()
        if await self.gateway.strike(blow, rng):
            self.struck.append(Struck(blow, began_at_us, now_us()))

    def _blows_due(self, balances: tuple[Balance, ...]) -> int:
        own = [row for row in balances if row.scope == self.gateway.scope and row.unit == self._unit()]
        booked = sum(row.captured for row in own)
        # What is booked may run far ahead of the till where many answers are lost.
        used = max(self._used(), booked)
        step = min(_BLOW_STEP_PERCENT, _BLOWS_PERCENT_MAX // max(1, len(self.scenario.blows)))
        return used * 100 // (step * max(1, self._cap()))

    def _cap(self) -> int:
        calls = self.scenario.cap_calls
        return calls if calls is not None else self.scenario.cap_nanodollars or 0

    def _unit(self) -> str:
        return "calls" if self.scenario.cap_calls is not None else "usd"

    def _used(self) -> int:
        return self._seen.calls if self.scenario.cap_calls is not None else self._seen.nanodollars

    def _refusals(self) -> int:
        return sum(attempt.outcome is Outcome.EXHAUSTED for attempt in self.attempts)

    def _progress(self) -> Progress:
        return Progress(self._used(), self._seen.calls, self._refusals(), self._agents_left)


def habit(scenario: Scenario, number: int, rng: random.Random) -> Habit:
    """Give the habit of one agent: dialects and streaming in turn, the rest by chance."""
    dialects, streams = scenario.dialects, scenario.streams
    is_unbounded = rng.randrange(100) < scenario.unbounded_percent
    return Habit(
        dialect=dialects[number % len(dialects)],
        model=scenario.models[dialects[number % len(dialects)]],
        stream=streams[number // len(dialects) % len(streams)],
        prompt_bytes=rng.randint(*scenario.prompt_bytes),
        max_tokens=None if is_unbounded else scenario.max_tokens,
        grows=rng.randrange(100) < scenario.growing_percent,
        hangs_up_percent=scenario.hang_up_percent,
        calls_max=CALLS_PER_AGENT_MAX,
        errors_max=scenario.errors_max,
    )


def provider_config(scenario: Scenario) -> Config:
    """Give the fake provider's behaviour in a scenario."""
    return Config(
        seed=scenario.seed,
        first_byte_ms=scenario.latency_ms,
        chunk_ms=scenario.chunk_ms,
        output_tokens_least=scenario.output_tokens[0],
        output_tokens_most=scenario.output_tokens[1],
        faults=scenario.faults,
    )
