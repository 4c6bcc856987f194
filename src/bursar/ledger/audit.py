"""An independent replay of the entries: comes to the same balances as the books, or says where not. Pure.

It shares the types with the rules and nothing else, so that a mistake in one of them is seen by the other.
Old entries are folded into a base by the same replay, which then starts from there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from bursar.clock import Instant
from bursar.ledger.account import Account, Amounts
from bursar.ledger.store import Entry, Finding, HoldRow

_INDEX = {"usd": 0, "calls": 1, "tokens": 2}
_NEVER = 2**63 - 1
_ROLLING = re.compile(r".*/rolling-([0-9]+)([smhdw]) [0-9TZ:-]+")
_MICROSECONDS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}


@dataclass(slots=True)
class ReplayedAccount:
    """What the entries say about one account."""

    limit: int | None
    ceiling: int | None
    state: str = "open"
    held: int = 0
    captured: int = 0
    overrun: int = 0
    ends_at: int = _NEVER
    counts: bool = True
    """Of an account in a base: whether it was the newest slot of its budget, or still in a rolling window."""

    @property
    def used(self) -> int:
        """Give what counts against the limit."""
        return self.held + self.captured + self.overrun

    def facts(self) -> tuple[object, ...]:
        """Give what has to be in the books, too."""
        return (self.limit, self.ceiling, self.state, self.held, self.captured, self.overrun)


@dataclass(slots=True)
class ReplayedHold:
    """What the entries say about one hold."""

    accounts: tuple[str, ...]
    held: list[int]
    state: str
    captured: list[int] = field(default_factory=lambda: [0, 0, 0])
    overrun: list[int] = field(default_factory=lambda: [0, 0, 0])
    ended_at: int | None = None
    basis: str = ""

    def facts(self) -> tuple[object, ...]:
        """Give what has to be in the books, too."""
        return (self.state, self.accounts, self.held, self.captured, self.overrun)

    def to_text(self) -> str:
        """Write the hold as a base keeps it."""
        row = (self.accounts, self.held, self.state, self.captured, self.overrun, self.ended_at, self.basis)
        return json.dumps(row, separators=(",", ":"))


def replayed_hold(text: str) -> ReplayedHold:
    """Read a hold of a base."""
    accounts, held, state, captured, overrun, ended_at, basis = json.loads(text)
    return ReplayedHold(tuple(accounts), held, state, captured, overrun, ended_at, basis)


@dataclass(slots=True)
class Base:
    """What the entries up to one number came to, or the part of it that some entries are about."""

    seq: int = 0
    accounts: dict[str, ReplayedAccount] = field(default_factory=dict)
    holds: dict[str, ReplayedHold] = field(default_factory=dict)
    """The holds of that time that are still in the books."""
    quarantined: set[str] = field(default_factory=set)


def audit(
    entries: Iterable[Entry],
    accounts: Iterable[Account],
    holds: Iterable[HoldRow],
    quarantined: frozenset[str] | None = None,
    base: Base | None = None,
) -> tuple[Finding, ...]:
    """Replay the entries in their order and compare with the accounts and holds; no finding means that all agree.

    The entries are those after the base, and the base is used up.
    """
    replay = _Replay(base or Base())
    for entry in entries:
        replay.take(entry)
    return tuple(
        replay.findings
        + _compare_accounts(replay.accounts, accounts)
        + _compare_holds(replay.holds, holds)
        + _compare_quarantine(replay.quarantined, quarantined)
    )


RowsOf = Callable[[list[str]], Mapping[str, HoldRow]]
"""Gives the holds of some calls, as the books have them."""


def agrees(
    pages: Iterable[list[Entry]],
    rows_of: RowsOf,
    holds_count: int,
    accounts: Iterable[Account],
    quarantined: frozenset[str],
    base: Base,
) -> bool:
    """Say whether an audit would have no finding, without keeping every hold in memory; in doubt it is no.

    A hold is forgotten as soon as its row is what its last entry made of it. `holds_count` is how many the books have:
    a row that no entry made, and one that an entry comes back to after it was forgotten, make that another number.
    """
    replay = _Replay(base)
    matched = 0
    for page in pages:
        for entry in page:
            replay.take(entry)
        calls = [call for call in dict.fromkeys(entry.call_id for entry in page) if call in replay.holds]
        rows = rows_of(calls)
        for call in calls:
            if call in rows and _is_final(replay.holds[call], rows[call]):
                del replay.holds[call]
                matched += 1
        if replay.findings:
            return False
    left = rows_of(list(replay.holds))
    return (
        not _compare_accounts(replay.accounts, accounts)
        and not _compare_holds(replay.holds, left.values())
        and not _compare_quarantine(replay.quarantined, quarantined)
        and matched + len(left) == holds_count
    )


# ---- folding --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Fold:
    """What changes in the base when entries are folded into it; where there are findings nothing may be written."""

    seq: int
    """The last entry that is folded."""
    accounts: dict[str, ReplayedAccount] = field(default_factory=dict)
    """To be written over what the base has."""
    holds: dict[str, ReplayedHold] = field(default_factory=dict)
    """To be written over what the base has: holds that are open, were corrected, or that a later entry ended."""
    ended: tuple[HoldRow, ...] = ()
    """To be taken out of the base and of the books: no later entry is about them."""
    quarantined: set[str] = field(default_factory=set)
    """All of them."""
    findings: tuple[Finding, ...] = ()


def fold(base: Base, entries: Iterable[Entry], rows: Mapping[str, HoldRow]) -> Fold:
    """Replay entries into the part of a base that they are about; `rows` are the holds of their calls in the books.

    The part has to have every account of the scopes and every hold of the calls that the entries name. It is used up.
    """
    before = {name: (account.facts(), account.counts) for name, account in base.accounts.items()}
    replay = _Replay(base)
    calls: dict[str, None] = {}
    for entry in entries:
        replay.take(entry)
        if entry.call_id in replay.holds:
            calls[entry.call_id] = None
    counting = replay.counting()
    for name, account in replay.accounts.items():
        account.counts = name in counting
    folded = Fold(replay.seq, quarantined=replay.quarantined)
    folded.accounts = {
        name: account
        for name, account in replay.accounts.items()
        if before.get(name) != (account.facts(), account.counts)
    }
    ended: list[HoldRow] = []
    findings = list(replay.findings)
    for call in calls:
        hold, row = replay.holds[call], rows.get(call)
        if row is None:
            findings.append(Finding(call, "the hold is missing", "", str(hold.facts())))
        elif _is_final(hold, row):
            ended.append(row)
        elif _is_wrong(hold, row):
            findings.append(Finding(call, "the hold is not what its entries made of it", str(row), str(hold.facts())))
        else:
            folded.holds[call] = hold
    folded.ended, folded.findings = tuple(ended), tuple(findings)
    return folded


def _is_final(hold: ReplayedHold, row: HoldRow) -> bool:
    """Whether the hold has ended for good and its row says so: no later entry is about it.

    One that was corrected may be corrected again, for as long as somebody compares it with what was billed.
    """
    ending = (hold.facts(), hold.ended_at, hold.basis)
    return hold.state != "open" and hold.basis != "adjusted" and ending == (_booked(row), row.settled_at, row.basis)


def _is_wrong(hold: ReplayedHold, row: HoldRow) -> bool:
    """Whether no later entry can have made the row out of the hold: it has not ended, and differs."""
    return row.settled_at is None and hold.facts() != _booked(row)


def forgettable(base: Base, accounts: Iterable[Account], before: Instant) -> tuple[list[str], tuple[Finding, ...]]:
    """Give the accounts of ended periods that nothing needs any more, of those that a base has.

    Nobody authorizes on them, nothing is held there, and no hold that could still be corrected was taken from them.
    The base has to have all its holds. An account that is not what the base says is a finding.
    """
    needed = {name for hold in base.holds.values() for name in hold.accounts}
    names: list[str] = []
    findings: list[Finding] = []
    for account in accounts:
        replayed = base.accounts[account.id]
        if replayed.counts or replayed.held or account.ends_at >= before or account.id in needed:
            continue
        found = _compare_accounts({account.id: replayed}, (account,))
        if found:
            findings += found
        else:
            names.append(account.id)
    return names, tuple(findings)


# ---- the replay -----------------------------------------------------------------------------------------------------


class _Replay:
    def __init__(self, base: Base) -> None:
        self.accounts = base.accounts
        self.newest: dict[str, str] = {}
        """By budget (scope, unit and period without its slot): the account that counts now."""
        self.earlier: dict[str, list[str]] = {}
        """By budget with a rolling window: the slots before the newest, ascending."""
        self.holds = base.holds
        self.quarantined = base.quarantined
        self.findings: list[Finding] = []
        self.seq = base.seq
        for name, account in sorted(base.accounts.items(), key=lambda item: item[1].ends_at):
            if account.counts:
                before = self.newest.get(_budget(name))
                if before is not None:
                    self.earlier.setdefault(_budget(name), []).append(before)
                self.newest[_budget(name)] = name

    def counting(self) -> set[str]:
        """Give the accounts that an authorize would look at."""
        return set(self.newest.values()).union(*self.earlier.values())

    def take(self, entry: Entry) -> None:
        """Replay one entry; one that cannot be replayed is a finding and changes nothing."""
        if entry.seq != self.seq + 1:
            self._find(entry, f"entries {self.seq + 1} to {entry.seq - 1} are missing")
        self.seq = entry.seq
        try:
            getattr(self, f"_{entry.kind}", self._unknown)(entry)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            self._find(entry, f"a {entry.kind} that cannot be replayed: {error!r}")

    def _find(self, entry: Entry, what: str) -> None:
        self.findings.append(Finding(f"entry {entry.seq} {entry.call_id}".rstrip(), what))

    def _unknown(self, entry: Entry) -> None:
        self._find(entry, f"a kind of entry that nobody knows: {entry.kind}")

    def _open(self, entry: Entry) -> None:
        limits: Any = entry.detail["limits"]
        ends: Any = entry.detail.get("ends_at") or [_NEVER] * len(limits)
        for name, limit, ends_at in zip(entry.accounts, limits, ends, strict=True):
            if name in self.accounts:
                self._find(entry, f"{name} is opened twice")
            self._begin(name, ReplayedAccount(limit, limit, ends_at=ends_at))

    def _begin(self, name: str, account: ReplayedAccount) -> None:
        self.accounts[name] = account
        self.newest[_budget(name)] = name

    def _roll(self, entry: Entry) -> None:
        limit: Any = entry.detail["limit"]
        state, ends_at = str(entry.detail["state"]), int(str(entry.detail["ends_at"]))
        for name in entry.accounts:
            before = self.newest[_budget(name)]
            old = self.accounts[before]
            if entry.at < old.ends_at:
                self._find(entry, f"{name} takes the place of {before} before that has ended")
            if (old.limit, old.state) != (limit, state):
                self._find(entry, f"{name} has another limit or state than {before}")
            if name in self.accounts:
                self._find(entry, f"{name} is opened twice")
            if window := _window(name):
                slots = self.earlier.setdefault(_budget(name), [])
                slots.append(before)
                # Forward only: what has left the window does not come back with a clock that goes back.
                while slots and self.accounts[slots[0]].ends_at + window <= entry.at:
                    del slots[0]
            self._begin(name, ReplayedAccount(limit, limit, state, ends_at=ends_at))

    def _used(self, name: str) -> int:
        """Give what counts against the limit of an account: its own, and the slots that are still in its window."""
        slots = self.earlier.get(_budget(name), ())
        return self.accounts[name].used + sum(self.accounts[slot].used for slot in slots)

    def _authorize(self, entry: Entry) -> None:
        if entry.call_id in self.holds:
            self._find(entry, "one call is authorized twice")
        amounts = [entry.usd, entry.calls, entry.tokens]
        for name in entry.accounts:
            account = self.accounts[name]
            amount = amounts[_unit(name)]
            used = self._used(name)
            if self.newest[_budget(name)] != name or entry.at >= account.ends_at:
                self._find(entry, f"{name} does not count any more and did authorize")
            if account.state != "open":
                self._find(entry, f"{name} is {account.state} and did authorize")
            if amount and account.limit is not None and used + amount > account.limit:
                self._find(entry, f"{name} is taken over its limit: {used} + {amount} > {account.limit}")
            account.held += amount
        self.holds[entry.call_id] = ReplayedHold(entry.accounts, amounts, "open")

    def _capture(self, entry: Entry) -> None:
        captured, overrun = [entry.usd, entry.calls, entry.tokens], _three(entry.detail["overrun"])
        hold = self.holds.get(entry.call_id)
        if hold is None or not hold.accounts:
            hold = self._capture_of_unknown(entry)
        elif hold.state == "captured":
            self._find(entry, "one call is captured twice")
        self._rebook(hold, "captured", captured, overrun)
        hold.ended_at, hold.basis = entry.at, str(entry.detail["basis"])
        if any(overrun):
            self._stop_runs(hold)

    def _capture_of_unknown(self, entry: Entry) -> ReplayedHold:
        for name in entry.accounts:
            if name not in self.accounts:
                # Accounts that the store had lost were made anew, with nothing to spend.
                self._begin(name, ReplayedAccount(0, 0, "overrun"))
        hold = self.holds[entry.call_id] = ReplayedHold(entry.accounts, [0, 0, 0], "captured")
        return hold

    def _stop_runs(self, hold: ReplayedHold) -> None:
        runs = {name.rsplit("/", 2)[0] for name in hold.accounts if name.startswith("run:")}
        for name in self.newest.values():
            account = self.accounts[name]
            if account.state == "open" and name.rsplit("/", 2)[0] in runs:
                account.state = "overrun"

    def _rebook(self, hold: ReplayedHold, state: str, captured: list[int], overrun: list[int]) -> None:
        """Take what the hold is booked at off its accounts, and put the new amounts there."""
        for name in hold.accounts:
            account, unit = self.accounts[name], _unit(name)
            account.held -= hold.held[unit] if hold.state == "open" else 0
            account.captured += captured[unit] - hold.captured[unit]
            account.overrun += overrun[unit] - hold.overrun[unit]
        hold.state, hold.captured, hold.overrun = state, captured, overrun

    def _void(self, entry: Entry) -> None:
        hold = self.holds.get(entry.call_id)
        if hold is None:
            self.holds[entry.call_id] = ReplayedHold((), [0, 0, 0], "void", ended_at=entry.at)
            return
        if hold.state != "open":
            self._find(entry, f"a call that is {hold.state} is voided")
        self._rebook(hold, "void", [0, 0, 0], [0, 0, 0])
        hold.ended_at = entry.at

    def _expire(self, entry: Entry) -> None:
        hold = self.holds[entry.call_id]
        if hold.state != "open":
            self._find(entry, f"a call that is {hold.state} is expired")
        self._rebook(hold, "expired", list(hold.held), [0, 0, 0])
        hold.ended_at, hold.basis = entry.at, "presumed"

    def _adjust(self, entry: Entry) -> None:
        captured, overrun = [entry.usd, entry.calls, entry.tokens], _three(entry.detail["overrun"])
        hold = self.holds[entry.call_id]
        if hold.state == "open":
            self._find(entry, "a call that is open is adjusted")
        self._rebook(hold, "captured", captured, overrun)
        hold.ended_at, hold.basis = entry.at, "adjusted"

    def _limit(self, entry: Entry) -> None:
        limit: Any = entry.detail["limit"]
        state = str(entry.detail["state"])
        ends_at = int(str(entry.detail.get("ends_at", _NEVER)))
        for name in entry.accounts:
            if name not in self.accounts:
                self._begin(name, ReplayedAccount(None, None, state, ends_at=ends_at))
            account = self.accounts[name]
            account.limit = limit
            account.ceiling = None if limit is None else max(limit, account.held + account.captured)

    def _state(self, entry: Entry) -> None:
        for name in entry.accounts:
            self.accounts[name].state = str(entry.detail["state"])

    def _note(self, entry: Entry) -> None:
        """Who changed a key: nothing of an account."""

    def _quarantine(self, entry: Entry) -> None:
        self.quarantined.add(str(entry.detail["model"]))

    def _clear(self, entry: Entry) -> None:
        self.quarantined.discard(str(entry.detail["model"]))


def _compare_accounts(replayed: dict[str, ReplayedAccount], accounts: Iterable[Account]) -> list[Finding]:
    findings: list[Finding] = []
    unseen = dict(replayed)
    for account in accounts:
        replay = unseen.pop(account.id, None)
        booked = (
            account.limit, account.ceiling, account.state.value, account.held, account.captured, account.overrun,
        )  # fmt: skip
        if replay is None:
            findings.append(Finding(account.id, "no entry opened this account", str(booked)))
        elif replay.facts() != booked:
            what = "limit, ceiling, state, held, captured, overrun differ"
            findings.append(Finding(account.id, what, str(booked), str(replay.facts())))
        if account.ceiling is not None and account.held + account.captured > account.ceiling:
            findings.append(Finding(account.id, "held and captured are above the ceiling", str(booked)))
    findings += [Finding(name, "the account is missing", "", str(replay.facts())) for name, replay in unseen.items()]
    return findings


def _compare_holds(replayed: dict[str, ReplayedHold], holds: Iterable[HoldRow]) -> list[Finding]:
    findings: list[Finding] = []
    unseen = dict(replayed)
    for hold in holds:
        replay = unseen.pop(hold.call_id, None)
        booked = _booked(hold)
        if replay is None:
            findings.append(Finding(hold.call_id, "no entry made this hold", str(booked)))
        elif replay.facts() != booked:
            what = "state, accounts, held, captured, overrun differ"
            findings.append(Finding(hold.call_id, what, str(booked), str(replay.facts())))
    findings += [Finding(call_id, "the hold is missing", "", str(hold.facts())) for call_id, hold in unseen.items()]
    return findings


def _compare_quarantine(replayed: set[str], quarantined: frozenset[str] | None) -> list[Finding]:
    if quarantined is None or quarantined == replayed:
        return []
    booked, found = ", ".join(sorted(quarantined)), ", ".join(sorted(replayed))
    return [Finding("quarantine", "the models in quarantine differ", booked, found)]


def _booked(hold: HoldRow) -> tuple[object, ...]:
    amounts = (_list(hold.held), _list(hold.captured), _list(hold.overrun))
    return (hold.state.value, hold.accounts, *amounts)


@lru_cache(maxsize=65_536)
def _budget(name: str) -> str:
    scope_and_unit, _, period = name.rpartition("/")
    return f"{scope_and_unit}/{period.partition(' ')[0]}"


@lru_cache(maxsize=65_536)
def _window(name: str) -> int:
    """Give the length of the rolling window in an account's name, in microseconds; 0 when there is none."""
    found = _ROLLING.fullmatch(name)
    return 0 if found is None else int(found[1]) * _MICROSECONDS[found[2]]


@lru_cache(maxsize=65_536)
def _unit(name: str) -> int:
    return _INDEX[name.rsplit("/", 2)[1]]


def _three(given: Any) -> list[int]:
    usd, calls, tokens = given
    return [int(usd), int(calls), int(tokens)]


def _list(amounts: Amounts) -> list[int]:
    return [amounts.usd, amounts.calls, amounts.tokens]
