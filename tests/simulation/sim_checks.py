"""What must hold in every schedule, at every instant and at the end."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sim_database import Database
from sim_loop import SimLoop
from sim_plan import TEAM
from sim_provider import Bill, Provider

from bursar.clock import Instant
from bursar.ledger import batch as ledger_batch
from bursar.ledger.account import Amounts, Granted, HoldState
from bursar.ledger.books import HoldFacts, Line, amounts, unpack
from bursar.ledger.hold import FRESH_SECONDS
from bursar.ledger.store import Entry, HoldRow

if TYPE_CHECKING:
    from sim_gateway import Asked, Gateway

UNITS = ("usd", "calls", "tokens")


class Checks:
    """Watches the till and the books of one schedule."""

    def __init__(self, loop: SimLoop, database: Database, provider: Provider) -> None:
        self.violations: list[str] = []
        self.counts: dict[str, int] = {}
        self.calls: dict[str, Asked] = {}
        self._loop = loop
        self._database = database
        self._provider = provider
        self._due: dict[str, int] = {}
        """By account: what the provider may bill for it at this moment."""
        self._due_of: dict[str, tuple[int, int, int]] = {}
        provider.on_due = self._take_due
        provider.attempt_of = lambda call_id: next(reversed(self.calls[call_id].holds), call_id)
        database.on_commit = self._look_at

    def count(self, what: str, by: int = 1) -> None:
        """Count something, to see that schedules do what they are meant to."""
        self.counts[what] = self.counts.get(what, 0) + by

    def _wrong(self, what: str) -> None:
        self.violations.append(f"{self._loop.time():.3f} s: {what}")

    # ---- at every instant --------------------------------------------------------------------------------------------

    def _take_due(self, bill: Bill) -> None:
        """A request has arrived, or its bill has become final."""
        asked = self.calls[_client_call(bill.call_id)]
        if not bill.is_final:
            self._look_at_dispatch(bill, asked)
        before = self._due_of.get(bill.call_id, (0, 0, 0))
        # What is billed beyond every bound cannot be covered before it is known.
        due = bill.due if bill.kind != "lying" else (bill.usd_max, 1, bill.tokens_max)
        self._due_of[bill.call_id] = due
        for name in self._accounts_of(bill, asked):
            index = UNITS.index(name.rsplit("/", 2)[1])
            self._due[name] = self._due.get(name, 0) + due[index] - before[index]
            self._compare(name)

    def _accounts_of(self, bill: Bill, asked: Asked) -> set[str]:
        """Give the accounts that have to cover a call: all of its path, and of periods the ones it was taken from."""
        row = self._database.rows.holds.get(bill.call_id)
        named = () if row is None else unpack(row.accounts)
        return {
            *named,
            *(f"{scope}/{unit}/lifetime" for scope in asked.scopes for unit in UNITS),
            f"{TEAM}/usd/lifetime",
        }

    def _look_at_dispatch(self, bill: Bill, asked: Asked) -> None:
        self.count("dispatched")
        row = self._database.rows.holds.get(bill.call_id)
        if row is None or row.state not in ("open", "expired"):
            self._wrong(f"{bill.call_id} is dispatched, and its hold is {row}")
            return
        if row.state == "expired":
            self.count("dispatched when expired")
            # Nothing is charged twice then, but a worker that was declared dead must notice before it sends.
            if self._loop.time() - self._database.expired_at[bill.call_id] > FRESH_SECONDS:
                self._wrong(f"{bill.call_id} is dispatched long after its worker was declared dead: {row}")
        hold = asked.holds.get(bill.call_id)
        held = None if hold is None else hold.granted.held
        if held is None or bill.usd_max > held.usd or bill.tokens_max > held.tokens:
            self._wrong(f"{bill.call_id} may cost {bill}, and only {held} is held")

    def _look_at(self, changes: ledger_batch.Changes) -> None:
        """Something was committed."""
        for name in (*changes.balances, *changes.terms):
            self._compare(name)

    def _compare(self, name: str) -> None:
        balance = self._database.rows.accounts.get(name)
        due = self._due.get(name, 0)
        if balance is not None and due > balance.held + balance.captured + balance.overrun:
            self._wrong(f"the provider may bill {due} for {name}, and booked is {balance.account()}")

    def no_wake_up_is_lost(self, gateways: Iterable[Gateway]) -> None:
        """Nobody may wait while there is money for the first of the line and nothing is under way."""
        for gateway in gateways:
            ledger = gateway.ledger
            if not ledger.waiting or gateway.store.is_busy or ledger.unsettled:
                continue
            for lines in ledger._queues._lines.values():
                for line in lines.values():
                    op = line.waiters[0].op
                    now = self._database.now()
                    account = self._database.rows.accounts[line.denied.account]
                    told = (line.denied.held, line.denied.captured)
                    if told == (account.held, account.captured + account.overrun):
                        # Nothing came back here. A call may be content with less by now because another account of its
                        # path has less; that it notices with the next tick.
                        continue
                    books = self._database._load([op], now)
                    (answer,), _ = ledger_batch.decide(books, [copy.copy(op)], now)
                    if isinstance(answer, Granted):
                        self._wrong(f"{op.call_id} waits, and there is money for it")

    # ---- at the end --------------------------------------------------------------------------------------------------

    def when_drained(self, living: list[Gateway]) -> None:
        """No gateway that lives holds anything when it has nothing to do."""
        workers = {gateway.store.worker for gateway in living}
        for row in self._database.rows.holds.values():
            if row.state == "open" and row.worker in workers:
                self._wrong(f"{row.call_id} is still held by {row.worker}, which has nothing to do")
        for gateway in living:
            if gateway.ledger.waiting:
                self._wrong(f"{gateway.name} counts {gateway.ledger.waiting} waiting calls, and there is none")

    def at_the_end(self) -> None:
        """The books agree with themselves and with the till, and nothing is held."""
        rows = self._database.rows
        for account in self._database.accounts():
            if account.held:
                self._wrong(f"{account.id} holds {account.held}, and nobody is left")
        for finding in self._database.audit(_entries, _hold_row):
            self._wrong(f"the audit finds: {finding}")
        for asked in self.calls.values():
            self.count(asked.ended.result() if asked.ended.done() else "no end")
        for row in rows.holds.values():
            self.count(f"hold {row.state} {row.basis}".rstrip())
            self._look_at_hold(row, self.calls[_client_call(row.call_id)])
        for bill in self._provider.bills.values():
            self._look_at_bill(bill, rows.holds.get(bill.call_id))
        lifetime_usd = {name for name in rows.accounts if name.endswith("/usd/lifetime")}
        for name, balance in rows.accounts.items():
            till = sum(
                bill.usd
                for call_id, bill in self._provider.bills.items()
                if name in lifetime_usd
                and balance.scope in (*self.calls[_client_call(call_id)].scopes, TEAM)
                and bill.kind != "lying"
            )
            if balance.captured + balance.overrun < till:
                self._wrong(f"{name} has {balance.captured} + {balance.overrun}, and the till {till}")
        self.count("calls", len(self.calls))
        self.count("fenced", len(rows.fenced))
        self.count("commits", self._database.commits)
        self.count("steps", self._loop.steps)
        self.count("seconds", int(self._loop.time()))

    def _look_at_hold(self, row: HoldFacts, asked: Asked) -> None:
        """A call that was refused has no hold; one that was not sent costs nothing, unless nobody is left who knows."""
        hold = asked.holds.get(row.call_id)
        is_free = row.captured == row.overrun == (0, 0, 0)
        if asked.is_denied and hold is None and not is_free:
            self._wrong(f"{asked.call_id} was refused, and has a hold: {row}")
        is_free = is_free or row.state == "expired"
        if row.call_id not in self._provider.bills and not is_free and (hold is None or not hold.dispatched):
            self._wrong(f"{asked.call_id} was never sent and is charged: {row}")

    def _look_at_bill(self, bill: Bill, row: HoldFacts | None) -> None:
        if row is None or row.state == "open":
            self._wrong(f"{bill} is due, and its hold is {row}")
            return
        booked = (row.captured_usd + row.overrun_usd, row.captured_tokens + row.overrun_tokens)
        if row.basis == "metered":
            if booked != (bill.usd, bill.tokens):
                self._wrong(f"{bill.call_id} is metered at {booked}, and the till has {bill}")
        elif booked[0] < min(bill.usd, row.held_usd):
            self._wrong(f"{bill.call_id} is booked at {booked}, and the till has {bill}")
        elif bill.usd > booked[0]:
            self.count("lies that nobody heard")


def _client_call(call_id: str) -> str:
    """Give the client's call that an attempt belongs to."""
    return call_id.partition("-a")[0]


def _entries(lines: list[Line]) -> list[Entry]:
    return [
        Entry(seq, Instant(line.at), *line[1:7], unpack(line.accounts), json.loads(line.detail))
        for seq, line in enumerate(lines, 1)
    ]


def _hold_row(hold: HoldFacts) -> HoldRow:
    settled_at = None if hold.settled_at is None else Instant(hold.settled_at)
    amount: tuple[Amounts, ...] = (amounts(hold.held), amounts(hold.captured), amounts(hold.overrun))
    return HoldRow(
        hold.call_id, hold.worker, HoldState(hold.state), unpack(hold.accounts), *amount, hold.output_tokens,
        hold.model, hold.upstream, Instant(hold.opened_at), settled_at, hold.basis, hold.why,
    )  # fmt: skip
