"""`bursar prices`: what a model costs, what bounds it, and whether calls to it are let through."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import (
    FailedError,
    at,
    books_options,
    config_option,
    existing_books,
    json_option,
    run_async,
    settings_for,
    show_json,
    show_table,
)
from bursar.cli.prices_update import update

if TYPE_CHECKING:
    from bursar.clock import Instant
    from bursar.pricing.book import Book
    from bursar.pricing.rates import Card, Unpriced
    from bursar.pricing.show import ModelFacts
    from bursar.settings import Settings

NOT_PRICED = 1


@click.group()
def prices() -> None:
    """Show what models cost and what bounds them.

    Example: bursar prices show gpt-4.1-mini
    """


@prices.command()
@click.argument("model")
@click.option("--upstream", metavar="NAME", help="Only at this upstream; default at each that has it.")
@config_option
@json_option
def show(model: str, upstream: str | None, config: Path | None, as_json: bool) -> None:
    """Show the rates and the bounds of a model, and where they come from.

    Example: bursar prices show claude-sonnet-4-5
    """
    from bursar.pricing.show import facts

    settings = settings_for(config, None)
    found = [(name, facts(card)) for name, card in _priced(settings, model, upstream)]
    if as_json:
        show_json([{"upstream": name, **_facts(one)} for name, one in found])
        return
    for name, one in found:
        _show_model(name, one)


@prices.command("list")
@click.option("--upstream", metavar="NAME", help="Only the models of this upstream.")
@click.option("--all", "shows_all", is_flag=True, help="Also models that are refused, and why.")
@config_option
@json_option
def list_(upstream: str | None, shows_all: bool, config: Path | None, as_json: bool) -> None:
    """List the models that calls may be made to, in USD per million tokens of the ordinary tier.

    Example: bursar prices list --upstream anthropic
    """
    from bursar.pricing.rates import Card

    settings = settings_for(config, None)
    book, now = _book(settings), _now()
    cards = [(name, card) for name in _upstreams(settings, upstream) for card in book.models(name, now)]
    shown = [(name, card) for name, card in cards if shows_all or isinstance(card, Card)]
    if as_json:
        show_json([{"upstream": name, **_either(card)} for name, card in shown])
    else:
        head = ("UPSTREAM", "MODEL", "INPUT", "OUTPUT", "CACHE READ", "CONTEXT", "OUTPUT MAX")
        show_table((*head, "WHY NOT") if shows_all else head, [_line(name, card, shows_all) for name, card in shown])


@prices.command()
@click.argument("models", nargs=-1, required=True)
@books_options
def check(models: tuple[str, ...], config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Say whether calls to these models are let through; exit status 1 when one is not.

    A model has to be priced at an upstream, and not in quarantine: a model that once cost more than was held for it
    stays there until `bursar prices clear`.

    Example: bursar prices check gpt-4.1-mini claude-sonnet-4-5
    """
    settings = settings_for(config, ledger)
    quarantined = run_async(_quarantined(settings))
    answers = [(model, _why_not(settings, model, quarantined)) for model in models]
    if as_json:
        show_json([{"model": model, "ok": not why, "why": why} for model, why in answers])
    else:
        show_table(("MODEL", "", "WHY"), [(model, "refused" if why else "ok", why) for model, why in answers])
    if any(why for _, why in answers):
        sys.exit(NOT_PRICED)


@prices.command()
@click.argument("model")
@books_options
def clear(model: str, config: Path | None, ledger: str | None, as_json: bool) -> None:
    """Take a model out of quarantine, once you know why it cost more than was held for it.

    Example: bursar prices clear gpt-4.1-mini
    """
    settings = settings_for(config, ledger)
    run_async(_clear(settings, model))
    if as_json:
        show_json({"model": model, "quarantined": False})
    else:
        click.echo(f"{model}: calls are let through again")


prices.add_command(update)


# ---- the book and the books -----------------------------------------------------------------------------------------


def _book(settings: Settings) -> Book:
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


def _priced(settings: Settings, model: str, upstream: str | None) -> Iterator[tuple[str, Card]]:
    """Give the card of every upstream that prices the model; raises FailedError when none does."""
    from bursar.pricing.rates import Card

    book, now = _book(settings), _now()
    answers = [(name, book.card(name, model, now)) for name in _upstreams(settings, upstream)]
    cards = [(name, card) for name, card in answers if isinstance(card, Card)]
    if not cards:
        whys = [f"at {name}: {answer.message}" for name, answer in answers if not isinstance(answer, Card)]
        raise FailedError(f"{model} is not priced\n" + "\n".join(whys))
    yield from cards


def _why_not(settings: Settings, model: str, quarantined: frozenset[str]) -> str:
    if model in quarantined:
        return f"in quarantine; `bursar prices clear {model}` lets it through again"
    try:
        list(_priced(settings, model, None))
    except FailedError as error:
        return error.message.partition("\n")[2].partition("\n")[0]
    return ""


async def _quarantined(settings: Settings) -> frozenset[str]:
    from bursar.settings import SQLITE_PREFIX

    path = settings.ledger.url.removeprefix(SQLITE_PREFIX)
    if path != settings.ledger.url and not Path(path).exists():  # noqa: ASYNC240 - nothing else runs
        return frozenset()  # nothing was ever called, so nothing ever cost too much
    models: set[str] = set()
    async with existing_books(settings) as store:
        async for entry in store.entries():
            if entry.kind == "quarantine":
                models.add(str(entry.detail["model"]))
            elif entry.kind == "clear":
                models.discard(str(entry.detail["model"]))
    return frozenset(models)


async def _clear(settings: Settings, model: str) -> None:
    from bursar.ledger.account import ClearModel

    if model not in await _quarantined(settings):
        raise FailedError(f"{model} is not in quarantine")
    async with existing_books(settings) as store:
        await store.submit(ClearModel(model))


# ---- output ---------------------------------------------------------------------------------------------------------


def _facts(one: ModelFacts) -> dict[str, object]:
    return {**asdict(one), "rates": [rate._asdict() for rate in one.rates], "valid_until": _until(one)}


def _until(one: ModelFacts) -> str | None:
    return None if one.valid_until is None else at(one.valid_until)


def _either(card: Card | Unpriced) -> dict[str, object]:
    from bursar.pricing.rates import Card
    from bursar.pricing.show import facts

    return _facts(facts(card)) if isinstance(card, Card) else {"model": card.model, "unpriced": card.message}


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


def _show_model(upstream: str, one: ModelFacts) -> None:
    click.echo(f"{one.model} at {upstream}: prices of {one.provider}, {one.source}")
    click.echo(
        f"at most {one.context_tokens} input tokens, {one.output_tokens_max} output tokens, "
        f"{one.image_tokens_max} tokens an image; bytes per token as in {one.family}"
    )
    if until := _until(one):
        click.echo(f"these rates hold until {until}")
    head = ("TIER", "INPUT ABOVE", "INPUT", "OUTPUT", "CACHE READ", "WRITE 5M", "WRITE 1H")
    show_table(head, [(rate.tier, str(rate.above_input_tokens), *rate[2:]) for rate in one.rates])
