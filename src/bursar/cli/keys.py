"""`bursar keys`: who may call. The books know only digests; a secret is shown once, when it is made."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    COUNT,
    USD,
    FailedError,
    at,
    books_options,
    existing_books,
    open_books,
    run_async,
    say,
    settings_for,
    show_json,
    show_table,
    usd,
)

if TYPE_CHECKING:
    from bursar.ledger.account import Limits
    from bursar.ledger.store import KeyRow
    from bursar.money import Money
    from bursar.settings import Settings


@click.group()
def keys() -> None:
    """List, create and revoke keys.

    Example: bursar keys create ci
    """


@keys.command("list")
@click.option("--all", "shows_all", is_flag=True, help="Show run keys and revoked keys, too.")
@books_options
def list_(shows_all: bool, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """List the keys; never their secrets.

    Example: bursar keys list
    """
    rows = run_async(_keys(settings_for(config, ledger)))
    shown = [row for row in rows if shows_all or (not row.run and row.revoked_at is None)]
    if as_json:
        show_json([_facts(row) for row in shown])
    else:
        show_table(("KEY", "RUN", "RUN USD", "RUN CALLS", "CREATED", "REVOKED"), map(_line, shown))


def _name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise click.BadParameter("a key is named by 1 to 64 letters, digits, dots, hyphens and underscores")
    return value


@keys.command()
@click.argument("name", callback=_name)
@click.option("--run-usd", type=USD, help="Most that each run of the key may spend; default from [defaults.run].")
@click.option("--run-calls", type=COUNT, help="Most calls that each run may make; default from [defaults.run].")
@click.option("--usd", type=USD, help="Most that all runs of the key together may spend.")
@click.option("--calls", type=COUNT, help="Most calls that all runs of the key together may make.")
@books_options
def create(
    name: str,
    run_usd: Money | None,
    run_calls: int | None,
    usd: Money | None,
    calls: int | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Make a key and show its secret, this once; a name may have several keys, which share its caps.

    Example: bursar keys create ci --run-usd 1.00 --run-calls 50
    """
    from bursar.ledger.account import Limits

    settings = settings_for(config, ledger)
    template = settings.run_template(name).limits
    if run_usd is not None:
        template = replace(template, usd=run_usd.nanodollars)
    if run_calls is not None:
        template = replace(template, calls=run_calls)
    own = Limits(usd=None if usd is None else usd.nanodollars, calls=calls)
    secret = run_async(_create(settings, name, template, own))
    if as_json:
        show_json({"key": name, "secret": secret})
    else:
        say(f"key {name}; the secret is shown only now:")
        click.echo(secret)


@keys.command()
@click.argument("name", callback=_name)
@books_options
def revoke(name: str, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Revoke every key of this name, run keys included; it works at once, in every worker.

    Example: bursar keys revoke ci
    """
    count = run_async(_revoke(settings_for(config, ledger), name))
    if as_json:
        show_json({"key": name, "revoked": count})
    else:
        click.echo(f"revoked {count} of {name}")


# ---- the books ------------------------------------------------------------------------------------------------------


async def _keys(settings: Settings) -> tuple[KeyRow, ...]:
    async with existing_books(settings) as store:
        return await store.keys()


async def _create(settings: Settings, name: str, template: Limits, own: Limits) -> str:
    from bursar.edge.callers import digest, new_secret, template_to_json
    from bursar.ledger.account import OpenScope, SetLimit, Unit

    scope = f"key:{name}"
    secret = new_secret()
    async with open_books(settings) as store:
        await store.submit(OpenScope(scope=scope, owner="", limits=own))
        for unit, limit in ((Unit.USD, own.usd), (Unit.CALLS, own.calls)):
            if limit is not None:
                await store.submit(SetLimit(scope=scope, unit=unit, limit=limit))
        await store.put_key(name, digest(secret), "", template_to_json(template))
    return secret


async def _revoke(settings: Settings, name: str) -> int:
    async with existing_books(settings) as store:
        count = await store.revoke_key(name)
    if not count:
        raise FailedError(f"there is no key {name} that could be revoked; `bursar keys list --all` shows them")
    return count


# ---- output ---------------------------------------------------------------------------------------------------------


def _template(row: KeyRow) -> Limits:
    from bursar.edge.callers import template_from_json

    return template_from_json(row.limits_json)


def _facts(row: KeyRow) -> dict[str, object]:
    template = _template(row)
    return {
        "key": row.name,
        "run": row.run,
        "run_caps": {"usd_nanodollars": template.usd, "calls": template.calls, "tokens": template.tokens},
        "created_at": at(row.created_at),
        "revoked_at": None if row.revoked_at is None else at(row.revoked_at),
    }


def _line(row: KeyRow) -> tuple[str, ...]:
    template = _template(row)
    calls = "-" if template.calls is None else str(template.calls)
    return (row.name, row.run or "-", usd(template.usd), calls, at(row.created_at), at(row.revoked_at))
