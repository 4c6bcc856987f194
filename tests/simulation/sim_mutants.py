"""Gateways that are broken on purpose: the simulation has to notice each of them within a number of schedules."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any
from unittest import mock

from sim_database import Database
from sim_plan import Plan as Schedule
from sim_plan import plan_of

import bursar.ledger.hold as hold_module
from bursar.clock import Instant
from bursar.ledger import batch, books, endings, rules
from bursar.ledger.account import Authorize, Conflict, Expire, HoldState, SetLimit, Settle, Settled
from bursar.ledger.books import NOTHING, UNITS, Balance, Books, HoldFacts, Line, Plan
from bursar.ledger.hold import Ledger, OpenHold
from bursar.ledger.store import LedgerUnavailableError
from bursar.ledger.waiting import Queues


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is broken, and in how many schedules it has to show."""

    name: str
    broken: Callable[[], AbstractContextManager[Any]]
    where: frozenset[str] = frozenset()
    """The faults that a schedule must have to be asked."""
    schedules_max: int = 100

    def plans(self) -> Iterator[Schedule]:
        """Give the schedules that may show it."""
        plans = (plan_of(seed) for seed in count(1))
        return islice((plan for plan in plans if self.where <= plan.faults), self.schedules_max)


def _patch(owner: object, name: str, instead: object) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.object(owner, name, instead)


# ---- rules ----------------------------------------------------------------------------------------------------------


def _released(books_: Books, op: Expire, now: Instant, *, expire: Any = endings.expire) -> Plan:
    """Orphans cost nothing."""
    plan: Plan = expire(books_, op, now)
    return replace(
        plan,
        moves=[(balance, held, 0, overrun) for balance, held, _, overrun in plan.moves],
        holds=tuple(hold.ended(HoldState.VOID, NOTHING, NOTHING, now, "", "") for hold in plan.holds),
        lines=tuple(line._replace(kind="void") for line in plan.lines),
    )


def _unseen(books_: Books, op: Expire, now: Instant, *, expire: Any = endings.expire) -> Plan:
    """The reaper believes what it read before, and does not look again inside the transaction."""
    books_.dead.add(op.worker)
    plan: Plan = expire(books_, op, now)
    return plan


def _uncounted(path: list[Balance], op: Authorize, tokens: int, now: Instant, *, grant: Any = rules._grant) -> Plan:
    """A hold takes money, and no call."""
    plan: Plan = grant(path, op, tokens, now)
    return replace(plan, moves=[move for move in plan.moves if UNITS[move[0].unit].value != "calls"])


def _only_spent(path: list[Balance], op: Authorize, *, affordable: Any = rules._affordable_output) -> Any:
    """What others hold is there for everybody: check, call, then add."""
    held = [balance.held for balance in path]
    for balance in path:
        balance.held = 0
    try:
        return affordable(path, op)
    finally:
        for balance, amount in zip(path, held, strict=True):
            balance.held = amount


def _unfenced(books_: Books, op: Authorize, now: Instant, *, authorize: Any = rules.authorize) -> Plan:
    books_.fenced.clear()
    plan: Plan = authorize(books_, op, now)
    return plan


def _unfenced_settle(books_: Books, op: Any, now: Instant, *, settle: Any = endings.settle) -> Plan:
    books_.fenced.clear()
    plan: Plan = settle(books_, op, now)
    return plan


def _again(books_: Books, op: Authorize, now: Instant, *, authorize: Any = rules.authorize) -> Plan:
    """A repeated authorize is one more."""
    books_.holds.pop(op.call_id, None)
    plan: Plan = authorize(books_, op, now)
    return plan


def _twice(books_: Books, op: Settle, now: Instant, *, settle: Any = endings.settle) -> Plan:
    """A repeated settle is booked once more."""
    hold = books_.holds.get(op.call_id)
    plan: Plan = settle(books_, op, now)
    if hold is None or not isinstance(plan.answer, Settled) or not plan.answer.repeated:
        return plan
    line = Line(now, "capture", hold.call_id, op.worker, *hold.captured, hold.accounts, '{"overrun":[0,0,0]}')
    moves = [(balance, 0, 0, hold.captured[balance.unit]) for balance in endings.balances_of(books_, hold)]
    return replace(plan, moves=moves, lines=(line,))


def _into_now(books_: Books, hold: HoldFacts) -> list[Balance]:
    """A hold settles into the period that is now."""
    return [balance for scope in books.scopes_of(hold.accounts) for balance in books_.scopes[scope]]


def _low_ceiling(books_: Books, op: SetLimit, now: Instant, *, set_limit: Any = rules.set_limit) -> Plan:
    plan: Plan = set_limit(books_, op, now)
    return replace(plan, limits=tuple((balance, limit, limit) for balance, limit, _ in plan.limits))


