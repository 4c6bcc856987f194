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
from bursar.drill.fake_provider import FakeProvider
from bursar.drill.gateway import Books, Gateway
from bursar.drill.scenarios import Scenario
from bursar.drill.till import Till
from bursar.drill.verdict import Balance, BilledCall, Look, Measured

LOOK_SECONDS = 0.05
STORM_SECONDS_MAX = 120.0
CALM_SECONDS_MAX = 30.0
CALLS_PER_AGENT_MAX = 2_000
PROBES_MAX = 20
# A worker is killed when this much of the cap is used, and again after each further step of the same size.
_KILL_STEP_PERCENT = 15


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
    provider: FakeProvider
    gateway: Gateway
    tell: Callable[[Progress], None]
    attempts: list[Attempt] = field(default_factory=list)
    probes: list[Attempt] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    kills: int = 0
    _agents_left: int = 0

    async def run(self) -> Measured:
        """Let the agents loose, wait until all is quiet, and give what was measured."""
        began = time.monotonic()
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
        return Measured(
            scope=self.gateway.scope,
            attempts=tuple(self.attempts),
            probes=tuple(self.probes),
            till=tuple(BilledCall(line.at_us, line.nanodollars) for line in self._till.ledger),
            balances=books.balances,
            holds_open=books.holds_open,
            audit=books.audit,
            looks=tuple(self.looks),
            kills=self.kills,
            seconds=round(time.monotonic() - began),
        )

    @property
    def _till(self) -> Till:
        return self.provider.till

    async def _agents(self, rng: random.Random, session: aiohttp.ClientSession) -> list[Agent]:
        agents = [
            Agent(
                number=number,
                habit=habit(self.scenario, number, rng),
                base_url=self.gateway.base_url,
                key=self.gateway.key,
                rng=random.Random(rng.random()),  # noqa: S311 - as above
                seen=self.attempts.append,
            )
            for number in range(self.scenario.agents)
        ]
        self._agents_left = len(agents)
        with contextlib.suppress(TimeoutError):
            # Agents that nobody stops are cut off here, and the verdict says so.
            async with asyncio.timeout(STORM_SECONDS_MAX), asyncio.TaskGroup() as group:
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
        if self._till.in_flight:
            return False
        return not any(balance.held for balance in await self.gateway.ledger.balances())

    async def _watch(self, rng: random.Random) -> None:
        """Compare till and books again and again, and kill workers when their time has come."""
        while True:
            # The till first: what is billed later can only be covered better by what is booked by then.
            till = self._till.total.nanodollars
            balances = await self.gateway.ledger.balances()
            self.looks.append(Look(till, Books(balances, 0, ()).booked(self.gateway.scope)))
            self.tell(self._progress())
            if self.kills < self._kills_due(balances) and self.gateway.kill_worker(rng):
                self.kills += 1
            await asyncio.sleep(LOOK_SECONDS)

    def _kills_due(self, balances: tuple[Balance, ...]) -> int:
        unit = "calls" if self.scenario.cap_calls is not None else "usd"
        booked = sum(row.captured for row in balances if row.scope == self.gateway.scope and row.unit == unit)
        # What is booked may run far ahead of the till where many answers are lost.
        used = max(self._used(), booked)
        return min(self.scenario.kills, used * 100 // (_KILL_STEP_PERCENT * max(1, self._cap())))

    def _cap(self) -> int:
        calls = self.scenario.cap_calls
        return calls if calls is not None else self.scenario.cap_nanodollars or 0

    def _used(self) -> int:
        total = self._till.total
        return total.calls if self.scenario.cap_calls is not None else total.nanodollars

    def _progress(self) -> Progress:
        refusals = sum(attempt.outcome is Outcome.EXHAUSTED for attempt in self.attempts)
        return Progress(self._used(), self._till.total.calls, refusals, self._agents_left)


def habit(scenario: Scenario, number: int, rng: random.Random) -> Habit:
    """Give the habit of one agent: dialects and streaming in turn, the rest by chance."""
    dialects, streams = scenario.dialects, scenario.streams
    is_unbounded = rng.randrange(100) < scenario.unbounded_percent
    return Habit(
        dialect=dialects[number % len(dialects)],
        stream=streams[number // len(dialects) % len(streams)],
        prompt_bytes=rng.randint(*scenario.prompt_bytes),
        max_tokens=None if is_unbounded else scenario.max_tokens,
        grows=rng.randrange(100) < scenario.growing_percent,
        hangs_up_percent=scenario.hang_up_percent,
        calls_max=CALLS_PER_AGENT_MAX,
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
