"""What the tests of the ledger share: a clock, a loop with its own time, a store in memory, quotes and asks."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from bursar.call import Body, CacheWrite, Call, Input, Output
from bursar.clock import SECOND, Instant
from bursar.ledger.account import Account, Amounts, Answer, Ask, Authorize, HoldState, Limits, OpenScope, Operation
from bursar.ledger.batch import decide
from bursar.ledger.books import Books, Happening, HoldFacts, Line, amounts, unpack
from bursar.ledger.store import Entry, HoldRow, IdleRun, KeyRow, RunRow
from bursar.money import BrokenInvariantError, Rate
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import FOREVER, Card, Family, Rates, Step, Unpriced

T = TypeVar("T")
NOON = Instant(1_795_435_200 * SECOND)
KEY, RUN = "key:ci", "run:r1"
PATH = (KEY, RUN)
NO_AMOUNTS = Amounts(0, 0, 0)


class FakeClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.instant = NOON

    def now(self) -> Instant:
        return self.instant

    def advance(self, seconds: float) -> None:
        self.instant = Instant(self.instant + int(seconds * SECOND))


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout and self.loop is not None:
            self.loop.skipped += timeout
        if not ready and timeout is None:
            raise RuntimeError("the test waits for something that will never happen")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that jumps over every wait: an hour of waiting takes no time, and a deadlock is an error."""

    def __init__(self) -> None:
        self.skipped = 0.0
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.skipped


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


async def settle_down(turns: int = 20) -> None:
    """Let every task run that can run."""
    for _ in range(turns):
        await asyncio.sleep(0)


