"""`bursar keys`: who may call. The books know only digests; a secret is shown once, when it is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from bursar.cli.common import (
    COUNT,
    USD,
    F,
    FailedError,
    at,
    books_options,
    by_option,
    existing_books,
    open_books,
    run_async,
    say,
    settings_for,
    show_json,
    show_table,
    usd,
    who,
)

if TYPE_CHECKING:
    from bursar.clock import Instant
    from bursar.edge.admin.books import Problem
    from bursar.edge.admin.keybook import Made
    from bursar.ledger.account import Limits
    from bursar.ledger.store import KeyRow, Store
    from bursar.money import Money
    from bursar.settings import Settings

KEY_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SECONDS_OF = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@click.group()
def keys() -> None:
    """List, create, rotate and revoke keys; in force for the next call of every gateway.

    Example: bursar keys create ci --team research --expires 90d
    """


@keys.command("list")
@click.option("--all", "shows_all", is_flag=True, help="Show run keys, and those that are revoked or expired, too.")
@books_options
def list_(shows_all: bool, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """List the keys; never their secrets.

    Example: bursar keys list
    """
    from bursar.clock import SystemClock
    from bursar.edge.admin.keybook import is_live

    rows, now = run_async(_keys(settings_for(config, ledger))), SystemClock().now()
    shown = [row for row in rows if shows_all or (not row.run and is_live(row, now))]
    if as_json:
        show_json([_facts(row) for row in shown])
    else:
        show_table(HEAD, map(_line, shown))


# ---- options --------------------------------------------------------------------------------------------------------


def _name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(KEY_NAME, value):
        raise click.BadParameter("a key is named by 1 to 64 letters, digits, dots, hyphens and underscores")
    return value


def _checked(check: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a callback that has one value, or each of many, looked at by what raises ValueError."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    check(one)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        return value

    return callback


def _is_tag(value: str) -> object:
    from bursar.settings.values import tag_text

    return tag_text(value)


def _is_tag_name(value: str) -> object:
    from bursar.settings.values import tag_name

    return tag_name(value)


def _is_person(value: str) -> object:
    from bursar.settings.values import spender_name

    return spender_name(value)


def _is_network(value: str) -> object:
    from bursar.settings.values import network

    return network(value)


class When(click.ParamType[Any]):
    """A time from now, or a date, or a time with its zone."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        """Read `90d`, `2027-01-31` or `2027-01-31T18:00:00Z`."""
        from bursar.clock import Instant, SystemClock
        from bursar.settings.values import instant

        now = SystemClock().now()
        if span := microseconds(str(value)):
            return Instant(now + span)
        try:
            found = cast("Instant", instant(str(value)))
        except ValueError as error:
            self.fail(f"{error}; or a time from now, such as 12h or 90d", param, ctx)
        if found <= now:
            self.fail(f"{value} is past", param, ctx)
        return found


def microseconds(text: str) -> int:
    """Read `30m`, `24h`, `90d` or `2w`; 0 for anything else."""
    from bursar.clock import SECOND

    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    return int(found[1]) * SECONDS_OF[found[2]] * SECOND if found else 0


def _overlap(ctx: click.Context, param: click.Parameter, value: str) -> int:
    if value != "0" and not microseconds(value):
        raise click.BadParameter("a time such as 30m, 24h or 7d; 0 ends the old secret at once")
    return microseconds(value)


def _terms(command: F) -> F:
    """Add what a key may do, and whose it is."""
    options = (
        click.option("--team", callback=_checked(_is_person), help="Team whose budgets pay as well."),
        click.option(
            "--user", callback=_checked(_is_person), help="User whose budgets pay; * lets the client name one."
        ),
        click.option(
            "--tag", "tags", multiple=True, callback=_checked(_is_tag), help="env=prod: of every call, fixed."
        ),
        click.option(
            "--require-tag",
            "tags_required",
            multiple=True,
            callback=_checked(_is_tag_name),
            help="Name of a tag to send.",
        ),
        click.option("--models", multiple=True, metavar="GLOB", help="Models that the key may call, such as gpt-*."),
        click.option("--upstreams", multiple=True, metavar="GLOB", help="Upstreams that the key may call."),
        click.option(
            "--network",
            "networks",
            multiple=True,
            callback=_checked(_is_network),
            help="Where it may be used: 10.0.0.0/8.",
        ),
        click.option("--runs-per-hour", "runs_per_hour_max", type=click.IntRange(1, 1_000_000), help="Most new runs."),
        click.option(
            "--role", type=click.Choice(["viewer", "operator", "admin"]), help="For the books, not for calls."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


# ---- commands -------------------------------------------------------------------------------------------------------


@keys.command()
@click.argument("name", callback=_name)
@click.option("--run-usd", type=USD, help="Most that each run of the key may spend; default from [defaults.run].")
@click.option("--run-calls", type=COUNT, help="Most calls that each run may make; default from [defaults.run].")
@click.option("--usd", type=USD, help="Most that all runs of the key together may spend.")
@click.option("--calls", type=COUNT, help="Most calls that all runs of the key together may make.")
@click.option("--expires", type=When(), metavar="WHEN", help="90d, 2027-01-31 or 2027-01-31T18:00:00Z.")
@_terms
@by_option
@books_options
def create(
    name: str,
    run_usd: Money | None,
    run_calls: int | None,
    usd: Money | None,
    calls: int | None,
    expires: Instant | None,
    by: str | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
    **terms: Any,
) -> None:
    """Make a key and show its secret, this once; a name may have several keys, which share its caps.

    What --team, --user, --tag and the like do not say, [keys.NAME] in the settings says where it is there.

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
    _show_secret(run_async(_create(settings, name, template, own, terms, expires, who(by))), as_json)


