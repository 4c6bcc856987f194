"""The book: own prices first, then the lists; kept while they hold; never a guess."""

from __future__ import annotations

import tomllib

import pytest
from pricing_samples import NOW, RATES, a_rate_of_each

from bursar.clock import Instant
from bursar.money import MoneyError, Rate
from bursar.pricing import book as book_module
from bursar.pricing.book import Book, regional_percent
from bursar.pricing.own import OwnModel
from bursar.pricing.rates import FOREVER, US, Card, Family, Unpriced
from bursar.pricing.show import RateLine, facts

PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "work": "openai", "deepseek": "deepseek"}
OWN = OwnModel("1", "2", context_tokens=8_000, output_tokens_max=1_000)


def priced(book: Book, upstream: str, model: str, now: Instant = NOW) -> Card:
    card = book.card(upstream, model, now)
    assert isinstance(card, Card), card
    return card


def refused(book: Book, upstream: str, model: str) -> Unpriced:
    card = book.card(upstream, model, NOW)
    assert isinstance(card, Unpriced)
    assert (card.code, card.status, card.model) == ("unpriced", 422, model)
    return card


def test_an_own_price_wins_over_the_list() -> None:
    book = Book({"gpt-5": OWN}, PROVIDERS)
    card = priced(book, "openai", "gpt-5")
    assert card.tiers["default"][0].rates.input == Rate(1_000_000)
    assert (card.context_tokens, card.output_tokens_max, card.image_tokens_max) == (8_000, 1_000, 8_000)
    assert [step.above_input_tokens for step in card.tiers["default"]] == [0]
    assert (card.source, card.valid_until) == ('[models."gpt-5"]', FOREVER)


def test_an_own_price_for_one_upstream_is_for_that_one_only() -> None:
    book = Book({"gpt-5": OwnModel("1", "2", 8_000, 1_000, upstream="work")}, PROVIDERS)
    assert priced(book, "work", "gpt-5").provider == ""
    assert priced(book, "openai", "gpt-5").provider == "openai"
    assert {card.model for card in book.models("work", NOW)} > {"gpt-5", "gpt-5-mini"}
    assert next(book.models("work", NOW)) == priced(book, "work", "gpt-5")
    listed_ones = [card for card in book.models("openai", NOW) if isinstance(card, Card)]
    assert OWN.context_tokens not in {card.context_tokens for card in listed_ones if card.model == "gpt-5"}


def test_the_list_of_models_has_those_of_every_source_once() -> None:
    book = Book({"mine": OWN, "gpt-5": OwnModel("1", "2", 8_000, 1_000, upstream="work")}, PROVIDERS)
    names = [answer.model for answer in book.models("openai", NOW)]
    assert len(names) == len(set(names))
    assert names[0] == "mine"
    assert {"gpt-5", "gpt-5-2025-08-07", "gpt-realtime", "daybreak-red-latest"} < set(names)
    assert [answer.model for answer in Book({"mine": OWN}, {}).models("vllm", NOW)] == ["mine"]


def test_own_prices_that_are_not_named_cost_what_they_can_at_most() -> None:
    unknown = Book({"m": OWN}, {})
    assert priced(unknown, "any", "m").tiers["default"][0].rates == a_rate_of_each(
        1_000_000, 2_000_000, 1_000_000, 2_000_000, 2_000_000
    )
    byte_level = Book({"m": OwnModel("1", "2", 8_000, 1_000, family=Family.BYTE_LEVEL)}, {})
    assert priced(byte_level, "any", "m").tiers["default"][0].rates.cache_write_1h == Rate(1_000_000)


