"""`bursar run`: one command under a hard cap, behind a gateway that lives as long as it does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

import click

from bursar.cli.common import COUNT, USD, FailedError, config_option, ledger_option, open_books, say, settings_for

if TYPE_CHECKING:
    from bursar.cli.child import Child
    from bursar.cli.gateway import GatewayServer
    from bursar.cli.nested import Outer
    from bursar.cli.receipt import Receipt, Tally
    from bursar.ledger.account import Limits, Opened
    from bursar.ledger.store import Store
    from bursar.money import Money
    from bursar.settings import Settings

# As timeout(1) has them.
STOPPED_AT_CAP = 124
FAILED = 125
LOOPBACK = "127.0.0.1"
LOG_LINES_MAX = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for."""

    argv: tuple[str, ...]
    settings: Settings
    run: str
    is_resumed: bool
    caps: Limits
    stops_at_cap: bool
    keep: frozenset[str]
    quiet: bool


def _run_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", value):
        raise click.BadParameter("a run is named by 1 to 128 letters, digits, dots, colons, hyphens and underscores")
    return value


def _loops(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "none":
        return value
    if not value.isascii() or not value.isdigit() or not 2 <= int(value) <= 100:
        raise click.BadParameter('write a number from 2 to 100, or "none"')
    return int(value)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--usd", type=USD, help="Most that the run may spend, in USD.")
@click.option("--calls", type=COUNT, help="Most model calls that the run may make.")
@click.option("--tokens", type=COUNT, help="Most tokens, input and output together.")
@click.option(
    "--loops",
    metavar="N|none",
    callback=_loops,
    help="Refuse it when it repeats itself N times, 2 to 100; none lets it. Default from the settings: 8.",
)
@click.option(
    "--run", "run_id", metavar="ID", callback=_run_name, help="Go on with this run; caps given now replace its own."
)
@click.option("--stop", is_flag=True, help="End the command at the cap, with exit status 124.")
@click.option(
    "--keep-env",
    "keep",
    metavar="NAME",
    multiple=True,
    help="Leave this provider's variable to the command; what it pays is not capped.",
)
@click.option("--quiet", is_flag=True, help="Write nothing but errors.")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.File("w", lazy=False),
    help="Write the receipt to FILE as JSON; - is stdout.",
)
@config_option
@ledger_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    command: tuple[str, ...],
    usd: Money | None,
    calls: int | None,
    tokens: int | None,
    loops: int | str | None,
    run_id: str | None,
    stop: bool,
    keep: tuple[str, ...],
    quiet: bool,
    json_file: IO[str] | None,
    config: Path | None,
    ledger: str | None,
) -> None:
    """Run COMMAND, any agent as it is, under a hard cap on what it spends on model calls.

    The command gets a run key instead of the provider keys, and every known agent finds the gateway through its own
    variables. A new run without any cap takes those of [defaults.run] in the settings.

    The exit status is the command's; 124 when --stop ended it at the cap, 125 when bursar itself failed, 126 and 127
    when the command cannot be executed or found. The receipt goes to stderr.

    Example: bursar run --usd 5 --calls 200 -- claude -p "fix the failing test"
    """
    from bursar.cli.agents import detour
    from bursar.cli.child import CannotStartError, ensure_startable

    try:
        ensure_startable(command, os.environ)
        if problem := detour(command, os.environ, Path.cwd()):
            raise FailedError(problem)
        from bursar.ledger.account import Limits

        plan = Plan(
            argv=command,
            settings=_settings(config, ledger, command, loops),
            run=run_id or _new_run(),
            is_resumed=run_id is not None,
            caps=Limits(usd=None if usd is None else usd.nanodollars, calls=calls, tokens=tokens),
            stops_at_cap=stop,
            keep=frozenset(keep),
            quiet=quiet,
        )
        receipt = _run_in_loop(plan)
    except CannotStartError as error:
        say(str(error))
        sys.exit(error.status)
    except FailedError as error:
        error.show()
        sys.exit(FAILED)
    if json_file is not None:
        json_file.write(json.dumps(receipt.facts(), indent=2) + "\n")
    if not quiet:
        for line in receipt.lines():
            say(line)
    sys.exit(receipt.exit_status)


def _settings(config: Path | None, ledger: str | None, command: tuple[str, ...], loops: int | str | None) -> Settings:
    """Give the settings, with the refusal status that stops this command where they leave the choice to us."""
    from bursar.cli.agents import refusal_status

    settings = settings_for(config, ledger).without_idle_end()
    if loops is not None:
        settings = settings.with_loops(None if loops == "none" else int(loops))
    status = refusal_status(command)
    if status is None or settings.policy.refusal_status != "auto":
        return settings
    return settings.model_copy(update={"policy": settings.policy.model_copy(update={"refusal_status": status})})


