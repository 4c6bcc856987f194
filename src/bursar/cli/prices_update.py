"""`bursar prices update`: takes a newer price book after a look at every change, and gives the one before back."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import (
    FailedError,
    WrongSettingsError,
    books_options,
    run_async,
    say,
    settings_for,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from bursar.pricing.book import Book
    from bursar.pricing.update import Change
    from bursar.settings import Settings

RATES_URL = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
LIMITS_URL = "https://raw.githubusercontent.com/BerriAI/litellm/main/model_prices_and_context_window.json"
FETCH_SECONDS_MAX = 120.0
STALE_DAYS = 30


@click.command()
@click.option("--from", "rates", metavar="FILE|URL", help="Price data of genai-prices; default: from its repository.")
@click.option(
    "--limits",
    metavar="FILE|URL",
    help="Windows and second prices, as LiteLLM lists them; default: from its repository, or as they are with --from.",
)
@click.option("--made-on", metavar="DATE", help="The day on which both were the newest; default today.")
@click.option("--accept-cheaper", is_flag=True, help="Take prices and bounds that are lower than before.")
@click.option("--accept-gone", is_flag=True, help="Take a book that does not price what is priced now.")
@click.option("--back", is_flag=True, help="Go back to the book before the last update.")
@books_options
def update(
    rates: str | None,
    limits: str | None,
    made_on: str | None,
    accept_cheaper: bool,
    accept_gone: bool,
    back: bool,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Take a newer price book, after every change is shown; what is cheaper or gone has to be accepted.

    It is kept beside the ledger and used by every gateway that starts from then on: a running one, and every call in
    flight, keeps the prices that it has. A price that falls to nothing, or to less than a tenth, is never taken.

    Example: bursar prices update --from data.json --made-on 2026-11-23
    """
    settings = settings_for(config, ledger)
    if back:
        _back(settings, as_json)
        return
    day = _date(made_on)
    stored, notice = _packed(settings, rates, limits, day)
    found = _changes(settings, stored)
    accepted = {"cheaper": accept_cheaper, "gone": accept_gone, "implausible": False}
    refused = [change for change in found if not accepted.get(change.kind, True)]
    if not refused:
        _keep(settings, stored)
    if as_json:
        show_json({"made_on": day, "taken": not refused, "changes": [change._asdict() for change in found]})
    else:
        _show(found)
        click.echo(_summary(found, day, notice))
    if refused:
        raise FailedError(_why_not(refused))
    if not as_json:
        click.echo("taken; a gateway that is running takes it when it is started anew")


# ---- reading --------------------------------------------------------------------------------------------------------


def _date(given: str | None) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    try:
        day = today if given is None else datetime.date.fromisoformat(given)
    except ValueError:
        raise WrongSettingsError(f"--made-on {given} is not a date such as 2026-11-23") from None
    if day > today:
        raise WrongSettingsError(f"--made-on {day} is in the future")
    return day.isoformat()


def _packed(settings: Settings, rates: str | None, limits: str | None, day: str) -> tuple[bytes, str]:
    """Give the new book as it would be stored, and a word on its limits."""
    from bursar.pricing.newer import pack

    place = rates or RATES_URL
    text = _text(place)
    if limits is None and rates is not None:
        table = dict(_limits_in_use(settings))
        notice = f"limits as before, of {table['made_on']}"
    else:
        where = limits or LIMITS_URL
        table, notice = _limits_table(_text(where), where, day), f"limits from {where}"
    return pack(day, f"genai-prices, {place}, {day}", text, table), notice


def _text(place: str) -> str:
    from bursar.edge.stored_book import BYTES_MAX
    from bursar.upstream.reading import ReadingError, read_url

    try:
        if re.match(r"https?:", place):
            data = run_async(read_url(place, {}, bytes_max=BYTES_MAX, seconds_max=FETCH_SECONDS_MAX))
        else:
            data = Path(place).read_bytes()
        return data.decode()
    except (OSError, ReadingError, UnicodeDecodeError) as error:
        raise FailedError(f"nothing was changed: {error}") from None


def _limits_in_use(settings: Settings) -> Mapping[str, Any]:
    from bursar.pricing.limits import bundled_table

    bundled = bundled_table()
    stored = stored_book(settings)
    kept: Mapping[str, Any] = bundled if stored is None else json.loads(stored)["limits"]
    return kept if str(kept["made_on"]) >= str(bundled["made_on"]) else bundled


def _limits_table(text: str, place: str, day: str) -> dict[str, Any]:
    from bursar.pricing.limits_source import UNBOUNDED_NAME, limits_rows

    try:
        rows = limits_rows(json.loads(text, parse_float=Decimal))
    except (ValueError, TypeError, AttributeError, InvalidOperation) as error:
        raise FailedError(f"nothing was changed: {place} is not LiteLLM's table of models: {error}") from None
    return {"made_on": day, "source": f"LiteLLM, {place}", "unbounded_names": UNBOUNDED_NAME.pattern, "models": rows}


