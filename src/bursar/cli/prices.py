"""`bursar prices`: what a model costs, what bounds it, and whether calls to it are let through."""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    USD,
    FailedError,
    at,
    books_options,
    settings_for,
    show_json,
    show_table,
)
from bursar.cli.prices_check import check, clear, quarantine
from bursar.cli.prices_update import newest_day, update

if TYPE_CHECKING:
    from bursar.clock import Instant
    from bursar.money import Money
    from bursar.pricing.book import Book
    from bursar.pricing.rates import Card, Unpriced
    from bursar.pricing.show import ModelFacts, RateLine
    from bursar.settings import Settings

    Schedule = tuple[tuple[Instant, tuple[RateLine, ...]], ...]


@click.group()
def prices() -> None:
    """Show what models cost and what bounds them.

    Example: bursar prices show gpt-4.1-mini
    """


@prices.command()
@click.argument("model")
@click.option("--upstream", metavar="NAME", help="Only at this upstream; default at each that has it.")
@books_options
def show(model: str, upstream: str | None, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Show every rate and bound of a model, what decides between them, and where they come from.

    Rates are USD per million tokens. The ledger says where a newer price book is kept.

    Example: bursar prices show claude-sonnet-4-5
    """
    from bursar.pricing.show import facts, schedule

    settings = settings_for(config, ledger)
    book, now = book_of(settings), _now()
    found = [
        (name, facts(card), schedule(book, name, model, now)) for name, card in priced(settings, model, upstream, book)
    ]
    if as_json:
        made_on = newest_day(settings)
        show_json(
            [
                {"upstream": name, **_facts(one), "changes": _changes(changes), "book_made_on": made_on}
                for name, one, changes in found
            ]
        )
        return
    for name, one, changes in found:
        _show_model(name, one, changes)
    click.echo(_age(settings))


@prices.command("list")
@click.option("--upstream", metavar="NAME", help="Only the models of this upstream.")
@click.option("--like", metavar="PATTERN", default="*", help="Only models whose name is like this, such as gpt-5*.")
@click.option(
    "--below", type=USD, metavar="USD", help="Only models whose output costs at most this per million tokens."
)
@click.option("--all", "shows_all", is_flag=True, help="Also models that are refused, and why.")
@books_options
def list_(
    upstream: str | None,
    like: str,
    below: Money | None,
    shows_all: bool,
    config: Path | None,
    ledger: str | None,
    as_json: bool,
) -> None:
    """List the models that calls may be made to, in USD per million tokens of the ordinary tier.

    Example: bursar prices list --upstream anthropic --like "claude-*"
    """
    from bursar.pricing.rates import Card

    settings = settings_for(config, ledger)
    book, now = book_of(settings), _now()
    cards = [(name, card) for name in _upstreams(settings, upstream) for card in book.models(name, now)]
    cards = [(name, card) for name, card in cards if fnmatch.fnmatchcase(card.model.lower(), like.lower())]
    if below is not None:
        cards = [(name, card) for name, card in cards if isinstance(card, Card) and _output_rate(card) <= below]
    shown = [(name, card) for name, card in cards if shows_all or isinstance(card, Card)]
    if as_json:
        show_json([{"upstream": name, **_either(card)} for name, card in shown])
    else:
        head = ("UPSTREAM", "MODEL", "INPUT", "OUTPUT", "CACHE READ", "CONTEXT", "OUTPUT MAX")
        show_table((*head, "WHY NOT") if shows_all else head, [_line(name, card, shows_all) for name, card in shown])


for command in (check, quarantine, clear, update):
    prices.add_command(command)


# ---- the book and the books -----------------------------------------------------------------------------------------


def book_of(settings: Settings) -> Book:
    """Give the loaded book that prices the calls; raises FailedError where the stored one is broken."""
    from bursar.edge.wiring import price_book
    from bursar.pricing.newer import WrongBookError

    book = price_book(settings)
    try:
        book.load()
    except WrongBookError as error:
        raise FailedError(f"the stored price book: {error}; `bursar prices update --back` drops it") from None
    return book


def _now() -> Instant:
    from bursar.clock import SystemClock

    return SystemClock().now()


def _upstreams(settings: Settings, only: str | None) -> list[str]:
    if only is None:
        return list(settings.upstreams)
    if only not in settings.upstreams:
        raise FailedError(f"there is no upstream {only}; there are {', '.join(settings.upstreams)}")
    return [only]


def priced(
    settings: Settings, model: str, upstream: str | None, book: Book | None = None
) -> Iterator[tuple[str, Card]]:
    """Give the card of every upstream that prices the model; raises FailedError when none does."""
    from bursar.pricing.rates import Card

    book, now = book or book_of(settings), _now()
    answers = [(name, book.card(name, model, now)) for name in _upstreams(settings, upstream)]
    cards = [(name, card) for name, card in answers if isinstance(card, Card)]
    if not cards:
        whys = [f"at {name}: {answer.message}" for name, answer in answers if not isinstance(answer, Card)]
        raise FailedError(f"{model} is not priced\n" + "\n".join(whys))
    yield from cards


# ---- output ---------------------------------------------------------------------------------------------------------


def _facts(one: ModelFacts) -> dict[str, object]:
    return {**asdict(one), "rates": [rate._asdict() for rate in one.rates], "valid_until": _until(one)}


def _changes(changes: Schedule) -> list[dict[str, object]]:
    return [{"from": at(instant), "rates": [rate._asdict() for rate in rates]} for instant, rates in changes]


def _until(one: ModelFacts) -> str | None:
    return None if one.valid_until is None else at(one.valid_until)


def _either(card: Card | Unpriced) -> dict[str, object]:
    from bursar.pricing.rates import Card
    from bursar.pricing.show import facts

    return _facts(facts(card)) if isinstance(card, Card) else {"model": card.model, "unpriced": card.message}


def _output_rate(card: Card) -> Money:
    """Give what a million output tokens of the ordinary tier cost."""
    from bursar.money import cost
    from bursar.pricing.rates import DEFAULT_TIER

    return cost([(1_000_000, card.tiers[DEFAULT_TIER][0].rates.output)])


def _line(upstream: str, card: Card | Unpriced, shows_all: bool) -> tuple[str, ...]:
    from bursar.pricing.rates import Card
    from bursar.pricing.show import facts

    if not isinstance(card, Card):
        return (upstream, card.model, "-", "-", "-", "-", "-", " ".join(card.message.split()))
    one = facts(card)
    rate = one.rates[0]
    bounds = (str(one.context_tokens), str(one.output_tokens_max))
    line = (upstream, one.model, rate.input, rate.output, rate.cache_read, *bounds)
    return (*line, "") if shows_all else line


def _show_model(upstream: str, one: ModelFacts, changes: Schedule) -> None:
    click.echo(f"{one.model} at {upstream}: prices of {one.provider or 'your own'}, {one.source}")
    click.echo(
        f"at most {one.context_tokens} input tokens, {one.output_tokens_max} output tokens, "
        f"{one.image_tokens_max} tokens an image; bytes per token as in {one.family}"
    )
    _show_rates(one.rates)
    for condition in one.conditions:
        click.echo(f"- {condition}")
    for instant, rates in changes:
        click.echo(f"from {at(instant)} on{'' if rates else ': not priced'}")
        if rates:
            _show_rates(rates)


def _show_rates(rates: tuple[RateLine, ...]) -> None:
    has_audio = any(set(one[-2:]) != {"0.00"} for one in rates)
    head = ("TIER", "INPUT ABOVE", "INPUT", "OUTPUT", "CACHE READ", "WRITE 5M", "WRITE 1H", "+ AUDIO", "+ AUDIO READ")
    width = len(head) if has_audio else len(head) - 2
    show_table(head[:width], [(one.tier, str(one.above_input_tokens), *one[2:])[:width] for one in rates])


def _age(settings: Settings) -> str:
    made_on = newest_day(settings)
    days = (datetime.datetime.now(datetime.UTC).date() - datetime.date.fromisoformat(made_on)).days
    return f"price book of {made_on}, {days} days old"
