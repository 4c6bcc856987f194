"""A fake LLM provider that keeps its own till: OpenAI chat and responses, Anthropic messages, Gemini; faults on demand.

Run it as `python -m bursar.drill.fake_provider --port 0 --json-config '{"first_byte_ms": 200}'`; its first line of
output is its base URL. Or embed it: `async with FakeProvider(Config()) as provider: ... provider.till`.
Besides the providers' routes it has `GET /till[?ledger=ROWS]`, `POST /till/reset` and
`POST /script {"faults": [{"kind": "status", "status": 500, "count": 1}], "replies": [{"text": "done"}]}`.
It is one asyncio protocol over httptools, so that a benchmark measures the gateway and not this.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httptools

from bursar.drill.answering import Clerk, Config, Step, Then, response
from bursar.drill.faults import Fault
from bursar.drill.gemini import asked_by_path, with_path
from bursar.drill.shapes import models_body
from bursar.drill.till import Till

BODY_BYTES_MAX = 64 * 1024 * 1024
_APIS = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages"}
# Closing with a linger time of zero sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)
_GEMINI_METHODS = frozenset({"generateContent", "streamGenerateContent"})
_KEPT_HEADERS = frozenset(
    {b"authorization", b"x-api-key", b"x-goog-api-key", b"accept-encoding", b"anthropic-version", b"expect"}
)


class FakeProvider:
    """A running fake provider on loopback, as an async context manager."""

    def __init__(self, config: Config | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.till = Till()
        self.clerk = Clerk(config or Config(), self.till)
        self.base_url = ""
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self.clerk, self._connections), self._host, self._port, backlog=4096
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await self._server.wait_closed()

    def script(self, *, faults: tuple[Fault, ...] = (), replies: tuple[dict[str, Any], ...] = ()) -> None:
        """Let these faults strike the next calls, and give these replies to the next fitting ones."""
        self.clerk.dice.script(faults)
        for reply in replies:
            self.clerk.script_reply(reply)


@dataclass(slots=True)
class _Request:
    method: str
    path: str
    keep_alive: bool
    headers: dict[bytes, str] = field(default_factory=dict)
    body: list[bytes] = field(default_factory=list)
    body_bytes: int = 0

    @property
    def key(self) -> str:
        bearer = self.headers.get(b"authorization", "").removeprefix("Bearer ").strip()
        return bearer or self.headers.get(b"x-api-key", "") or self.headers.get(b"x-goog-api-key", "")


class _Connection(asyncio.Protocol):
    """Reads requests one after another and plays the steps of each answer by the loop's clock."""

    def __init__(self, clerk: Clerk, connections: set[_Connection]) -> None:
        self._clerk = clerk
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reading = _Request("", "", True)
        self._waiting: deque[_Request] = deque()
        self._steps: Iterator[Step] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keep_alive = True
        self._is_model_call = False
        self._paused = False

    # ---- the transport's side --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._send_and_close(response(426, b'{"error":{"message":"no WebSocket here"}}'))
        except httptools.HttpParserError:
            self._send_and_close(response(400, b'{"error":{"message":"not HTTP"}}'))

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._steps is not None:
            self._steps = None
            if self._is_model_call:
                self._clerk.till.clients_gone += 1
                self._clerk.till.leave()
        self._waiting.clear()
        self._transport = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._steps is not None and self._timer is None:
            self._advance()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    # ---- the parser's side -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reading = _Request("", "", True)

    def on_url(self, url: bytes) -> None:
        self._reading.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _KEPT_HEADERS:
            self._reading.headers[name] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._reading.method = self._parser.get_method().decode("latin-1")
        if self._reading.headers.get(b"expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._reading.body.append(body)
        self._reading.body_bytes += len(body)
        if self._reading.body_bytes > BODY_BYTES_MAX:
            self._send_and_close(response(413, b'{"error":{"message":"body too large"}}'))

    def on_message_complete(self) -> None:
        self._reading.keep_alive = self._parser.should_keep_alive()
        self._waiting.append(self._reading)
        if self._steps is None:
            self._begin()

    # ---- answering -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._waiting and self._steps is None and self._transport is not None:
            request = self._waiting.popleft()
            self._keep_alive = request.keep_alive
            self._steps = self._answer(request)
            self._advance()

    def _answer(self, request: _Request) -> Iterator[Step]:
        path = request.path.partition("?")[0].rstrip("/") or "/"
        body = b"".join(request.body)
        api = _APIS.get(path) if request.method == "POST" else None
        model, method = asked_by_path(path)
        if method in _GEMINI_METHODS and request.method == "POST":
            api, body = "gemini", with_path(body, model, method)
        self._is_model_call = api is not None
        if api is not None:
            self._clerk.till.enter()
            return self._clerk.serve(api, request.key, body, "gzip" in request.headers.get(b"accept-encoding", ""))
        return iter((Step(0.0, self._plain(request, path, body)),))

    def _plain(self, request: _Request, path: str, body: bytes) -> bytes:
        match request.method, path:
            case "HEAD", _:
                return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
            case "GET", "/":
                return response(200, b'{"provider":"drill"}')
            case "GET", "/v1/models":
                return response(200, models_body(b"anthropic-version" in request.headers))
            case "POST", "/v1/messages/count_tokens":
                return response(200, self._clerk.count_tokens("messages", body))
            case "POST", "/v1/responses/input_tokens":
                return response(200, self._clerk.count_tokens("responses", body))
            case "POST", path if asked_by_path(path)[1] == "countTokens":
                model, method = asked_by_path(path)
                return response(200, self._clerk.count_tokens("gemini", with_path(body, model, method)))
            case "GET", "/till":
                rows = request.path.partition("ledger=")[2]
                return response(200, json.dumps(self._clerk.till.as_json(int(rows) if rows.isdigit() else 0)).encode())
            case "POST", "/till/reset":
                self._clerk.till.reset()
                return response(200, b"{}")
            case "POST", "/script":
                return self._script(body)
            case _:
                return response(404, b'{"error":{"message":"no such route at the fake provider"}}')

    def _script(self, body: bytes) -> bytes:
        try:
            fields = json.loads(body)
            self._clerk.dice.script([Fault.from_json(fault) for fault in fields.get("faults", ())])
            for reply in fields.get("replies", ()):
                self._clerk.script_reply(reply)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return response(400, json.dumps({"error": {"message": f"bad script: {error}"}}).encode())
        return response(200, b"{}")

    def _advance(self) -> None:
        """Play steps until one has to wait, the client reads too slowly, or the answer is over."""
        self._timer = None
        while self._steps is not None and not self._paused:
            step = next(self._steps, None)
            if step is None:
                self._end()
            elif step.after > 0:
                self._timer = self._loop.call_later(step.after, self._play_on, step)
                return
            elif not self._play(step):
                return

    def _play_on(self, step: Step) -> None:
        if self._play(step):
            self._advance()

    def _play(self, step: Step) -> bool:
        """Do one step; False when the connection ends, or hangs, with it."""
        if self._transport is None:
            return False
        if step.data:
            self._transport.write(step.data)
        match step.then:
            case Then.GO_ON:
                return True
            case Then.HANG:
                return False
            case Then.CLOSE:
                self._leave()
                self._transport.close()
                return False
            case Then.ABORT:
                self._leave()
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._transport.abort()
                return False

    def _leave(self) -> None:
        self._steps = None
        if self._is_model_call:
            self._clerk.till.leave()

    def _end(self) -> None:
        self._leave()
        if not self._keep_alive and self._transport is not None:
            self._transport.close()
        elif self._waiting:
            self._loop.call_soon(self._begin)

    def _send_and_close(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
            self._transport.close()


async def serve(config: Config, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Run a fake provider until the process is told to stop; `tell` hears its base URL when it listens."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    async with FakeProvider(config, host, port) as provider:
        tell(provider.base_url)
        await stopped.wait()


def _say(base_url: str) -> None:
    sys.stdout.write(base_url + "\n")
    sys.stdout.flush()


def _read_config(text: str) -> Config:
    if text and not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    return Config.from_json(json.loads(text) if text else {})


def main() -> int:
    """Run a fake provider until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m bursar.drill.fake_provider", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--json-config", default="", help="a JSON object, or the name of a file that holds one")
    options = parser.parse_args()
    try:
        config = _read_config(options.json_config)
    except (OSError, ValueError, TypeError) as error:
        parser.error(f"--json-config: {error}")
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(config, options.host, options.port, _say))
    return 0


if __name__ == "__main__":
    sys.exit(main())