def _new_run() -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    return "r-" + "".join(secrets.choice(alphabet) for _ in range(12))


def _run_in_loop(plan: Plan) -> Receipt:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(plan))


async def _run(plan: Plan) -> Receipt:
    from bursar.cli.nested import live_inside, outer_of
    from bursar.cli.receipt import Receipt, Tally
    from bursar.edge.callers import digest

    began = time.monotonic()
    tally, was_stopped = Tally(plan.run), False
    async with open_books(plan.settings) as store:
        outer = await outer_of(store, os.environ)
        await _open_run(store, plan, outer)
        secret = await _make_run_key(store, plan, outer)
        try:
            if outer is not None:
                status = await live_inside(store, _start_child(plan, outer.url, secret), plan.run, tally)
            else:
                status, was_stopped = await _live_behind_own_gateway(plan, tally, secret)
        finally:
            await store.revoke_secret(digest(secret))
        accounts = await store.accounts(f"run:{plan.run}")
    return Receipt(
        run=plan.run,
        accounts=accounts,
        tally=tally,
        seconds=time.monotonic() - began,
        exit_status=STOPPED_AT_CAP if was_stopped else status,
        was_stopped=was_stopped,
    )


async def _live_behind_own_gateway(plan: Plan, tally: Tally, secret: str) -> tuple[int, bool]:
    """Give the command's exit status, and whether it was ended at the cap."""
    from bursar.cli.gateway import listen, url_of
    from bursar.cli.prices_update import warn_of_old_prices

    provider_keys = plan.settings.provider_keys(os.environ)
    _warn_without_keys(plan.settings, provider_keys)
    if not plan.quiet:
        warn_of_old_prices(plan.settings)
    # It listens from here on: a command that is quicker than the gateway waits a moment instead of failing.
    sockets = listen(LOOPBACK, 0, plan.settings.server.backlog_max)
    session = _Session(plan, tally, url_of(sockets[0]), secret)
    return await session.live(sockets, provider_keys), session.was_stopped


def _warn_without_keys(settings: Settings, provider_keys: Mapping[str, str]) -> None:
    if not provider_keys and all(upstream.needs_key for upstream in settings.upstreams.values()):
        wanted = ", ".join(sorted({upstream.key_env for upstream in settings.upstreams.values()}))
        say(f"warning: none of {wanted} is set here, so every model call will be refused")


# ---- the run in the books -------------------------------------------------------------------------------------------


async def _open_run(store: Store, plan: Plan, outer: Outer | None) -> None:
    """Open the run with its caps, or set those that were given anew on one that exists; raises FailedError."""
    from bursar.cli.nested import ensure_inside
    from bursar.edge.callers import LOCAL_KEY
    from bursar.ledger.account import Limits, Opened, OpenScope, SetLimit, Taken, Unit

    if outer is not None and plan.stops_at_cap:
        raise FailedError(f"--stop is for the outermost run: this is part of run {outer.key.run}; leave it out")
    key = outer.key.name if outer else LOCAL_KEY
    scope, owner = f"run:{plan.run}", f"key:{key}"
    local = plan.settings.keys.get(key)
    await store.submit(OpenScope(scope=owner, owner="", limits=local.limits if local else Limits()))
    caps = plan.caps
    if caps == Limits():
        caps = plan.settings.run_template(key).limits
    # Prompts are often arguments, so only the program's name is kept.
    label = PurePath(plan.argv[0]).name
    path = outer.inner_path if outer else ()
    answer = await store.submit(OpenScope(scope=scope, owner=owner, limits=caps, label=label, path=path))
    match answer:
        case Taken():
            raise FailedError(f"run {plan.run} belongs to {answer.owner}; choose another --run")
        case Opened(created=False):
            _ensure_open(plan.run, answer)
            await ensure_inside(store, plan.run, outer)
            given = ((Unit.USD, plan.caps.usd), (Unit.CALLS, plan.caps.calls), (Unit.TOKENS, plan.caps.tokens))
            for unit, limit in given:
                if limit is not None:
                    await store.submit(SetLimit(scope=scope, unit=unit, limit=limit))
        case Opened():
            if plan.is_resumed and not plan.quiet:
                say(f"there was no run {plan.run} yet; it is a new one")
        case _:
            raise FailedError(f"run {plan.run} cannot be opened: {answer}")
    if not plan.quiet:
        await _say_caps(store, plan, outer)


def _ensure_open(run: str, answer: Opened) -> None:
    from bursar.ledger.account import AccountState

    states = {account.state for account in answer.accounts}
    if AccountState.OVERRUN in states:
        raise FailedError(
            f"run {run} has an overrun; look at it with `bursar runs show {run}`, then `bursar runs resume {run}`"
        )
    if AccountState.STOPPED in states:
        raise FailedError(f"run {run} was stopped; `bursar runs resume {run}` lets it go on")


