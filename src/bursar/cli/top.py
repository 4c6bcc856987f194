"""`bursar top`: live runs, with what they spent, hold and may still spend."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import amount, books_options, existing_books, run_async, settings_for, usd
from bursar.cli.runs import by_unit, run_facts, state_of

if TYPE_CHECKING:
    from rich.table import Table

    from bursar.ledger.store import RunRow
    from bursar.settings import Settings

BAR_CELLS = 20
COLUMNS_FOR_BAR = 130


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Between two looks.")
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="Newest runs to watch.")
@books_options
def top(seconds: float, once: bool, limit: int, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Watch live runs until Ctrl-C; with --json one line per look.

    Example: bursar top
    """
    settings = settings_for(config, ledger)
    with contextlib.suppress(KeyboardInterrupt):
        run_async(_lines(settings, seconds, once, limit) if as_json else _live(settings, seconds, once, limit))


async def _lines(settings: Settings, seconds: float, once: bool, limit: int) -> None:
    async with existing_books(settings) as store:
        while True:
            click.echo(json.dumps([run_facts(row) for row in await store.runs(limit)]))
            if once:
                return
            await asyncio.sleep(seconds)


async def _live(settings: Settings, seconds: float, once: bool, limit: int) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    async with existing_books(settings) as store:
        if once:
            console.print(_table(await store.runs(limit), console.width))
            return
        with Live(
            _table(await store.runs(limit), console.width),
            console=console,
            auto_refresh=False,
            screen=console.is_terminal,
        ) as live:
            while True:
                await asyncio.sleep(seconds)
                live.update(_table(await store.runs(limit), console.width), refresh=True)


def _table(rows: tuple[RunRow, ...], columns: int) -> Table:
    from rich.table import Table

    table = Table(title=f"bursar: {len(rows)} runs", box=None, pad_edge=False)
    for name in ("run", "command", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("spent", "held", "cap", "calls", "open", "refused"):
        table.add_column(name, justify="right", no_wrap=True)
    if columns >= COLUMNS_FOR_BAR:
        table.add_column("spent #  held +  left .", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row)[: len(table.columns)])
    return table


def _cells(row: RunRow) -> tuple[str, ...]:
    money, calls = by_unit(row).get("usd"), by_unit(row).get("calls")
    spent, held, cap = (money.captured + money.overrun, money.held, money.limit) if money else (0, 0, None)
    return (
        row.run,
        row.label or "-",
        state_of(row.accounts),
        usd(spent),
        usd(held),
        usd(cap),
        f"{calls.captured}/{amount('calls', calls.limit)}" if calls else "-",
        str(row.calls_open),
        str(row.calls_refused),
        bar(spent, held, cap),
    )


def bar(spent: int, held: int, cap: int | None) -> str:
    """Give a bar of what is spent (`#`), held (`+`) and left (`.`); empty where there is no cap.

    While anything is left, the bar is not full.
    """
    if not cap:
        return ""
    free = 1 if spent + held < cap else 0
    full = min(BAR_CELLS - free, -(-spent * BAR_CELLS // cap))
    waiting = min(BAR_CELLS - free - full, -(-held * BAR_CELLS // cap))
    return "#" * full + "+" * waiting + "." * (BAR_CELLS - full - waiting)
