"""`bursar runs`: open runs, look at them, raise what they may spend, stop them, let them go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    COUNT,
    USD,
    FailedError,
    account_facts,
    amount,
    amounts_facts,
    at,
    books_options,
    by_option,
    existing_books,
    run_async,
    say,
    settings_for,
    show_json,
    show_table,
    usd,
    who,
)

if TYPE_CHECKING:
    from bursar.edge.admin.books import Limits, Problem
    from bursar.edge.admin.opening import OpenedRun, Wanted
    from bursar.ledger.account import Account, AccountState, Unit
    from bursar.ledger.store import HoldRow, RunRow, Store
    from bursar.money import Money
    from bursar.settings import Settings

ROWS_MAX = 10_000
ACCOUNT_HEAD = ("UNIT", "PERIOD", "LIMIT", "SPENT", "HELD", "OVERRUN", "STATE")


@click.group()
def runs() -> None:
    """Open, list, show, raise, stop and resume runs.

    Example: bursar runs list
    """


@runs.command("list")
@click.option("--limit", type=click.IntRange(1, ROWS_MAX), default=50, show_default=True, help="Newest runs to show.")
@books_options
def list_(limit: int, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """List the newest runs.

    Example: bursar runs list --limit 10
    """
    rows = run_async(_rows(settings_for(config, ledger), limit))
    if as_json:
        show_json([run_facts(row) for row in rows])
        return
    show_table(
        ("RUN", "COMMAND", "STATE", "SPENT", "HELD", "CAP", "CALLS", "REFUSED", "OPENED", "KEY"), map(_line, rows)
    )


@runs.command()
@click.argument("run")
@click.option("--limit", type=click.IntRange(1, ROWS_MAX), default=20, show_default=True, help="Newest calls to show.")
@books_options
def show(run: str, limit: int, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Show a run: its accounts, the runs that it is part of, its tags, and its newest calls.

    Example: bursar runs show r-abcdefghijkl
    """
    accounts, path, holds = run_async(_one(settings_for(config, ledger), run, limit))
    parents = [scope.removeprefix("run:") for scope in path if scope.startswith("run:")]
    tags = [scope.removeprefix("tag:") for scope in path if scope.startswith("tag:")]
    if as_json:
        facts = {"run": run, "parents": parents, "tags": tags, "accounts": list(map(account_facts, accounts))}
        show_json({**facts, "calls": list(map(hold_facts, holds))})
        return
    for what, names in (("inside", parents), ("tags", tags)):
        if names:
            click.echo(f"{what}: {', '.join(names)}")
    show_table(ACCOUNT_HEAD, map(_account_line, accounts))
    click.echo()
    show_table(("CALL", "MODEL", "STATE", "HELD", "SPENT", "BASIS", "AT", "WHY"), map(hold_line, holds))