def test_own_prices_that_are_named_are_taken_as_they_are() -> None:
    own = OwnModel("3", "15", 8_000, 0, cache_read="0.3", cache_write="3.75", image_tokens_max=9_000)
    card = priced(Book({"m": own}, {}), "any", "m")
    assert card.tiers["default"][0].rates == RATES
    assert card.image_tokens_max == 8_000
    assert card.family is Family.UNKNOWN
    byte_level = OwnModel("3", "15", 8_000, 0, cache_write="3.75", family=Family.BYTE_LEVEL)
    rates = priced(Book({"m": byte_level}, {}), "any", "m").tiers["default"][0].rates
    assert (rates.cache_read, rates.cache_write_1h) == (rates.input, rates.cache_write_5m)
    few = OwnModel("0", "0", 8_000, 100, image_tokens_max=50)
    free = priced(Book({"m": few}, {}), "any", "m")
    assert (free.image_tokens_max, free.tiers["default"][0].rates) == (50, a_rate_of_each(0, 0, 0, 0, 0))


@pytest.mark.parametrize("price", ["", "free", "-1", "nan", "1000001"])
def test_an_own_price_that_cannot_be_read_stops_the_start(price: str) -> None:
    with pytest.raises(MoneyError):
        Book({"m": OwnModel(price, "1", 1, 1)}, {})


def test_an_upstream_without_a_price_list_has_no_prices() -> None:
    assert "no provider's prices apply to the upstream 'vllm'" in refused(Book({}, PROVIDERS), "vllm", "gpt-5").message


@pytest.mark.parametrize("provider", ["perplexity", "azure", "nobody", ""])
def test_a_provider_whose_billing_was_not_studied_has_no_prices(provider: str) -> None:
    book = Book({}, {"it": provider})
    assert "bursar has no price list for the provider" in refused(book, "it", "gpt-5").message
    assert list(book.models("it", NOW)) == []


def test_the_refusal_of_a_model_is_toml_to_paste() -> None:
    shown_names = {"my-model": "my-model", "x\ny": "x?y", 'a"b\\c': 'a"b\\c'}
    for name in ("my-model", 'a"b\\c', "x\ny", "\N{PILE OF POO}", "n" * 256):
        message = refused(Book({}, {}), "any", name).message
        lines = message[message.index("\n[models.") :].replace("...", "1").replace('"1"', '"1.00"')
        ((key, table),) = tomllib.loads(lines)["models"].items()
        assert key == shown_names.get(name, name)
        assert table == {"input": "1.00", "output": "1.00", "context_tokens": 1, "output_tokens_max": 1}


def test_what_the_list_does_know_of_a_model_is_filled_in() -> None:
    message = refused(Book({}, PROVIDERS), "anthropic", "claude-fable-5-2").message
    assert "its output maximum is not known" in message
    table = tomllib.loads(message[message.index("\n[models.") :].replace("...", "128000"))["models"]["claude-fable-5-2"]
    assert table == {
        "input": "8.00",
        "output": "40.00",
        "cache_read": "0.20",
        "cache_write": "10.00",
        "family": "claude",
        "context_tokens": 1_000_000,
        "output_tokens_max": 128_000,
    }
    window_unknown = refused(Book({}, PROVIDERS), "openai", "gpt-6-cyber").message
    assert 'input = "20.00"' in window_unknown
    assert 'family = "byte-level"' in window_unknown
    assert "context_tokens = ..." in window_unknown


def test_no_price_is_suggested_for_a_model_that_charges_for_more_than_tokens() -> None:
    for name in ("gpt-4o-mini-search-preview", "gpt-4o-audio-preview"):
        message = refused(Book({}, PROVIDERS), "openai", name).message
        assert "charge for more than the tokens of text" in message
        assert 'input = "..."' in message


def test_an_endless_name_is_cut_in_the_message_and_not_looked_up() -> None:
    refusal = refused(Book({}, PROVIDERS), "openai", "gpt-5" * 100)
    assert "too long" in refusal.message
    assert len(refusal.message) < 1_000
    assert "too long" not in refused(Book({}, PROVIDERS), "openai", "n" * 256).message
    assert "too long" in refused(Book({}, PROVIDERS), "openai", "n" * 257).message


