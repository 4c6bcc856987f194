"""`bursar config`: whether the settings can be used, and what they would change in the ledger."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    amount,
    books_options,
    config_option,
    json_option,
    ledger_errors,
    open_books,
    run_async,
    settings_for,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from bursar.edge.declared import Declaration
    from bursar.ledger.account import Account
    from bursar.settings import Settings

DIFFERENT = 1
MISSING = 1


@click.group()
def config() -> None:
    """Check the settings, and compare what they declare with the ledger.

    Example: bursar config check
    """


@config.command()
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Say whether a gateway could start with these settings; exit status 2 for settings that are wrong, 1 for variables
    that are not set.

    Example: bursar config check --config bursar.toml
    """
    settings = settings_for(config, None)
    missing = _missing(settings)
    if as_json:
        show_json({"ok": not missing, "keys": len(settings.keys), "upstreams": [*settings.upstreams], "unset": missing})
    else:
        click.echo(
            f"the settings can be read: {_count(len(settings.keys), 'key')}, "
            f"{_count(len(settings.models), 'own price')}, upstreams {', '.join(settings.upstreams)}"
        )
        for variable, wanted in missing.items():
            click.echo(f"{variable} is not set: {wanted}")
    if missing:
        sys.exit(MISSING)


@config.command()
@books_options
def diff(config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Compare the limits that the settings declare with those in force, and say what the next start or SIGHUP changes.

    A limit that was set at run time stays until it changes in the settings. Exit status 1 when there is a difference.

    Example: bursar config diff --config bursar.toml
    """
    settings = settings_for(config, ledger)
    rows = run_async(_differences(settings))
    if as_json:
        show_json([asdict(row) for row in rows])
    elif rows:
        show_table(("SCOPE", "UNIT", "PERIOD", "SETTINGS", "IN FORCE", "NEXT START"), [row.line() for row in rows])
    else:
        click.echo("every limit that the settings declare is in force")
    if rows:
        sys.exit(DIFFERENT)


@dataclass(frozen=True, slots=True)
class Difference:
    """One limit that is not in force as the settings say."""

    scope: str
    unit: str
    period: str
    settings: int | None
    """In nanodollars, calls or tokens; None is without limit, or not declared (any more)."""
    in_force: int | None
    then: str
    """`set`, `removed`, or `stays` for what was set at run time."""

    def line(self) -> tuple[str, ...]:
        """Give the row that people read."""
        said = ("-" if limit is None else amount(self.unit, limit) for limit in (self.settings, self.in_force))
        return (self.scope, self.unit, self.period, *said, self.then)


async def _differences(settings: Settings) -> list[Difference]:
    from bursar.edge.wiring import declarations
    from bursar.stores import is_there

    with ledger_errors(settings):
        if not await is_there(settings.ledger.url):
            return [row for one in declarations(settings) for row in compare(one, "", ())]
    async with open_books(settings) as store:
        return [
            row
            for one in declarations(settings)
            for row in compare(one, await store.declared(one.scope), await store.accounts(one.scope))
        ]


def compare(declaration: Declaration, before: str, accounts: tuple[Account, ...]) -> list[Difference]:
    """Give what differs for one scope; `before` is what the settings said when they were last put in force."""
    from bursar.ledger.periods import spec_of

    wanted = {(str(budget.unit), budget.period): budget.limit for budget in declaration.budgets}
    there = {(str(account.unit), spec_of(account.period)): account.limit for account in accounts}
    is_changed = before != declaration.to_text()
    rows = []
    for unit, period in sorted(wanted.keys() | declaration.dropped(before)):
        limit, in_force = wanted.get((unit, period)), there.get((unit, period))
        if limit != in_force:
            then = "stays" if not is_changed else "set" if (unit, period) in wanted else "removed"
            rows.append(Difference(declaration.scope, unit, period, limit, in_force, then))
    return rows


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _missing(settings: Settings) -> dict[str, str]:
    """Give the variables that the settings name and that are not set, each with who wants it."""
    wanted = {key.key_env: f"the secret of [keys.{name}]" for name, key in settings.keys.items() if key.key_env}
    has_any = bool(settings.provider_keys(os.environ)) or any(not one.needs_key for one in settings.upstreams.values())
    if not has_any:
        wanted |= {one.key_env: f"the key of [upstreams.{name}]" for name, one in settings.upstreams.items()}
    return {variable: why for variable, why in wanted.items() if not os.environ.get(variable)}