@runs.command("open")
@click.option("--key", default="local", show_default=True, help="Whose run it is.")
@click.option("--parent", metavar="RUN", default="", help="The run that it is part of, whose money it spends.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Tags of all its calls, such as env=prod.")
@click.option("--usd", type=USD, help="Most that it may spend; default from the key's template.")
@click.option("--calls", type=COUNT, help="Most calls that it may make.")
@click.option("--tokens", type=COUNT, help="Most tokens.")
@click.option("--label", default="", help="What people see, such as the name of the agent.")
@by_option
@books_options
def open_(
    key: str,
    parent: str,
    tags: tuple[str, ...],
    usd: Money | None,
    calls: int | None,
    tokens: int | None,
    label: str,
    by: str | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Open a run and show the secret of the key that is bound to it, this once.

    Example: bursar runs open --key ci --usd 2 --parent r-abcdefghijkl
    """
    from bursar.edge.admin.opening import Wanted, filled
    from bursar.ledger.account import Limits
    from bursar.settings.values import tag_text

    settings = settings_for(config, ledger)
    try:
        checked = tuple(tag_text(tag) for tag in tags)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--tag") from None
    asked = Limits(None if usd is None else usd.nanodollars, calls, tokens)
    wanted = Wanted(filled(settings.run_template(key).limits, asked), label, parent, checked)
    made = run_async(_open(settings, key, wanted, who(by)))
    if as_json:
        show_json({**run_facts(made.row), "secret": made.secret})
    else:
        say(f"run {made.row.run}; the secret of its key is shown only now:")
        click.echo(made.secret)


@runs.command("raise")
@click.argument("run")
@click.option("--usd", type=USD, help="New cap in USD; the whole, not the difference.")
@click.option("--calls", type=COUNT, help="New cap in calls.")
@click.option("--tokens", type=COUNT, help="New cap in tokens.")
@by_option
@books_options
def raise_(
    run: str,
    usd: Money | None,
    calls: int | None,
    tokens: int | None,
    by: str | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Set the caps of a run anew, while it runs or not; lower is possible, too.

    Example: bursar runs raise r-abcdefghijkl --usd 10
    """
    from bursar.ledger.account import Unit

    asked = {Unit.USD: None if usd is None else usd.nanodollars, Unit.CALLS: calls, Unit.TOKENS: tokens}
    limits: dict[Unit, int | None] = {unit: limit for unit, limit in asked.items() if limit is not None}
    if not limits:
        raise click.UsageError("say which cap: --usd, --calls or --tokens")
    _show_accounts(run, run_async(_set_limits(settings_for(config, ledger), run, limits, who(by))), as_json)


@runs.command()
@click.argument("run")
@by_option
@books_options
def stop(run: str, by: str | None, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Refuse every further call of a run; calls in flight end as they would.

    Example: bursar runs stop r-abcdefghijkl
    """
    from bursar.ledger.account import AccountState

    accounts = run_async(_set_state(settings_for(config, ledger), run, AccountState.STOPPED, who(by)))
    _show_accounts(run, accounts, as_json)


@runs.command()
@click.argument("run")
@by_option
@books_options
def resume(run: str, by: str | None, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Let a run that was stopped, was idle, or had an overrun, make calls again, as far as its caps go.

    Example: bursar runs resume r-abcdefghijkl
    """
    from bursar.ledger.account import AccountState

    accounts = run_async(_set_state(settings_for(config, ledger), run, AccountState.OPEN, who(by)))
    _show_accounts(run, accounts, as_json)


# ---- the books ------------------------------------------------------------------------------------------------------


async def _rows(settings: Settings, limit: int) -> tuple[RunRow, ...]:
    async with existing_books(settings) as store:
        return await store.runs(limit)


async def _one(settings: Settings, run: str, limit: int) -> tuple[tuple[Account, ...], tuple[str, ...], list[HoldRow]]:
    async with existing_books(settings) as store:
        accounts = await _accounts(store, run)
        own = {account.id for account in accounts}
        # The books keep no index of calls by run; looking through the newest is enough for people.
        holds = [hold for hold in await store.holds(None, ROWS_MAX) if own & set(hold.accounts)]
        return accounts, await store.path_of(f"run:{run}") or (), holds[:limit]


async def _open(settings: Settings, key: str, wanted: Wanted, by: str) -> OpenedRun:
    from bursar.edge.admin.books import Problem
    from bursar.edge.admin.opening import open_run
    from bursar.edge.callers import Callers
    from bursar.edge.wiring import rules_of

    async with existing_books(settings) as store:
        if not await store.accounts(f"key:{key}"):
            raise FailedError(f"there is no key {key}; `bursar keys list` shows them")
        holder = await Callers(store, {}, rules_of(settings)).named(key, wanted.limits)
        made = await open_run(store, holder, wanted, by)
    if isinstance(made, Problem):
        raise FailedError(made.message)
    return made


async def _set_limits(settings: Settings, run: str, limits: Limits, by: str) -> tuple[Account, ...]:
    from bursar.edge.admin import books

    async with existing_books(settings) as store:
        _done(await books.raise_run(store, run, limits, by))
        return await _accounts(store, run)


async def _set_state(settings: Settings, run: str, state: AccountState, by: str) -> tuple[Account, ...]:
    from bursar.edge.admin import books

    async with existing_books(settings) as store:
        _done(await books.set_state(store, run, state, by))
        return await _accounts(store, run)


def _done(problem: Problem | None) -> None:
    if problem is not None:
        raise FailedError(problem.message)


async def _accounts(store: Store, run: str) -> tuple[Account, ...]:
    from bursar.edge.admin.books import no_run

    accounts = await store.accounts(f"run:{run}")
    if not accounts:
        _done(no_run(run))
    return accounts


# ---- output ---------------------------------------------------------------------------------------------------------


def run_facts(row: RunRow) -> dict[str, object]:
    """Give a run as JSON takes it."""
    return {
        "run": row.run,
        "key": row.owner.removeprefix("key:"),
        "command": row.label,
        "opened_at": at(row.opened_at),
        "calls_open": row.calls_open,
        "calls_refused": row.calls_refused,
        "accounts": [account_facts(account) for account in row.accounts],
    }


def hold_facts(hold: HoldRow) -> dict[str, object]:
    """Give a hold as JSON takes it."""
    return {
        "call": hold.call_id,
        "state": str(hold.state),
        "model": hold.model,
        "upstream": hold.upstream,
        "accounts": list(hold.accounts),
        "held": amounts_facts(hold.held),
        "captured": amounts_facts(hold.captured),
        "overrun": amounts_facts(hold.overrun),
        "basis": hold.basis,
        "why": hold.why,
        "worker": hold.worker,
        "opened_at": at(hold.opened_at),
        "settled_at": at(hold.settled_at),
    }


def hold_line(hold: HoldRow) -> tuple[str, ...]:
    """Give a hold as a line of a table."""
    return (
        hold.call_id,
        hold.model,
        str(hold.state),
        usd(hold.held.usd),
        usd(hold.captured.usd + hold.overrun.usd),
        hold.basis or "-",
        at(hold.opened_at),
        hold.why,
    )


def by_unit(row: RunRow) -> dict[str, Account]:
    """Give the lifetime accounts of a run by the name of their unit."""
    from bursar.ledger.periods import LIFETIME

    return {str(account.unit): account for account in row.accounts if account.period == LIFETIME}


def state_of(accounts: tuple[Account, ...]) -> str:
    """Give the state of a run: that of the first account which is not open."""
    return next((str(account.state) for account in accounts if account.state != "open"), "open")


def _line(row: RunRow) -> tuple[str, ...]:
    money, calls = by_unit(row).get("usd"), by_unit(row).get("calls")
    return (
        row.run,
        row.label or "-",
        state_of(row.accounts),
        usd(money.captured + money.overrun if money else None),
        usd(money.held if money else None),
        usd(money.limit if money else None),
        f"{calls.captured}/{amount('calls', calls.limit)}" if calls else "-",
        str(row.calls_refused),
        at(row.opened_at),
        row.owner.removeprefix("key:"),
    )


def _account_line(account: Account) -> tuple[str, ...]:
    from bursar.ledger.periods import people, spec_of

    unit, (kind, _, start) = str(account.unit), account.period.partition(" ")
    period = f"{people(spec_of(kind))} from {start}" if start else people(kind)
    amounts = (account.limit, account.captured, account.held, account.overrun)
    return (unit, period, *(amount(unit, value) for value in amounts), str(account.state))


def _show_accounts(run: str, accounts: tuple[Account, ...], as_json: bool) -> None:
    if as_json:
        show_json({"run": run, "accounts": list(map(account_facts, accounts))})
    else:
        show_table(ACCOUNT_HEAD, map(_account_line, accounts))
