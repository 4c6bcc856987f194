"""The gateway: from an HTTP request to the money path, and nothing else that reaches a provider."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from bursar.call import Call, Head, Refused
from bursar.clock import SystemClock
from bursar.dialects.free import FreeRequest, free_request
from bursar.dialects.protocol import Dialect, Request
from bursar.dialects.table import Route, find
from bursar.edge import refusals
from bursar.edge.admin.door import Door, is_below
from bursar.edge.asgi import ClientLeftError, Exchange, HttpClient, Receive, Scope, Send
from bursar.edge.asking import Asking
from bursar.edge.callers import Caller, Callers, Unauthorized, may, refused_call
from bursar.edge.canary import Canary, CanaryRedError
from bursar.edge.counts import Counts
from bursar.edge.declared import declare
from bursar.edge.fallback import Fallbacks, SpareCalls
from bursar.edge.identity import NOBODY, AccountPath, Asked, Claims, account_path, claims
from bursar.edge.idle import keep_stopping
from bursar.edge.loops import Looped, Loops
from bursar.edge.metrics import CONTENT_TYPE, Metrics
from bursar.edge.models import ModelsPath, models_of, read_models_path, shape_of
from bursar.edge.outbox import News, Tellers, keep_pruned
from bursar.edge.query import google_query
from bursar.edge.retention import keep_compact
from bursar.edge.runs import Runs
from bursar.edge.wiring import Parts, desk, wire, with_canary
from bursar.events import CallRefused, EventBus
from bursar.ledger.account import ClearModel
from bursar.ledger.reaper import reap
from bursar.ledger.store import LedgerUnavailableError, Store
from bursar.proxy import proxy
from bursar.settings import Settings
from bursar.upstream.free import FreeAnswer

_log = logging.getLogger("bursar")

TARGET_BYTES_MAX = 8_192
REAP_EVERY_SECONDS = 1.0
IDLE_EVERY_SECONDS = 600.0
GARBAGE_OBJECTS = 20_000
"""How many new objects there are before the first look for cycles among them."""
# Changes nothing, but has to pass through a transaction of the ledger.
_PROBE = ClearModel("")
# A header that decides about money or identity and occurs twice could be read one way here and another way upstream.
_REPEATABLE = frozenset(
    {"accept", "accept-encoding", "accept-language", "via", "forwarded", "x-forwarded-for", "cookie"}
)

# What is passed on to the provider. Anything else stays here, so that no header can switch on what nobody priced.
_PASSED = frozenset({"accept", "user-agent", "originator", "traceparent", "tracestate", "x-app", "x-client-request-id"})
_PASSED_PREFIXES = ("anthropic-", "openai-", "x-stainless-", "x-claude-code-", "x-codex-", "x-goog-api-client")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a path points: a route of the table, for an upstream, in the run that the path names (or none)."""

    route: Route
    upstream: str
    run: str


