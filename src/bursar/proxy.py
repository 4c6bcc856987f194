"""THE MONEY PATH: hold the most a call can cost, make the call, keep what it did cost. Read this first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bursar.call import Call, Unmetered, Usage
from bursar.clock import Clock
from bursar.dialects.protocol import Dialect, Meter
from bursar.ledger.account import Denied, Reason
from bursar.ledger.hold import Ledger, OpenHold
from bursar.pricing.bill import bill
from bursar.pricing.quote import OutputPolicy, PriceBook, Quote, worst_case
from bursar.pricing.rates import Unpriced
from bursar.upstream.client import NotSentError, Reply, UnansweredError, Upstream
from bursar.upstream.counting import Counting, is_worth_counting
from bursar.upstream.providers import Endpoint

# A reply that is no stream is kept until its cost is known, so that its headers can say so; a longer one is passed on.
KEPT_BYTES_MAX = 16 * 1024 * 1024
_OVERLOADED = frozenset({429, *range(500, 600)})
"""What an upstream answers when another one may do better."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The upstream gave no answer that can be passed on."""

    status: int
    code: str
    message: str


class Client(Protocol):
    """Whoever made the call, as the money path sees them; writing to a client that left does nothing."""

    call_id: str
    scopes: tuple[str, ...]
    """Whose accounts must exist and agree: the run, the runs it is part of, the key."""
    also: tuple[str, ...]
    """Who must agree where somebody set a budget: organisation, team, user, tags."""

    @property
    def has_left(self) -> bool:
        """Whether nobody reads the answer."""
        ...

    def in_queue(self) -> AbstractContextManager[None]:
        """While inside, a client that leaves cancels the wait."""
        ...

    def on_leave(self, deadline: asyncio.Timeout, seconds: float) -> None:
        """When the client leaves, bound the rest of the reading by this many seconds."""
        ...

    def granted(self, hold: OpenHold) -> None:
        """Note the hold that pays for this call, or for its next attempt."""
        ...

    async def is_raised(self, denied: Denied) -> bool:
        """Wait, where that is allowed, for a person to raise what said no; say whether to ask again.

        A client that leaves cancels the wait.
        """
        ...

    async def refuse(self, refusal: Unpriced | Denied | Failure) -> None:
        """Answer with an error in the shape of the client's dialect."""
        ...

    async def start(self, reply: Reply, hold: OpenHold) -> None:
        """Send the head of the reply, with what is known of the cost."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Pass bytes on; waits while the client is slow."""
        ...

    async def end(self, chunk: bytes) -> None:
        """Pass the last bytes on and end the reply."""
        ...


