"""The words of the ledger: accounts, amounts, the operations that change them and the answers to those."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bursar.clock import Instant

# What may stand in a scope behind `tag:`, `team:` and `user:`. The name of a tag is written in small letters, since the
# name of a header has no others.
TAG_NAME = r"[a-z0-9][a-z0-9._:-]{0,63}"
TAG_VALUE = r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}"
PERSON = r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}"


class Unit(StrEnum):
    """What an account counts: nanodollars, calls, or tokens."""

    USD = "usd"
    CALLS = "calls"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Amounts:
    """One amount in every unit: nanodollars, calls, tokens."""

    usd: int
    calls: int
    tokens: int

    def of(self, unit: Unit) -> int:
        """Give the amount in this unit."""
        match unit:
            case Unit.USD:
                return self.usd
            case Unit.CALLS:
                return self.calls
            case Unit.TOKENS:
                return self.tokens


class AccountState(StrEnum):
    """Whether an account still authorizes."""

    OPEN = "open"
    STOPPED = "stopped"
    """By an operator."""
    OVERRUN = "overrun"
    """A call cost more than its hold; an operator must look before anything more is authorized."""


@dataclass(frozen=True, slots=True)
class Account:
    """The running position of one scope in one unit and one period: `captured + held <= ceiling`.

    An overrun comes on top; it counts as spent when the next call is authorized.
    """

    scope: str
    """Who spends: `run:ID`, `key:NAME`; teams, users, tags and the organisation take the same form."""
    unit: Unit
    period: str
    """`lifetime`, or the period and the start of the slot that this row counts (see `ledger.periods`)."""
    limit: int | None
    """In the unit; None counts without a limit."""
    ceiling: int | None
    """The greater of the limit and what was in use when the limit was last lowered."""
    held: int = 0
    captured: int = 0
    overrun: int = 0
    state: AccountState = AccountState.OPEN
    starts_at: int = 0
    ends_at: int = 2**63 - 1
    """Microseconds since 1970; lifetime never ends."""

    @property
    def id(self) -> str:
        """Give the account's stable name: `run:r1/usd/lifetime`."""
        return f"{self.scope}/{self.unit}/{self.period}"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call asks of every account on its path, as a function of the output bound that it is granted.

    For t output tokens: usd = usd_fixed + ceil(t * picodollars_per_output_token / 1000) nanodollars,
    tokens = tokens_fixed + t * choices, calls = 1.
    """

    usd_fixed: int
    tokens_fixed: int
    picodollars_per_output_token: int
    choices: int
    tokens_wanted: int
    tokens_comfort: int
    tokens_floor: int
    client_bounded: bool

    def amounts(self, output_tokens: int) -> Amounts:
        """Give what has to be held when this many output tokens (per choice) are granted."""
        usd = self.usd_fixed - (-output_tokens * self.picodollars_per_output_token // 1000)
        return Amounts(usd=usd, calls=1, tokens=self.tokens_fixed + output_tokens * self.choices)


@dataclass(frozen=True, slots=True)
class Limits:
    """The caps that an account scope is opened with; None counts without a limit."""

    usd: int | None = None
    calls: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """A cap of a scope in one unit that comes anew with every period; `period` as `periods.period_spec` gives it."""

    unit: Unit
    limit: int | None
    period: str


class HoldState(StrEnum):
    """Where a hold is in its life."""

    OPEN = "open"
    CAPTURED = "captured"
    """Settled by its worker."""
    EXPIRED = "expired"
    """Captured whole by the reaper because its worker died."""
    VOID = "void"


class Basis(StrEnum):
    """Why a capture has its amount."""

    METERED = "metered"
    PRESUMED = "presumed"
    ADJUSTED = "adjusted"


# ---- operations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenScope:
    """Open the accounts of a scope if they do not exist; existing ones are left alone.

    For a run, `owner` is the scope of the key it belongs to; a run that another key owns answers `Taken`.
    """

    scope: str
    owner: str
    limits: Limits
    runs_per_hour_max: int | None = None
    """Most runs that the owner may open in one hour; None does not count (operators)."""
    label: str = ""
    """What people see, for example the command of a run."""
    budgets: tuple[Budget, ...] = ()
    """Caps per period, beside the lifetime `limits`."""
    path: tuple[str, ...] = ()
    """For a run: the runs that it is part of, and the tags it was opened with; they pay for each of its calls."""


@dataclass(frozen=True, slots=True)
class Authorize:
    """Ask all accounts of all scopes to set the quote aside, all or nothing."""

    call_id: str
    worker: str
    scopes: tuple[str, ...]
    ask: Ask
    model: str
    upstream: str
    is_last_try: bool = False
    """True at the end of the wait: take what is there rather than wait for what others hold."""
    also: tuple[str, ...] = ()
    """Scopes that count where they have accounts: organisation, team, user, tags, model, upstream."""
    is_in_line: bool = False
    """The first of a line: leaves a claim where it is told to wait, so that no younger call passes it elsewhere."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Turn a hold into spend; never refused for lack of funds.

    `actual` None captures the whole hold (basis `presumed`).
    """

    call_id: str
    worker: str
    actual: Amounts | None
    basis: Basis
    scopes: tuple[str, ...]
    """Where the money is booked when the store does not know the call."""
    held: Amounts
    """What was held, for the same case."""
    why: str = ""
    usage: str = ""
    """The billed usage as compact JSON, for the books (counts only, never text)."""
    also: tuple[str, ...] = ()
    """Further scopes for the case that the store does not know the call; those without accounts are left out."""


@dataclass(frozen=True, slots=True)
class Void:
    """End a hold with no spend; `proof` says why nothing can have been billed."""

    call_id: str
    worker: str
    proof: str


@dataclass(frozen=True, slots=True)
class Expire:
    """Capture every open hold of a dead worker whole."""

    worker: str


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Set the limit of a scope in one unit and period; effective for the next authorize.

    A period that the scope has no budget for is opened with it.
    """

    scope: str
    unit: Unit
    limit: int | None
    period: str = "lifetime"
    by: str = ""
    """Who wants it so; goes into the entry."""
    opens: bool = False
    """Whether a scope that does not exist yet is opened with it: a team, a user, a tag."""


