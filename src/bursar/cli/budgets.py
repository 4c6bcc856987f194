"""`bursar budgets`: caps of everybody who spends, for a lifetime or anew with every period."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    COUNT,
    USD,
    FailedError,
    amount,
    at,
    books_options,
    by_option,
    existing_books,
    run_async,
    settings_for,
    show_json,
    show_table,
    who,
)

if TYPE_CHECKING:
    from bursar.edge.admin.books import Limits, Problem
    from bursar.edge.admin.positions import Position
    from bursar.ledger.account import Unit
    from bursar.money import Money
    from bursar.settings import Settings

PERIOD_HELP = "hour, day, week, month, 'rolling 5h' (also s, m, d, w), or lifetime."
ZONE_HELP = "Time zone of a calendar period, such as Europe/Berlin; default from [policy] timezone, else UTC."


@click.group()
def budgets() -> None:
    """List, set and remove the caps of everybody who spends; in force for the next call of every gateway.

    Example: bursar budgets set key:ci --usd 50 --period day --timezone Europe/Berlin
    """


@budgets.command("list")
@click.option("--scope", help="Only of this scope, such as key:ci.")
@books_options
def list_(scope: str | None, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """List every cap, with what is spent and held of it in its present period.

    Example: bursar budgets list --scope key:ci
    """
    rows = run_async(_positions(settings_for(config, ledger), scope))
    if as_json:
        show_json(list(map(_facts, rows)))
    else:
        show_table(HEAD, map(_line, rows))


@budgets.command("set")
@click.argument("scope")
@click.option("--usd", type=USD, help="Cap in USD.")
@click.option("--calls", type=COUNT, help="Cap in calls.")
@click.option("--tokens", type=COUNT, help="Cap in tokens, counted from now on.")
@click.option("--period", default="lifetime", show_default=True, help=PERIOD_HELP)
@click.option("--timezone", help=ZONE_HELP)
@by_option
@books_options
def set_(
    scope: str,
    usd: Money | None,
    calls: int | None,
    tokens: int | None,
    period: str,
    timezone: str | None,
    by: str | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Set caps of a scope; higher, or lower than what is spent already.

    Scopes are org, team:NAME, user:NAME, key:NAME, run:ID, tag:NAME=VALUE, model:NAME (also model:gpt-*) and
    upstream:NAME. A budget for a period counts from the moment when it is set for the first time. What [keys] in the
    settings says is set anew at the next start only if it has changed there.

    Example: bursar budgets set key:ci --usd 50 --period day
    """
    from bursar.ledger.account import Unit

    settings = settings_for(config, ledger)
    asked = {Unit.USD: None if usd is None else usd.nanodollars, Unit.CALLS: calls, Unit.TOKENS: tokens}
    limits: dict[Unit, int | None] = {unit: limit for unit, limit in asked.items() if limit is not None}
    if not limits:
        raise click.UsageError("say which cap: --usd, --calls or --tokens")
    _change(settings, scope, limits, _spec(settings, period, timezone), who(by), as_json)


@budgets.command()
@click.argument("scope")
@click.option("--unit", type=click.Choice(["usd", "calls", "tokens"]), required=True, help="Of the cap to remove.")
@click.option("--period", default="lifetime", show_default=True, help=PERIOD_HELP)
@click.option("--timezone", help=ZONE_HELP)
@by_option
@books_options
def remove(
    scope: str,
    unit: str,
    period: str,
    timezone: str | None,
    by: str | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Let a cap limit nothing any more; what is spent goes on to be counted.

    Example: bursar budgets remove key:ci --unit usd --period day
    """
    from bursar.ledger.account import Unit

    settings = settings_for(config, ledger)
    _change(settings, scope, {Unit(unit): None}, _spec(settings, period, timezone), who(by), as_json)


def _spec(settings: Settings, period: str, timezone: str | None) -> str:
    from bursar.ledger.periods import PeriodError, period_spec

    try:
        return period_spec(period, timezone or settings.policy.timezone)
    except PeriodError as error:
        raise click.UsageError(str(error)) from None


def _change(settings: Settings, scope: str, limits: Limits, spec: str, by: str, as_json: bool) -> None:
    rows = run_async(_set(settings, scope, limits, spec, by))
    if as_json:
        show_json(list(map(_facts, rows)))
    else:
        show_table(HEAD, map(_line, rows))


# ---- the books ------------------------------------------------------------------------------------------------------


async def _positions(settings: Settings, scope: str | None) -> list[Position]:
    from bursar.clock import SystemClock
    from bursar.edge.admin import books

    async with existing_books(settings) as store:
        return _found(await books.budgets(store, scope, SystemClock().now()))


async def _set(settings: Settings, scope: str, limits: Limits, spec: str, by: str) -> list[Position]:
    from bursar.clock import SystemClock
    from bursar.edge.admin import books

    async with existing_books(settings) as store:
        return _found(await books.set_limits(store, scope, limits, spec, by, SystemClock().now()))


def _found(rows: list[Position] | Problem) -> list[Position]:
    from bursar.edge.admin.books import Problem

    if isinstance(rows, Problem):
        raise FailedError(rows.message)
    return rows


# ---- output ---------------------------------------------------------------------------------------------------------

HEAD = ("SCOPE", "UNIT", "PERIOD", "LIMIT", "SPENT", "HELD", "STATE", "ENDS")


def _facts(row: Position) -> dict[str, object]:
    """Give a budget as JSON takes it; amounts are whole nanodollars, calls or tokens."""
    from bursar.ledger.periods import people

    return {
        "scope": row.scope,
        "unit": row.unit,
        "period": people(row.spec),
        "limit": row.limit,
        "spent": row.spent,
        "held": row.held,
        "state": row.state,
        "ends_at": None if row.ends_at is None else at(row.ends_at),
    }


def _line(row: Position) -> tuple[str, ...]:
    from bursar.ledger.periods import people

    figures = (amount(row.unit, value) for value in (row.limit, row.spent, row.held))
    return (row.scope, row.unit, people(row.spec), *figures, row.state, at(row.ends_at))
