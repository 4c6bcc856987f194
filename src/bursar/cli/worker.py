"""One worker process of `bursar serve --workers N`; started by the supervisor, never by hand."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from bursar.cli.common import FailedError, say
from bursar.cli.gateway import FACTORY, GatewayServer, config, listen, log_to
from bursar.cli.serve import serve_until_signal
from bursar.edge.canary import LOOPBACK
from bursar.settings import SettingsError, load

READY = b"r"
PING = b"?"
PONG = b"!"


def main(listen_fd: int, channel_fd: int) -> int:
    """Serve on an inherited socket; say so on the channel; end when the supervisor does."""
    log_to(logging.StreamHandler())
    config_path = os.environ.get("BURSAR_CONFIG", "")
    try:
        settings = load(Path(config_path) if config_path else None).server
    except SettingsError as error:
        say(str(error))
        return 2
    channel = socket.socket(fileno=channel_fd)
    channel.setblocking(False)
    server = GatewayServer(
        config(FACTORY, settings, settings.drain_seconds_max), on_ready=lambda: _tell(channel, READY)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(server, socket.socket(fileno=listen_fd), channel))
        except FailedError as error:
            error.show()
            return error.exit_code
    return 0


async def _serve(server: GatewayServer, listening: socket.socket, channel: socket.socket) -> None:
    def on_channel() -> None:
        try:
            said = channel.recv(64)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            _tell(channel, PONG)
        else:
            # The supervisor is gone, however it ended: nobody would ever stop this process.
            asyncio.get_running_loop().remove_reader(channel)
            server.stop()

    asyncio.get_running_loop().add_reader(channel, on_channel)
    # The port is shared out among the workers, and this one has to prove itself; so it has a listener that is its own.
    own = listen(LOOPBACK, 0, server.config.backlog)
    await serve_until_signal(server, [listening, *own])


def _tell(channel: socket.socket, what: bytes) -> None:
    try:
        channel.send(what)
    except OSError:
        # A supervisor that does not listen is found out by reading, or kills this worker.
        return


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