class MemoryStore:
    """A store in memory: the same rules, no database. Tests may lose its replies or hold them back."""

    def __init__(self, worker: str = "w1") -> None:
        self.worker = worker
        self.clock = FakeClock()
        self.books = Books()
        self.lines: list[Line] = []
        self.happenings: list[Happening] = []
        """Everything that was to be told, also what a database would find that it has told before."""
        self.submitted: list[Operation] = []
        self.lose_before: deque[BaseException] = deque()
        """Raised one by one instead of doing the operation."""
        self.lose_after: deque[BaseException] = deque()
        """Raised one by one after the operation is done: the reply is lost."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.dead: tuple[str, ...] = ()
        self.next_key = 0

    def do(self, operation: Operation) -> Answer:
        """Decide one operation at once; raises BrokenInvariantError."""
        self.submitted.append(operation)
        self.books.dead.update(self.dead)
        outcomes, changes = decide(self.books, [operation], self.clock.now())
        for balance in changes.new_balances:
            balance.key = self.next_key = self.next_key + 1
        self.lines += changes.lines
        self.happenings += changes.happenings.values()
        if isinstance(outcomes[0], BrokenInvariantError):
            raise outcomes[0]
        return outcomes[0]

    async def submit(self, operation: Operation) -> Answer:
        if self.lose_before:
            raise self.lose_before.popleft()
        # The operation is queued now and done in order, even when the one who asked is gone by then.
        task = asyncio.get_running_loop().create_task(self._later(operation))
        return await asyncio.shield(task)

    async def _later(self, operation: Operation) -> Answer:
        await self.gate.wait()
        await asyncio.sleep(0)
        answer = self.do(operation)
        if self.lose_after:
            raise self.lose_after.popleft()
        return answer

    async def start(self) -> None:
        return

    async def close(self) -> None:
        return

    async def renew(self, fenced: str) -> None:
        if fenced == self.worker:
            self.worker += "+"

    async def dead_workers(self) -> tuple[str, ...]:
        return self.dead

    async def accounts(self, scope: str | None = None) -> tuple[Account, ...]:
        return tuple(b.account() for b in self.books.names.values() if scope is None or b.scope == scope)

    async def runs(self, limit_rows: int = 100, after: str = "") -> tuple[RunRow, ...]:
        raise NotImplementedError

    async def run(self, run: str) -> RunRow | None:
        raise NotImplementedError

    async def holds(
        self, state: HoldState | None = None, limit_rows: int = 1000, after: str = ""
    ) -> tuple[HoldRow, ...]:
        rows = [hold_row(hold) for hold in self.books.holds.values()]
        return tuple(row for row in rows if state is None or row.state is state)[:limit_rows]

    async def hold(self, call_id: str) -> HoldRow | None:
        facts = self.books.holds.get(call_id)
        return None if facts is None else hold_row(facts)

    def all_entries(self) -> list[Entry]:
        return [entry(seq, line) for seq, line in enumerate(self.lines, 1)]

    async def entries(self, after_seq: int = 0) -> AsyncIterator[Entry]:
        for line in self.all_entries()[after_seq:]:
            yield line

    async def put_key(
        self,
        name: str,
        digest: str,
        run: str,
        limits_json: str,
        terms_json: str = "{}",
        expires_at: Instant | None = None,
    ) -> None:
        raise NotImplementedError

    async def patterns(self) -> tuple[str, ...]:
        return tuple(scope for scope in self.books.scopes if scope.startswith("model:") and scope.endswith("*"))

    async def path_of(self, scope: str) -> tuple[str, ...] | None:
        raise NotImplementedError

    async def use_run(self, scope: str) -> None:
        raise NotImplementedError

    async def idle_runs(self, seconds: int, after: str = "") -> tuple[IdleRun, ...]:
        raise NotImplementedError

    async def find_key(self, digest: str) -> KeyRow | None:
        raise NotImplementedError

    async def keys(self) -> tuple[KeyRow, ...]:
        raise NotImplementedError

    async def revoke_secret(self, digest: str) -> int:
        raise NotImplementedError

    async def revoke_key(self, name: str) -> int:
        raise NotImplementedError

    def account(self, name: str) -> Account:
        return self.books.names[name].account()


def hold_row(hold: HoldFacts) -> HoldRow:
    settled_at = None if hold.settled_at is None else Instant(hold.settled_at)
    return HoldRow(
        hold.call_id,
        hold.worker,
        HoldState(hold.state),
        unpack(hold.accounts),
        amounts(hold.held),
        amounts(hold.captured),
        amounts(hold.overrun),
        hold.output_tokens,
        hold.model,
        hold.upstream,
        Instant(hold.opened_at),
        settled_at,
        hold.basis,
        hold.why,
    )


def entry(seq: int, line: Line) -> Entry:
    return Entry(seq, Instant(line.at), *line[1:7], unpack(line.accounts), json.loads(line.detail))


def an_ask(
    wanted: int = 1000,
    *,
    fixed: int = 1000,
    each: int = 2_000,
    tokens_fixed: int = 100,
    choices: int = 1,
    comfort: int = 500,
    floor: int = 100,
    bounded: bool = False,
) -> Ask:
    """`each` is in picodollars: 2_000 make 2 nanodollars per output token."""
    return Ask(fixed, tokens_fixed, each, choices, wanted, comfort, floor, bounded)


def authorize(call_id: str = "c1", ask: Ask | None = None, **changes: Any) -> Authorize:
    facts: dict[str, Any] = {"worker": "w1", "scopes": PATH, "model": "m1", "upstream": "openai"} | changes
    return Authorize(call_id=call_id, ask=ask or an_ask(), **facts)


def opened(run: Limits | None = None, key: Limits | None = None) -> MemoryStore:
    """Give a store with a key and one run of it."""
    store = MemoryStore()
    store.do(OpenScope(KEY, "", key or Limits()))
    store.do(OpenScope(RUN, KEY, run or Limits(usd=10_000, calls=10)))
    return store


class _Book:
    def __init__(self, card: Card) -> None:
        self._card = card

    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced:
        return self._card


def a_quote(wanted: int = 1000, *, bounded: bool = True, comfort: int = 500, floor: int = 100) -> Quote:
    """A quote of one microdollar per output token; the input costs nothing."""
    rates = Rates(Rate(0), Rate(1_000_000), Rate(0), Rate(0), Rate(0))
    card = Card(
        model="m1",
        provider="test",
        family=Family.BYTE_LEVEL,
        context_tokens=100_000,
        output_tokens_max=100_000,
        tiers={"default": (Step(0, rates),)},
        image_tokens_max=0,
        source="test",
        valid_until=FOREVER,
    )
    call = Call(
        dialect="openai_chat",
        upstream="openai",
        model="m1",
        stream=False,
        body=Body("{}", {}),
        input=Input(text_bytes=10, is_ascii=True, nfc_bytes=10, messages=1, tools=0),
        output=Output(tokens_asked=wanted if bounded else None),
        cache_write=CacheWrite.NONE,
        service_tier="default",
    )
    policy = OutputPolicy(tokens_default=wanted, tokens_floor=floor, tokens_comfort=comfort)
    quote = worst_case(call, _Book(card), NOON, policy)
    if isinstance(quote, Unpriced):
        raise TypeError(quote)
    return quote
