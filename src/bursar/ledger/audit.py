"""An independent replay of the entries: comes to the same balances as the books, or says where not. Pure.

It shares the types with the rules and nothing else, so that a mistake in one of them is seen by the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bursar.ledger.account import Account, Amounts
from bursar.ledger.store import Entry, Finding, HoldRow

_INDEX = {"usd": 0, "calls": 1, "tokens": 2}
_NEVER = 2**63 - 1
_ROLLING = re.compile(r".*/rolling-([0-9]+)([smhdw]) [0-9TZ:-]+")
_MICROSECONDS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}


@dataclass(slots=True)
class _Account:
    limit: int | None
    ceiling: int | None
    state: str = "open"
    held: int = 0
    captured: int = 0
    overrun: int = 0
    ends_at: int = _NEVER

    @property
    def used(self) -> int:
        return self.held + self.captured + self.overrun

    def facts(self) -> tuple[object, ...]:
        return (self.limit, self.ceiling, self.state, self.held, self.captured, self.overrun)


@dataclass(slots=True)
class _Hold:
    accounts: tuple[str, ...]
    held: list[int]
    state: str
    captured: list[int] = field(default_factory=lambda: [0, 0, 0])
    overrun: list[int] = field(default_factory=lambda: [0, 0, 0])

    def facts(self) -> tuple[object, ...]:
        return (self.state, self.accounts, self.held, self.captured, self.overrun)


def audit(
    entries: Iterable[Entry],
    accounts: Iterable[Account],
    holds: Iterable[HoldRow],
    quarantined: frozenset[str] | None = None,
) -> tuple[Finding, ...]:
    """Replay the entries in their order and compare with the accounts and holds; no finding means that all agree."""
    replay = _Replay()
    for entry in entries:
        replay.take(entry)
    findings = replay.findings
    findings += _compare_accounts(replay.accounts, accounts)
    findings += _compare_holds(replay.holds, holds)
    if quarantined is not None and quarantined != replay.quarantined:
        booked, replayed = ", ".join(sorted(quarantined)), ", ".join(sorted(replay.quarantined))
        findings.append(Finding("quarantine", "the models in quarantine differ", booked, replayed))
    return tuple(findings)


class _Replay:
    def __init__(self) -> None:
        self.accounts: dict[str, _Account] = {}
        self.newest: dict[str, str] = {}
        """By budget (scope, unit and period without its slot): the account that counts now."""
        self.earlier: dict[str, list[str]] = {}
        """By budget with a rolling window: the slots before the newest, ascending."""
        self.holds: dict[str, _Hold] = {}
        self.quarantined: set[str] = set()
        self.findings: list[Finding] = []
        self._seq = 0

    def take(self, entry: Entry) -> None:
        """Replay one entry; one that cannot be replayed is a finding and changes nothing."""
        if entry.seq != self._seq + 1:
            self._find(entry, f"entries {self._seq + 1} to {entry.seq - 1} are missing")
        self._seq = entry.seq
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
            self._begin(name, _Account(limit, limit, ends_at=ends_at))

    def _begin(self, name: str, account: _Account) -> None:
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
            if _window(name):
                self.earlier.setdefault(_budget(name), []).append(before)
            self._begin(name, _Account(limit, limit, state, ends_at=ends_at))

    def _used(self, name: str, at: int) -> int:
        """Give what counts against the limit of an account: its own, and the slots that are still in its window."""
        used = self.accounts[name].used
        window = _window(name)
        if window:
            slots = self.earlier.get(_budget(name), [])
            # Forward only: what has left the window does not come back with a clock that goes back.
            while slots and self.accounts[slots[0]].ends_at + window <= at:
                del slots[0]
            used += sum(self.accounts[slot].used for slot in slots)
        return used

    def _authorize(self, entry: Entry) -> None:
        if entry.call_id in self.holds:
            self._find(entry, "one call is authorized twice")
        amounts = [entry.usd, entry.calls, entry.tokens]
        for name in entry.accounts:
            account = self.accounts[name]
            amount = amounts[_unit(name)]
            used = self._used(name, entry.at)
            if self.newest[_budget(name)] != name or entry.at >= account.ends_at:
                self._find(entry, f"{name} does not count any more and did authorize")
            if account.state != "open":
                self._find(entry, f"{name} is {account.state} and did authorize")
            if amount and account.limit is not None and used + amount > account.limit:
                self._find(entry, f"{name} is taken over its limit: {used} + {amount} > {account.limit}")
            account.held += amount
        self.holds[entry.call_id] = _Hold(entry.accounts, amounts, "open")

    def _capture(self, entry: Entry) -> None:
        captured, overrun = [entry.usd, entry.calls, entry.tokens], _three(entry.detail["overrun"])
        hold = self.holds.get(entry.call_id)
        if hold is None or not hold.accounts:
            hold = self._capture_of_unknown(entry)
        elif hold.state == "captured":
            self._find(entry, "one call is captured twice")
        self._rebook(hold, "captured", captured, overrun)
        if any(overrun):
            self._stop_runs(hold)

    def _capture_of_unknown(self, entry: Entry) -> _Hold:
        for name in entry.accounts:
            if name not in self.accounts:
                # Accounts that the store had lost were made anew, with nothing to spend.
                self._begin(name, _Account(0, 0, "overrun"))
        hold = self.holds[entry.call_id] = _Hold(entry.accounts, [0, 0, 0], "captured")
        return hold

    def _stop_runs(self, hold: _Hold) -> None:
        runs = {name.rsplit("/", 2)[0] for name in hold.accounts if name.startswith("run:")}
        for name in self.newest.values():
            account = self.accounts[name]
            if account.state == "open" and name.rsplit("/", 2)[0] in runs:
                account.state = "overrun"

    def _rebook(self, hold: _Hold, state: str, captured: list[int], overrun: list[int]) -> None:
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
            self.holds[entry.call_id] = _Hold((), [0, 0, 0], "void")
            return
        if hold.state != "open":
            self._find(entry, f"a call that is {hold.state} is voided")
        self._rebook(hold, "void", [0, 0, 0], [0, 0, 0])

    def _expire(self, entry: Entry) -> None:
        hold = self.holds[entry.call_id]
        if hold.state != "open":
            self._find(entry, f"a call that is {hold.state} is expired")
        self._rebook(hold, "expired", list(hold.held), [0, 0, 0])

    def _adjust(self, entry: Entry) -> None:
        captured, overrun = [entry.usd, entry.calls, entry.tokens], _three(entry.detail["overrun"])
        hold = self.holds[entry.call_id]
        if hold.state == "open":
            self._find(entry, "a call that is open is adjusted")
        self._rebook(hold, "captured", captured, overrun)

    def _limit(self, entry: Entry) -> None:
        limit: Any = entry.detail["limit"]
        state = str(entry.detail["state"])
        ends_at = int(str(entry.detail.get("ends_at", _NEVER)))
        for name in entry.accounts:
            if name not in self.accounts:
                self._begin(name, _Account(None, None, state, ends_at=ends_at))
            account = self.accounts[name]
            account.limit = limit
            account.ceiling = None if limit is None else max(limit, account.held + account.captured)

    def _state(self, entry: Entry) -> None:
        for name in entry.accounts:
            self.accounts[name].state = str(entry.detail["state"])

    def _quarantine(self, entry: Entry) -> None:
        self.quarantined.add(str(entry.detail["model"]))

    def _clear(self, entry: Entry) -> None:
        self.quarantined.discard(str(entry.detail["model"]))


def _compare_accounts(replayed: dict[str, _Account], accounts: Iterable[Account]) -> list[Finding]:
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


def _compare_holds(replayed: dict[str, _Hold], holds: Iterable[HoldRow]) -> list[Finding]:
    findings: list[Finding] = []
    unseen = dict(replayed)
    for hold in holds:
        replay = unseen.pop(hold.call_id, None)
        amounts = [_list(hold.held), _list(hold.captured), _list(hold.overrun)]
        booked = (hold.state.value, hold.accounts, *amounts)
        if replay is None:
            findings.append(Finding(hold.call_id, "no entry made this hold", str(booked)))
        elif replay.facts() != booked:
            what = "state, accounts, held, captured, overrun differ"
            findings.append(Finding(hold.call_id, what, str(booked), str(replay.facts())))
    findings += [Finding(call_id, "the hold is missing", "", str(hold.facts())) for call_id, hold in unseen.items()]
    return findings


def _budget(name: str) -> str:
    scope_and_unit, _, period = name.rpartition("/")
    return f"{scope_and_unit}/{period.partition(' ')[0]}"


def _window(name: str) -> int:
    """Give the length of the rolling window in an account's name, in microseconds; 0 when there is none."""
    found = _ROLLING.fullmatch(name)
    return 0 if found is None else int(found[1]) * _MICROSECONDS[found[2]]


def _unit(name: str) -> int:
    return _INDEX[name.rsplit("/", 2)[1]]


def _three(given: Any) -> list[int]:
    usd, calls, tokens = given
    return [int(usd), int(calls), int(tokens)]


def _list(amounts: Amounts) -> list[int]:
    return [amounts.usd, amounts.calls, amounts.tokens]
