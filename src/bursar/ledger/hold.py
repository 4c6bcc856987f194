"""The ledger as the money path sees it. This module is the only mint of `OpenHold`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from bursar.call import Usage
from bursar.ledger.account import (
    Amounts,
    Answer,
    Ask,
    Authorize,
    Basis,
    Conflict,
    Denied,
    Granted,
    HoldState,
    Reason,
    Settle,
    Settled,
    Void,
)
from bursar.ledger.books import NO_AMOUNTS, encode
from bursar.ledger.store import LedgerUnavailableError, NotWrittenError, Store
from bursar.ledger.waiting import Queues
from bursar.money import ZERO, BrokenInvariantError, Money, ensure
from bursar.pricing.quote import Quote

_SEAL = object()
_LOG = logging.getLogger("bursar.ledger")

REPLAYS_MAX = 2
"""How often an authorize whose reply was lost is asked again before the caller gets an error."""
RENEWALS_MAX = 3
MODEL_PREFIX = "model:"
UPSTREAM_PREFIX = "upstream:"
BACKOFF_SECONDS_MIN = 0.05
BACKOFF_SECONDS_MAX = 2.0
FRESH_SECONDS = 2.0
"""How long after it was asked for a hold may be dispatched unseen; a process that was stopped meanwhile asks again."""
CONFIRMS_MAX = 3


class OpenHold:
    """Money set aside for one dispatch of one call; used as `async with hold:` it always ends captured or void.

    Left without `capture` or `void` it is captured whole if it was dispatched and voided if it was not.
    """

    __slots__ = (
        *("_end", "_asking", "_ledger", "_op", "_task", "cost", "dispatched", "granted", "quote"),
        *("settled", "worker"),
    )

    def __init__(
        self, quote: Quote, granted: Granted, op: Authorize, asking: _Asking, ledger: Ledger, seal: object
    ) -> None:
        ensure(seal is _SEAL, "an OpenHold is made by Ledger.authorize only")
        self.quote: Final = quote
        self.granted: Final = granted
        self.worker: Final = op.worker
        self.dispatched: bool = False
        self.settled: Settled | None = None
        self.cost: Money | None = None
        """What the call did cost, once that is known; None while it is not, and for ever when it is presumed."""
        self._op: Final = op
        self._ledger = ledger
        # From when it was asked for: a process may be stopped between the commit and the answer, too.
        self._asking = asking
        self._end: Settle | Void | None = None
        self._task: asyncio.Task[Answer] | None = None

    async def confirm(self) -> None:
        """Make sure, right before the dispatch, that the hold is still open; raises LedgerUnavailableError.

        A process that stood still (SIGSTOP, a frozen container) may have been declared dead while it slept, and what it
        held was captured: it must not send then. The clock of the event loop goes on while a process is stopped, but
        not while its machine is suspended; what such a machine sends on waking is still paid for, by the capture of
        the whole hold.
        """
        loop = asyncio.get_running_loop()
        for _ in range(CONFIRMS_MAX):
            if loop.time() <= self._asking.asked_at_seconds + FRESH_SECONDS:
                return
            self._asking = await self._ledger.confirm(self._op, self.granted)
        if loop.time() > self._asking.asked_at_seconds + FRESH_SECONDS:
            raise LedgerUnavailableError("the ledger answers too late to be sure that this hold is still open")

    def dispatch(self) -> None:
        """Mark the one dispatch that this hold pays for; a second one raises BrokenInvariantError."""
        ensure(not self.dispatched, "a hold pays for one dispatch only", self.granted.call_id)
        ensure(self._end is None, "a hold that has ended pays for nothing", self.granted.call_id)
        self.dispatched = True

    def capture(self, cost: Money, usage: Usage) -> None:
        """Say what the call did cost; it is booked from now on, however long the caller stays."""
        ensure(self.dispatched, "only a call that was sent has a cost", self.granted.call_id)
        actual = Amounts(usd=cost.nanodollars, calls=1, tokens=_tokens(usage))
        self._say(self._settle(actual, Basis.METERED, "", _compact(usage)))
        self.cost = cost

    def presume(self, why: str) -> None:
        """Say that the cost is not known; the whole hold is booked."""
        self._say(self._settle(None, Basis.PRESUMED, why, ""))

    def void(self, proof: str) -> None:
        """Say that nothing was billed, and why that is certain."""
        self._say(Void(self.granted.call_id, self.worker, proof))
        self.cost = ZERO

    @property
    def has_end(self) -> bool:
        """Whether it was said how this hold ends."""
        return self._end is not None

    @property
    def why(self) -> str:
        """Give the reason for a void or a presumed capture, else an empty text."""
        match self._end:
            case Void(proof=proof):
                return proof
            case Settle(why=why):
                return why
            case _:
                return ""

    def _say(self, end: Settle | Void) -> None:
        ensure(self._end is None, "the end of a hold is said once", self.granted.call_id)
        self._end = end
        # At once and not when the block is left: a client that never reads its last bytes must not keep money held.
        self._task = self._ledger.own(self._ledger.write(end, self._op))

    def _settle(self, actual: Amounts | None, basis: Basis, why: str, usage: str) -> Settle:
        granted = self.granted
        scopes, also = self._op.scopes, self._op.also
        return Settle(granted.call_id, self.worker, actual, basis, scopes, granted.held, why, usage, also)

    async def __aenter__(self) -> OpenHold:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Wait until a task of the ledger has written the end; a caller that is cancelled here does not stop it."""
        if self._task is None:
            self._say(self._forgotten())
        answer = await asyncio.shield(self._task)  # type: ignore[arg-type]  # _say has made it
        if isinstance(answer, Settled):
            self.settled = answer

    def _forgotten(self) -> Settle | Void:
        if self.dispatched:
            return self._settle(None, Basis.PRESUMED, "left without a known cost", "")
        return Void(self.granted.call_id, self.worker, "never dispatched")


