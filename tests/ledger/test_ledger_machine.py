"""One random history on four witnesses: the rules in memory, SQLite, PostgreSQL, and the replay of the entries."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from databases import database_of, drop_all
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger_kit import MemoryStore, hold_row

from bursar.ledger.account import (
    AccountState,
    Adjust,
    Amounts,
    Ask,
    Authorize,
    Basis,
    Budget,
    Changed,
    ClearModel,
    Denied,
    Expire,
    Granted,
    Limits,
    OpenScope,
    Operation,
    SetLimit,
    SetState,
    Settle,
    Unit,
    Void,
)
from bursar.ledger.audit import audit
from bursar.ledger.periods import LIFETIME
from bursar.ledger.store import Entry, Store
from bursar.stores.postgres import PostgresStore
from bursar.stores.postgres_link import Connection, Patience, connect, take_life
from bursar.stores.sqlite import SqliteStore

SCOPES = ("org:o", "key:a", "key:b", "run:1", "run:2")
WORKERS = ("w1", "w2", "w3")
CALLS = tuple(f"c{number}" for number in range(12))
PERIODS = ("hour", "day@Europe:Berlin", "month", "rolling-1m", "rolling-100s", "rolling-5h")
LOOKS_EVERY = 6
"""All rows of both databases are compared after every so many steps, and at the end."""
LIMIT = st.none() | st.integers(0, 20_000)

scopes = st.sampled_from(SCOPES)
paths = st.lists(scopes, min_size=1, max_size=4).map(tuple)
calls = st.sampled_from(CALLS)
workers = st.sampled_from(WORKERS)
models = st.sampled_from(["m1", "m2"])
amounts = st.builds(Amounts, st.integers(0, 6_000), st.integers(0, 1), st.integers(0, 2_000))
asks = st.builds(
    Ask,
    usd_fixed=st.integers(0, 3_000),
    tokens_fixed=st.integers(0, 300),
    picodollars_per_output_token=st.sampled_from([0, 1, 333, 1_000, 5_000]),
    choices=st.integers(1, 3),
    tokens_wanted=st.integers(0, 1_500),
    tokens_comfort=st.integers(0, 600),
    tokens_floor=st.integers(0, 300),
    client_bounded=st.booleans(),
)
periods = st.sampled_from((LIFETIME, *PERIODS))
budgets = st.lists(
    st.builds(Budget, st.sampled_from(Unit), LIMIT, st.sampled_from(PERIODS)),
    max_size=2,
    unique_by=lambda budget: (budget.unit, budget.period),
).map(tuple)


class Witnesses(RuleBasedStateMachine):
    """Every operation goes to all stores and must get the same answer; the books must stay the same."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="bursar-machine-")
        path = Path(self.folder.name)
        self.memory = MemoryStore()
        clock = self.memory.clock
        url = database_of(path)
        self.makers: tuple[Callable[[], Store], ...] = (
            lambda: SqliteStore(path / "ledger.db", clock),
            lambda: PostgresStore(url, clock, marker=path / "ledger.json"),
        )
        self.stores = [self.started(make) for make in self.makers]
        self.dead: set[str] = set()
        self.workers_folder = path / "ledger.db.workers"
        self.lives: dict[str, Connection] = {}
        for worker in WORKERS:
            # A folder in place of the lock file cannot be asked, so this worker counts as alive.
            (self.workers_folder / worker).mkdir()
            self.lives[worker] = self.loop.run(self.live(url, worker))
        self.steps = 0

    def started(self, make: Callable[[], Store]) -> Store:
        store = make()
        self.loop.run(store.start())
        return store

    async def live(self, url: str, worker: str) -> Connection:
        """Be this worker, for PostgreSQL: a session that has its lock."""
        connection = await connect(url, Patience(), worker)
        assert await take_life(connection, worker, 0)
        return connection

    def teardown(self) -> None:
        try:
            self.look()
        finally:
            for store in self.stores:
                self.loop.run(store.close())
            for life in self.lives.values():
                self.loop.run(life.close())
            self.loop.close()
            self.folder.cleanup()
            drop_all()

    def do(self, operation: Operation) -> Any:
        expected = self.memory.do(operation)
        for store in self.stores:
            answer = self.loop.run(store.submit(operation))
            assert answer == expected, (type(store).__name__, operation)
        self.steps += 1
        if self.steps % LOOKS_EVERY == 0:
            self.look()
        return expected

    @rule(scope=scopes, owner=st.sampled_from(["org:o", "key:a"]), usd=LIMIT, calls_max=st.none() | st.integers(0, 8),
          tokens=LIMIT, runs=st.none() | st.integers(0, 3), some=budgets)  # fmt: skip
    def open(
        self, scope: str, owner: str, usd: int | None, calls_max: int | None, tokens: int | None, runs: int | None,
        some: tuple[Budget, ...],
    ) -> None:  # fmt: skip
        self.do(OpenScope(scope, owner, Limits(usd, calls_max, tokens), runs, budgets=some))

    @rule(call=calls, worker=workers, path=paths, ask=asks, model=models, last=st.booleans(), in_line=st.booleans(),
          also=st.lists(scopes, max_size=1).map(tuple))  # fmt: skip
    def authorize(
        self, call: str, worker: str, path: tuple[str, ...], ask: Ask, model: str, last: bool, in_line: bool,
        also: tuple[str, ...],
    ) -> None:  # fmt: skip
        before = dict(self.memory.books.holds)
        answer = self.do(Authorize(call, worker, path, ask, model, "up", last, also, in_line))
        if isinstance(answer, Granted) and call not in before:
            assert min(ask.tokens_floor, ask.tokens_wanted) <= answer.output_tokens <= ask.tokens_wanted
            assert answer.held == ask.amounts(answer.output_tokens)
            for balance in self.memory.books.names.values():
                asked = answer.held.of(tuple(Unit)[balance.unit])
                if balance in self.memory.books.scopes.get(balance.scope, ()) and balance.scope in path and asked:
                    used = balance.captured + balance.held + balance.overrun
                    used += balance.earlier_held + balance.earlier_spent
                    assert balance.limit is None or used <= balance.limit
        if isinstance(answer, Denied):
            assert dict(self.memory.books.holds) == before

    @rule(call=calls, worker=workers, actual=st.none() | amounts, path=paths, held=amounts,
          also=st.lists(scopes, max_size=2).map(tuple))  # fmt: skip
    def settle(
        self, call: str, worker: str, actual: Amounts | None, path: tuple[str, ...], held: Amounts,
        also: tuple[str, ...],
    ) -> None:  # fmt: skip
        basis = Basis.PRESUMED if actual is None else Basis.METERED
        self.do(Settle(call, worker, actual, basis, path, held, "why", "{}", also))

    @rule(call=calls, worker=workers)
    def void(self, call: str, worker: str) -> None:
        self.do(Void(call, worker, "not sent"))

    @rule(worker=workers)
    def kill(self, worker: str) -> None:
        if worker not in self.dead:
            self.dead.add(worker)
            (self.workers_folder / worker).rmdir()
            self.loop.run(self.lives.pop(worker).close())
        self.memory.dead = tuple(sorted(self.dead))
        answer = self.do(Expire(worker))
        assert isinstance(answer, Changed)

    @rule(worker=workers)
    def reap_the_living(self, worker: str) -> None:
        if worker not in self.dead:
            self.do(Expire(worker))

    @rule(scope=scopes, unit=st.sampled_from(Unit), limit=LIMIT, period=periods)
    def limit(self, scope: str, unit: Unit, limit: int | None, period: str) -> None:
        self.do(SetLimit(scope, unit, limit, period))

    @rule(scope=scopes, state=st.sampled_from([AccountState.OPEN, AccountState.STOPPED]))
    def state(self, scope: str, state: AccountState) -> None:
        self.do(SetState(scope, state))

    @rule(call=calls, actual=amounts)
    def adjust(self, call: str, actual: Amounts) -> None:
        self.do(Adjust(call, actual, "evidence"))

    @rule(model=models)
    def clear(self, model: str) -> None:
        self.do(ClearModel(model))

    @rule(seconds=st.sampled_from([1, 9, 60, 1_500, 3_600, 90_000, -1, -9, -60, -4_000, -90_000]))
    def wait(self, seconds: int) -> None:
        self.memory.clock.advance(seconds)

    @precondition(lambda self: self.memory.lines)
    @rule()
    def restart(self) -> None:
        for store in self.stores:
            self.loop.run(store.close())
        self.stores = [self.started(make) for make in self.makers]

    @invariant()
    def every_account_is_the_sum_of_its_holds(self) -> None:
        sums: dict[str, list[int]] = {name: [0, 0, 0] for name in self.memory.books.names}
        for hold in map(hold_row, self.memory.books.holds.values()):
            for name in hold.accounts:
                unit = Unit(name.rsplit("/", 2)[1])
                sums[name][0] += hold.held.of(unit) if hold.state == "open" else 0
                sums[name][1] += hold.captured.of(unit)
                sums[name][2] += hold.overrun.of(unit)
        for name, balance in self.memory.books.names.items():
            assert [balance.held, balance.captured, balance.overrun] == sums[name], name

    def look(self) -> None:
        """Compare every row of the databases with the rules' books, and have the entries replayed."""
        for store in self.stores:
            self.the_books_agree(store)
            self.the_replay_agrees(store)

    def the_books_agree(self, store: Store) -> None:
        books = self.memory.books
        counting = [b for b in books.names.values() if b.head is not None or b in books.scopes[b.scope]]
        accounts = sorted(self.loop.run(store.accounts()), key=lambda account: account.id)
        assert accounts == sorted((b.account() for b in counting), key=lambda a: a.id)
        holds = {hold.call_id: hold for hold in self.loop.run(store.holds())}
        assert holds == {call_id: hold_row(hold) for call_id, hold in books.holds.items()}
        for account in accounts:
            assert account.ceiling is None or account.held + account.captured <= account.ceiling
            assert min(account.held, account.captured, account.overrun) >= 0

    def the_replay_agrees(self, store: Store) -> None:
        assert self.loop.run(store.audit()) == ()

        async def entries() -> list[Entry]:
            return [entry async for entry in store.entries()]

        booked = self.loop.run(entries())
        assert [replace(entry, seq=0) for entry in booked] == [
            replace(entry, seq=0) for entry in self.memory.all_entries()
        ]
        quarantined = frozenset(self.memory.books.quarantined)
        accounts = [balance.account() for balance in self.memory.books.names.values()]
        holds = [hold_row(hold) for hold in self.memory.books.holds.values()]
        assert audit(booked, accounts, holds, quarantined) == ()


Witnesses.TestCase.settings = settings(
    max_examples=16, stateful_step_count=40, deadline=None, print_blob=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
TestWitnesses = Witnesses.TestCase
