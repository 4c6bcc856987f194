"""`bursar events`: what happened that people want to hear of, and who was told."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import at, books_options, existing_books, run_async, settings_for

if TYPE_CHECKING:
    from bursar.clock import Instant
    from bursar.ledger.store import HappeningRow, Store
    from bursar.settings import Settings

FOLLOW_SECONDS = 1.0
OVERLAP_SECONDS = 60
"""How late a happening may be seen: the transaction that tells of it may end after a later one."""
PAGE_ROWS = 500
_AGO = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class SinceType(click.ParamType[Any]):
    """An instant: so long ago, or a day or time in UTC."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        """Read `2h`, `2026-11-24` or `2026-11-24T08:00:00Z`."""
        from bursar.clock import SECOND, Instant

        ago = _AGO.fullmatch(str(value))
        if ago is not None:
            return Instant(max(int(time.time()) - int(ago[1]) * _SECONDS[ago[2]], 0) * SECOND)
        try:
            moment = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time; write for example 2h, 7d, 2026-11-24 or 2026-11-24T08:00Z", param, ctx)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        return Instant(max(int(moment.timestamp()), 0) * SECOND)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--since", type=SinceType(), metavar="TIME", help="Only from then on: 2h, 7d, 2026-11-24; in UTC.")
@click.option(
    "--kind", "kinds", metavar="KIND", multiple=True, help="Only of this kind, such as threshold; repeatable."
)
@click.option("--limit", type=click.IntRange(0, PAGE_ROWS), default=50, show_default=True, help="The newest so many.")
@books_options
def events(
    follow: bool,
    since: Instant | None,
    kinds: tuple[str, ...],
    limit: int,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """List what people want to hear of, the newest last: thresholds, first refusals, overruns and quarantines.

    With --json one line of JSON for each. Kept for 30 days.

    Example: bursar events --follow --since 1h
    """
    settings = settings_for(config, ledger)
    with contextlib.suppress(KeyboardInterrupt):
        run_async(_events(settings, since, kinds, limit, follow, as_json))


async def _events(
    settings: Settings, since: Instant | None, kinds: tuple[str, ...], limit: int, follow: bool, as_json: bool
) -> None:
    from bursar.ledger.store import NEVER

    async with existing_books(settings) as store:
        # Before what is shown is read, so that nothing falls between the two.
        last = await store.outbox.newest(rows_max=1)
        shown = await store.outbox.newest(kinds, since or NEVER, rows_max=limit)
        _show(shown, as_json)
        if follow:
            await _follow(store, kinds, last[0] if last else None, {row.id for row in shown}, as_json)


async def _follow(
    store: Store, kinds: tuple[str, ...], last: HappeningRow | None, shown: set[int], as_json: bool
) -> None:
    from bursar.ledger.store import NEVER

    newest = last.at if last else NEVER
    seen = shown | {row.id for row in await _all_since(store, kinds, _earlier(newest)) if last and row.id <= last.id}
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        found = await _all_since(store, kinds, _earlier(newest))
        new = tuple(row for row in found if row.id not in seen)
        _show(new, as_json)
        # Only what may come once more has to be remembered.
        seen = {row.id for row in found}
        newest = max([newest, *(row.at for row in new)])


def _earlier(instant: Instant) -> Instant:
    from bursar.clock import SECOND, Instant

    return Instant(instant - OVERLAP_SECONDS * SECOND)


async def _all_since(store: Store, kinds: tuple[str, ...], since: Instant) -> list[HappeningRow]:
    from bursar.ledger.store import NEWEST

    rows: list[HappeningRow] = []
    while True:
        page = await store.outbox.newest(kinds, since, rows[-1].id if rows else NEWEST, PAGE_ROWS)
        rows += page
        if len(page) < PAGE_ROWS:
            return rows


def _show(rows: tuple[HappeningRow, ...], as_json: bool) -> None:
    for row in reversed(rows):
        click.echo(json.dumps(event_facts(row)) if as_json else _line(row))


def event_facts(row: HappeningRow) -> dict[str, object]:
    """Give a happening as JSON takes it, with who was told of it."""
    from bursar.edge.webhooks import facts

    told = [
        {"webhook": one.webhook, "state": str(one.state), "attempts": one.attempts, "said": one.said}
        for one in row.deliveries
    ]
    return {**facts(row), "deliveries": told}


def _line(row: HappeningRow) -> str:
    from bursar.edge.webhooks import sentence
    from bursar.ledger.store import DeliveryState

    late = [f"{one.webhook} {one.state}" for one in row.deliveries if one.state is not DeliveryState.DELIVERED]
    untold = f" (not told: {', '.join(late)})" if late else ""
    return f"{at(row.at)}  {row.kind:<10}  {sentence(row)}{untold}"
