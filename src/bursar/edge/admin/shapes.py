"""What HTTP takes and gives: every field with what it means. Amounts of USD are text, so that they are exact."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from bursar.clock import SECOND, Instant
from bursar.ledger.account import PERSON, TAG_NAME, TAG_VALUE

T = TypeVar("T")

COUNT_MAX = 2**53
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
WHO = f"^{PERSON}$"
RUN = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}$"
WORD = r"^[!-~]{1,200}$"
LINE = r"^[^\x00-\x1f\x7f]*$"
"""Text of one line: what has a NUL could not be written by every store."""
TAG = f"^{TAG_NAME}(={TAG_VALUE})?$"

Usd = Annotated[
    str,
    Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$", max_length=20, description="USD as text.", examples=["5.00"]),
]
Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]
Tag = Annotated[str, Field(pattern=TAG, max_length=200)]
TagName = Annotated[str, Field(pattern=f"^{TAG_NAME}$")]
Time = Annotated[str, Field(description="ISO 8601 in UTC.", examples=["2026-11-24T12:00:00Z"])]
Role = Literal["viewer", "operator", "admin"]


def at(instant: Instant) -> str:
    """Give an instant as ISO 8601 in UTC, to the second."""
    return datetime.datetime.fromtimestamp(instant // SECOND, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def at_or_none(instant: Instant | None) -> str | None:
    """Give an instant that may be missing."""
    return None if instant is None else at(instant)


class Given(BaseModel):
    """A body that is sent: every field known, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Shown(BaseModel):
    """A body that is answered."""


class Error(Shown):
    """What went wrong, and what to do."""

    code: str = Field(examples=["forbidden"])
    message: str
    fields: list[str] = Field(default_factory=list, description="The fields of the request that are wrong.")


class ErrorAnswer(Shown):
    """The body of every answer that is no success."""

    error: Error


class Page(Shown, Generic[T]):
    """One page of a list."""

    data: list[T]
    next: str | None = Field(description="Send it as `after` for the next page; null at the end.")


class Amounts(Shown):
    """One amount in each unit; null is no limit."""

    usd: str | None = Field(examples=["1.25"])
    calls: int | None
    tokens: int | None


class Budget(Shown):
    """A budget in its present period. `usd` counts nanodollars: 1 USD is 1000000000."""

    id: str = Field(description="Stable; the same for the same scope, unit and period.")
    scope: str = Field(examples=["key:ci"])
    unit: Literal["usd", "calls", "tokens"]
    period: str = Field(examples=["day in Europe/Berlin"])
    limit: int | None = Field(description="In the unit; null counts without a limit.")
    spent: int
    held: int = Field(description="Set aside for calls in flight.")
    left: int | None
    state: str = Field(examples=["open"])
    resets_at: Time | None


class Caps(Given):
    """Caps; one that is left out stays as it is."""

    usd: Usd | None = None
    calls: Count | None = None
    tokens: Count | None = None


class NewBudget(Caps):
    """Budgets of one scope for one period; at least one of usd, calls and tokens."""

    scope: Annotated[str, Field(pattern=WORD, max_length=200, examples=["key:ci", "tag:env=prod", "model:gpt-*"])]
    period: Annotated[str, Field(max_length=40, examples=["day", "rolling 5h"])] = "lifetime"
    timezone: Annotated[str, Field(max_length=64, examples=["Europe/Berlin"])] = ""


class NewRun(Caps):
    """A run to open. Caps that are left out come from the key's template; a key may ask for less, not for more."""

    key: Annotated[str, Field(pattern=NAME, description="Whose run it is; only operators name one.")] | None = None
    label: Annotated[str, Field(pattern=LINE, max_length=200, description="What people see.")] = ""
    parent: Annotated[str, Field(pattern=RUN)] | None = Field(None, description="A run that pays for this one, too.")
    tags: Annotated[list[Tag], Field(max_length=16)] = Field(default_factory=list, examples=[["env=prod"]])


class Run(Shown):
    """A run and what is spent of it."""

    run: str = Field(examples=["r-abcdefghijkl"])
    key: str
    label: str
    state: str
    parents: list[str] | None = Field(None, description="The runs it is part of; only where one run is asked for.")
    tags: list[str] | None = Field(None, description="What it was opened with; only where one run is asked for.")
    opened_at: Time
    calls_open: int
    calls_refused: int
    budgets: list[Budget]


