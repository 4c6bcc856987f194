"""`bursar ledger`: check the books against their own entries, see what is held, correct, and take them elsewhere."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from bursar.cli.common import (
    COUNT,
    USD,
    FailedError,
    amounts_facts,
    at,
    books_options,
    config_option,
    existing_books,
    ledger_option,
    run_async,
    settings_for,
    show_json,
    show_table,
    usd,
    without_password,
)
from bursar.cli.runs import ROWS_MAX, hold_facts, hold_line

if TYPE_CHECKING:
    from bursar.ledger.account import Answer
    from bursar.ledger.store import Entry, Finding, HoldRow
    from bursar.money import Money
    from bursar.settings import Settings

DISAGREES = 1


@click.group()
def ledger() -> None:
    """Verify, inspect, correct and export the books.

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


async def _holds(settings: Settings, limit: int) -> tuple[HoldRow, ...]:
    from bursar.ledger.account import HoldState

    async with existing_books(settings) as store:
        return await store.holds(HoldState.OPEN, limit)


async def _adjust(settings: Settings, call: str, cost: Money, tokens: int | None, evidence: str) -> Answer:
    from bursar.ledger.account import Adjust, Amounts

    async with existing_books(settings) as store:
        row = await store.hold(call)
        if row is None:
            raise FailedError(f"there is no call {call}; `bursar runs show RUN` lists the calls of a run")
        booked = row.captured.tokens + row.overrun.tokens
        actual = Amounts(usd=cost.nanodollars, calls=1, tokens=booked if tokens is None else tokens)
        return await store.submit(Adjust(call_id=call, actual=actual, evidence=evidence))


async def _export(settings: Settings, after: int, file: IO[str]) -> None:
    async with existing_books(settings) as store:
        async for entry in store.entries(after):
            file.write(json.dumps(entry_facts(entry)) + "\n")


def entry_facts(entry: Entry) -> dict[str, object]:
    """Give an entry as JSON takes it."""
    return {
        "seq": entry.seq,
        "at": at(entry.at),
        "at_microseconds": entry.at,
        "kind": entry.kind,
        "call": entry.call_id,
        "worker": entry.worker,
        "usd_nanodollars": entry.usd,
        "calls": entry.calls,
        "tokens": entry.tokens,
        "accounts": list(entry.accounts),
        "detail": entry.detail,
    }
