"""One random history on three witnesses: the rules in memory, the same on SQLite, and the replay of the entries."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from bursar.ledger.store import Entry
from bursar.stores.sqlite import SqliteStore

SCOPES = ("org:o", "key:a", "key:b", "run:1", "run:2")
WORKERS = ("w1", "w2", "w3")
CALLS = tuple(f"c{number}" for number in range(12))
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


class Witnesses(RuleBasedStateMachine):
    """Every operation goes to both stores and must get the same answer; after each, the books must be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(prefix="bursar-machine-")
        self.memory = MemoryStore()
        self.sqlite = SqliteStore(Path(self.folder.name) / "ledger.db", self.memory.clock)
        self.loop.run(self.sqlite.start())
        self.dead: set[str] = set()
        self.workers_folder = Path(self.folder.name) / "ledger.db.workers"
        for worker in WORKERS:
            # A folder in place of the lock file cannot be asked, so this worker counts as alive.
            (self.workers_folder / worker).mkdir()

    def teardown(self) -> None:
        self.loop.run(self.sqlite.close())
        self.loop.close()
        self.folder.cleanup()

    def do(self, operation: Operation) -> Any:
        expected = self.memory.do(operation)
        answer = self.loop.run(self.sqlite.submit(operation))
        assert answer == expected, operation
        return answer

    @rule(scope=scopes, owner=st.sampled_from(["org:o", "key:a"]), usd=LIMIT, calls_max=st.none() | st.integers(0, 8),
          tokens=LIMIT, runs=st.none() | st.integers(0, 3))  # fmt: skip
    def open(
        self, scope: str, owner: str, usd: int | None, calls_max: int | None, tokens: int | None, runs: int | None
    ) -> None:
        self.do(OpenScope(scope, owner, Limits(usd, calls_max, tokens), runs))

    @rule(call=calls, worker=workers, path=paths, ask=asks, model=models, last=st.booleans())
    def authorize(self, call: str, worker: str, path: tuple[str, ...], ask: Ask, model: str, last: bool) -> None:
        before = dict(self.memory.books.holds)
        room = {b.name: b.limit for b in self.memory.books.names.values()}
        answer = self.do(Authorize(call, worker, path, ask, model, "up", last))
        if isinstance(answer, Granted) and call not in before:
            assert min(ask.tokens_floor, ask.tokens_wanted) <= answer.output_tokens <= ask.tokens_wanted
            assert answer.held == ask.amounts(answer.output_tokens)
            for balance in self.memory.books.names.values():
                limit, asked = room[balance.name], answer.held.of(tuple(Unit)[balance.unit])
                if balance.scope in path and limit is not None and asked:
                    assert balance.captured + balance.held + balance.overrun <= limit
        if isinstance(answer, Denied):
            assert dict(self.memory.books.holds) == before

    @rule(call=calls, worker=workers, actual=st.none() | amounts, path=paths, held=amounts)
    def settle(self, call: str, worker: str, actual: Amounts | None, path: tuple[str, ...], held: Amounts) -> None:
        basis = Basis.PRESUMED if actual is None else Basis.METERED
        self.do(Settle(call, worker, actual, basis, path, held, "why", "{}"))

    @rule(call=calls, worker=workers)
    def void(self, call: str, worker: str) -> None:
        self.do(Void(call, worker, "not sent"))

    @rule(worker=workers)
    def kill(self, worker: str) -> None:
        if worker not in self.dead:
            self.dead.add(worker)
            (self.workers_folder / worker).rmdir()
        self.memory.dead = tuple(sorted(self.dead))
        answer = self.do(Expire(worker))
        assert isinstance(answer, Changed)

    @rule(worker=workers)
    def reap_the_living(self, worker: str) -> None:
        if worker not in self.dead:
            self.do(Expire(worker))

    @rule(scope=scopes, unit=st.sampled_from(Unit), limit=LIMIT)
    def limit(self, scope: str, unit: Unit, limit: int | None) -> None:
        self.do(SetLimit(scope, unit, limit))

    @rule(scope=scopes, state=st.sampled_from([AccountState.OPEN, AccountState.STOPPED]))
    def state(self, scope: str, state: AccountState) -> None:
        self.do(SetState(scope, state))

    @rule(call=calls, actual=amounts)
    def adjust(self, call: str, actual: Amounts) -> None:
        self.do(Adjust(call, actual, "evidence"))

    @rule(model=models)
    def clear(self, model: str) -> None:
        self.do(ClearModel(model))

    @rule(seconds=st.integers(0, 3_000))
    def wait(self, seconds: int) -> None:
        self.memory.clock.advance(seconds)

    @precondition(lambda self: self.memory.lines)
    @rule()
    def restart(self) -> None:
        self.loop.run(self.sqlite.close())
        self.loop.run(self.sqlite.start())

    @invariant()
    def the_books_agree(self) -> None:
        accounts = sorted(self.loop.run(self.sqlite.accounts()), key=lambda account: account.id)
        assert accounts == sorted((b.account() for b in self.memory.books.names.values()), key=lambda a: a.id)
        holds = {hold.call_id: hold for hold in self.loop.run(self.sqlite.holds())}
        assert holds == {call_id: hold_row(hold) for call_id, hold in self.memory.books.holds.items()}
        for account in accounts:
            assert account.ceiling is None or account.held + account.captured <= account.ceiling
            assert min(account.held, account.captured, account.overrun) >= 0

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

    @invariant()
    def the_replay_agrees(self) -> None:
        assert self.loop.run(self.sqlite.audit()) == ()

        async def entries() -> list[Entry]:
            return [entry async for entry in self.sqlite.entries()]

        booked = self.loop.run(entries())
        assert [replace(entry, seq=0) for entry in booked] == [
            replace(entry, seq=0) for entry in self.memory.all_entries()
        ]
        quarantined = frozenset(self.memory.books.quarantined)
        accounts = [balance.account() for balance in self.memory.books.names.values()]
        holds = [hold_row(hold) for hold in self.memory.books.holds.values()]
        assert audit(booked, accounts, holds, quarantined) == ()


Witnesses.TestCase.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, print_blob=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
TestWitnesses = Witnesses.TestCase
