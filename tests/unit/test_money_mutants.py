"""What mutants of the money code showed that no other test would notice."""

from __future__ import annotations

import pytest
from pricing_samples import NOW, a_call, a_card, a_rate_of_each

from bursar.call import CacheWrite
from bursar.clock import Instant
from bursar.money import Money, MoneyError
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import Card, Step, Unpriced


class AskedBook:
    """Remembers what it was asked for."""

    def __init__(self, card: Card) -> None:
        self.asked: list[tuple[str, str, Instant]] = []
        self._card = card

    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced:
        self.asked.append((upstream, model, now))
        return self._card


def test_the_book_is_asked_for_this_upstream_this_model_and_this_instant() -> None:
    book = AskedBook(a_card())
    call = a_call(upstream="groq", model="llama-9")
    quote = worst_case(call, book, NOW, OutputPolicy())
    assert book.asked == [("groq", "llama-9", NOW)]
    assert isinstance(quote, Quote)
    assert quote.call is call


def test_a_one_hour_cache_write_is_quoted_at_the_five_minute_rate_where_that_is_dearer() -> None:
    five_minutes_dearest = a_card({"default": (Step(0, a_rate_of_each(1_000, 0, 1_000, 7_000, 3_000)),)})
    one_hour_dearest = a_card({"default": (Step(0, a_rate_of_each(1_000, 0, 1_000, 3_000, 7_000)),)})
    quotes = [
        worst_case(a_call(cache_write=CacheWrite.ONE_HOUR), AskedBook(card), NOW, OutputPolicy())
        for card in (five_minutes_dearest, one_hour_dearest)
    ]
    first, second = (quote.fixed for quote in quotes if isinstance(quote, Quote))
    assert first == second
    assert first > Money(0)


def test_a_tier_without_a_price_is_refused_with_the_model_and_the_tiers_that_have_one() -> None:
    step = (Step(0, a_rate_of_each(1, 1, 1, 1, 1)),)
    card = a_card({"default": step, "flex@2": step, "flex": step})
    refusal = worst_case(a_call(service_tier="scale"), AskedBook(card), NOW, OutputPolicy())
    assert isinstance(refusal, Unpriced)
    assert refusal.model == "gpt-5"
    assert "default, flex" in refusal.message
    assert "@" not in refusal.message


def test_the_largest_amount_is_a_whole_number_of_dollars() -> None:
    assert Money.from_usd("9223372036").nanodollars == 9_223_372_036_000_000_000
    with pytest.raises(MoneyError):
        Money.from_usd("9223372036.000000001")
