"""What a store must do: run the rules on its accounts inside one durable transaction, and remember every entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bursar.clock import SECOND, Instant
from bursar.ledger.account import Account, Amounts, Answer, HoldState, Operation

DAY = 86_400 * SECOND
KEEP_DAYS_MIN = 2
"""A call lasts at most a day, and what it did cost may come late: nothing younger is folded away."""
KEEP_DAYS_MAX = 36_500
ANSWER_KEPT = DAY
"""How long a write that is sent again is known."""
ANSWER_PENDING = 60 * SECOND
"""How long one that never ended keeps its name."""
NEVER = Instant(0)
NEWEST = 2**62
"""No number of a row is as high."""
LEASE = 10 * SECOND
"""How long one worker that folds keeps the others from it after its last step."""

IDLE_ROWS = 1000
"""How many idle runs are given at a time."""


class LedgerUnavailableError(Exception):
    """The ledger cannot write now, or this worker was fenced; the caller answers 503 and sends nothing."""


class NotWrittenError(LedgerUnavailableError):
    """The ledger cannot write now, and it is certain that nothing of the operation was written."""


class LedgerLostError(Exception):
    """The database is not the one that was here before (gone, emptied, or older); an operator must decide."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One append-only line of the ledger."""

    seq: int
    at: Instant
    kind: str
    """`open`, `authorize`, `capture`, `void`, `expire`, `adjust`, `limit`, `state`, `roll`, `quarantine`, `clear` or
    `note`."""
    call_id: str
    worker: str
    usd: int
    calls: int
    tokens: int
    accounts: tuple[str, ...]
    detail: dict[str, object]
    """Everything else that a replay needs, as JSON."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A place where the books and the replay of their entries differ, or where an entry breaks a promise."""

    where: str
    """An account, a call, or the number of an entry."""
    what: str
    booked: str = ""
    replayed: str = ""


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold as the books remember it."""

    call_id: str
    worker: str
    state: HoldState
    accounts: tuple[str, ...]
    held: Amounts
    captured: Amounts
    overrun: Amounts
    output_tokens: int
    model: str
    upstream: str
    opened_at: Instant
    settled_at: Instant | None
    basis: str
    why: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as people see it."""

    run: str
    owner: str
    label: str
    opened_at: Instant
    accounts: tuple[Account, ...]
    calls_open: int
    calls_refused: int


@dataclass(frozen=True, slots=True)
class Said:
    """What was answered to a write that carried a name of its own."""

    request: str
    """The digest of the request, by which another one of the same name is known."""
    status: int
    """0 while the write is being done."""
    body: str


@dataclass(frozen=True, slots=True)
class SpentRow:
    """What the ended calls of one UTC day to one model at one upstream were booked at."""

    day: int
    """Days since 1970, of the instant at which each call was authorized: no later correction moves it."""
    upstream: str
    model: str
    calls: int
    usd: int
    """Nanodollars, overruns included."""
    presumed_usd: int
    """Nanodollars of them that nobody metered: the whole hold was captured."""
    tokens: int


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A model that is in quarantine, and the call that put it there."""

    model: str
    since: Instant
    call_id: str
    """Empty where the books do not remember the call any more; the amounts are then zero."""
    held: Amounts
    cost: Amounts
    """What the call is booked at, overrun included."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What is missing from a ledger that went back in time, and what it becomes when it is accepted as it is."""

    ledger: str
    epoch: int
    """The epoch that it has from then on."""
    entries: int
    """The number of the last entry that is there."""
    at: Instant
    """The time of that entry: everything since then is missing."""
    missing: int
    """How many entries are missing, as far as this machine knows."""
    trouble: str = ""
    """What is wrong with the ledger; empty when nothing is, and nothing has to be accepted."""
    known_at: Instant = Instant(0)  # noqa: RUF009
    """The time of the last entry that this machine knows of; 0 where it does not."""


Archive = Callable[[list[Entry]], None]
"""Keeps entries elsewhere, durably, before they are folded away; what it raises stops the step."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one step of folding has taken out of the books."""

    entries: int = 0
    holds: int = 0
    accounts: int = 0
    """Of periods that have ended."""
    seq: int = 0
    """The last entry that is in the base."""
    is_done: bool = True
    """Nothing more is old enough."""
    is_busy: bool = False
    """Another worker folds at the moment; nothing was done."""
    findings: tuple[Finding, ...] = ()
    """The entries do not agree with themselves or with the books; nothing was done."""


