"""The ways in which genai-prices is known to under-price, each by name; none of them reaches a quote."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bursar.call import Body, CacheWrite, Call, Input, Output, Unmetered, Usage
from bursar.clock import Instant
from bursar.money import Money, Rate
from bursar.pricing.bill import bill
from bursar.pricing.book import Book
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import Card, Unpriced

NAMES = ("openai", "anthropic", "google", "deepseek", "mistral", "groq", "perplexity")


def a_book() -> Book:
    return Book({}, {name: name for name in NAMES})


def instant(text: str) -> Instant:
    return Instant(int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000)


NOW = instant("2026-11-23T12:00")


def priced(provider: str, model: str, now: Instant = NOW) -> Card:
    card = a_book().card(provider, model, now)
    assert isinstance(card, Card), card
    return card


def refused(provider: str, model: str) -> str:
    card = a_book().card(provider, model, NOW)
    assert isinstance(card, Unpriced), card
    return card.message


def quote(provider: str, model: str, tier: str = "default", text_bytes: int = 1_000) -> Quote | Unpriced:
    given = Input(text_bytes, True, text_bytes, 1, 0)
    body = Body("{}", {})
    output = Output(1_000)
    call = Call("openai_chat", provider, model, False, body, given, output, CacheWrite.IMPLICIT, tier)
    return worst_case(call, a_book(), NOW, OutputPolicy())


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-audio-preview"),
        ("openai", "gpt-audio"),
        ("openai", "gpt-realtime"),
        ("openai", "gpt-4o-mini-tts"),
        ("openai", "whisper-1"),
        ("openai", "gpt-image-1"),
        ("openai", "gpt-5-image"),
        ("google", "gemini-2.5-flash-image"),
        ("google", "gemini-embedding-2"),
    ],
)
def test_trap_1_units_that_would_cost_nothing_make_a_model_unpriced(provider: str, model: str) -> None:
    assert "Nothing was sent" in refused(provider, model)


@pytest.mark.parametrize(
    "model", ["gpt-4o-mini-search-preview", "gpt-4o-search-preview", "gpt-5-search-api", "o3-deep-research"]
)
def test_trap_1_models_that_search_by_themselves_are_unpriced(model: str) -> None:
    assert "charge for more than the tokens of text" in refused("openai", model)


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        ("gpt-5.2-pro", "priority"),
        ("gpt-5", "xx"),
        ("gpt-6.1-sol", "ultrafast"),
        ("gpt-5", "auto"),
        ("gpt-5", "scale"),
        ("gpt-5", "batch"),
        ("gpt-5-nano", "priority"),
    ],
)
def test_trap_2_a_tier_without_a_price_is_not_the_ordinary_price(model: str, tier: str) -> None:
    answer = quote("openai", model, tier)
    assert isinstance(answer, Unpriced)
    assert repr(tier) in answer.message


def test_trap_2_tiers_are_dated() -> None:
    before = priced("openai", "gpt-5", instant("2026-10-11T23:44:59"))
    assert sorted(before.tiers) == ["default"]
    assert sorted(priced("openai", "gpt-5").tiers) == ["default", "fast", "flex", "priority"]


def test_trap_2_a_priority_call_is_quoted_at_the_priority_rate_and_a_flex_call_at_the_ordinary_one() -> None:
    default, flex, priority = (quote("openai", "gpt-5", tier) for tier in ("default", "flex", "priority"))
    assert isinstance(default, Quote)
    assert isinstance(flex, Quote)
    assert isinstance(priority, Quote)
    assert priority.rates == default.rates.times(200)
    assert flex.rates == default.rates


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5"])
def test_trap_3_inference_in_the_us_is_in_the_quote_and_in_the_bill(model: str) -> None:
    answer = quote("anthropic", model)
    assert isinstance(answer, Quote)
    plain = answer.card.tiers["default"]
    assert answer.rates == plain[0].rates.times(110)
    here, there = (bill(Usage(10_000, 1_000, service_tier=tier), answer) for tier in ("default", "default@us"))
    assert isinstance(here, Money)
    assert isinstance(there, Money)
    assert there.nanodollars * 10 == here.nanodollars * 11


def test_trap_3_regional_endpoints_of_openai_are_dearer() -> None:
    regional = Book({}, {"eu": "openai"}, {"eu": 110}).card("eu", "gpt-5.6", NOW)
    assert isinstance(regional, Card)
    assert regional.tiers["default"][0].rates == priced("openai", "gpt-5.6").tiers["default"][0].rates.times(110)


def test_trap_5_cached_input_above_the_whole_input_does_not_raise() -> None:
    answer = quote("openai", "gpt-5")
    assert isinstance(answer, Quote)
    assert isinstance(bill(Usage(100 - 200, 10, cache_read_tokens=200), answer), Unmetered)


@pytest.mark.parametrize(
    ("provider", "model"), [("google", "gemma-4-31b-it"), ("google", "gemma-3"), ("openai", "omni-moderation-latest")]
)
def test_trap_6_no_price_is_not_free(provider: str, model: str) -> None:
    assert "cannot be priced" in refused(provider, model)


@pytest.mark.parametrize(("provider", "model"), [("perplexity", "sonar")])
def test_trap_6_providers_that_charge_in_other_ways_are_unpriced(provider: str, model: str) -> None:
    assert "no price list" in refused(provider, model)


def test_trap_7_a_price_by_time_of_day_is_the_highest_of_the_next_quarter_hour() -> None:
    def price(time: str) -> Rate:
        return priced("deepseek", "deepseek-v4-pro", instant(f"2026-11-23T{time}")).tiers["default"][0].rates.input

    low, peak = Rate(660_000), Rate(1_320_000)
    moments = ("00:44:59", "00:45", "03:59:59", "04:00", "05:44:59", "05:45", "09:59:59", "10:00")
    prices = [low, peak, peak, low, low, peak, peak, low]
    assert [price(time) for time in moments] == prices


def test_trap_7_a_price_by_date_is_the_highest_of_the_next_quarter_hour() -> None:
    def price(time: str) -> Rate:
        return priced("google", "gemini-4-argon", instant(time)).tiers["default"][0].rates.output

    assert price("2026-11-30T23:44:59") == Rate(10_000_000)
    assert price("2026-11-30T23:45:00") == Rate(20_000_000)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-opus-4-8-turbo"),
        ("anthropic", "claude-opus-4-80"),
        ("anthropic", "claude-opus-4-8-20271231"),
        ("anthropic", "claude-haiku-5.5-max"),
        ("openai", "gpt-5-nano-ultra"),
        ("openai", "gpt-5-nano-2027-08-07"),
        ("openai", "ft:gpt-4o-2024-08-06:acme::abc123"),
        ("google", "gemini-2.5-pro-something-new"),
        ("openai", "gpt-99"),
        ("openai", "dall-e-3"),
        ("openai", ""),
    ],
)
def test_a_clause_that_matches_a_prefix_does_not_price_a_model_that_nobody_knows(provider: str, model: str) -> None:
    assert "cannot be priced" in refused(provider, model)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-opus-4-8"),
        ("anthropic", "claude-opus-4-8-20260601"),
        ("anthropic", "claude-haiku-4-5-20251001"),
        ("openai", "gpt-5-nano-2025-08-07"),
        ("openai", "gpt-6-sol-2026-10-01"),
        ("openai", "gpt-5.4"),
        ("google", "gemini-2.5-pro"),
    ],
)
def test_a_model_by_its_own_name_or_with_a_date_that_we_can_know_is_priced(provider: str, model: str) -> None:
    assert priced(provider, model).model == model


def test_the_list_is_the_bundled_one_and_cannot_be_replaced_from_outside() -> None:
    from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot

    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert isinstance(Book({}, {"openai": "openai"}).card("openai", "gpt-5", NOW), Card)
    finally:
        set_custom_snapshot(None)
