"""`bursar webhooks`: who is told of what happens, and a test of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from bursar.cli.common import (
    FailedError,
    config_option,
    json_option,
    run_async,
    settings_for,
    show_json,
    show_table,
)

NOT_TAKEN = 1


@click.group()
def webhooks() -> None:
    """List webhooks, and send one a test.

    Example: bursar webhooks test ops
    """


@webhooks.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the webhooks of the settings; of an address only the host is shown.

    Example: bursar webhooks list
    """
    from bursar.edge.wiring import webhook_of

    settings = settings_for(config, None)
    rows: list[tuple[str, str, str, str, str]] = []
    for name, given in settings.webhooks.items():
        place, trouble = "-", "-"
        try:
            place = webhook_of(name, settings, os.environ).place
        except ValueError as error:
            trouble = str(error)
        rows.append((name, place, given.format, ", ".join(given.events) or "all", trouble))
    head = ("webhook", "host", "format", "events", "trouble")
    if as_json:
        show_json([dict(zip(head, row, strict=True)) for row in rows])
    else:
        show_table(head, rows)


@webhooks.command()
@click.argument("name")
@config_option
@json_option
def test(name: str, config: Path | None, as_json: bool) -> None:
    """Send a webhook an event of the kind `test`, signed as all are, and say what came back.

    The exit status is 1 where it was not taken.

    Example: bursar webhooks test ops
    """
    from bursar.clock import SystemClock
    from bursar.edge.webhooks import event_id, send
    from bursar.edge.wiring import webhook_of
    from bursar.ledger.store import HappeningRow

    settings = settings_for(config, None)
    if name not in settings.webhooks:
        known = ", ".join(settings.webhooks) or "none is set"
        raise FailedError(f"there is no [webhooks.{name}] in the settings (known: {known})")
    try:
        webhook = webhook_of(name, settings, os.environ)
    except ValueError as error:
        raise FailedError(str(error)) from None
    now = SystemClock().now()
    row = HappeningRow(0, "test", str(time.time_ns()), now, name, {})
    answer = run_async(send(webhook, row, now))
    if as_json:
        facts = {"webhook": name, "host": webhook.place, "id": event_id(row)}
        show_json({**facts, "is_delivered": answer.is_delivered, "status": answer.status, "said": answer.said})
    else:
        verdict = "took it" if answer.is_delivered else "did not take it"
        click.echo(f"{webhook.place} {verdict}: {answer.said}")
    if not answer.is_delivered:
        raise SystemExit(NOT_TAKEN)