class Spares(Protocol):
    """The same request for the upstreams that may be asked when the first one fails."""

    def take(self) -> Call | None:
        """Give the next one, or None when there is no other."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """All that a call passes through; the same for every call of a worker."""

    book: PriceBook
    ledger: Ledger
    upstream: Upstream
    counting: Counting
    endpoints: Mapping[str, Endpoint]
    policy: OutputPolicy
    clock: Clock


async def proxy(call: Call, dialect: Dialect, gate: Gate, client: Client, spares: Spares) -> None:
    """Hold the most this call can cost, make the call, keep what it did cost; raises LedgerUnavailableError.

    Where an upstream fails before the client got a byte, the next one is asked: with a quote and a hold of its own.
    """
    attempts = Attempts(client, spares)
    following: Call | None = call
    while following is not None:
        following = await _attempt(following, dialect, gate, attempts)


class Attempts:
    """The attempts at one call: every authorize has an id of its own, and only the first failure is told."""

    __slots__ = ("_asked", "_failure", "_spares", "client", "counted")

    def __init__(self, client: Client, spares: Spares) -> None:
        self.client = client
        self._spares = spares
        self.counted: Call | None = None
        """What was counted, or tried to: no call is counted twice."""
        self._asked = 0
        self._failure: Failure | None = None

    async def authorize_now(self, quote: Quote, ledger: Ledger) -> OpenHold | Denied:
        """Ask for a hold of its own, and take no for an answer."""
        with self.client.in_queue():
            return await ledger.authorize_now(quote, self._next_id(), self.client.scopes, self.client.also)

    async def authorize(self, quote: Quote, ledger: Ledger) -> OpenHold | Denied:
        """Ask for a hold of its own, and wait for it."""
        with self.client.in_queue():
            return await ledger.authorize(quote, self._next_id(), self.client.scopes, self.client.also)

    def _next_id(self) -> str:
        # Also after a refusal: an authorize whose reply was lost may be given back under the id that it had.
        self._asked += 1
        return self.client.call_id if self._asked == 1 else f"{self.client.call_id}-a{self._asked}"

    def spare(self) -> Call | None:
        """Give what to try next, unless nobody waits for it."""
        return None if self.client.has_left else self._spares.take()

    def note(self, failure: Failure) -> None:
        """Keep the first failure: it is what the client is told when no other upstream answers."""
        self._failure = self._failure or failure

    async def denied(self, denied: Denied, call: Call) -> Call | None:
        """Give the call once more where a person gave it more meanwhile; else as `refuse`."""
        if not await self.client.is_raised(denied):
            return await self.refuse(denied)
        self.counted = None
        return call

    async def refuse(self, refusal: Unpriced | Denied | Failure) -> Call | None:
        """Give what to try next where an upstream has failed, or answer: with what the first one failed of."""
        if isinstance(refusal, Failure):
            self.note(refusal)
        following = self.spare() if self._failure is not None else None
        if following is None:
            await self.client.refuse(self._failure or refusal)
        return following


async def _attempt(call: Call, dialect: Dialect, gate: Gate, attempts: Attempts) -> Call | None:
    """Try one upstream; give the call to try next, or None when the client has its answer."""
    quote = worst_case(call, gate.book, gate.clock.now(), gate.policy)
    if isinstance(quote, Unpriced):
        return await attempts.refuse(quote)
    answer = await attempts.authorize_now(quote, gate.ledger)
    tight = await _counted(quote, answer, gate, attempts) if isinstance(answer, Denied) else None
    if tight is None and isinstance(answer, Denied) and answer.reason is Reason.HELD:
        answer = await attempts.authorize(quote, gate.ledger)
    if isinstance(answer, OpenHold):
        async with answer as hold:  # leaves captured or voided, always
            tight = await _counted(quote, hold, gate, attempts)
            if tight is None:
                return await _pay(hold, dialect, gate, attempts)
            hold.void("asked again with its input counted; nothing was sent")
    else:
        # What others held when it came may be spent now that its turn has come; then counting may help after all.
        tight = tight or await _counted(quote, answer, gate, attempts)
        if tight is None:
            return await attempts.denied(answer, call)
    return await _pay_counted(tight, dialect, gate, attempts)


async def _pay_counted(tight: Quote, dialect: Dialect, gate: Gate, attempts: Attempts) -> Call | None:
    match await attempts.authorize(tight, gate.ledger):
        case Denied() as denied:
            return await attempts.denied(denied, tight.call)
        case OpenHold() as hold:
            async with hold:
                return await _pay(hold, dialect, gate, attempts)


async def _counted(quote: Quote, answer: OpenHold | Denied, gate: Gate, attempts: Attempts) -> Quote | None:
    """Give a tighter quote where the one from bytes is refused or cut short, and counting the input makes it so."""
    if attempts.counted is quote.call or not is_worth_counting(quote, answer):
        return None
    attempts.counted = quote.call
    with attempts.client.in_queue():
        count = await gate.counting.count(quote)
    if count is None:
        return None
    tight = worst_case(quote.call, gate.book, gate.clock.now(), gate.policy, count)
    return tight if isinstance(tight, Quote) and tight.input_tokens < quote.input_tokens else None


async def _pay(hold: OpenHold, dialect: Dialect, gate: Gate, attempts: Attempts) -> Call | None:
    call, client = hold.quote.call, attempts.client
    client.granted(hold)
    try:
        reply = await gate.upstream.send(hold)
    except NotSentError as error:
        hold.void(str(error))
        return await attempts.refuse(Failure(502, "upstream_unreachable", f"{error}; nothing was charged"))
    except UnansweredError as error:
        hold.presume(str(error))
        message = f"{error}; charged as if it had answered in full"
        return await attempts.refuse(Failure(502, "upstream_silent", message))
    async with reply:
        if reply.status in _OVERLOADED and (following := attempts.spare()) is not None:
            why = f"the upstream {call.upstream} answered {reply.status}, and the next one was asked"
            settle(hold, reply.status, Unmetered(why), gate.endpoints[call.upstream])
            attempts.note(Failure(reply.status, "upstream_failed", f"{why}, which gave no answer either"))
            return following
        meter = dialect.meter(call, reply.status, reply.content_type)
        await _relay(reply, hold, meter, gate.endpoints[call.upstream], client)
    return None


async def _relay(reply: Reply, hold: OpenHold, meter: Meter, endpoint: Endpoint, client: Client) -> None:
    """Pass the reply on while metering it, say what the hold becomes, and only then end the reply."""
    kept = bytearray()
    has_started = reply.is_stream
    try:
        async with asyncio.timeout(endpoint.total_seconds_max) as deadline:
            client.on_leave(deadline, endpoint.read_on_seconds_max)
            if has_started:
                await client.start(reply, hold)
            async for chunk in reply.chunks():
                kept += meter.feed(chunk)
                if not has_started and len(kept) > KEPT_BYTES_MAX:
                    has_started = True
                    await client.start(reply, hold)
                if has_started and kept:
                    passing, kept = bytes(kept), bytearray()
                    await client.write(passing)
            tail, usage = meter.finish()
            settle(hold, reply.status, usage, endpoint)
            if not has_started:
                has_started = True
                await client.start(reply, hold)
            return await client.end(bytes(kept) + tail)
    except UnansweredError as error:
        broken = str(error)
    except TimeoutError:
        broken = "the answer took longer than allowed, or its client left or stopped reading"
    if not hold.has_end:
        _tail, usage = meter.finish()
        settle(hold, reply.status, Unmetered(broken) if isinstance(usage, Unmetered) else usage, endpoint)
    if not has_started:
        await client.refuse(Failure(502, "upstream_broken", f"{broken}; charged by what is known of it"))
    # A reply that has started is left without its end: a truncated answer must not look complete.


def settle(hold: OpenHold, status: int, usage: Usage | Unmetered, endpoint: Endpoint) -> None:
    """Decide what the hold becomes: metered when there is usage, void only with proof, presumed for all the rest."""
    match usage:
        case Usage():
            cost = bill(usage, hold.quote)
            if isinstance(cost, Unmetered):
                hold.presume(cost.why)
            else:
                hold.capture(cost, usage)
        case Unmetered():
            if status in endpoint.provider.unbilled_statuses:
                hold.void(f"the provider answered {status}, which it does not bill")
            else:
                hold.presume(usage.why)