class DeliveryState(StrEnum):
    """How far one webhook has been told of one happening."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """Who has been told of a happening, or will be."""

    webhook: str
    state: DeliveryState
    attempts: int
    next_at: Instant
    said: str
    """What came back last."""


@dataclass(frozen=True, slots=True)
class HappeningRow:
    """Something that people want to hear of, as the outbox remembers it."""

    id: int
    kind: str
    key: str
    at: Instant
    subject: str
    """The account, call or model."""
    detail: dict[str, object]
    attempts: int = 0
    """Which attempt of a webhook this is, where it was taken for one."""
    deliveries: tuple[DeliveryRow, ...] = ()


class Outbox(Protocol):
    """What has happened that people want to hear of, written with it; read, told and forgotten here."""

    async def take(
        self, webhook: str, kinds: tuple[str, ...], since: Instant, window: int, lease: int, rows_max: int
    ) -> tuple[HappeningRow, ...]:
        """Give what this webhook has to be told now, and keep others from telling it until the lease ends.

        That is what was to be tried again by now, then what it was never told: of these kinds (none: of all), not
        from before `since` and not older than the window. Raises LedgerUnavailableError, as all of these do.
        """
        ...

    async def note(self, webhook: str, taken: HappeningRow, state: DeliveryState, said: str, after: int = 0) -> None:
        """Remember how telling went; what still waits is due again after so many microseconds.

        Does nothing where another has taken it since, unless it was delivered.
        """
        ...

    async def tell(self, kind: str, key: str, subject: str, detail: dict[str, object]) -> None:
        """Write down what people want to hear of and no transaction of the ledger tells: once for a kind and key.

        In ids and amounts only.
        """
        ...

    async def newest(
        self, kinds: tuple[str, ...] = (), since: Instant = NEVER, before: int = NEWEST, rows_max: int = 100
    ) -> tuple[HappeningRow, ...]:
        """Give the newest happenings with a lower number than `before`, newest first, and who was told."""
        ...

    async def prune(self, keep_days: int, rows_max: int) -> int:
        """Forget at most so many happenings that are older, told or not; give how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class IdleRun:
    """A run that could spend, and that nobody has used for a while."""

    scope: str
    owner: str
    seconds: int


