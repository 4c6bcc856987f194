"""The way in to the HTTP API: bounds each request, and imports the framework only when somebody comes."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable

from bursar.call import Refused
from bursar.edge.admin.desk import DESK, Desk
from bursar.edge.asgi import Exchange, Message, Receive, Scope, Send

PREFIX = "/bursar/v1"
BODY_BYTES_MAX = 65_536
# Each decides who asks, or what is done; two of them could be read in two ways.
_ONCE = (b"authorization", b"x-api-key", b"x-goog-api-key", b"idempotency-key", b"content-length")

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Door:
    """Serves what is below `/bursar/v1`; one per gateway."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._app: App | None = None
        self._turn = asyncio.Lock()

    async def serve(self, scope: Scope, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Answer one request; raises ClientLeftError, and what is a bug after it was answered."""
        names = [name for name, _ in scope["headers"]]
        twice = next((name for name in _ONCE if names.count(name) > 1), None)
        if twice is not None:
            await _refuse(exchange, Refused(400, "unreadable", f"the header {twice.decode()} occurs more than once"))
            return
        body = await exchange.read_body(BODY_BYTES_MAX)
        if isinstance(body, Refused):
            await _refuse(exchange, body)
            return
        app = await self._made()
        scope = {**scope, DESK: self._desk}
        if scope["method"] == "HEAD":
            # The same answer as to a GET, without its body.
            await app({**scope, "method": "GET"}, _told(body, receive), _bodiless(send))
        else:
            await app(scope, _told(body, receive), send)

    async def _made(self) -> App:
        """Make the application, the first time somebody comes: in a thread, for it takes most of a second."""
        async with self._turn:
            if self._app is None:
                self._app = await asyncio.to_thread(_make)
            return self._app


def is_below(path: str) -> bool:
    """Say whether a path is one of the HTTP API's."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def _make() -> App:
    app: App = importlib.import_module("bursar.edge.admin.api").application()
    return app


async def _refuse(exchange: Exchange, refused: Refused) -> None:
    error = {"code": refused.code, "message": refused.message, "fields": []}
    await exchange.answer_json(refused.status, {"error": error})


def _told(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read as the message that it comes in."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def told() -> Message:
        return messages.pop() if messages else await receive()

    return told


def _bodiless(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent
