"""A book that is newer than the bundled one: how it is kept, read, and refused where it is none."""

from __future__ import annotations

import json
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
from genai_prices import types

from bursar.clock import SECOND, Instant
from bursar.pricing.book import Book
from bursar.pricing.limits import load_limits
from bursar.pricing.listed import PROVIDERS
from bursar.pricing.newer import WrongBookError, made_on, newest, pack, providers_of, unpack
from bursar.pricing.rates import Card, Unpriced

NOW = Instant(1_795_435_200 * SECOND)
LATER = "2026-12-24"
LIMITS = json.loads(files("bursar.pricing").joinpath("data", "model_limits.json").read_text(encoding="utf-8"))
MODEL = {"id": "gpt-7", "match": {"equals": "gpt-7"}, "prices": {"input_mtok": 0.1, "output_mtok": 2}}


def rates(*models: dict[str, Any]) -> list[dict[str, Any]]:
    """Give price data in which OpenAI has these models and nobody else any."""
    return [
        {"id": name, "name": name, "api_pattern": "x", "models": list(models) if name == "openai" else []}
        for name in [*PROVIDERS, "another"]
    ]


def limits(**rows: list[int]) -> dict[str, Any]:
    return {
        **LIMITS,
        "made_on": LATER,
        "models": {"openai": {name.replace("_", "-"): row for name, row in rows.items()}},
    }


def stored(day: str = LATER, models: tuple[dict[str, Any], ...] = (MODEL,), **rows: list[int]) -> bytes:
    rows = rows or {"gpt_7": [1000, 100, 100_000, 2_000_000, 100]}
    return pack(day, "the list of 2026-12-24", json.dumps(rates(*models)), limits(**rows))


def book(data: bytes | None) -> Book:
    return Book({}, {"openai": "openai"}, stored=data)


def test_a_stored_book_prices_what_the_bundled_one_does_not_know() -> None:
    card = book(stored()).card("openai", "gpt-7", NOW)
    assert isinstance(card, Card)
    (step,) = card.tiers["default"]
    assert (step.rates.input.picodollars, step.rates.output.picodollars) == (100_000, 2_000_000)
    assert card.source == f"rates: the list of 2026-12-24; limits: {LIMITS['source']}, {LATER}"
    assert isinstance(book(None).card("openai", "gpt-7", NOW), Unpriced)
    assert [card.model for card in book(stored()).models("openai", NOW)] == ["gpt-7"]


def test_what_a_stored_book_leaves_out_is_not_priced() -> None:
    assert isinstance(book(None).card("openai", "gpt-4.1", NOW), Card)
    assert isinstance(book(stored()).card("openai", "gpt-4.1", NOW), Unpriced)


def test_a_stored_book_that_is_older_than_the_bundled_one_is_left_alone() -> None:
    old = stored(day="2026-01-01")
    assert isinstance(book(old).card("openai", "gpt-4.1", NOW), Card)
    assert newest(old) == newest(None) == load_limits().made_on
    assert newest(stored()) == made_on(stored()) == LATER
    same_day = stored(day=load_limits().made_on)
    assert isinstance(book(same_day).card("openai", "gpt-7", NOW), Card)


def test_no_number_of_the_rates_passes_through_a_float() -> None:
    exact = {**MODEL, "prices": {"input_mtok": 0, "output_mtok": 2}}
    text = json.dumps(rates(exact)).replace('"input_mtok": 0', '"input_mtok": 0.1234567890123456789')
    read = unpack(pack(LATER, "s", text, limits()))
    prices = read.providers["openai"].models[0].prices
    assert isinstance(prices, types.ModelPrice)
    assert prices.__dict__["input_mtok"] == Decimal("0.1234567890123456789")
    assert (read.made_on, read.source) == (LATER, "s")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "does not begin"),
        (b"[]", "does not begin"),
        (stored().replace(b'"format":1', b'"format":2'), "does not begin"),
        (stored()[:-20], "cannot be read"),
        (stored().replace(b'"limits"', b'"bounds"'), "cannot be read"),
        (stored().replace(b'"equals"', b'"resembles"'), "cannot be read"),
        (stored().replace(b'"source":"the', b'"origin":"the'), "cannot be read"),
        (pack(LATER, "s", "{}", limits()), "not a list of providers"),
        (pack(LATER, "s", '["x"]', limits()), "cannot be read"),
        (pack(LATER, "s", json.dumps(rates()[1:]), limits()), f"nothing of {next(iter(PROVIDERS))}"),
        (pack(LATER, "s", json.dumps(rates()), {**limits(), "models": {"openai": {"a": [1]}}}), "cannot be read"),
    ],
)
def test_what_is_no_book_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(WrongBookError, match=why):
        unpack(text)


def test_a_stored_book_that_cannot_be_read_is_never_passed_over_for_another() -> None:
    with pytest.raises(WrongBookError):
        book(stored()[:-20]).load()
    with pytest.raises(WrongBookError):
        book(b"{}").card("openai", "gpt-4.1", NOW)


def test_the_reader_of_the_price_package_reads_every_kind_of_price() -> None:
    """It is a private function of a pinned version: this says when another version has it no more."""
    tiered = {"base": 1, "tiers": [{"start": 10, "price": 2}]}
    conditional = [
        {"prices": {"input_mtok": 1}},
        {"constraint": {"start_date": "2026-12-01"}, "prices": {"input_mtok": tiered}},
    ]
    timed = {"constraint": {"start_time": "01:00:00Z", "end_time": "04:00:00Z"}, "prices": {"input_mtok": 3}}
    variant = {"when": {"service_tier": "flex"}, "prices": {"input_mtok": 0.5}}
    made = {**MODEL, "prices": [*conditional, timed], "price_variants": [variant]}
    (model,) = providers_of(rates(made))["openai"].models
    assert isinstance(model.prices, list)
    assert [type(one.constraint) for one in model.prices] == [
        type(None),
        types.StartDateConstraint,
        types.TimeOfDateConstraint,
    ]
    assert isinstance(model.prices[1].prices.__dict__["input_mtok"], types.TieredPrices)
    assert model.price_variants is not None
    assert model.price_variants[0].when == {"service_tier": "flex"}