class Gateway:
    """An ASGI application; one per worker process."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider_keys: Mapping[str, str],
        metrics: Metrics | None = None,
        canary: Canary | None = None,
    ) -> None:
        """Wire a gateway; `metrics` and `canary` are those of the one before it in this process."""
        self.events = EventBus()
        self.metrics = metrics or Metrics()
        self.events.subscribe(self.metrics.note)
        self.store = store
        self.settings = settings
        self._clock = SystemClock()
        self.canary = canary or Canary(store, self._clock, settings.server.canary_seconds, self.metrics.note_canary)
        self._settings = with_canary(settings, self.canary)
        self._parts: Parts = wire(self._settings, store, {**provider_keys, **self.canary.provider_keys})
        self._callers = Callers(store, {**self._parts.declared, **self.canary.callers}, self._parts.rules)
        self._runs = Runs(store)
        self._door = Door(desk(settings, store, self._callers, self._parts.book))
        self._counts = Counts(store, self._parts.gate.upstream)
        self._fallbacks = Fallbacks(settings.fallback)
        endpoints = self._parts.gate.endpoints.values()
        self._quirks = {one.name: one.quirks for one in endpoints if one.name not in self._parts.missing_keys}
        self._loops = Loops(lambda key: settings.run_template(key).loops, self._clock)
        self._news = News(store)
        self._tellers = Tellers(store, self._parts.webhooks, self._clock)
        self._asking = Asking(store, self._news, self._clock, settings.policy.ask_seconds_max)
        self._tasks: list[asyncio.Task[None]] = []
        # Random once per process and then counted: as unique as a random number per call, without asking the system.
        self._call_prefix = f"c-{secrets.token_hex(8)}-"
        self._call_numbers = itertools.count(1)

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the ledger and begin; raises what keeps it shut."""
        await self.store.start()
        await self.begin()

    async def begin(self) -> None:
        """Declare what the settings say and load the price book, on a ledger that is open."""
        for opening in self._parts.openings:
            await self.store.submit(opening)
        for declaration in self._parts.declarations:
            await declare(self.store, declaration)
        await asyncio.to_thread(self._parts.book.load)
        # What has been loaded by now stays for good (the price book is hundreds of thousands of objects); to look
        # through it again and again for garbage was measured to be an eighth of the CPU of a call.
        gc.collect()
        gc.freeze()
        # And what a call makes is gone with it; next to nothing of it is in a cycle.
        gc.set_threshold(GARBAGE_OBJECTS, 10, 10)
        self._tasks = [asyncio.create_task(reap(self.store, REAP_EVERY_SECONDS))]
        self._tasks.append(asyncio.create_task(keep_pruned(self.store)))
        self._tellers.begin()
        self._tasks.append(asyncio.create_task(keep_stopping(self.store, self._parts.idle_hours, IDLE_EVERY_SECONDS)))
        if self._settings.ledger.keep_days is not None:
            self._tasks.append(asyncio.create_task(keep_compact(self.store, self._settings.ledger.keep_days)))

    async def stop(self) -> None:
        """Write every settlement, then close."""
        await self.canary.end()
        await self.end()
        await self.store.close()

    async def end(self) -> None:
        """Write every settlement and leave the upstreams; the ledger stays open."""
        for task in self._tasks:
            task.cancel()
        await self._parts.gate.ledger.drain()
        await self._news.drain()
        await self._tellers.end()
        await self._parts.gate.upstream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event of the server: its life, or one HTTP request."""
        if scope["type"] == "lifespan":
            await live(receive, send, self.start, self.stop)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, repeated = _headers(scope["headers"])
        exchange = Exchange(headers, receive, send)
        try:
            target = self._target(scope)
            if target is None and is_below(scope["path"]):
                await self._door.serve(scope, exchange, receive, send)
            elif target is None or scope["method"] != "POST":
                await self._not_a_call(scope, exchange)
            elif repeated:
                message = f"the header {repeated} occurs more than once"
                await self._refuse(exchange, target.route.dialect, Refused(400, "unreadable", message))
            else:
                await self._call(scope, exchange, target)
        except ClientLeftError:
            pass

    def _target(self, scope: Scope) -> Target | None:
        """Find the route by the path as it was sent: no decoding, no normalising, no matching by suffix."""
        run, path = _path(scope)
        route = find(path)
        upstream = ""
        if route is None:
            upstream, slash, rest = path[1:].partition("/")
            route = find(slash + rest) if upstream in self._settings.upstreams else None
        return None if route is None else Target(route, upstream or route.upstream, run)

    async def _not_a_call(self, scope: Scope, exchange: Exchange) -> None:
        path, method = scope["path"], scope["method"]
        if exchange.headers.get("upgrade", "").lower() == "websocket":
            message = "bursar: WebSockets are not metered; use HTTP"
            await exchange.answer_json(426, _plain_error("unmetered", message), (("upgrade", "HTTP/1.1"),))
        elif method in ("GET", "HEAD") and path == "/livez":
            await exchange.answer_json(200, {"status": "ok"})
        elif method in ("GET", "HEAD") and path == "/readyz":
            await self._readyz(exchange)
        elif method in ("GET", "HEAD") and path == "/metrics":
            await exchange.answer(200, await self.metrics.text(self.store), CONTENT_TYPE)
        elif method == "HEAD" and path == "/":
            await exchange.answer(200, b"", "text/plain")  # clients probe whether somebody is there
        elif method == "GET" and (asked := read_models_path(_path(scope)[1], self._settings.upstreams)):
            await self._models(scope, exchange, asked)
        else:
            message = f"bursar: {method} {path} is not metered here, so it is not passed on"
            await exchange.answer_json(404, _plain_error("unmetered", message), (("x-should-retry", "false"),))

    async def _readyz(self, exchange: Exchange) -> None:
        try:
            await self.store.submit(_PROBE)
        except LedgerUnavailableError as error:
            trouble = {"status": "ledger unavailable", "why": str(error)}
        else:
            trouble = self.canary.trouble()
        await exchange.answer_json(503 if trouble else 200, {"status": "ok", **trouble, **self.canary.facts()})

    async def _models(self, scope: Scope, exchange: Exchange, asked: ModelsPath) -> None:
        """List what is priced and allowed; a provider is not asked."""
        for parameter in scope.get("query_string", b"").decode("latin-1").split("&"):
            if parameter.startswith("key="):
                exchange.headers.setdefault("x-goog-api-key", parameter.removeprefix("key="))
        named = self._settings.upstreams.get(asked.upstream)
        shape = shape_of(asked, exchange.headers, named.dialect if named else "")
        upstream = asked.upstream or shape.upstream
        try:
            caller = await self._callers.identify(exchange.headers, _address(scope))
        except LedgerUnavailableError as error:
            _log.warning("ledger unavailable: %s", error)
            await self._send(exchange, shape.dialect, refusals.ledger_unavailable(""))
            return
        if isinstance(caller, Unauthorized):
            await self._refuse(exchange, shape.dialect, caller)
            return
        is_there = upstream in self._settings.upstreams and upstream not in self._parts.missing_keys
        is_open = is_there and not caller.role and may(caller.upstreams, upstream)
        cards = await models_of(self._parts.book, self._clock, upstream, caller) if is_open else []
        if not asked.model:
            await exchange.answer_json(200, shape.all([shape.one(card) for card in cards]))
        elif one := next((card for card in cards if card.model == asked.model), None):
            await exchange.answer_json(200, shape.one(one))
        else:
            message = "no model of that name is priced here and allowed to this key"
            await self._refuse(exchange, shape.dialect, Refused(404, "model_not_found", message))

    async def _call(self, scope: Scope, exchange: Exchange, target: Target) -> None:
        dialect = target.route.dialect
        try:
            query = _query(scope, exchange.headers, target.route)
            if isinstance(query, Refused):
                await self._refuse(exchange, dialect, query)
                return
            caller = await self._callers.identify(exchange.headers, _address(scope))
            if isinstance(caller, Unauthorized):
                await self._refuse(exchange, dialect, caller)
                return
            await self.canary.let_through(caller)
            call = await self._read(exchange, target, caller, query)
            if isinstance(call, Refused):
                await self._refuse_caller(exchange, dialect, call, caller)
                return
            claimed = claims(caller, _asked(target, exchange.headers, call), self._clock.now())
            if isinstance(claimed, Refused):
                await self._refuse_caller(exchange, dialect, claimed, caller)
            elif isinstance(call, FreeRequest):
                await self._count(call, dialect, exchange, caller, claimed.run)
            else:
                await self._pay(call, dialect, exchange, caller, claimed)
        except CanaryRedError as error:
            await self._send(exchange, dialect, refusals.canary_red(str(error)))
        except LedgerUnavailableError as error:
            _log.warning("ledger unavailable: %s", error)
            await self._send(exchange, dialect, refusals.ledger_unavailable(""))
        except ClientLeftError:
            raise
        except Exception:
            # The hold, if there was one, has settled itself on the way out; the client must not wait for nothing.
            _log.exception("a call failed in the gateway")
            failure = refusals.Answer(500, "internal", "bursar: internal error, see the gateway's log", {}, ())
            await self._send(exchange, dialect, failure)

    async def _read(
        self, exchange: Exchange, target: Target, caller: Caller, query: str
    ) -> Call | FreeRequest | Refused:
        headers = exchange.headers
        if headers.get("content-encoding", "identity").lower() != "identity":
            return Refused(415, "unreadable", "the body is compressed; send it plain")
        upstream = self._settings.upstreams.get(target.upstream)
        if upstream is None:
            hint = f"add [upstreams.{target.upstream}] to bursar.toml"
            return Refused(404, "unmetered", f"there is no upstream {target.upstream} here; {hint}")
        if target.route.upstream not in (upstream.dialect, upstream.record.also_speaks):
            return Refused(404, "unmetered", f"the upstream {target.upstream} does not speak this dialect")
        problem = self._parts.missing_keys.get(target.upstream)
        if problem:
            return Refused(400, "no_provider_key", problem)
        body = await exchange.read_body(self._settings.server.body_bytes_max)
        if isinstance(body, Refused):
            return body
        sent_to = target.route.path + (f"?{query}" if query else "")
        if len(sent_to) > TARGET_BYTES_MAX:
            return Refused(414, "unreadable", f"the path is longer than {TARGET_BYTES_MAX} bytes")
        quirks = self._parts.gate.endpoints[target.upstream].quirks
        head = Head(sent_to, _passed(headers))
        request = Request(target.upstream, target.route.path, headers, body, quirks, head)
        call = free_request(request) if target.route.is_free else target.route.dialect.parse(request)
        if isinstance(call, Refused):
            return call
        return refused_call(caller, call.upstream, call.model) or call

    async def _count(self, free: FreeRequest, dialect: Dialect, exchange: Exchange, caller: Caller, run: str) -> None:
        """Pass on what costs nothing, for a caller whose run and key nobody has stopped."""
        answer = await self._counts.ask(free, (f"run:{run}", caller.scope))
        if isinstance(answer, FreeAnswer):
            names = (("x-bursar-run", run), ("x-bursar-cost-usd", "0.00"))
            await exchange.answer(answer.status, answer.body, answer.content_type or "application/json", names)
        else:
            await self._refuse_caller(exchange, dialect, answer, caller)

    async def _pay(self, call: Call, dialect: Dialect, exchange: Exchange, caller: Caller, claimed: Claims) -> None:
        path = await account_path(self._runs, caller, claimed)
        client = HttpClient(
            exchange=exchange,
            dialect=dialect,
            events=self.events,
            call_id=f"{self._call_prefix}{next(self._call_numbers)}",
            run=claimed.run,
            key=caller.key,
            model=call.model,
            path=path if isinstance(path, AccountPath) else NOBODY,
            refusal_status=self._parts.refusal_status,
            asking=self._asking,
        )
        try:
            if not isinstance(path, AccountPath):
                await client.refuse(path)
            elif isinstance(seen := self._loops.look(call, claimed.run, caller.key), Looped):
                facts: dict[str, object] = {"repeats": seen.repeats, "tools": list(seen.tools), "count": seen.count}
                self._news.tell("loop", f"{claimed.run} {seen.repeats}", f"run:{claimed.run}", facts)
                await client.refuse(seen)
            else:
                routes = [one for one in self._fallbacks.after(call) if may(caller.upstreams, one.upstream)]
                spares = SpareCalls(call, dialect, exchange.headers, routes, self._quirks, caller.models)
                client.on_answered = partial(self._loops.answered, seen)
                await proxy(call, dialect, self._parts.gate, client, spares)
        finally:
            client.done()

    async def _refuse_caller(
        self, exchange: Exchange, dialect: Dialect, refused: refusals.Refusal, caller: Caller
    ) -> None:
        answer = self._worded(exchange, refused)
        self.events.emit(CallRefused("", caller.run, caller.key, answer.status, answer.code))
        await self._send(exchange, dialect, answer)

    async def _refuse(self, exchange: Exchange, dialect: Dialect, refusal: Refused | Unauthorized) -> None:
        await self._send(exchange, dialect, self._worded(exchange, refusal))

    def _worded(self, exchange: Exchange, refusal: refusals.Refusal) -> refusals.Answer:
        user_agent = exchange.headers.get("user-agent", "")
        return refusals.answer(refusal, "", user_agent, self._parts.refusal_status)

    async def _send(self, exchange: Exchange, dialect: Dialect, answer: refusals.Answer) -> None:
        if not exchange.has_started:
            body = dialect.error(answer.status, answer.code, answer.message, answer.details)
            await exchange.answer(answer.status, body, "application/json", answer.headers)


def _address(scope: Scope) -> str:
    """Give where a request comes from: the other end of the connection, which no header can change."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _asked(target: Target, headers: Mapping[str, str], call: Call | FreeRequest) -> Asked:
    if isinstance(call, Call):
        return Asked(target.run, headers, call.body, call.client_names)
    return Asked(target.run, headers, None, ())


