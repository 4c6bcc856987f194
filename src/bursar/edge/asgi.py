"""One HTTP exchange over plain ASGI: read the request whole, answer once, notice when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from bursar.call import Refused
from bursar.dialects.protocol import Dialect
from bursar.edge import refusals
from bursar.edge.asking import Asking
from bursar.edge.identity import AccountPath
from bursar.events import CallDenied, CallGranted, CallRefused, CallSettled, EventBus
from bursar.ledger.account import Denied
from bursar.ledger.hold import OpenHold
from bursar.money import Money
from bursar.pricing.rates import Unpriced
from bursar.proxy import Failure
from bursar.upstream.client import Reply

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS_MAX = 60.0
# A call that ends sooner is not worth a watcher; one that takes longer loses little by noticing this late.
WATCH_AFTER_SECONDS = 0.5

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class ClientLeftError(Exception):
    """The client is gone; nobody reads an answer."""


class Exchange:
    """One request and its one answer."""

    __slots__ = ("_receive", "_send", "has_started", "headers")

    def __init__(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        self.headers = headers
        self.has_started = False
        self._receive = receive
        self._send = send

    async def read_body(self, bytes_max: int) -> bytes | Refused:
        """Read the request body whole; raises ClientLeftError."""
        too_large = Refused(413, "unreadable", f"the body is larger than {bytes_max} bytes, the most that is taken")
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return Refused(400, "unreadable", "content-length is not a number")
        if int(length) > bytes_max:
            return too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeftError
                    part = message.get("body", b"")
                    size += len(part)
                    if size > bytes_max:
                        return too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            return Refused(408, "unreadable", f"the body did not arrive within {BODY_SECONDS_MAX:.0f} seconds")

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        self.has_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        """Send bytes of the body; waits while the client is slow, does nothing when it left."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes) -> None:
        """Send the last bytes of the body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def answer(
        self, status: int, body: bytes, content_type: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Send a whole answer."""
        head = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        head += [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
        await self.start(status, head)
        await self.end(body)

    async def answer_json(self, status: int, value: object, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Send a whole answer in JSON."""
        await self.answer(status, json.dumps(value).encode(), "application/json", headers)

    async def left(self) -> None:
        """Return when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class HttpClient:
    """The money path's view of an exchange: implements `proxy.Client`."""

    def __init__(
        self,
        exchange: Exchange,
        dialect: Dialect,
        events: EventBus,
        call_id: str,
        run: str,
        key: str,
        model: str,
        path: AccountPath,
        refusal_status: int,
        asking: Asking,
    ) -> None:
        self.call_id = call_id
        self.scopes = path.scopes
        self.also = path.also
        self._exchange = exchange
        self._dialect = dialect
        self._events = events
        self._run = run
        self._key = key
        self._model = model
        self._refusal_status = refusal_status
        self._asking = asking
        self._asks_until = 0.0
        self._queue_task: asyncio.Task[Any] | None = None
        self._deadline: tuple[asyncio.Timeout, float] | None = None
        self._has_left = False
        self._is_good = False
        self.on_answered: Callable[[], None] = _nothing
        """Called with the end of an answer that is no error, unless nobody reads it."""
        self._hold: OpenHold | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._watch)

    # ---- leaving ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._exchange.left())
        self._watcher.add_done_callback(self._leave)

    def _leave(self, watcher: asyncio.Task[None]) -> None:
        if watcher.cancelled():
            return
        self._has_left = True
        if self._queue_task is not None:
            self._queue_task.cancel()
        if self._deadline is not None:
            self._shorten(*self._deadline)

    @property
    def has_left(self) -> bool:
        """Whether nobody reads the answer."""
        return self._has_left

    def waits_in(self, task: asyncio.Task[Any] | None) -> None:
        """Note the task to cancel when the client leaves, or that there is none."""
        self._queue_task = task

    def in_queue(self) -> _Queue:
        """While inside, a client that leaves cancels the wait; that surfaces as ClientLeftError."""
        return _Queue(self)

    def on_leave(self, deadline: asyncio.Timeout, seconds: float) -> None:
        """When the client leaves, or has left, bound the rest of the reading by this many seconds."""
        self._deadline = (deadline, seconds)
        if self._has_left:
            self._shorten(deadline, seconds)

    @staticmethod
    def _shorten(deadline: asyncio.Timeout, seconds: float) -> None:
        at = asyncio.get_running_loop().time() + seconds
        before = deadline.when()
        if not deadline.expired() and (before is None or at < before):
            # A client that leaves after the last byte finds the reading done, which no property of a timeout tells.
            with suppress(RuntimeError):
                deadline.reschedule(at)

    def granted(self, hold: OpenHold) -> None:
        """Note the hold that pays for this call, or for its next attempt."""
        self._tell_settled()
        self._hold = hold
        if not self._events.has_listeners:
            return
        call, granted = hold.quote.call, hold.granted
        self._events.emit(
            CallGranted(
                call_id=granted.call_id,
                run=self._run,
                key=self._key,
                upstream=call.upstream,
                model=call.model,
                held_nanodollars=granted.held.usd,
                output_tokens_max=granted.output_tokens,
                was_clamped=granted.output_tokens < hold.quote.output_tokens,
            )
        )

    def done(self) -> None:
        """Stop watching, and tell how the call was settled."""
        self._timer.cancel()
        self._deadline = None
        if self._watcher is not None:
            self._watcher.cancel()
        self._tell_settled()

    def _tell_settled(self) -> None:
        settled = None if self._hold is None else self._hold.settled
        if self._hold is None or settled is None:
            return
        if settled.overrun.usd or settled.overrun.tokens or self._events.has_listeners:
            self._events.emit(
                CallSettled(
                    call_id=self._hold.granted.call_id,
                    run=self._run,
                    key=self._key,
                    model=self._hold.quote.call.model,
                    state=str(settled.state),
                    captured_nanodollars=settled.captured.usd,
                    overrun_nanodollars=settled.overrun.usd,
                    why=self._hold.why,
                    held_nanodollars=self._hold.granted.held.usd,
                    captured_tokens=settled.captured.tokens,
                    overrun_tokens=settled.overrun.tokens,
                    held_tokens=self._hold.granted.held.tokens,
                )
            )

    async def is_raised(self, denied: Denied) -> bool:
        """Wait for a person to raise what said no, all in all no longer than the settings allow for one call."""
        if self._has_left:
            return False
        self._asks_until = self._asks_until or self._asking.begin()
        with self.in_queue():
            return await self._asking.is_raised(denied, self._asks_until)

    # ---- answering --------------------------------------------------------------------------------------------------

    async def refuse(self, refusal: Unpriced | Denied | Failure | refusals.Refusal) -> None:
        """Answer with the refusal in the dialect's own error shape."""
        user_agent = self._exchange.headers.get("user-agent", "")
        answer = refusals.answer(refusal, self._run, user_agent, self._refusal_status)
        if isinstance(refusal, Denied):
            self._events.emit(
                CallDenied(
                    call_id=self.call_id,
                    run=self._run,
                    key=self._key,
                    model=self._model,
                    reason=str(refusal.reason),
                    account=refusal.account or refusal.scope,
                    unit=str(refusal.unit),
                    limit=refusal.limit,
                    captured=refusal.captured,
                    held=refusal.held,
                    asked=refusal.asked,
                    status=answer.status,
                )
            )
        else:
            self._events.emit(CallRefused(self.call_id, self._run, self._key, answer.status, answer.code))
        await self.send_refusal(answer)

    async def send_refusal(self, answer: refusals.Answer) -> None:
        """Write a refusal that is already worded."""
        if self._exchange.has_started:
            return
        body = self._dialect.error(answer.status, answer.code, answer.message, answer.details)
        names = (("x-bursar-run", self._run), ("x-bursar-call", self.call_id))
        await self._exchange.answer(answer.status, body, "application/json", answer.headers + names)

    async def start(self, reply: Reply, hold: OpenHold) -> None:
        """Send the head of the reply: the provider's own, and what is known of the cost."""
        self._is_good = reply.status < 400
        keeps_length = not reply.is_stream  # a stream may lose its usage event on the way
        head = [
            (name, value)
            for name, value in reply.headers
            if (lower := name.lower()) not in _HOP_BY_HOP and (keeps_length or lower != b"content-length")
        ]
        head.append((b"x-bursar-run", self._run.encode()))
        head.append((b"x-bursar-call", hold.granted.call_id.encode()))
        head.append((b"x-bursar-upstream", hold.quote.call.upstream.encode()))
        head += _money_headers(hold)
        await self._exchange.start(reply.status, head)

    async def write(self, chunk: bytes) -> None:
        """Pass bytes on."""
        if not self._has_left:
            await self._exchange.write(chunk)

    async def end(self, chunk: bytes) -> None:
        """Pass the last bytes on and end the reply."""
        if not self._has_left:
            if self._is_good:
                self.on_answered()
            await self._exchange.end(chunk)


def _nothing() -> None:
    pass


class _Queue:
    """The time in which a call may be waiting for its turn."""

    __slots__ = ("_client", "_task")

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._task = asyncio.current_task()

    def __enter__(self) -> None:
        self._client.waits_in(self._task)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.waits_in(None)
        is_ours = isinstance(error, asyncio.CancelledError) and self._client.has_left
        if is_ours and self._task is not None and self._task.uncancel() == 0:
            raise ClientLeftError from None


def _money_headers(hold: OpenHold) -> list[tuple[bytes, bytes]]:
    """Say what is left after this call; while its cost is unknown, its whole hold counts as spent."""
    granted, cost = hold.granted, hold.cost
    headers: list[tuple[bytes, bytes]] = []
    given_back = 0
    if cost is not None:
        headers.append((b"x-bursar-cost-usd", str(cost).encode()))
        given_back = max(granted.held.usd - cost.nanodollars, 0)
    if granted.left.usd is not None:
        headers.append((b"x-bursar-remaining-usd", str(Money(granted.left.usd + given_back)).encode()))
    if granted.left.calls is not None:
        headers.append((b"x-bursar-remaining-calls", str(granted.left.calls).encode()))
    if granted.output_tokens < hold.quote.output_tokens:
        headers.append((b"x-bursar-output-tokens-max", str(granted.output_tokens).encode()))
    return headers