def test_names_are_found_in_any_case_as_the_list_does() -> None:
    assert priced(Book({}, PROVIDERS), "openai", "GPT-5").tiers == priced(Book({}, PROVIDERS), "openai", "gpt-5").tiers


def test_a_card_is_kept_while_it_holds() -> None:
    book = Book({}, PROVIDERS)
    book.load()
    first = priced(book, "deepseek", "deepseek-v4-pro")
    assert priced(book, "deepseek", "deepseek-v4-pro", Instant(first.valid_until - 1)) is first
    later = priced(book, "deepseek", "deepseek-v4-pro", first.valid_until)
    assert later is not first
    assert later.valid_until > first.valid_until


def test_a_card_is_made_anew_when_the_clock_has_gone_back() -> None:
    book = Book({}, PROVIDERS)
    first = priced(book, "deepseek", "deepseek-v4-pro")
    assert priced(book, "deepseek", "deepseek-v4-pro", Instant(NOW - 1)) is not first


def test_not_more_cards_are_kept_than_a_few_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "CARDS_KEPT_MAX", 2)
    book = Book({}, PROVIDERS)
    first = priced(book, "openai", "gpt-5")
    assert priced(book, "openai", "gpt-5") is first
    priced(book, "openai", "gpt-5-mini")
    priced(book, "openai", "gpt-5-nano")
    again = priced(book, "openai", "gpt-5")
    assert again is not first
    assert again == first


def test_a_regional_endpoint_asks_a_tenth_more() -> None:
    assert regional_percent("https://eu.api.openai.com") == 110
    assert regional_percent("https://EU.api.openai.com:443/v1?a=b://c") == 110
    assert regional_percent("https://us.api.openai.com/v1") == 110
    assert regional_percent("https://api.openai.com") == 100
    assert regional_percent("http://127.0.0.1:8080") == 100
    assert regional_percent("") == 100
    plain = priced(Book({}, PROVIDERS), "work", "gpt-5")
    regional = priced(Book({}, PROVIDERS, {"work": 110}), "work", "gpt-5")
    assert regional.tiers["default"][0].rates == plain.tiers["default"][0].rates.times(110)


def test_the_facts_of_a_model_are_told_with_its_ordinary_tier_first() -> None:
    shown = facts(priced(Book({}, PROVIDERS), "anthropic", "claude-opus-5"))
    assert (shown.model, shown.provider, shown.family) == ("claude-opus-5", "anthropic", "claude")
    assert (shown.context_tokens, shown.output_tokens_max, shown.image_tokens_max) == (1_000_000, 128_000, 5_000)
    assert [line.tier for line in shown.rates] == ["default", "default" + US, "fast", "fast" + US]
    assert shown.rates[0] == RateLine("default", 0, "5.00", "25.00", "0.50", "6.25", "10.00")
    assert shown.valid_until is None
    assert "genai-prices" in shown.source
    assert "LiteLLM" in shown.source


def test_the_facts_of_a_model_tell_its_cliffs_and_its_next_change_of_price() -> None:
    book = Book({}, PROVIDERS)
    cliffs = facts(priced(book, "openai", "gpt-5.4"))
    assert [(line.above_input_tokens, line.input) for line in cliffs.rates[:2]] == [(0, "2.50"), (272_000, "5.00")]
    changing = priced(book, "deepseek", "deepseek-v4-pro")
    assert facts(changing).valid_until == changing.valid_until


def test_the_longer_window_of_a_claude_model_has_to_be_asked_for() -> None:
    book = Book({}, {"anthropic": "anthropic"})
    card = book.card("anthropic", "claude-sonnet-4-5", NOW)
    assert isinstance(card, Card)
    assert (card.context_tokens, card.context_tokens_unasked) == (1_000_000, 200_000)
    native = book.card("anthropic", "claude-opus-4-8", NOW)
    assert isinstance(native, Card)
    assert native.context_tokens == native.context_tokens_unasked == 1_000_000
