"""The database of the simulation: rows that survive everything, one transaction at a time, sessions that can be cut.

It is the world and not the code under test, but for what every store takes from the house: `needs`, `decide` and the
changes that they give. A batch is decided on copies of the rows it needs and becomes durable as a whole at its commit.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim_loop import SimLoop

from bursar.clock import SECOND, Instant
from bursar.ledger import batch as ledger_batch
from bursar.ledger.account import Account, Conflict, Operation, Settle, Void
from bursar.ledger.audit import audit
from bursar.ledger.books import Balance, Books, Claim, HoldFacts, Line, scopes_of, unpack
from bursar.ledger.rules import HOUR
from bursar.ledger.store import Finding
from bursar.money import BrokenInvariantError

NOON = 1_795_435_200 * SECOND


class CutError(Exception):
    """The session is gone; whether the last transaction happened is not known."""


class RefusedError(Exception):
    """The database does not write now (disk full, read-only): certainly nothing happened."""


@dataclass(slots=True)
class Rows:
    """What is durable."""

    accounts: dict[str, Balance] = field(default_factory=dict)
    counting: dict[str, set[str]] = field(default_factory=dict)
    """By scope: the accounts that an authorize looks at."""
    holds: dict[str, HoldFacts] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    openings: dict[str, list[Instant]] = field(default_factory=dict)
    quarantined: set[str] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)
    claims: dict[tuple[str, str], Claim] = field(default_factory=dict)
    keys: int = 0

    def copied(self) -> Rows:
        """Give the same rows once more (a balance is never changed in place once it is in here)."""
        return Rows(
            dict(self.accounts), {scope: set(names) for scope, names in self.counting.items()}, dict(self.holds),
            list(self.lines), dict(self.owners), {owner: list(at) for owner, at in self.openings.items()},
            set(self.quarantined), set(self.fenced), dict(self.claims), self.keys,
        )  # fmt: skip


@dataclass(slots=True)
class Session:
    """One connection as the database sees it; the worker's liveness lock is the session's and dies with it."""

    number: int
    worker: str
    is_open: bool = True
    on_cut: list[Callable[[], None]] = field(default_factory=list)
    """Who waits for an answer on this session, and has to be told that none comes."""


@dataclass(slots=True)
class _Turn:
    session: Session
    work: Callable[[], Any]
    """Decides; what it gives is committed by `commit`."""
    commit: Callable[[Any], Any]
    reply: Callable[[Any], None]


class Database:
    """One ledger for all gateways of a schedule."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.rows = Rows()
        self.is_up = True
        self.is_writable = True
        self.slowness = 1.0
        self.clock_offset = 0
        """Microseconds that the database's clock is ahead of the truth."""
        self.sessions: dict[int, Session] = {}
        self.violations: list[str] = []
        self.expired_at: dict[str, float] = {}
        """By call: when the reaper captured its hold, in the time of the loop."""
        self.on_commit: Callable[[ledger_batch.Changes], None] = lambda changes: None
        self.lag_commits = 0
        """More than 0 only where a test breaks the database: so many acknowledged commits may be lost."""
        self.commits = 0
        self.has_claims = True
        """False where only one gateway is looked at: claims are what gateways leave for each other."""
        self._behind: deque[Rows] = deque()
        self._line: deque[_Turn] = deque()
        self._epoch = 0
        """Goes up when the database goes down: what was under way then never ends."""
        self._is_busy = False
        self._numbers = 0

    # ---- sessions ----------------------------------------------------------------------------------------------------

    def now(self) -> Instant:
        """Tell the database's time."""
        return Instant(NOON + int(self._loop.time() * SECOND) + self.clock_offset)

    def connect(self, worker: str, reply: Callable[[Session | Exception], None]) -> None:
        """Open a session that proves that the worker lives; queued like a transaction, for it takes a lock."""
        if not self.is_up:
            return
        self._numbers += 1
        session = Session(self._numbers, worker)

        def commit(_: None) -> Session:
            self.sessions[session.number] = session
            return session

        self._enqueue(_Turn(session, lambda: None, commit, reply))

    def cut(self, session: Session) -> None:
        """End a session; a transaction that has not committed will not."""
        session.is_open = False
        if self.sessions.pop(session.number, None) is not None:
            for tell in session.on_cut:
                tell()
            session.on_cut.clear()

    def sessions_of(self, process: str) -> list[Session]:
        """Give the sessions of a process, under whatever worker id."""
        return [session for session in self.sessions.values() if session.worker.partition(".")[0] == process]

    def is_alive(self, worker: str) -> bool:
        """Whether somebody holds this worker's lock."""
        return any(session.worker == worker for session in self.sessions.values())

    # ---- faults ------------------------------------------------------------------------------------------------------

    def go_down(self) -> None:
        """Stop at once: sessions and transactions are gone, what was committed stays."""
        self.is_up = False
        self._epoch += 1
        self._is_busy = False
        self._line.clear()
        for session in list(self.sessions.values()):
            self.cut(session)

    def come_up(self) -> None:
        """Serve again; a database that was told to lag has lost its last commits."""
        self.is_up = True
        if self.lag_commits and self._behind:
            self.rows = self._behind[0]
            self._behind.clear()

    # ---- transactions ------------------------------------------------------------------------------------------------

    def submit(self, session: Session, operations: list[Operation], reply: Callable[[Any], None]) -> None:
        """Decide and commit a batch when its turn comes; replies with the outcomes or an exception."""

        def work() -> Any:
            now = self.now()
            return now, operations, ledger_batch.decide(self._load(operations, now), operations, now)

        self._enqueue(_Turn(session, work, self._commit, reply))

    def read(self, session: Session, query: Callable[[Rows], Any], reply: Callable[[Any], None]) -> None:
        """Answer a question about what is committed."""
        if self.is_up and session.is_open:
            reply(query(self.rows))

    def _enqueue(self, turn: _Turn) -> None:
        if self.is_up:
            self._line.append(turn)
            self._next()

    def _next(self) -> None:
        while self._line and not self._is_busy:
            turn = self._line.popleft()
            if not turn.session.is_open:
                continue
            if not self.is_writable:
                turn.reply(RefusedError("the disk is full"))
                continue
            self._is_busy = True
            decided = turn.work()
            seconds = self.slowness * 10 ** self._rng.uniform(-4, -2.3)
            self._later(seconds, self._end, self._epoch, turn, decided)

    def _end(self, epoch: int, turn: _Turn, decided: Any) -> None:
        if epoch != self._epoch:
            return
        self._is_busy = False
        if turn.session.is_open:
            turn.reply(turn.commit(decided))
        self._next()

    def _later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        self._loop.call_later(seconds, function, *args, context=self._loop.world.context)

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _load(self, operations: list[Operation], now: Instant) -> Books:
        """Give copies of the rows that the operations need, and of no other."""
        rows, need = self.rows, ledger_batch.needs(operations)
        books = Books()
        for call_id in need.calls:
            if call_id in rows.holds:
                books.holds[call_id] = rows.holds[call_id]
        for worker in sorted(need.expires):
            books.holds |= {c: h for c, h in rows.holds.items() if h.worker == worker and h.state == "open"}
            if not self.is_alive(worker):
                books.dead.add(worker)
        self._load_accounts(books, need.scopes)
        if need.claims and self.has_claims:
            for claim in rows.claims.values():
                books.claims.setdefault(claim.account, []).append(claim)
        for owner in sorted(need.opens):
            books.openings[owner] = [at for at in rows.openings.get(owner, []) if at > now - HOUR]
        books.owners = {scope: rows.owners[scope] for scope in need.scopes if scope in rows.owners}
        books.quarantined = set(rows.quarantined)
        books.fenced = rows.fenced & need.workers
        return books

    def _load_accounts(self, books: Books, asked: set[str]) -> None:
        rows = self.rows
        scopes = asked | {scope for hold in books.holds.values() for scope in scopes_of(hold.accounts)}
        for scope in sorted(scopes):
            for name in sorted(rows.counting.get(scope, ()), key=lambda name: rows.accounts[name].key or 0):
                books.add(copy.copy(rows.accounts[name]))
        names = {name for hold in books.holds.values() for name in unpack(hold.accounts)}
        for name in sorted(names - books.names.keys()):
            books.add_past(copy.copy(rows.accounts[name]))

    def _commit(self, decided: tuple[Instant, list[Operation], tuple[list[Any], ledger_batch.Changes]]) -> list[Any]:
        now, operations, (outcomes, changes) = decided
        self.commits += 1
        if self.lag_commits:
            self._behind.append(self.rows.copied())
            if len(self._behind) > self.lag_commits:
                self._behind.popleft()
        self._write(changes, now)
        self._judge(operations, outcomes)
        self.on_commit(changes)
        return outcomes

    def _write(self, changes: ledger_batch.Changes, now: Instant) -> None:
        rows = self.rows
        self._write_accounts(changes)
        rows.holds |= changes.holds
        rows.holds |= changes.new_holds
        rows.lines += changes.lines
        for scope in changes.scopes:
            rows.owners[scope.scope] = scope.owner
            if scope.scope.startswith("run:"):
                rows.openings.setdefault(scope.owner, []).append(now)
        for key, claim in changes.claims.items():
            known = rows.claims.get(key)
            rows.claims[key] = claim if known is None else known._replace(at=claim.at)
        rows.claims = {key: claim for key, claim in rows.claims.items() if key[1] not in changes.unclaimed}
        rows.quarantined |= set(changes.quarantined)
        rows.quarantined -= set(changes.cleared)
        self._write_fenced(changes)

    def _write_accounts(self, changes: ledger_batch.Changes) -> None:
        rows = self.rows
        for balance in changes.new_balances:
            rows.keys += 1
            balance.key = rows.keys
            rows.counting.setdefault(balance.scope, set()).add(balance.name)
        for balance in (*changes.new_balances, *changes.balances.values(), *changes.terms.values()):
            self._constrain(balance)
            row = rows.accounts[balance.name] = copy.copy(balance)
            row.head, row.earlier_held, row.earlier_spent = None, 0, 0
        for balance in changes.past:
            rows.counting[balance.scope].discard(balance.name)

    def _write_fenced(self, changes: ledger_batch.Changes) -> None:
        # What a batch writes under a name that this very batch declares dead was decided before.
        for line in changes.lines:
            if line.kind == "expire":
                self.expired_at[line.call_id] = self._loop.time()
            if line.kind in ("authorize", "capture", "void") and line.worker in self.rows.fenced:
                self.violations.append(f"{line.worker} was declared dead before, and has written: {line}")
        for worker in changes.fenced:
            if self.is_alive(worker):
                self.violations.append(f"{worker} lives and was declared dead")
        self.rows.fenced |= set(changes.fenced)

    def _constrain(self, balance: Balance) -> None:
        """Do what a CHECK constraint does."""
        if min(balance.held, balance.captured, balance.overrun) < 0:
            self.violations.append(f"{balance.name} has a negative amount: {balance.account()}")
        if balance.ceiling is not None and balance.held + balance.captured > balance.ceiling:
            self.violations.append(f"{balance.name} is above its ceiling: {balance.account()}")

    def _judge(self, operations: list[Operation], outcomes: list[Any]) -> None:
        for operation, outcome in zip(operations, outcomes, strict=True):
            if isinstance(outcome, BrokenInvariantError):
                self.violations.append(f"{operation} broke an invariant: {outcome}")
            is_ending = isinstance(operation, Settle | Void) and isinstance(outcome, Conflict)
            if is_ending and not getattr(outcome, "fenced", False):
                self.violations.append(f"{operation} is in conflict: {outcome.why}")

    # ---- what a person would ask -------------------------------------------------------------------------------------

    def accounts(self) -> list[Account]:
        """Give every account."""
        return [balance.account() for balance in self.rows.accounts.values()]

    def audit(self, entries: Callable[[list[Line]], list[Any]], holds: Callable[[Any], Any]) -> tuple[Finding, ...]:
        """Replay the entries and compare."""
        rows = self.rows
        return audit(
            entries(rows.lines), self.accounts(), [holds(hold) for hold in rows.holds.values()],
            frozenset(rows.quarantined),
        )  # fmt: skip