def stored_book(settings: Settings) -> bytes | None:
    """Give the stored book; raises FailedError where it cannot be read."""
    from bursar.edge.stored_book import place, read
    from bursar.pricing.newer import WrongBookError, made_on

    path = place(settings.ledger.url)
    try:
        stored = read(path)
        if stored is not None:
            made_on(stored)
    except (OSError, WrongBookError) as error:
        raise FailedError(f"the stored price book {path}: {error}; `bursar prices update --back` drops it") from None
    return stored


# ---- comparing ------------------------------------------------------------------------------------------------------


def _changes(settings: Settings, fresh: bytes) -> tuple[Change, ...]:
    from bursar.clock import SystemClock
    from bursar.pricing.listed import PROVIDERS
    from bursar.pricing.newer import WrongBookError, made_on, newest
    from bursar.pricing.update import changes

    stored = stored_book(settings)
    if made_on(fresh) < newest(stored):
        raise FailedError(f"nothing was changed: the book in use, of {newest(stored)}, is newer than {made_on(fresh)}")
    old, new = listed_book(stored), listed_book(fresh)
    try:
        old.load()
        new.load()
    except WrongBookError as error:
        raise FailedError(f"nothing was changed: {error}") from None
    return changes(old, new, tuple(PROVIDERS), SystemClock().now())


def listed_book(stored: bytes | None) -> Book:
    """Give the book as its sources have it: without models, regions and upstreams of the settings."""
    from bursar.pricing.book import Book
    from bursar.pricing.listed import PROVIDERS

    return Book({}, {name: name for name in PROVIDERS}, stored=stored)


def _keep(settings: Settings, stored: bytes) -> None:
    from bursar.edge.stored_book import keep, place

    path = place(settings.ledger.url)
    try:
        keep(path, stored)
    except OSError as error:
        raise FailedError(f"nothing was changed: {path} cannot be written: {error.strerror}") from None


def _back(settings: Settings, as_json: bool) -> None:
    from bursar.edge.stored_book import back, place

    path = place(settings.ledger.url)
    try:
        was_there = back(path)
    except OSError as error:
        raise FailedError(f"{path} cannot be taken back: {error.strerror}") from None
    if not was_there:
        raise FailedError("the bundled price book is in use; there is none before it")
    day = newest_day(settings)
    if as_json:
        show_json({"made_on": day, "taken": True, "changes": []})
    else:
        click.echo(f"the price book of {day} is in use again, from the next start of a gateway on")


# ---- output ---------------------------------------------------------------------------------------------------------


def _show(found: tuple[Change, ...]) -> None:
    if found:
        show_table(("PROVIDER", "MODEL", "WHAT", "NOW", "THEN", ""), found)


def _summary(found: tuple[Change, ...], day: str, notice: str) -> str:
    counted = Counter(change.kind for change in found)
    told = ", ".join(f"{counted[kind]} {kind}" for kind in sorted(counted)) or "no change"
    return f"price book of {day} ({notice}): {told}"


def _why_not(refused: list[Change]) -> str:
    kinds = sorted({change.kind.value for change in refused})
    hints = {
        "cheaper": "what is cheaper would be held and booked lower: --accept-cheaper when the provider says so too",
        "gone": "what is gone would be refused: --accept-gone, or give newer --limits where two lists disagree",
        "implausible": "a price that falls to less than a tenth is a mistake; set such a model in [models] yourself",
    }
    return "\n".join(["nothing was changed", *(hints[kind] for kind in kinds)])


# ---- age ------------------------------------------------------------------------------------------------------------


def newest_day(settings: Settings) -> str:
    """Give the date of the price book in use; raises FailedError where a stored one cannot be read."""
    from bursar.pricing.newer import newest

    return newest(stored_book(settings))


def age_warning(made_on: str, today: datetime.date) -> str:
    """Say how old a price book is when it is too old to be trusted unseen; empty when it is not."""
    days = (today - datetime.date.fromisoformat(made_on)).days
    if days <= STALE_DAYS:
        return ""
    return f"the price book is of {made_on}, {days} days old; `bursar prices update` takes a newer one"


def warn_of_old_prices(settings: Settings, today: datetime.date | None = None) -> None:
    """Say once, at the start of a gateway, that its prices are old; raises FailedError where they cannot be read."""
    warning = age_warning(newest_day(settings), today or datetime.datetime.now(datetime.UTC).date())
    if warning:
        say(f"warning: {warning}")
