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
from bursar.ledger.account import Denied
from bursar.ledger.hold import Ledger, OpenHold
from bursar.pricing.bill import bill
from bursar.pricing.quote import OutputPolicy, PriceBook, worst_case
from bursar.pricing.rates import Unpriced
from bursar.upstream.client import NotSentError, Reply, UnansweredError, Upstream
from bursar.upstream.providers import Endpoint

# A reply that is no stream is kept until its cost is known, so that its headers can say so; a longer one is passed on.
KEPT_BYTES_MAX = 16 * 1024 * 1024


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

    def in_queue(self) -> AbstractContextManager[None]:
        """While inside, a client that leaves cancels the wait."""
        ...

    def on_leave(self, deadline: asyncio.Timeout, seconds: float) -> None:
        """When the client leaves, bound the rest of the reading by this many seconds."""
        ...

    def granted(self, hold: OpenHold) -> None:
        """Note the hold that pays for this call."""
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


@dataclass(frozen=True, slots=True)
class Gate:
    """All that a call passes through; the same for every call of a worker."""

    book: PriceBook
    ledger: Ledger
    upstream: Upstream
    endpoints: Mapping[str, Endpoint]
    policy: OutputPolicy
    clock: Clock
    read_on_seconds_max: float


async def proxy(call: Call, dialect: Dialect, gate: Gate, client: Client) -> None:
    """Hold the most this call can cost, make the call, keep what it did cost; raises LedgerUnavailableError."""
    quote = worst_case(call, gate.book, gate.clock.now(), gate.policy)
    if isinstance(quote, Unpriced):
        return await client.refuse(quote)
    with client.in_queue():
        answer = await gate.ledger.authorize(quote, client.call_id, client.scopes)
    match answer:
        case Denied() as denied:
            await client.refuse(denied)
        case OpenHold() as hold:
            async with hold:  # leaves captured or voided, always
                await _pay(hold, dialect, gate, client)


async def _pay(hold: OpenHold, dialect: Dialect, gate: Gate, client: Client) -> None:
    call = hold.quote.call
    client.granted(hold)
    try:
        reply = await gate.upstream.send(hold)
    except NotSentError as error:
        hold.void(str(error))
        return await client.refuse(Failure(502, "upstream_unreachable", f"{error}; nothing was charged"))
    except UnansweredError as error:
        hold.presume(str(error))
        return await client.refuse(Failure(502, "upstream_silent", f"{error}; charged as if it had answered in full"))
    async with reply:
        meter = dialect.meter(call, reply.status, reply.content_type)
        await _relay(reply, hold, meter, gate, client)


async def _relay(reply: Reply, hold: OpenHold, meter: Meter, gate: Gate, client: Client) -> None:
    """Pass the reply on while metering it, say what the hold becomes, and only then end the reply."""
    endpoint = gate.endpoints[hold.quote.call.upstream]
    kept = bytearray()
    has_started = reply.is_stream
    try:
        async with asyncio.timeout(endpoint.total_seconds_max) as deadline:
            client.on_leave(deadline, gate.read_on_seconds_max)
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
