"""`bursar canary`: how often the gateways of a ledger have proven that a spent cap refuses, and when one could not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import at, books_options, existing_books, run_async, say, settings_for, show_json

if TYPE_CHECKING:
    from bursar.ledger.store import HappeningRow, RunRow
    from bursar.settings import Settings

ROWS_MAX = 500


@click.command()
@click.option("--limit", type=click.IntRange(0, ROWS_MAX), default=20, show_default=True, help="The newest so many.")
@books_options
def canary(limit: int, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Show how often a call with nothing left was refused as it must be, and when a worker turned red or green again.

    Each worker sends such a call at its start and once every canary_seconds. What a running gateway says of itself is
    at its /readyz. Turns are kept for 30 days.

    Example: bursar canary --json
    """
    run_async(_show(settings_for(config, ledger), limit, as_json))


async def _show(settings: Settings, limit: int, as_json: bool) -> None:
    from bursar.edge.canary import KIND, RUN

    async with existing_books(settings) as store:
        row = await store.run(RUN)
        turns = await store.outbox.newest((KIND,), rows_max=limit)
    if as_json:
        show_json(facts(row, turns))
    elif row is None:
        say("no gateway has proven anything on this ledger yet; `bursar serve` and `bursar run` do so at their start")
    else:
        _write(row, turns)


def facts(row: RunRow | None, turns: tuple[HappeningRow, ...]) -> dict[str, object]:
    """Give the history as JSON takes it, the newest turn first."""
    return {
        "since": None if row is None else at(row.opened_at),
        "refused": 0 if row is None else row.calls_refused,
        "turns": [{"at": at(turn.at), **turn.detail} for turn in turns],
    }


def _write(row: RunRow, turns: tuple[HappeningRow, ...]) -> None:
    from bursar.edge.webhooks import sentence

    times = "once" if row.calls_refused == 1 else f"{row.calls_refused} times"
    click.echo(f"a call with nothing left was refused {times} since {at(row.opened_at)}")
    for turn in reversed(turns):
        click.echo(f"{at(turn.at)}  {sentence(turn)}")
    if not turns:
        click.echo("no canary has turned red")
