"""`bursar budgets`: caps of keys and runs, for a lifetime or anew with every period; see, set and remove them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    existing_books,
    run_async,
    settings_for,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from bursar.clock import Instant
    from bursar.ledger.account import Account, SetLimit, Unit
    from bursar.money import Money
    from bursar.settings import Settings

PERIOD_HELP = "hour, day, week, month, 'rolling 5h' (also s, m, d, w), or lifetime."
ZONE_HELP = "Time zone of a calendar period, such as Europe/Berlin; default from [policy] timezone, else UTC."


@click.group()
def budgets() -> None:
    """List, set and remove the caps of keys and runs; in force for the next call of every gateway.

    Example: bursar budgets set key:ci --usd 50 --period day --timezone Europe/Berlin
    """


@budgets.command("list")
@click.option("--scope", help="Only of this key or run, such as key:ci.")
@books_options
def list_(scope: str | None, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """List every cap, with what is spent and held of it in its present period.

    Example: bursar budgets list --scope key:ci
    """
    rows = run_async(_positions(settings_for(config, ledger), scope))
    if as_json:
        show_json([row.facts() for row in rows])
    else:
        show_table(HEAD, [row.line() for row in rows])


@budgets.command("set")
@click.argument("scope")
@click.option("--usd", type=USD, help="Cap in USD.")
@click.option("--calls", type=COUNT, help="Cap in calls.")
@click.option("--tokens", type=COUNT, help="Cap in tokens, counted from now on.")
@click.option("--period", default="lifetime", show_default=True, help=PERIOD_HELP)
@click.option("--timezone", help=ZONE_HELP)
@books_options
def set_(
    scope: str,
    usd: Money | None,
    calls: int | None,
    tokens: int | None,
    period: str,
    timezone: str | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Set caps of a key (key:NAME) or a run (run:ID); higher, or lower than what is spent already.

    A budget for a period counts from the moment when it is set for the first time. What [keys] in the settings says
    is set anew at the next start only if it has changed there.

    Example: bursar budgets set key:ci --usd 50 --period day
    """
    from bursar.ledger.account import Unit

    settings = settings_for(config, ledger)
    asked = {Unit.USD: None if usd is None else usd.nanodollars, Unit.CALLS: calls, Unit.TOKENS: tokens}
    limits: dict[Unit, int | None] = {unit: limit for unit, limit in asked.items() if limit is not None}
    if not limits:
        raise click.UsageError("say which cap: --usd, --calls or --tokens")
    _change(settings, scope, limits, _spec(settings, period, timezone), as_json)


@budgets.command()
@click.argument("scope")
@click.option("--unit", type=click.Choice(["usd", "calls", "tokens"]), required=True, help="Of the cap to remove.")
@click.option("--period", default="lifetime", show_default=True, help=PERIOD_HELP)
@click.option("--timezone", help=ZONE_HELP)
@books_options
def remove(
    scope: str, unit: str, period: str, timezone: str | None, config: Path | None, ledger: str | None, as_json: bool
) -> None:
    """Let a cap limit nothing any more; what is spent goes on to be counted.

    Example: bursar budgets remove key:ci --unit usd --period day
    """
    from bursar.ledger.account import Unit

    settings = settings_for(config, ledger)
    _change(settings, scope, {Unit(unit): None}, _spec(settings, period, timezone), as_json)


def _spec(settings: Settings, period: str, timezone: str | None) -> str:
    from bursar.ledger.periods import PeriodError, period_spec

    try:
        return period_spec(period, timezone or settings.policy.timezone)
    except PeriodError as error:
        raise click.UsageError(str(error)) from None


def _change(settings: Settings, scope: str, limits: dict[Unit, int | None], spec: str, as_json: bool) -> None:
    from bursar.ledger.account import SetLimit

    rows = run_async(_set(settings, [SetLimit(scope, unit, limit, spec) for unit, limit in limits.items()]))
    if as_json:
        show_json([row.facts() for row in rows])
    else:
        show_table(HEAD, [row.line() for row in rows])


# ---- the books ------------------------------------------------------------------------------------------------------


async def _positions(settings: Settings, scope: str | None) -> list[Position]:
    from bursar.clock import SystemClock

    async with existing_books(settings) as store:
        found = positions(await store.accounts(scope), SystemClock().now())
        if scope is not None and not found:
            raise _nobody(scope)
        return [row for row in found if row.limit is not None or scope is not None]


async def _set(settings: Settings, limits: list[SetLimit]) -> list[Position]:
    from bursar.clock import SystemClock

    scope, spec = limits[0].scope, limits[0].period
    async with existing_books(settings) as store:
        accounts = await store.accounts(scope)
        if not accounts:
            raise _nobody(scope)
        now = SystemClock().now()
        there = {(row.unit, row.spec) for row in positions(accounts, now)}
        for limit in limits:
            if limit.limit is None and (limit.unit.value, spec) not in there:
                raise FailedError(f"{scope} has no such budget; `bursar budgets list --scope {scope}` shows them")
            await store.submit(limit)
        return [row for row in positions(await store.accounts(scope), now) if row.spec == spec]


def _nobody(scope: str) -> FailedError:
    return FailedError(f"the ledger does not know {scope}; keys are written key:NAME, runs run:ID")


# ---- output ---------------------------------------------------------------------------------------------------------

HEAD = ("SCOPE", "UNIT", "PERIOD", "LIMIT", "SPENT", "HELD", "STATE", "ENDS")


@dataclass(slots=True)
class Position:
    """One budget in its present period; of a rolling window everything that is still in it."""

    scope: str
    unit: str
    spec: str
    limit: int | None
    state: str
    ends_at: Instant | None
    """None for a lifetime, and for a window, which has no end."""
    spent: int = 0
    held: int = 0

    def facts(self) -> dict[str, object]:
        """Give the position as JSON takes it; amounts are whole nanodollars, calls or tokens."""
        from bursar.ledger.periods import people

        return {
            "scope": self.scope,
            "unit": self.unit,
            "period": people(self.spec),
            "limit": self.limit,
            "spent": self.spent,
            "held": self.held,
            "state": self.state,
            "ends_at": None if self.ends_at is None else at(self.ends_at),
        }

    def line(self) -> tuple[str, ...]:
        """Give the position as a line of a table."""
        from bursar.ledger.periods import people

        figures = (amount(self.unit, value) for value in (self.limit, self.spent, self.held))
        return (self.scope, self.unit, people(self.spec), *figures, self.state, at(self.ends_at))


def positions(accounts: Iterable[Account], now: Instant) -> list[Position]:
    """Put the slots of each budget together; a period that has ended and was not followed yet counts as empty."""
    from bursar.clock import Instant
    from bursar.ledger.periods import LIFETIME, slot_of, spec_of, window_microseconds

    found: dict[tuple[str, str, str], Position] = {}
    for account in sorted(accounts, key=lambda account: account.starts_at):
        spec = spec_of(account.period)
        window = window_microseconds(spec)
        key = (account.scope, account.unit.value, spec)
        ends_at = None if window or spec == LIFETIME else Instant(slot_of(spec, now).ends_at)
        row = found.setdefault(key, Position(*key, account.limit, account.state.value, ends_at))
        # The newest slot comes last, and its limit and state are the ones that hold.
        row.limit, row.state = account.limit, account.state.value
        row.held += account.held
        if account.ends_at + window > now:
            row.spent += account.captured + account.overrun
    return list(found.values())