class _FencedError(Exception):
    """The worker was declared dead while it slept."""

    def __init__(self, worker: str) -> None:
        super().__init__(f"worker {worker} was declared dead")
        self.worker = worker


@dataclass(slots=True)
class _Asking:
    """What has become of the authorizes of one call so far."""

    asked_at_seconds: float = 0.0
    """When the last one was said, by the clock of the event loop."""
    may_be_taken: bool = False
    """Whether there may be a hold, now or later, that nobody was told of: an answer is missing."""


class Ledger:
    """Authorizes quotes on a store, lets calls wait their turn, and owns every settlement until it is written."""

    def __init__(self, store: Store, wait_seconds_max: float, *, waiters_max: int = 4096) -> None:
        self._store = store
        self._wait_seconds_max = wait_seconds_max
        self._queues = Queues(waiters_max)
        # The event loop keeps weak references only: a settlement without an owner could be collected unwritten.
        self._owned: set[asyncio.Task[Any]] = set()

    @property
    def worker(self) -> str:
        """Give the identity under which this process holds money."""
        return self._store.worker

    @property
    def waiting(self) -> int:
        """Give how many calls wait for their turn."""
        return self._queues.count

    @property
    def unsettled(self) -> int:
        """Give how many settlements are not written yet."""
        return len(self._owned)

    async def authorize(
        self, quote: Quote, call_id: str, scopes: tuple[str, ...], also: tuple[str, ...] = ()
    ) -> OpenHold | Denied:
        """Set the quote aside on all scopes, and on those of `also` that have accounts; wait, bounded, while others
        hold what is missing.

        Raises LedgerUnavailableError. When the caller is cancelled while it waits, nothing stays taken.
        """
        return await self._renewing(quote, call_id, (scopes, also), self._wait_seconds_max)

    async def authorize_now(
        self, quote: Quote, call_id: str, scopes: tuple[str, ...], also: tuple[str, ...] = ()
    ) -> OpenHold | Denied:
        """Set the quote aside if that is possible at once, or say what is missing; else as `authorize`."""
        return await self._renewing(quote, call_id, (scopes, also), 0)

    async def _renewing(
        self, quote: Quote, call_id: str, path: tuple[tuple[str, ...], tuple[str, ...]], seconds_max: float
    ) -> OpenHold | Denied:
        for _ in range(RENEWALS_MAX):
            asking = _Asking()
            try:
                return await self._authorize(quote, call_id, path, seconds_max, asking)
            except _FencedError as fenced:
                # Whoever was declared dead asks again as somebody new, if it is certain that nothing was taken.
                await self._store.renew(fenced.worker)
                if asking.may_be_taken:
                    raise LedgerUnavailableError(str(fenced)) from fenced
        raise LedgerUnavailableError("this process is declared dead again and again; are its locks on a local disk?")

    async def _authorize(
        self,
        quote: Quote,
        call_id: str,
        path: tuple[tuple[str, ...], tuple[str, ...]],
        seconds_max: float,
        asking: _Asking,
    ) -> OpenHold | Denied:
        scopes, also = path
        model, upstream = quote.call.model, quote.call.upstream
        also += await self._budgets_of(model, upstream)
        # Where nobody ever waits, every try is the last one.
        is_last_try = self._wait_seconds_max <= 0
        op = Authorize(call_id, self.worker, scopes, ask_of(quote), model, upstream, is_last_try, also)
        ask = partial(self._ask, asking)
        answer: Granted | Denied | None = None if is_last_try else self._queues.ahead_of(op)
        hold: OpenHold | None = None
        try:
            if answer is None:
                answer = await ask(op)
            if seconds_max > 0 and isinstance(answer, Denied) and answer.reason is Reason.HELD:
                answer = await self._queues.wait_turn(op, answer, ask, seconds_max)
            if isinstance(answer, Denied):
                return answer
            hold = OpenHold(quote, answer, op, asking, self, _SEAL)
            return hold
        finally:
            if hold is None and asking.may_be_taken:
                # Also after a refusal: an authorize that is late may still be granted, and nobody would settle it.
                self._give_back(op)

    async def _budgets_of(self, model: str, upstream: str) -> tuple[str, ...]:
        """Name what may have a budget because of where the call goes: the model, all that begin alike, the upstream."""
        patterns = await self._store.patterns()
        alike = [one for one in patterns if model.startswith(one[len(MODEL_PREFIX) : -1])] if patterns else []
        return (MODEL_PREFIX + model, *alike, UPSTREAM_PREFIX + upstream)

    async def confirm(self, op: Authorize, granted: Granted) -> _Asking:
        """Ask again for a hold that was granted a while ago, and say when; raises LedgerUnavailableError when it is
        not open as it was granted."""
        asking = _Asking()
        try:
            answer = await self._ask(asking, op)
        except _FencedError as error:
            raise LedgerUnavailableError(str(error)) from error
        # A ledger that was put back in time has lost the hold: it denies the call, or grants what fits by now, and the
        # body that is about to be sent was bounded by the first grant.
        same = isinstance(answer, Granted) and (answer.output_tokens, answer.held) == (
            granted.output_tokens,
            granted.held,
        )
        if not same:
            raise LedgerUnavailableError(f"the ledger does not have the hold of call {op.call_id} any more")
        return asking

    async def drain(self) -> None:
        """Wait until every settlement that this ledger owns is written."""
        while self._owned:
            await asyncio.wait(tuple(self._owned))

    # ---- asking --------------------------------------------------------------------------------------------------

    async def _ask(self, asking: _Asking, op: Authorize) -> Granted | Denied:
        answer = await self._replaying(asking, op)
        match answer:
            case Denied():
                return answer
            case Granted(state=HoldState.OPEN):
                return answer
            case Granted():
                raise LedgerUnavailableError(f"the hold of call {op.call_id} has already ended: {answer.state}")
            case Conflict(fenced=True):
                raise _FencedError(op.worker)
            case Conflict():
                raise LedgerUnavailableError(f"call {op.call_id} cannot be authorized: {answer.why}")
            case _:
                raise BrokenInvariantError(f"not an answer to an authorize: {answer!r}")

    async def _replaying(self, asking: _Asking, op: Authorize) -> Answer:
        """Ask; when the reply is lost ask the same again, which finds what was granted the first time."""
        for _ in range(REPLAYS_MAX):
            try:
                return await self._said(asking, op)
            except LedgerUnavailableError:
                pass
        return await self._said(asking, op)

    async def _said(self, asking: _Asking, op: Authorize) -> Answer:
        """Say an authorize once, and note whether it may still be granted unheard."""
        was_unsure = asking.may_be_taken
        asking.may_be_taken = True
        asking.asked_at_seconds = asyncio.get_running_loop().time()
        try:
            answer = await self._store.submit(op)
        except NotWrittenError:
            asking.may_be_taken = was_unsure
            raise
        asking.may_be_taken = was_unsure
        return answer

    def _give_back(self, op: Authorize) -> None:
        """Void a hold that may or may not have been taken; where it was not, a tombstone keeps it from being."""
        self.own(
            self.write(Void(op.call_id, op.worker, "the call was not sent, and no answer came that it is held"), op)
        )

    # ---- settling ------------------------------------------------------------------------------------------------

    def own(self, work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        """Run the work in a task that nobody but the end of the process can stop."""
        task = asyncio.get_running_loop().create_task(work)
        self._owned.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[Answer]) -> None:
        self._owned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a settlement broke an invariant: %s", error)

    async def write(self, end: Settle | Void, op: Authorize) -> Answer:
        """Have the end of a hold written, again and again until it is; then let waiting calls try."""
        answer = await self._submit_until_written(end, op)
        if isinstance(answer, Conflict):
            _LOG.error("call %s is in conflict: %s", answer.call_id, answer.why)
        self._queues.wake(op.scopes + op.also)
        return answer

    async def _submit_until_written(self, end: Settle | Void, op: Authorize) -> Answer:
        delay = BACKOFF_SECONDS_MIN
        while True:
            try:
                answer = await self._store.submit(end)
                if not isinstance(answer, Conflict) or not answer.fenced:
                    return answer
                await self._store.renew(end.worker)
                end = _said_anew(end, self.worker, op)
            except LedgerUnavailableError:
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACKOFF_SECONDS_MAX)


