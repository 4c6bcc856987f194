"""The HTTP server around the gateway: its sockets, its configuration, and its life in this process."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from bursar.cli.common import FailedError
from bursar.edge.server import GatewayProtocol

if TYPE_CHECKING:
    from bursar.settings import ServerSettings

FACTORY = "bursar.edge.site:from_environment"
"""Makes the application of a worker process, from BURSAR_CONFIG and BURSAR_LEDGER."""


class GatewayServer(uvicorn.Server):
    """A server that leaves the signals to its owner, and tells it when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept and prove that the cap holds, by way of the last of the sockets.

        Raises FailedError where uvicorn would end the process.
        """
        canary = self.config.loaded_app.canary
        canary.expect()
        try:
            await super().startup(sockets)
        except SystemExit:
            raise FailedError("the gateway cannot start; the reason is above") from None
        await canary.begin(url_of(self.servers[-1].sockets[0]))
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, not even from the canary, and end what is under way."""
        await self.config.loaded_app.canary.end()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    def stop(self) -> None:
        """Accept nothing more, let the calls in flight end, then close."""
        self.should_exit = True

    def cut(self) -> None:
        """Cancel the calls in flight; each settles on its way out."""
        for task in list(self.server_state.tasks):
            task.cancel()


def config(app: Any, settings: ServerSettings, drain_seconds_max: int) -> uvicorn.Config:
    """Give the server's configuration; `app` is an application, or the import path of a factory."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        loop="uvloop",
        http=GatewayProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections_max,
        backlog=settings.backlog_max,
        timeout_keep_alive=settings.keepalive_seconds_max,
        timeout_graceful_shutdown=drain_seconds_max,
    )


def listen(host: str, port: int, backlog_max: int, sockets: int = 1) -> list[socket.socket]:
    """Open listening sockets on one port, which the kernel shares out among them where it can.

    Each worker has a socket of its own, so that one that is quick to accept does not take them all; the caller keeps
    them open, so that connections wait for the next worker when one dies. Raises FailedError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shares = sockets > 1 and sys.platform == "linux"
    try:
        if shares and port:
            # A port that is shared on purpose would be shared with a stranger, too; so look first.
            _bound(family, host, port).close()
        opened = [_bound(family, host, port, shares)]
        port = opened[0].getsockname()[1]
        while shares and len(opened) < sockets:
            opened.append(_bound(family, host, port, shares))
        for one in opened:
            one.listen(backlog_max)
    except OSError as error:
        raise FailedError(_why_not(error, host, port)) from None
    return opened


def _bound(family: socket.AddressFamily, host: str, port: int, shares: bool = False) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((host, port))
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def _why_not(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is taken; stop what listens there, or choose another with --port (0: any)"
        case errno.EACCES:
            return f"port {port} needs more rights than this user has; choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine; 127.0.0.1 is, and 0.0.0.0 stands for all"
        case _:
            return f"cannot listen on {host} port {port}: {error.strerror or error}"


def url_of(one: socket.socket) -> str:
    """Give the base URL of a listening socket, as a client on this machine uses it."""
    host, port = one.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where all addresses are bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_to(handler: logging.Handler) -> None:
    """Send warnings and errors of the gateway to this handler; bodies and secrets are never in them."""
    handler.setFormatter(logging.Formatter("bursar: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # It warns about every upgrade to a WebSocket, which our own 426 answers.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