def _only_who_asks(books_: Books, op: Authorize, *, path: Any = rules._path) -> Any:
    """The team is asked, and does not pay."""
    return path(books_, replace(op, also=()))


def _stateless(books_: Books, *args: Any, path: Any = rules._path) -> Any:
    """A run that is stopped goes on."""
    states = {balance.name: balance.state for balance in books_.names.values()}
    for balance in books_.names.values():
        balance.state = "open"
    try:
        return path(books_, *args)
    finally:
        for balance in books_.names.values():
            balance.state = states[balance.name]


def _forgotten_window(one: Balance, other: Balance, *, join: Any = books.join) -> Balance:
    """What was spent in the earlier slots of a window is forgotten."""
    newer: Balance = join(one, other)
    newer.earlier_held = newer.earlier_spent = 0
    return newer


@contextmanager
def _windows_forget() -> Iterator[None]:
    with ExitStack() as stack:
        for module in (books, batch):
            stack.enter_context(mock.patch.object(module, "join", _forgotten_window))
        yield


@contextmanager
def _settles_into_now() -> Iterator[None]:
    with mock.patch.object(endings, "balances_of", _into_now), mock.patch.object(rules, "balances_of", _into_now):
        yield


# ---- holds and queues -----------------------------------------------------------------------------------------------


def _presumed_free(self: OpenHold, why: str) -> None:
    self.void(why)


def _forgotten_free(self: OpenHold) -> Any:
    return hold_module.Void(self.granted.call_id, self.worker, "left")


async def _tried_once(self: Ledger, end: Any, *_: Any) -> Any:
    try:
        return await self._store.submit(end)
    except LedgerUnavailableError as error:
        return Conflict(end.call_id, str(error))


@contextmanager
def _dies_with_its_caller() -> Iterator[None]:
    asyncio: Any = types.SimpleNamespace(**vars(hold_module.asyncio))
    asyncio.shield = lambda task: task
    with mock.patch.object(hold_module, "asyncio", asyncio):
        yield


async def _unconfirmed(self: OpenHold) -> None:
    return


def _early(self: Ledger, *args: Any, **kwargs: Any) -> None:
    return


@contextmanager
def _asynchronous_commit() -> Iterator[None]:
    """An acknowledged commit may be lost in a failover."""

    def lagging(self: Database, *args: Any, init: Any = Database.__init__) -> None:
        init(self, *args)
        self.lag_commits = 3

    with mock.patch.object(Database, "__init__", lagging):
        yield


MUTANTS = (
    Mutant("the holds of dead workers are released", _patch(rules, "expire", _released)),
    Mutant("the reaper does not look again", _patch(rules, "expire", _unseen), frozenset({"cut"})),
    Mutant("a hold takes no call", _patch(rules, "_grant", _uncounted)),
    Mutant("what others hold is free", _patch(rules, "_affordable_output", _only_spent)),
    Mutant("a worker that was declared dead authorizes", _patch(rules, "authorize", _unfenced)),
    Mutant("a worker that was declared dead settles", _patch(rules, "settle", _unfenced_settle)),
    Mutant("a repeated authorize takes again", _patch(rules, "authorize", _again), frozenset({"reply_lost"})),
    Mutant("a repeated settle is booked again", _patch(rules, "settle", _twice)),
    Mutant("a hold settles into the period that is now", _settles_into_now, frozenset({"periods"})),
    Mutant("a lowered limit has no ceiling", _patch(rules, "set_limit", _low_ceiling), frozenset({"limits"})),
    Mutant("what is stopped goes on", _patch(rules, "_path", _stateless)),
    Mutant("a team does not pay", _patch(rules, "_path", _only_who_asks)),
    Mutant("a window forgets its earlier slots", _windows_forget, frozenset({"periods"})),
    Mutant("an acknowledged commit can be lost", _asynchronous_commit, frozenset({"failover"})),
    Mutant("an answer that did not come is free", _patch(OpenHold, "presume", _presumed_free)),
    Mutant("a call that was left is free", _patch(OpenHold, "_forgotten", _forgotten_free)),
    Mutant("who leaves gives nothing back", _patch(Ledger, "_give_back", _early)),
    Mutant("a settlement is tried once", _patch(Ledger, "_submit_until_written", _tried_once)),
    Mutant("a settlement dies with its caller", _dies_with_its_caller, frozenset({"cancel", "readonly"})),
    Mutant("a process that stood still sends unseen", _patch(OpenHold, "confirm", _unconfirmed), frozenset({"pause"})),
    Mutant("nobody is woken", _patch(Queues, "wake", _early)),
    Mutant("the next in line is not called", _patch(Queues, "_call_first", _early)),
)
