"""What the rules read and write: the loaded rows of one transaction, and the plan that changes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from bursar.clock import Instant
from bursar.ledger.account import Account, AccountState, Amounts, Answer, HoldState, Unit
from bursar.ledger.periods import FOREVER, spec_of

AMOUNT_MAX = 2**63 - 1
"""Stores keep amounts in signed 64-bit integers; an account without a limit stops here."""

UNITS = (Unit.USD, Unit.CALLS, Unit.TOKENS)
USD, CALLS, TOKENS = range(3)
UNIT_INDEX = {"usd": USD, "calls": CALLS, "tokens": TOKENS}
RUN_PREFIX = "run:"
OWN_RUN_PREFIX = "run:@"
"""Runs of the gateway itself: no client can name one, and people are not told of them."""

Triple = tuple[int, int, int]
"""One amount in every unit, in the order of `UNITS`."""

NOTHING: Triple = (0, 0, 0)
NO_AMOUNTS = Amounts(0, 0, 0)
HOLD_STATES = {state.value: state for state in HoldState}


class Balance:
    """One account as a transaction sees it: loaded from its row, changed in memory, written back at the end."""

    __slots__ = (
        *("captured", "ceiling", "earlier_held", "earlier_spent", "ends_at", "head", "held", "key", "limit", "name"),
        *("overrun", "period", "scope", "starts_at", "state", "unit"),
    )

    def __init__(
        self,
        key: int | None,
        scope: str,
        unit: str,
        period: str,
        limit: int | None,
        ceiling: int | None,
        held: int = 0,
        captured: int = 0,
        overrun: int = 0,
        state: str = "open",
        starts_at: int = 0,
        ends_at: int = FOREVER,
    ) -> None:
        self.key = key
        """The store's own key of the row; None until the row is written for the first time."""
        self.scope = scope
        self.unit = UNIT_INDEX[unit]
        self.period = period
        self.limit = limit
        self.ceiling = ceiling
        self.held = held
        self.captured = captured
        self.overrun = overrun
        self.state = state
        self.starts_at = starts_at
        self.ends_at = ends_at
        self.name = f"{scope}/{unit}/{period}"
        self.earlier_held = 0
        self.earlier_spent = 0
        """Of a rolling window: what the slots before this one still hold, and have captured or overrun."""
        self.head: Balance | None = None
        """The newest slot of the window that this one, an earlier slot, still counts in."""

    @property
    def spec(self) -> str:
        """Give the period without the start of its slot."""
        return spec_of(self.period)

    def account(self) -> Account:
        """Give the account as the rest of the house sees it."""
        return Account(
            scope=self.scope,
            unit=UNITS[self.unit],
            period=self.period,
            limit=self.limit,
            ceiling=self.ceiling,
            held=self.held,
            captured=self.captured,
            overrun=self.overrun,
            state=AccountState(self.state),
            starts_at=self.starts_at,
            ends_at=self.ends_at,
        )


class HoldFacts(NamedTuple):
    """A hold as a row; never changed in place. `accounts` is packed (see `pack`)."""

    call_id: str
    worker: str
    state: str
    accounts: str
    held_usd: int
    held_calls: int
    held_tokens: int
    captured_usd: int
    captured_calls: int
    captured_tokens: int
    overrun_usd: int
    overrun_calls: int
    overrun_tokens: int
    output_tokens: int
    model: str
    upstream: str
    opened_at: int
    settled_at: int | None
    basis: str
    why: str

    @property
    def held(self) -> Triple:
        """Give what was held, per unit."""
        return self[4:7]

    @property
    def captured(self) -> Triple:
        """Give what was captured, per unit."""
        return self[7:10]

    @property
    def overrun(self) -> Triple:
        """Give what was booked above the hold, per unit."""
        return self[10:13]

    def ended(
        self, state: HoldState, captured: Triple, overrun: Triple, now: Instant, basis: str, why: str
    ) -> HoldFacts:
        """Give the same hold with its end written into it."""
        opening = (self.call_id, self.worker, state.value, *self[3:7])
        return HoldFacts._make((*opening, *captured, *overrun, *self[13:17], now, basis, why))


class Line(NamedTuple):
    """One entry to append, in the order of its columns; `accounts` and `detail` are JSON."""

    at: int
    kind: str
    call_id: str
    worker: str
    usd: int
    calls: int
    tokens: int
    accounts: str
    detail: str


class ScopeFacts(NamedTuple):
    """A scope that is opened: who owns it, and what people call it."""

    scope: str
    owner: str
    label: str
    opened_at: int
    path: str = "[]"
    """Packed: the further scopes that pay for a run's calls."""


class Claim(NamedTuple):
    """A call that waits first in a line of its gateway for an account; while it is fresh no younger call passes it."""

    account: str
    call_id: str
    worker: str
    since: int
    """When it was first told to wait."""
    at: int
    """When it last asked."""


class Happening(NamedTuple):
    """Something that people want to hear of, kept in the outbox until it is delivered; once per kind and key."""

    kind: str
    """`threshold`, `exhausted`, `overrun` or `quarantine`."""
    key: str
    at: int
    subject: str
    """The account, run or model."""
    detail: str
    """JSON: ids and amounts only."""