@dataclass(frozen=True, slots=True)
class SetState:
    """Stop or resume all accounts of a scope."""

    scope: str
    state: AccountState
    by: str = ""


@dataclass(frozen=True, slots=True)
class Adjust:
    """Correct the capture of a settled call with evidence."""

    call_id: str
    actual: Amounts
    evidence: str


@dataclass(frozen=True, slots=True)
class ClearModel:
    """Take a model out of quarantine."""

    model: str


@dataclass(frozen=True, slots=True)
class Note:
    """Write down a change of something else than an account: who changed which key, from what to what."""

    by: str
    what: str
    """For example `key created`."""
    subject: str
    before: str = ""
    after: str = ""
    """JSON, without secrets."""


Operation = OpenScope | Authorize | Settle | Void | Expire | SetLimit | SetState | Adjust | ClearModel | Note


# ---- answers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Position:
    """What is left on the tightest account of each unit after a grant; None where nothing on the path limits it."""

    usd: int | None
    calls: int | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Granted:
    """The quote is set aside on every account; the call may be dispatched once."""

    call_id: str
    output_tokens: int
    """The output bound per choice that the hold pays for."""
    held: Amounts
    left: Position
    state: HoldState = HoldState.OPEN
    """Not OPEN when a repeated authorize finds its hold already ended."""


class Reason(StrEnum):
    """Why an authorize was denied."""

    EXHAUSTED = "exhausted"
    """The limit is spent: no wait helps."""
    HELD = "held"
    """The rest is held by calls in flight and may come free."""
    STOPPED = "stopped"
    OVERRUN = "overrun"
    QUARANTINED = "quarantined"
    """The model once billed more than was held for it."""
    UNKNOWN_SCOPE = "unknown_scope"
    """An account on the path does not exist; unknown is never full budget."""


@dataclass(frozen=True, slots=True)
class Denied:
    """No funds, with the account that said so; nothing was taken anywhere."""

    reason: Reason
    scope: str
    account: str = ""
    unit: Unit = Unit.USD
    limit: int = 0
    captured: int = 0
    held: int = 0
    asked: int = 0
    resets_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The hold has ended; `captured` and `overrun` are what this call was booked at, per unit."""

    call_id: str
    state: HoldState
    captured: Amounts
    overrun: Amounts
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The accounts of the scope as they are now."""

    accounts: tuple[Account, ...]
    created: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """The scope belongs to another owner."""

    scope: str
    owner: str


@dataclass(frozen=True, slots=True)
class TooManyRuns:
    """The owner has opened its most runs for this hour."""

    owner: str
    runs_per_hour_max: int
    resets_at: Instant


@dataclass(frozen=True, slots=True)
class Conflict:
    """The same call id with other facts, or a worker that was declared dead: nothing was changed."""

    call_id: str
    why: str
    fenced: bool = False
    """The worker was declared dead; it has to go on under a new identity."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The accounts after a change of limit or state, or the count of holds that were expired."""

    accounts: tuple[Account, ...] = ()
    count: int = 0
    calls: tuple[str, ...] = field(default=())


Answer = Granted | Denied | Settled | Opened | Taken | TooManyRuns | Conflict | Changed
