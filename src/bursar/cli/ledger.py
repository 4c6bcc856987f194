"""`bursar ledger`: check the books against their own entries, see what is held, correct, and take them elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from bursar.cli.archive import ArchiveFile, entry_facts
from bursar.cli.common import (
    COUNT,
    USD,
    FailedError,
    amounts_facts,
    at,
    books_options,
    config_option,
    existing_books,
    ledger_errors,
    ledger_of,
    ledger_option,
    run_async,
    say,
    settings_for,
    show_json,
    show_table,
    usd,
    who,
    without_password,
)
from bursar.cli.runs import ROWS_MAX, hold_facts, hold_line

if TYPE_CHECKING:
    from bursar.ledger.account import Answer
    from bursar.ledger.store import Adopted, Compacted, Finding, HoldRow
    from bursar.money import Money
    from bursar.settings import Settings

DISAGREES = 1
REST = 1
"""Somebody waits for the end of the folding, and calls wait for every step of it: to each the half of the time."""
# As in ledger.store; said again so that help comes at once.
KEEP_DAYS_MIN = 2
KEEP_DAYS_MAX = 36_500


@click.group()
def ledger() -> None:
    """Verify, inspect, correct, export and compact the books.

    Example: bursar ledger verify
    """


@ledger.command()
@books_options
def verify(config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Replay every entry and compare with every account and hold; exit status 1 when they disagree.

    Example: bursar ledger verify
    """
    settings = settings_for(config, ledger)
    findings = run_async(_verify(settings))
    if as_json:
        show_json({"agrees": not findings, "findings": [asdict(finding) for finding in findings]})
    elif findings:
        show_table(("WHERE", "WHAT", "BOOKED", "REPLAYED"), [(f.where, f.what, f.booked, f.replayed) for f in findings])
    else:
        click.echo(f"{without_password(settings.ledger.url)}: the books agree with their entries")
    if findings:
        sys.exit(DISAGREES)