Move = tuple[Balance, int, int, int]
"""A change of one balance, as differences: of held, of captured, of overrun."""


@dataclass(slots=True)
class Books:
    """All rows that a batch of operations may touch; the rules read it, only `batch.apply` changes it."""

    scopes: dict[str, list[Balance]] = field(default_factory=dict)
    """By scope: its accounts, of each budget the slot that counts now, in the order of `_place`."""
    names: dict[str, Balance] = field(default_factory=dict)
    holds: dict[str, HoldFacts] = field(default_factory=dict)
    folded: set[str] = field(default_factory=set)
    """Calls that are to end although they were booked, and their holds folded away, long ago."""
    owners: dict[str, str] = field(default_factory=dict)
    """The owner of every loaded scope that exists."""
    openings: dict[str, list[Instant]] = field(default_factory=dict)
    """By owner: when its runs of the last hour were opened, ascending."""
    quarantined: set[str] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)
    """Workers that were declared dead."""
    dead: set[str] = field(default_factory=set)
    """Workers whose liveness lock the store could take inside this transaction."""
    claims: dict[str, list[Claim]] = field(default_factory=dict)
    """By account: the calls that wait for it."""
    has_windows: bool = False
    """Whether a rolling window is in the books that has more than one slot."""

    def add(self, balance: Balance) -> None:
        """Take a balance that counts into the books; slots of a window in any order."""
        self.names[balance.name] = balance
        path = self.scopes.setdefault(balance.scope, [])
        if not balance.starts_at and (not path or _place(path[-1]) < (0, balance.unit)):
            path.append(balance)
            return
        if balance.starts_at:
            spec = balance.spec
            for place, other in enumerate(path):
                if other.unit == balance.unit and other.spec == spec:
                    path[place] = join(other, balance)
                    self.has_windows = True
                    return
        path.append(balance)
        path.sort(key=_place)

    def add_past(self, balance: Balance) -> None:
        """Take a balance into the books that no authorize looks at any more, but that a hold was taken from."""
        self.names[balance.name] = balance

    def missing(self) -> list[list[str]]:
        """Give scope, unit and period of every account that a loaded hold was taken from and that is not here yet."""
        names = {name for hold in self.holds.values() for name in unpack(hold.accounts)}
        return [name.rsplit("/", 2) for name in sorted(names - self.names.keys())]


def _place(balance: Balance) -> tuple[int, int] | tuple[int, int, str]:
    """Give the place of an account among those of its scope; not by age, which changes when a period turns."""
    return (1, balance.unit, balance.spec) if balance.starts_at else (0, balance.unit)


def newest(balance: Balance) -> Balance:
    """Give the newest slot of the window that a slot counts in; every other account is its own newest."""
    while balance.head is not None:
        balance = balance.head
    return balance


def join(one: Balance, other: Balance) -> Balance:
    """Put two slots of one window together: the newer counts what is in the older; give the newer."""
    older, newer = (one, other) if one.starts_at < other.starts_at else (other, one)
    newer.earlier_held += older.held + older.earlier_held
    newer.earlier_spent += older.captured + older.overrun + older.earlier_spent
    older.earlier_held = older.earlier_spent = 0
    older.head = newer
    return newer


@dataclass(slots=True)
class Plan:
    """What an operation changes, and its answer; a plan with an answer alone changes nothing."""

    answer: Answer
    moves: list[Move] = field(default_factory=list)
    holds: tuple[HoldFacts, ...] = ()
    lines: tuple[Line, ...] = ()
    balances: tuple[Balance, ...] = ()
    """New accounts; their moves are in `moves`."""
    scopes: tuple[ScopeFacts, ...] = ()
    states: tuple[tuple[Balance, AccountState], ...] = ()
    limits: tuple[tuple[Balance, int | None, int | None], ...] = ()
    """Balance, new limit, new ceiling."""
    quarantine: str = ""
    clear: str = ""
    fence: str = ""
    refused: tuple[str, ...] = ()
    """Scopes that count a refused call."""
    claims: tuple[Claim, ...] = ()
    """To be left or renewed."""
    waits_no_more: str = ""
    """The call that has its answer, granted or refused for good: its claims keep nobody waiting any more."""


@lru_cache(maxsize=4096)
def pack(names: tuple[str, ...]) -> str:
    """Give account names as the text that a hold and an entry keep."""
    return encode(names)


@lru_cache(maxsize=4096)
def unpack(text: str) -> tuple[str, ...]:
    """Give the account names in a packed text."""
    return tuple(json.loads(text))


encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode
"""Compact JSON. A lone surrogate passes here and is refused by the store, so it never gets into the books."""


quoted = json.encoder.encode_basestring
"""One text as JSON. Details are put together from these: an encoder costs more than the decision they describe."""


def amounts(triple: Triple) -> Amounts:
    """Give a triple as amounts."""
    return Amounts(triple[USD], triple[CALLS], triple[TOKENS])


@lru_cache(maxsize=4096)
def scopes_of(text: str) -> tuple[str, ...]:
    """Give the scopes of the accounts in a packed text, each once, in their order."""
    return tuple(dict.fromkeys(map(scope_of, unpack(text))))


def scope_of(name: str) -> str:
    """Give the scope in an account's name."""
    return name.rsplit("/", 2)[0]
