"""One schedule: agents, gateways, a provider, a ledger, and everything that can go wrong with them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from sim_checks import Checks
from sim_database import Database
from sim_gateway import Asked, Gateway, Way, request_body
from sim_loop import SimLoop, StuckError
from sim_plan import TEAM, Plan
from sim_provider import Habits, Provider
from sim_store import Network, SimStore

from bursar.clock import SECOND
from bursar.ledger import waiting
from bursar.ledger.account import AccountState, Answer, Budget, Limits, OpenScope, Operation, SetLimit, SetState, Unit
from bursar.ledger.reaper import reap_once
from bursar.ledger.store import LedgerUnavailableError

FULL_CALL = 6_500
"""About what a call of the default bound holds, in nanodollars."""
CALM_SECONDS_MAX = 400.0
LINGER_SECONDS = 90.0
NEVER = 1e9
PERIODS = ("rolling-12s", "rolling-1m", "hour", "day@Europe:Berlin", "month")


@dataclass(slots=True)
class Outcome:
    """What became of a schedule."""

    plan: Plan
    violations: list[str]
    counts: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    """The same for the same seed, in every process."""


def run_schedule(plan: Plan) -> Outcome:
    """Run one schedule to its end and say what was wrong."""
    world = World(plan)
    tick = NEVER if plan.is_watched else waiting.TICK_SECONDS
    with mock.patch.object(waiting, "TICK_SECONDS", tick):
        try:
            world.loop.run(world.main())
        except StuckError as error:
            world.checks.violations.append(f"stuck at {world.loop.time():.3f} s: {error}")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            world.checks.violations.append(f"the end of the schedule failed: {error!r}")
    return world.outcome()


class World:
    """Everything in one schedule."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = SimLoop(self.rng("loop"))
        self.database = Database(self.loop, self.rng("database"))
        self.network = Network(self.loop, self.rng("network"))
        self.provider = Provider(self.loop, self.rng("provider"), _habits(plan))
        self.checks = Checks(self.loop, self.database, self.provider)
        self.gateways: list[Gateway] = []
        self.is_storm = True
        self.way = Way(plan.wait_seconds_max, plan.waiters_max, has_spare=plan.has_spare)
        self._faults = self.rng("faults")
        self._agents = self.rng("agents")
        self.database.has_claims = not plan.is_watched
        self._lives = 0
        self._calls = 0
        self._scopes: list[tuple[str, ...]] = []
        self._helpers: set[asyncio.Task[Any]] = set()
        if plan.is_watched:
            self.loop.on_idle = lambda: self.checks.no_wake_up_is_lost(self.gateways)

    def rng(self, what: str) -> random.Random:
        """Give chances of their own to each part, so that one fault less changes as little as possible."""
        return random.Random(f"{self.plan.seed}/{what}")

    async def main(self) -> None:
        """Open the accounts, let the storm rage, let everything end, and look at the books."""
        admin = self._admin("admin")
        await self._started(admin)
        await self._open_scopes(admin)
        for _ in range(self.plan.gateways):
            self._start_gateway()
        self._begin_network_faults()
        storm = [asyncio.create_task(work) for work in self._storm(admin)]
        agents = [asyncio.create_task(self._agent(number)) for number in range(self.plan.agents)]
        await asyncio.wait(agents, timeout=self.plan.storm_seconds)
        self.is_storm = False
        for task in storm:
            task.cancel()
        await self._calm(agents)
        await self._bury(admin)
        self.checks.at_the_end()

    def outcome(self) -> Outcome:
        """Sum up."""
        violations = self.checks.violations + self.database.violations + self.provider.violations + self.loop.errors
        digest = hashlib.sha256(repr((self.loop.steps, self.database.rows.lines)).encode()).hexdigest()[:16]
        return Outcome(self.plan, violations, self.checks.counts, digest)

    # ---- the beginning -----------------------------------------------------------------------------------------------

    def _admin(self, name: str) -> SimStore:
        process = self.loop.process(name)
        return process.context.run(SimStore, process, self.database, self.network)

    async def _started(self, store: SimStore) -> None:
        while True:
            with suppress(LedgerUnavailableError):
                return await store.start()
            await asyncio.sleep(0.2)

    async def _submitted(self, store: SimStore, operation: Operation) -> Answer:
        while True:
            with suppress(LedgerUnavailableError):
                return await store.submit(operation)
            await asyncio.sleep(0.2)

    async def _open_scopes(self, admin: SimStore) -> None:
        rng, plan = self._agents, self.plan
        key_usd = rng.choice((None, int(plan.room * FULL_CALL * plan.runs * 0.7)))
        await self._submitted(admin, OpenScope("key:k", "", Limits(usd=key_usd), budgets=self._budgets(rng)))
        team_usd = int(plan.room * FULL_CALL * plan.runs)
        await self._submitted(admin, SetLimit(TEAM, Unit.USD, team_usd, opens=True))
        for number in range(plan.runs):
            usd = rng.choice((int(plan.room * FULL_CALL), int(plan.room * FULL_CALL * 2), None))
            calls = rng.choice((None, int(plan.room) + 2))
            tokens = rng.choice((None, None, int(plan.room * 1_500)))
            run = f"run:r{number}"
            await self._submitted(
                admin, OpenScope(run, "key:k", Limits(usd, calls, tokens), budgets=self._budgets(rng))
            )
            self._scopes.append((run, "key:k"))

    def _budgets(self, rng: random.Random) -> tuple[Budget, ...]:
        if "periods" not in self.plan.faults:
            return ()
        usd, calls = int(self.plan.room * FULL_CALL), int(self.plan.room) + 1
        some = [
            Budget(Unit.USD, usd, rng.choice(PERIODS)), Budget(Unit.CALLS, calls, rng.choice(PERIODS)),
            Budget(Unit.TOKENS, int(self.plan.room * 1_500), rng.choice(PERIODS)),
        ]  # fmt: skip
        return tuple(budget for budget in some if rng.random() < 0.5)

    def _start_gateway(self) -> None:
        self._lives += 1
        name = f"g{self._lives}"
        gateway = Gateway(name, self.loop, self.database, self.network, self.provider, self.way, self.rng(name))
        self.gateways.append(gateway)
        gateway.process.spawn(gateway.start())

    def _begin_network_faults(self) -> None:
        plan, network = self.plan, self.network
        network.request_lost = 0.03 if "request_lost" in plan.faults else 0.0
        network.request_late = 0.03 if "request_late" in plan.faults else 0.0
        network.reply_lost = 0.06 if "reply_lost" in plan.faults else 0.0

    # ---- agents ------------------------------------------------------------------------------------------------------

    async def _agent(self, number: int) -> None:
        rng = random.Random(f"{self.plan.seed}/agent {number}")
        scopes = self._scopes[number % len(self._scopes)]
        hopeless = 0
        for _ in range(self.plan.calls_per_agent):
            serving = [gateway for gateway in self.gateways if gateway.is_serving]
            if not serving or hopeless > 2 or not self.is_storm:
                if hopeless > 2 or not self.is_storm:
                    return
                await asyncio.sleep(0.3)
                continue
            how = await self._one_call(rng, scopes, rng.choice(serving))
            hopeless += how in ("denied exhausted", "denied overrun", "denied quarantined")
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 1))))

    async def _one_call(self, rng: random.Random, scopes: tuple[str, ...], gateway: Gateway) -> str:
        self._calls += 1
        call_id = f"c{self._calls}"
        bound = rng.choice((None, rng.randint(1, 300), rng.randint(300, 2_000)))
        body = request_body(call_id, rng.randint(10, 400), bound, is_stream=rng.random() < 0.4)
        ended: asyncio.Future[str] = self.loop.create_future()
        asked = Asked(call_id, scopes, body, self.loop.time(), ended)
        self.checks.calls[call_id] = asked
        client = gateway.serve(asked)
        patience = 60.0
        if "leave" in self.plan.faults and rng.random() < 0.3:
            patience = rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 4)))
        if "cancel" in self.plan.faults and rng.random() < 0.2:
            gateway.process.after_steps(rng.randint(1, 60), lambda: client.task.cancel() if client.task else None)
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(ended)
        except TimeoutError:
            gateway.process.call(client.leave)
            return "left"

    # ---- faults ------------------------------------------------------------------------------------------------------

    def _storm(self, admin: SimStore) -> list[Coroutine[Any, Any, None]]:
        makers: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "crash": self._crash, "pause": self._pause, "cut": self._cut, "outage": self._outage,
            "failover": self._failover, "readonly": self._readonly, "slow": self._slow, "clock": self._clock,
            "limits": lambda: self._limits(admin), "states": lambda: self._states(admin),
        }  # fmt: skip
        return [self._again(make) for fault, make in makers.items() if fault in self.plan.faults]

    async def _again(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        mean = self._faults.choice((1.0, 4.0))
        while self.is_storm:
            await asyncio.sleep(self._faults.expovariate(1 / mean))
            await make()

    def _some(self) -> Gateway | None:
        alive = [gateway for gateway in self.gateways if not gateway.process.is_dead]
        return self._faults.choice(alive) if alive else None

    def _at_once_or_soon(self, gateway: Gateway, do: Callable[[], None]) -> None:
        """At some await of the gateway: a fault at a random time mostly finds everybody asleep."""
        if self._faults.random() < 0.7:
            gateway.process.after_steps(self._faults.randint(1, 200), do)
        else:
            do()

    async def _crash(self) -> None:
        gateway = self._some()
        if gateway is not None:
            self._at_once_or_soon(gateway, lambda: self._kill(gateway))

    def _kill(self, gateway: Gateway) -> None:
        if not gateway.process.is_dead:
            self.checks.count("crashes")
            gateway.crash()
            self.loop.call_later(self._faults.uniform(0, 4), self._restart)

    def _restart(self) -> None:
        if self.is_storm:
            self._start_gateway()

    async def _pause(self) -> None:
        gateway = self._some()
        if gateway is None or gateway.process.is_paused:
            return
        seconds = self._faults.choice((self._faults.uniform(0, 3), self._faults.uniform(3, 30)))
        is_cut = self._faults.random() < 0.6

        def pause() -> None:
            if gateway.process.is_paused:
                return
            self.checks.count("pauses")
            gateway.process.pause()
            if is_cut and gateway.store.session is not None:
                self.database.cut(gateway.store.session)
            self.loop.call_later(seconds, gateway.process.resume)

        self._at_once_or_soon(gateway, pause)

    async def _cut(self) -> None:
        gateway = self._some()
        if gateway is not None and gateway.store.session is not None:
            session = gateway.store.session
            self._at_once_or_soon(gateway, lambda: self.database.cut(session))

    async def _outage(self) -> None:
        self.database.go_down()
        await asyncio.sleep(self._faults.choice((self._faults.uniform(0, 1), self._faults.uniform(1, 12))))
        self.database.come_up()

    async def _failover(self) -> None:
        self.database.go_down()
        await asyncio.sleep(self._faults.uniform(0.1, 2))
        self.database.clock_offset += int(self._faults.uniform(-5, 5) * SECOND)
        self.database.come_up()

    async def _readonly(self) -> None:
        self.database.is_writable = False
        await asyncio.sleep(self._faults.uniform(0.1, 6))
        self.database.is_writable = True

    async def _slow(self) -> None:
        self.database.slowness = self._faults.choice((30.0, 1_000.0))
        await asyncio.sleep(self._faults.uniform(0.5, 4))
        self.database.slowness = 1.0

    async def _clock(self) -> None:
        self.database.clock_offset += int(
            self._faults.choice((1, 3_600, 90_000)) * self._faults.uniform(-1, 1) * SECOND
        )

    async def _limits(self, admin: SimStore) -> None:
        scope = self._faults.choice(self._faults.choice(self._scopes))
        unit = self._faults.choice((Unit.USD, Unit.CALLS))
        whole = int(self.plan.room * (FULL_CALL if unit is Unit.USD else 1))
        limit = self._faults.choice((None, 0, whole, whole // 3, whole * 2, whole * 4))
        period = self._faults.choice(("lifetime", *PERIODS)) if "periods" in self.plan.faults else "lifetime"
        await self._submitted(admin, SetLimit(scope, unit, limit, period))

    async def _states(self, admin: SimStore) -> None:
        scope = self._faults.choice(self._faults.choice(self._scopes))
        await self._submitted(admin, SetState(scope, AccountState.STOPPED))
        await asyncio.sleep(self._faults.uniform(0, 3))
        await self._submitted(admin, SetState(scope, AccountState.OPEN))

    # ---- the end -----------------------------------------------------------------------------------------------------

    async def _calm(self, agents: list[asyncio.Task[None]]) -> None:
        """Stop all faults and let every call come to its end."""
        self.network.request_lost = self.network.request_late = self.network.reply_lost = 0.0
        self.database.slowness, self.database.is_writable = 1.0, True
        if not self.database.is_up:
            self.database.come_up()
        for gateway in self.gateways:
            gateway.process.defuse()
            if gateway.process.is_paused:
                gateway.process.resume()
        try:
            async with asyncio.timeout(CALM_SECONDS_MAX):
                await asyncio.wait(agents)
                while any(gateway.clients for gateway in self.gateways if not gateway.process.is_dead):
                    await asyncio.sleep(1)
        except TimeoutError:
            waiting_calls = [c for g in self.gateways if not g.process.is_dead for c in g.clients]
            self.checks.violations.append(f"calls that never end: {waiting_calls}")

    async def _bury(self, admin: SimStore) -> None:
        """Drain what lives, and have the reaper look after what died."""
        living = [gateway for gateway in self.gateways if not gateway.process.is_dead]
        for gateway in living:
            task = gateway.process.spawn(gateway.ledger.drain())
            try:
                async with asyncio.timeout(CALM_SECONDS_MAX):
                    await asyncio.shield(task)
            except TimeoutError:
                self.checks.violations.append(f"{gateway.name} cannot be drained: {gateway.ledger.unsettled} unsettled")
        self.checks.when_drained(living)
        for gateway in living:
            await asyncio.shield(gateway.process.spawn(gateway.stop()))
        await asyncio.sleep(LINGER_SECONDS)
        while await reap_once(admin):
            pass


def _habits(plan: Plan) -> Habits:
    weights = {"json": 4.0, "stream": 4.0}
    if "errors" in plan.faults:
        weights |= {"refused": 1, "failed": 1, "hang": 0.3, "lost": 0.5, "cut": 1, "unmetered": 1}
    if "lying" in plan.faults:
        weights["lying"] = 0.3
    return Habits(weights, connect_failed=0.05 if "errors" in plan.faults else 0.0)