@ledger.command()
@click.option("--limit", type=click.IntRange(1, ROWS_MAX), default=100, show_default=True, help="Newest holds to show.")
@books_options
def holds(limit: int, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """List the holds that are open: money set aside for calls in flight.

    Example: bursar ledger holds
    """
    rows = run_async(_holds(settings_for(config, ledger), limit))
    if as_json:
        show_json(list(map(hold_facts, rows)))
    else:
        show_table(("CALL", "MODEL", "STATE", "HELD", "SPENT", "BASIS", "AT", "WHY"), map(hold_line, rows))


@ledger.command()
@click.argument("call")
@click.option("--usd", "cost", type=USD, required=True, help="What the call did cost.")
@click.option("--tokens", type=COUNT, help="Tokens that it did use; default as booked.")
@click.option("--evidence", required=True, help="How you know, for example the provider's invoice line; it is kept.")
@books_options
def adjust(
    call: str,
    cost: Money,
    tokens: int | None,
    evidence: str,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Correct what a settled call is booked at, with evidence; the entry that it corrects stays.

    Example: bursar ledger adjust c-0123456789ab --usd 0.0123 --evidence "invoice 42, line 7"
    """
    answer = run_async(_adjust(settings_for(config, ledger), call, cost, tokens, evidence))
    from bursar.ledger.account import Settled

    if not isinstance(answer, Settled):
        raise FailedError(f"call {call} cannot be adjusted: {getattr(answer, 'why', answer)}")
    if as_json:
        show_json({"call": call, "captured": amounts_facts(answer.captured), "overrun": amounts_facts(answer.overrun)})
    else:
        click.echo(f"{call}: booked at {usd(answer.captured.usd + answer.overrun.usd)}")


@ledger.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@books_options
def adopt(yes: bool, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Accept a ledger that went back in time, such as one restored from a backup; shows what is missing, and asks.

    What was spent since is not in these books: calls that are missing here were billed all the same. Gateways that
    wait for the ledger go on by themselves.

    Example: bursar ledger adopt
    """
    settings = settings_for(config, ledger)
    found = run_async(_survey(settings))
    accepts = bool(found.trouble) and (yes or (not as_json and _asks(settings, found)))
    if accepts:
        found = run_async(_adopt(settings))
    if as_json:
        show_json({**asdict(found), "adopted": accepts, "at": at(found.at), "known_at": at(found.known_at)})
    elif not found.trouble:
        click.echo(f"{without_password(settings.ledger.url)}: nothing is missing, so there is nothing to accept")
    elif accepts:
        click.echo(f"accepted as epoch {found.epoch}; spending counts on from entry {found.entries}")
    if found.trouble and not accepts:
        sys.exit(DISAGREES)


def _asks(settings: Settings, found: Adopted) -> bool:
    click.echo(f"{without_password(settings.ledger.url)}: the ledger {found.trouble.removeprefix('the ledger ')}")
    click.echo(f"its last entry is {found.entries}, of {at(found.at)}")
    if found.missing:
        first, last = found.entries + 1, found.entries + found.missing
        click.echo(f"entries {first} to {last} are missing; the last one that was seen here is of {at(found.known_at)}")
    click.echo("what was spent since then is not in these books, and every limit has that much more room")
    return click.confirm("count from here?", default=False)


@ledger.command()
@click.option(
    "--keep-days",
    type=click.IntRange(KEEP_DAYS_MIN, KEEP_DAYS_MAX),
    help="Days of entries to keep; default from [ledger] keep_days.",
)
@click.option(
    "--archive",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the entries there first: JSON, one a line, gzipped; a file that is there is continued.",
)
@books_options
def compact(
    keep_days: int | None, archive: Path | None, config: Path | None, ledger: str | None, as_json: bool
) -> None:
    """Fold entries and settled calls that are older into balances, a little at a time; may run beside gateways.

    Every limit, sum and open call stays what it is, and `bursar ledger verify` goes on to prove the rest. Calls that
    are folded cannot be shown or adjusted any more.

    Example: bursar ledger compact --keep-days 90 --archive entries.jsonl.gz
    """
    settings = settings_for(config, ledger)
    days = settings.ledger.keep_days if keep_days is None else keep_days
    if days is None:
        raise click.UsageError("say how many days to keep: --keep-days 90, or keep_days = 90 under [ledger]")
    done = run_async(_compact(settings, days, archive, None if as_json else _progress()))
    if as_json:
        show_json(asdict(done))
    elif done.findings:
        say("the entries do not agree with the books, so nothing more was folded; see `bursar ledger verify`")
        show_table(("WHERE", "WHAT"), [(finding.where, finding.what) for finding in done.findings])
    elif done.is_busy:
        say("another process folds this ledger at the moment; try again later")
    else:
        click.echo(
            f"folded {done.entries} entries, {done.holds} calls and {done.accounts} accounts of periods that ended; "
            f"the books begin after entry {done.seq}"
        )
    if done.findings or done.is_busy:
        sys.exit(DISAGREES)


def _progress() -> Callable[[Compacted], None]:
    """Tell on a terminal how far the folding is, ten times a second at most."""
    if not sys.stderr.isatty():
        return lambda _: None
    last = time.monotonic()

    def tell(done: Compacted) -> None:
        nonlocal last
        if time.monotonic() - last >= 0.1 or done.is_done:
            last = time.monotonic()
            click.echo(f"\rfolded {done.entries} entries", nl=done.is_done, err=True)

    return tell


@ledger.command()
@click.option("--after", type=COUNT, default=0, show_default=True, help="Only entries after this number.")
@click.option(
    "--json", "json_file", type=click.File("w"), default="-", metavar="FILE", help="Where to; default stdout."
)
@config_option
@ledger_option
def export(after: int, json_file: IO[str], config: Path | None, ledger: str | None) -> None:
    """Write the entries as JSON, one a line, oldest first.

    Example: bursar ledger export --json entries.jsonl
    """
    run_async(_export(settings_for(config, ledger), after, json_file))


# ---- the books ------------------------------------------------------------------------------------------------------


async def _verify(settings: Settings) -> tuple[Finding, ...]:
    async with existing_books(settings) as store:
        return await store.audit()


async def _survey(settings: Settings) -> Adopted:
    with ledger_errors(settings):
        return await ledger_of(settings).survey()


async def _adopt(settings: Settings) -> Adopted:
    with ledger_errors(settings):
        return await ledger_of(settings).adopt(who(None))


async def _compact(
    settings: Settings, keep_days: int, archive: Path | None, tell: Callable[[Compacted], None] | None
) -> Compacted:
    from bursar.edge.retention import compact_all

    async with existing_books(settings) as store:
        if archive is None:
            return await compact_all(store, keep_days, None, tell, REST)
        identity = (await store.survey()).ledger
        with ArchiveFile(archive, identity) as kept:
            return await compact_all(store, keep_days, kept.add, tell, REST)


async def _holds(settings: Settings, limit: int) -> tuple[HoldRow, ...]:
    from bursar.ledger.account import HoldState

    async with existing_books(settings) as store:
        return await store.holds(HoldState.OPEN, limit)


async def _adjust(settings: Settings, call: str, cost: Money, tokens: int | None, evidence: str) -> Answer:
    from bursar.ledger.account import Adjust, Amounts

    async with existing_books(settings) as store:
        row = await store.hold(call)
        if row is None:
            raise FailedError(
                f"there is no call {call}; `bursar runs show RUN` lists the calls of a run. "
                "A call that was folded away with its entries (`bursar ledger compact`) cannot be adjusted any more"
            )
        booked = row.captured.tokens + row.overrun.tokens
        actual = Amounts(usd=cost.nanodollars, calls=1, tokens=booked if tokens is None else tokens)
        return await store.submit(Adjust(call_id=call, actual=actual, evidence=evidence))


async def _export(settings: Settings, after: int, file: IO[str]) -> None:
    async with existing_books(settings) as store:
        async for entry in store.entries(after):
            file.write(json.dumps(entry_facts(entry)) + "\n")