def _said_anew(end: Settle | Void, worker: str, op: Authorize) -> Settle:
    """Give the end of a hold as the new identity says it: the reaper has captured the hold whole meanwhile.

    Only the owner of a hold may void it; that nothing was sent is said by a settlement of nothing.
    """
    if isinstance(end, Settle):
        return replace(end, worker=worker)
    return Settle(end.call_id, worker, NO_AMOUNTS, Basis.METERED, op.scopes, NO_AMOUNTS, end.proof, also=op.also)


def ask_of(quote: Quote) -> Ask:
    """Give what a quote asks of the accounts."""
    return Ask(
        usd_fixed=quote.fixed.nanodollars,
        tokens_fixed=quote.fixed_tokens,
        picodollars_per_output_token=quote.per_output_token.picodollars,
        choices=quote.call.output.choices,
        tokens_wanted=quote.output_tokens,
        tokens_comfort=quote.output_tokens_comfort,
        tokens_floor=quote.output_tokens_floor,
        client_bounded=quote.client_bounded,
    )


def _tokens(usage: Usage) -> int:
    """Sum all billed tokens; tokens in the cache count as tokens."""
    return (
        usage.input_tokens
        + usage.output_tokens
        + usage.cache_read_tokens
        + usage.cache_write_5m_tokens
        + usage.cache_write_1h_tokens
    )


def _compact(usage: Usage) -> str:
    """Give the usage for the books: the counts that are not zero, the tier and the model, and what the provider says
    that it charged."""
    facts: dict[str, object] = {"input": usage.input_tokens, "output": usage.output_tokens}
    more = {
        "cache_read": usage.cache_read_tokens,
        "cache_write_5m": usage.cache_write_5m_tokens,
        "cache_write_1h": usage.cache_write_1h_tokens,
        "audio_input": usage.audio_input_tokens,
        "audio_cache_read": usage.audio_cache_read_tokens,
        **{str(tool): uses for tool, uses in usage.tool_uses.items()},
        "tier": "" if usage.service_tier == "default" else usage.service_tier,
        "model": usage.model,
    }
    facts.update({name: value for name, value in more.items() if value})
    if usage.cost is not None:
        facts["charged_nanodollars"] = usage.cost.nanodollars
    return encode(facts)