class Store(Protocol):
    """One ledger database, as one worker process sees it.

    `submit` is the only way to change a balance. Operations that arrive while a transaction commits go together into
    the next one, in the order of their arrival. It returns after the commit is durable, or raises
    LedgerUnavailableError, in which case the operation may or may not have happened and is resolved by replaying it.
    """

    worker: str
    """The identity under which this process lives; its lock dies with it."""
    warnings: tuple[str, ...]
    """Where the database is set to lose what it has acknowledged; known after `start`."""

    @property
    def outbox(self) -> Outbox:
        """Give what people want to hear of."""
        ...

    async def submit(self, operation: Operation) -> Answer:
        """Have the operation decided and durable; raises LedgerUnavailableError, BrokenInvariantError."""
        ...

    async def start(self) -> None:
        """Open the database, run the migrations, take the liveness lock of a fresh worker id."""
        ...

    async def close(self) -> None:
        """Drain what was submitted, then release the liveness lock."""
        ...

    async def renew(self, fenced: str) -> None:
        """Go on under a fresh identity after `fenced`, the one of this process, was declared dead.

        Does nothing when that is not the identity any more; raises LedgerUnavailableError.
        """
        ...

    async def dead_workers(self) -> tuple[str, ...]:
        """Give the workers that have open holds and whose liveness lock nobody has."""
        ...

    async def accounts(self, scope: str | None = None) -> tuple[Account, ...]:
        """Give all accounts, or those of one scope."""
        ...

    async def runs(self, limit_rows: int = 100, after: str = "") -> tuple[RunRow, ...]:
        """Give the newest runs, or those that come after the run of this name."""
        ...

    async def run(self, run: str) -> RunRow | None:
        """Give one run."""
        ...

    async def holds(
        self, state: HoldState | None = None, limit_rows: int = 1000, after: str = ""
    ) -> tuple[HoldRow, ...]:
        """Give the newest holds, or the newest in one state, or those that come after the hold of this call."""
        ...

    async def hold(self, call_id: str) -> HoldRow | None:
        """Give one hold."""
        ...

    async def spent_by_day(self, first_day: int, last_day: int) -> tuple[SpentRow, ...]:
        """Give what was spent from one UTC day to another, both included, by day, upstream and model."""
        ...

    async def quarantined(self) -> tuple[QuarantineRow, ...]:
        """Give the models in quarantine, by name."""
        ...

    def entries(self, after_seq: int = 0) -> AsyncIterator[Entry]:
        """Give the entries after this one, ascending."""
        ...

    async def audit(self) -> tuple[Finding, ...]:
        """Replay all entries and give every place where the balances and holds differ from them."""
        ...

    async def declared(self, scope: str) -> str:
        """Give what the settings last said about a scope; empty where they never did."""
        ...

    async def declare(self, scope: str, text: str) -> None:
        """Remember what the settings say about a scope, once that is in force."""
        ...

    async def survey(self) -> Adopted:
        """Compare a ledger with what this machine knows of it, and change nothing; works without `start`.

        Raises LedgerUnavailableError, LedgerLostError where there is nothing to compare, SchemaError.
        """
        ...

    async def adopt(self, who: str) -> Adopted:
        """Accept the ledger as it is, although it went back in time; works without `start`.

        It gets a new epoch, so that every gateway goes on with it, and an older copy is refused again.
        """
        ...

    async def compact(self, keep_days: int, entries_max: int, archive: Archive | None = None) -> Compacted:
        """Fold at most so many entries into the base that are older by the store's clock, and what they ended.

        One transaction; the audit then starts from the base. Nothing that is open or younger is touched.
        """
        ...

    async def put_key(
        self,
        name: str,
        digest: str,
        run: str,
        limits_json: str,
        terms_json: str = "{}",
        expires_at: Instant | None = None,
    ) -> None:
        """Remember a key by the SHA-256 of its secret; `run` is the run that a run key is bound to, or empty.

        A key of this digest is overwritten, but stays revoked where it was.
        """
        ...

    async def recall(self, name: str, request: str) -> Said | None:
        """Give what was said to a write under this name; where nothing was, claim the name and give None.

        Whoever claims a name remembers the answer, or forgets the claim; one that is left so is free after a while.
        """
        ...

    async def remember(self, name: str, status: int, body: str) -> None:
        """Keep the answer of a write that has claimed the name."""
        ...

    async def forget(self, name: str) -> None:
        """Give up a claim: nothing was written."""
        ...

    async def patterns(self) -> tuple[str, ...]:
        """Give the scopes of budgets for all models that begin alike (`model:gpt-*`), as they are now."""
        ...

    async def path_of(self, scope: str) -> tuple[str, ...] | None:
        """Give the further scopes that pay for a run's calls, which never change; None where it does not exist."""
        ...

    async def use_run(self, scope: str) -> None:
        """Note that a run is in use; one that does not exist is left alone."""
        ...

    async def idle_runs(self, seconds: int, after: str = "") -> tuple[IdleRun, ...]:
        """Give the runs that may spend and did nothing for so long, with no call in flight.

        By name, the first `IDLE_ROWS` after `after`.
        """
        ...

    async def find_key(self, digest: str) -> KeyRow | None:
        """Give the key with this digest, revoked or not."""
        ...

    async def keys(self) -> tuple[KeyRow, ...]:
        """Give all keys."""
        ...

    async def revoke_secret(self, digest: str) -> int:
        """Revoke the one key with this digest; give how many there were."""
        ...

    async def revoke_key(self, name: str) -> int:
        """Revoke every key of this name; give how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as the books remember it: never its secret."""

    name: str
    digest: str
    run: str
    limits_json: str
    created_at: Instant
    revoked_at: Instant | None
    terms_json: str = "{}"
    """Whose key it is and what it may do: team, user, tags, models, upstreams, networks, role."""
    expires_at: Instant | None = None

    @property
    def id(self) -> str:
        """Give the key's stable name: the beginning of its digest, from which no secret can be found."""
        return f"k-{self.digest[:12]}"


def batches(operations: list[Operation], size_max: int) -> Iterator[list[Operation]]:
    """Cut a queue into batches of at most `size_max`, in order, none with two operations of one call."""
    batch: list[Operation] = []
    seen: set[str] = set()
    for operation in operations:
        call_id: str = getattr(operation, "call_id", "")
        if batch and (len(batch) == size_max or call_id in seen):
            yield batch
            batch, seen = [], set()
        batch.append(operation)
        if call_id:
            seen.add(call_id)
    if batch:
        yield batch
