"""`bursar serve`: the gateway as a service, in this process or in several that are watched."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    FailedError,
    config_option,
    json_option,
    ledger_option,
    open_books,
    run_async,
    say,
    settings_for,
    without_password,
)

if TYPE_CHECKING:
    from bursar.cli.gateway import GatewayServer
    from bursar.settings import Settings

WORKERS_MAX = 256


@click.command()
@config_option
@click.option("--host", metavar="ADDRESS", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on, 0 for any free one; default 4100.")
@click.option(
    "--workers", type=click.IntRange(1, WORKERS_MAX), default=1, show_default=True, help="Processes on one ledger."
)
@ledger_option
@json_option
def serve(
    config: Path | None, host: str | None, port: int | None, workers: int, ledger: str | None, as_json: bool
) -> None:
    """Serve the gateway until SIGTERM or Ctrl-C; calls in flight are finished and settled first.

    SIGHUP reads the settings anew: calls in flight and streams go on, the next request meets the new settings.

    The provider keys come from the environment (OPENAI_API_KEY, ANTHROPIC_API_KEY, or what the settings name).
    With --json the line that says where it listens goes to stdout, as JSON.

    Example: bursar serve --port 4100 --workers 4
    """
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}

    def read() -> Settings:
        settings = settings_for(config, ledger)
        return settings.model_copy(update={"server": settings.server.model_copy(update=given)})

    settings = read()
    _ensure_secrets(settings)
    run_async(_look_at_the_books(settings))
    from bursar.cli.gateway import listen
    from bursar.cli.prices_update import warn_of_old_prices
    from bursar.settings import SettingsError

    warn_of_old_prices(settings)

    server = settings.server
    sockets = listen(server.host, server.port, server.backlog_max, sockets=workers)

    def announce() -> None:
        _announce(settings, sockets[0], workers, as_json)

    def read_anew() -> Settings:
        try:
            return read()
        except FailedError as error:
            raise SettingsError(error.message) from None

    if workers == 1:
        _serve_here(settings, read_anew, sockets, announce)
    else:
        environ = {"BURSAR_CONFIG": str(config.absolute()) if config else "", "BURSAR_LEDGER": settings.ledger.url}
        _serve_by_workers(settings, read_anew, (sockets * workers)[:workers], environ, announce)


def _serve_by_workers(
    settings: Settings,
    read_anew: Callable[[], Settings],
    sockets: list[socket.socket],
    environ: dict[str, str],
    announce: Callable[[], None],
) -> None:
    from bursar.cli.supervisor import supervise
    from bursar.edge.metrics import FOLDER_VARIABLE
    from bursar.settings import SettingsError

    def can_reload() -> bool:
        try:
            read_anew()
        except SettingsError as error:
            say(f"the settings were not read anew, those from before hold: {error}")
            return False
        return True

    with tempfile.TemporaryDirectory(prefix="bursar-metrics-") as folder:
        environ = os.environ | environ | {FOLDER_VARIABLE: folder}
        if not run_async(supervise(sockets, environ, settings.server.drain_seconds_max, announce, can_reload)):
            raise FailedError("the gateway cannot start; the reason is above")


def _ensure_secrets(settings: Settings) -> None:
    """Refuse to start where the environment lacks what every call would need."""
    for name, key in settings.keys.items():
        if key.key_env and not os.environ.get(key.key_env):
            raise FailedError(f"[keys.{name}] takes its secret from {key.key_env}, which is not set")
    _ensure_webhooks(settings)
    if any(not upstream.needs_key for upstream in settings.upstreams.values()):
        return
    if not settings.provider_keys(os.environ):
        wanted = ", ".join(sorted({upstream.key_env for upstream in settings.upstreams.values()}))
        raise FailedError(f"no provider key in the environment, so no call could be sent; set one of {wanted}")


def _ensure_webhooks(settings: Settings) -> None:
    from bursar.edge.wiring import webhook_of

    for name in settings.webhooks:
        try:
            webhook_of(name, settings, os.environ)
        except ValueError as error:
            raise FailedError(str(error)) from None


async def _look_at_the_books(settings: Settings) -> None:
    """Open the ledger once, so that what is wrong with it is said once, and see whether anybody may call."""
    async with open_books(settings) as store:
        rows = await store.keys()
        for warning in store.warnings:
            say(f"warning: {warning}")
    declared = any(key.key_env for key in settings.keys.values())
    if not declared and all(row.revoked_at is not None for row in rows):
        say("no key yet, so every call is refused with 401; make one with `bursar keys create NAME`")


def _announce(settings: Settings, one: socket.socket, workers: int, as_json: bool) -> None:
    from bursar.cli.gateway import url_of

    ledger, url = without_password(settings.ledger.url), url_of(one)
    if as_json:
        click.echo(json.dumps({"url": url, "workers": workers, "ledger": ledger, "pid": os.getpid()}))
    else:
        noun = "worker" if workers == 1 else "workers"
        say(f"listening on {url} ({workers} {noun}, ledger {ledger})")


def _serve_here(
    settings: Settings, read: Callable[[], Settings], sockets: list[socket.socket], announce: Callable[[], None]
) -> None:
    import uvloop

    from bursar.cli.gateway import GatewayServer, config, log_to
    from bursar.edge.site import create_site

    log_to(logging.StreamHandler())
    server = GatewayServer(config(create_site(read), settings.server, settings.server.drain_seconds_max), announce)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_signal(server, sockets))


async def serve_until_signal(server: GatewayServer, sockets: list[socket.socket]) -> None:
    """Serve until SIGTERM or SIGINT; a second one cuts the calls in flight, whose holds are then booked whole.

    SIGHUP reads the settings anew.
    """
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[bool]] = set()

    def on_signal() -> None:
        if server.should_exit:
            server.cut()
        server.stop()

    def on_hangup() -> None:
        if server.started:
            task = loop.create_task(server.config.loaded_app.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    await server.serve(sockets=sockets)