async def _say_caps(store: Store, plan: Plan, outer: Outer | None) -> None:
    from bursar.cli.common import amount

    accounts = await store.accounts(f"run:{plan.run}")
    caps = [
        f"{amount(account.unit, account.limit)}{'' if account.unit == 'usd' else f' {account.unit}'}"
        for account in accounts
        if account.limit is not None
    ]
    spent = next((account.captured for account in accounts if account.unit == "usd"), 0)
    so_far = f", {amount('usd', spent)} spent so far" if spent else ""
    inside = f" inside run {outer.key.run}" if outer else ""
    say(f"run {plan.run}{inside}: at most {' and '.join(caps) or 'what its key may spend'}{so_far}")


async def _make_run_key(store: Store, plan: Plan, outer: Outer | None) -> str:
    from bursar.edge.callers import LOCAL_KEY, digest, new_run_secret, template_to_json

    secret, caps = new_run_secret(), template_to_json(plan.caps)
    if outer is None:
        await store.put_key(LOCAL_KEY, digest(secret), plan.run, caps)
    else:
        own = outer.key
        await store.put_key(own.name, digest(secret), plan.run, caps, own.terms_json, own.expires_at)
    return secret


# ---- the command and its gateway ------------------------------------------------------------------------------------


def _start_child(plan: Plan, base_url: str, secret: str) -> Child:
    from bursar.cli.agents import arguments, environment
    from bursar.cli.child import Child

    # An agent that could sign would have people hear what never happened; one with another key, its caps as well.
    hidden = {name for one in plan.settings.webhooks.values() for name in (one.url_env, one.secret_env)}
    hidden |= {key.key_env for key in plan.settings.keys.values()}
    environ = environment(
        {name: value for name, value in os.environ.items() if name not in hidden},
        plan.argv,
        base_url,
        secret,
        plan.run,
        {name: upstream.key_env for name, upstream in plan.settings.upstreams.items()},
        plan.keep,
    )
    return Child(arguments(plan.argv, base_url), environ)


class _Session:
    """One command and the gateway beside it, from start to the last settlement."""

    def __init__(self, plan: Plan, tally: Tally, base_url: str, secret: str) -> None:
        self.was_stopped = False
        self._plan = plan
        self._tally = tally
        self._base_url = base_url
        self._secret = secret
        self._stopping: asyncio.Task[None] | None = None
        self._log: deque[str] = deque(maxlen=LOG_LINES_MAX)

    async def live(self, sockets: list[socket.socket], provider_keys: Mapping[str, str]) -> int:
        """Give the command's exit status, once all that it spent is in the books; raises FailedError."""
        child = _start_child(self._plan, self._base_url, self._secret)
        child.pass_signals_on()
        ending = asyncio.create_task(child.wait())
        try:
            server = await self._make_server(provider_keys, child)
            serving = asyncio.create_task(server.serve(sockets=sockets))
            await asyncio.wait({ending, serving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
                raise FailedError("the gateway ended before the command did")
            await self._drain(server, serving)
            return await ending
        finally:
            # Without its gateway the command must not go on, whatever went wrong here.
            await child.stop()
            await ending
            for line in self._log:
                click.echo(line, err=True)

    async def _make_server(self, provider_keys: Mapping[str, str], child: Child) -> GatewayServer:
        # The imports take longer than all else; the command starts up in the meantime.
        await asyncio.to_thread(_import_gateway)
        from bursar.cli.gateway import GatewayServer, config, log_to
        from bursar.edge.app import create_app
        from bursar.stores import open_store

        log_to(_LinesHandler(self._log))
        settings = self._plan.settings
        app = create_app(settings, open_store(settings.ledger.url, settings.ledger.marker), provider_keys)
        app.events.subscribe(self._tally.note)
        if self._plan.stops_at_cap:
            app.events.subscribe(lambda _event: self._stop_at_cap(child))
        made = config(app, settings.server, settings.server.drain_seconds_max)
        return GatewayServer(made, lambda: None)

    def _stop_at_cap(self, child: Child) -> None:
        if self._tally.has_hit_the_cap and self._stopping is None and not child.has_ended:
            self.was_stopped = True
            self._stopping = asyncio.create_task(child.stop())

    async def _drain(self, server: GatewayServer, serving: asyncio.Task[None]) -> None:
        """Let the calls that the command left behind end, so that the receipt is whole."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, server.cut)
        if self._tally.in_flight and not self._plan.quiet:
            say(f"waiting for {self._tally.in_flight} calls in flight; Ctrl-C books what they hold")
        server.stop()
        await serving


def _import_gateway() -> None:
    import bursar.cli.gateway
    import bursar.edge.app  # noqa: F401


class _LinesHandler(logging.Handler):
    """Keeps log lines until the command has given the terminal back."""

    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._lines.append(self.format(record))