@keys.command()
@click.argument("name", callback=_name)
@click.option(
    "--overlap", default="24h", show_default=True, callback=_overlap, help="How long the old one works; or 0."
)
@click.option("--id", "key_id", metavar="ID", help="Of several keys of the name, as `bursar keys list` shows it.")
@by_option
@books_options
def rotate(
    name: str,
    overlap: int,
    key_id: str | None,
    by: str | None,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Make a new secret with the same caps and terms; the old one works until the overlap is over.

    Example: bursar keys rotate ci --overlap 1h
    """
    _show_secret(run_async(_rotate(settings_for(config, ledger), name, key_id, overlap, who(by))), as_json)


@keys.command()
@click.argument("name", callback=_name, required=False)
@click.option("--id", "key_id", metavar="ID", help="Only this key, as `bursar keys list` shows it.")
@by_option
@books_options
def revoke(
    name: str | None, key_id: str | None, by: str | None, config: Path | None, ledger: str | None, as_json: bool
) -> None:
    """Revoke every key of this name, run keys included, or one; it works at once, in every worker.

    Example: bursar keys revoke ci
    """
    if (name is None) == (key_id is None):
        raise click.UsageError("say which: NAME for all keys of a name, or --id for one")
    count = run_async(_revoke(settings_for(config, ledger), name or "", key_id or "", who(by)))
    if as_json:
        show_json({"key": name, "id": key_id, "revoked": count})
    else:
        click.echo(f"revoked {count} of {name or key_id}")


# ---- the books ------------------------------------------------------------------------------------------------------


async def _keys(settings: Settings) -> tuple[KeyRow, ...]:
    async with existing_books(settings) as store:
        return await store.keys()


async def _create(
    settings: Settings,
    name: str,
    template: Limits,
    own: Limits,
    terms: dict[str, Any],
    expires: Instant | None,
    by: str,
) -> Made:
    from bursar.edge.admin import keybook
    from bursar.edge.callers import terms_to_json
    from bursar.ledger.account import Limits, OpenScope, SetLimit, Unit

    scope = f"key:{name}"
    caps = Limits() if terms["role"] else template
    async with open_books(settings) as store:
        if own != Limits():
            await store.submit(OpenScope(scope=scope, owner="", limits=own))
        for unit, limit in ((Unit.USD, own.usd), (Unit.CALLS, own.calls)):
            if limit is not None:
                await store.submit(SetLimit(scope=scope, unit=unit, limit=limit, by=by))
        return _made(await keybook.create(store, name, caps, terms_to_json(terms), expires, by))


async def _rotate(settings: Settings, name: str, key_id: str | None, overlap: int, by: str) -> Made:
    from bursar.clock import SystemClock
    from bursar.edge.admin import keybook

    now = SystemClock().now()
    async with existing_books(settings) as store:
        live = [row for row in await store.keys() if row.name == name and not row.run and keybook.is_live(row, now)]
        found = [row for row in live if key_id in (None, row.id)]
        if not found:
            raise FailedError(f"there is no such key of {name} that works; `bursar keys list --all` shows them")
        if len(found) > 1:
            raise FailedError(
                f"{name} has {len(found)} keys; say which with --id: {', '.join(row.id for row in found)}"
            )
        return _made(await keybook.rotate(store, found[0], overlap, by, now))


async def _revoke(settings: Settings, name: str, key_id: str, by: str) -> int:
    async with existing_books(settings) as store:
        rows = [row for row in await store.keys() if row.revoked_at is None and (row.name == name or row.id == key_id)]
        count = await _revoke_rows(store, rows, name, by)
    if not count:
        wanted = f"key {name}" if name else f"key {key_id}"
        raise FailedError(f"there is no {wanted} that could be revoked; `bursar keys list --all` shows them")
    return count


async def _revoke_rows(store: Store, rows: list[KeyRow], name: str, by: str) -> int:
    from bursar.ledger.account import Note

    if not rows:
        return 0
    count = await (store.revoke_key(name) if name else store.revoke_secret(rows[0].digest))
    before = json.dumps([row.id for row in rows])
    await store.submit(Note(by, "key revoked", f"key:{rows[0].name}", before))
    return count


def _made(made: Made | Problem) -> Made:
    from bursar.edge.admin.books import Problem

    if isinstance(made, Problem):
        raise FailedError(made.message)
    return made


# ---- output ---------------------------------------------------------------------------------------------------------

HEAD = ("ID", "KEY", "RUN", "RUN USD", "RUN CALLS", "TERMS", "CREATED", "EXPIRES", "REVOKED")


def _show_secret(made: Made, as_json: bool) -> None:
    if as_json:
        show_json({"key": made.row.name, "id": made.row.id, "secret": made.secret})
    else:
        say(f"key {made.row.name} ({made.row.id}); the secret is shown only now:")
        click.echo(made.secret)


def _template(row: KeyRow) -> Limits:
    from bursar.edge.callers import template_from_json

    return template_from_json(row.limits_json)


def _facts(row: KeyRow) -> dict[str, object]:
    template = _template(row)
    return {
        "id": row.id,
        "key": row.name,
        "run": row.run,
        "run_caps": {"usd_nanodollars": template.usd, "calls": template.calls, "tokens": template.tokens},
        "terms": json.loads(row.terms_json),
        "created_at": at(row.created_at),
        "expires_at": None if row.expires_at is None else at(row.expires_at),
        "revoked_at": None if row.revoked_at is None else at(row.revoked_at),
    }


def _line(row: KeyRow) -> tuple[str, ...]:
    template = _template(row)
    calls = "-" if template.calls is None else str(template.calls)
    terms = json.loads(row.terms_json)
    said = [f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in terms.items()]
    ends = (at(row.created_at), at(row.expires_at), at(row.revoked_at))
    return (row.id, row.name, row.run or "-", usd(template.usd), calls, " ".join(said) or "-", *ends)