def _headers(raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], str]:
    """Give the headers by lower-case name, and the first name that must not but does occur twice."""
    headers: dict[str, str] = {}
    repeated = ""
    for name_bytes, value in raw:
        name = name_bytes.decode("latin-1")
        if name in headers and name not in _REPEATABLE:
            repeated = repeated or name
        headers[name] = value.decode("latin-1")
    return headers, repeated


def _path(scope: Scope) -> tuple[str, str]:
    """Give the run that the path names, or nothing, and the rest of the path as it was sent; an odd path is no path."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    if not raw.isascii():
        return "", ""
    path = raw.decode("ascii")
    if not path.startswith("/r/"):
        return "", path
    run, slash, rest = path[3:].partition("/")
    return (run, slash + rest) if run else ("", "")


def _query(scope: Scope, headers: dict[str, str], route: Route) -> str | Refused:
    """Give the query that is sent on; a key in it is moved into the headers, which are not."""
    query: bytes = scope.get("query_string", b"")
    if not query.isascii():
        return Refused(400, "unreadable", "the query has characters that are not ASCII")
    if route.upstream != "gemini":
        return query.decode()
    read = google_query(query.decode(), route.path.endswith(":streamGenerateContent"))
    if isinstance(read, Refused):
        return read
    if read.key and headers.setdefault("x-goog-api-key", read.key) != read.key:
        return Refused(401, "invalid_key", "the query and the header x-goog-api-key carry two different keys; send one")
    return read.passed


def _passed(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value) for name, value in headers.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    )


def _plain_error(code: str, message: str) -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


async def live(
    receive: Receive, send: Send, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> None:
    """Serve the life of an application: start, say so, and stop when the server ends."""
    await receive()
    try:
        await start()
    except Exception as error:  # the server must hear of any failure, or it would serve without a ledger
        _log.exception("cannot start")
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await stop()
    await send({"type": "lifespan.shutdown.complete"})


def create_app(settings: Settings, store: Store, provider_keys: Mapping[str, str]) -> Gateway:
    """Make the gateway; `provider_keys` are the upstreams' secrets by upstream name."""
    return Gateway(settings, store, provider_keys)