class Secret(Shown):
    """A secret, shown once."""

    secret: str | None = Field(description="Shown only in the first answer; null where the same write is sent again.")
    note: str = ""


class OpenedRun(Secret):
    """A run that was opened, and the key that is bound to it."""

    run: Run


class NewKey(Given):
    """A key to make. A name may have several keys, which share its budgets."""

    name: Annotated[str, Field(pattern=NAME, examples=["ci"])]
    run: Caps | None = Field(None, description="Caps of each run of the key; what is left out comes from the settings.")
    role: Role | None = Field(None, description="Makes a key that manages instead of one that calls.")
    team: Annotated[str, Field(pattern=WHO)] | None = None
    user: Annotated[str, Field(pattern=rf"^({PERSON}|\*)$", description="`*` lets the client name one.")] | None = None
    tags: Annotated[list[Tag], Field(max_length=16)] = Field(default_factory=list)
    tags_required: Annotated[list[TagName], Field(max_length=16)] = Field(
        default_factory=list, description="Names of tags that every call has to have."
    )
    models: Annotated[list[Annotated[str, Field(pattern=WORD)]], Field(max_length=100)] = Field(default_factory=list)
    upstreams: Annotated[list[Annotated[str, Field(pattern=WORD)]], Field(max_length=100)] = Field(default_factory=list)
    networks: Annotated[list[Annotated[str, Field(pattern=r"^[0-9A-Fa-f:./]{2,50}$")]], Field(max_length=100)] = Field(
        default_factory=list, examples=[["10.0.0.0/8"]]
    )
    runs_per_hour_max: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None


class Rotation(Given):
    """How to exchange a secret."""

    overlap_hours: Annotated[int, Field(ge=0, le=24 * 90)] = Field(24, description="How long the old one still works.")


class Key(Shown):
    """A key; never its secret."""

    id: str = Field(examples=["k-0123456789ab"])
    name: str
    run: str | None = Field(description="The run that a run key is bound to.")
    run_caps: Amounts
    terms: dict[str, Any] = Field(description="Team, user, tags, models, upstreams, networks, role.")
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class MadeKey(Secret):
    """A key that was made, or whose secret was exchanged."""

    key: Key


class Hold(Shown):
    """What was set aside for a call, and what it did cost."""

    call: str
    state: Literal["open", "captured", "expired", "void"]
    model: str
    upstream: str
    accounts: list[str]
    held: Amounts
    captured: Amounts
    overrun: Amounts
    basis: str = Field(description="metered, presumed or adjusted; empty while it is open.")
    why: str
    opened_at: Time
    settled_at: Time | None


class Entry(Shown):
    """One line of the ledger; `usd` in nanodollars, as the ledger keeps it."""

    seq: int
    at: Time
    kind: str
    call: str
    usd: int
    calls: int
    tokens: int
    accounts: list[str]
    detail: dict[str, Any]


class Quarantined(Shown):
    """A model on which nothing is authorized, since a call to it did cost more than was held."""

    model: str
    since: Time
    call: str
    held: Amounts
    cost: Amounts


class ModelName(Given):
    """A model by name."""

    model: Annotated[str, Field(pattern=LINE, min_length=1, max_length=200)]


class Rates(Shown):
    """USD per million tokens, for one service tier from one length of input on."""

    tier: str
    above_input_tokens: int
    input: str
    output: str
    cache_read: str
    cache_write_5m: str
    cache_write_1h: str


class Price(Shown):
    """What bounds and prices a model at an upstream."""

    upstream: str
    model: str
    provider: str
    context_tokens: int
    output_tokens_max: int
    rates: list[Rates]
    conditions: list[str]
    source: str
    valid_until: Time | None


class Me(Shown):
    """What whoever asks may still spend: the tightest of all budgets on the path, and each of them."""

    key: str
    run: str | None
    state: str = Field(description="open, stopped or overrun: whether the next call has a chance.")
    left: Amounts
    budgets: list[Budget]
    resets_at: Time | None = Field(description="When the tightest budget comes anew, where it does.")
    advice: str
