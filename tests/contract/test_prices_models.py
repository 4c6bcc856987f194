"""Every model of the big providers has a card or a reason, and no tier of any of them is billed above its quote."""

from __future__ import annotations

from importlib.metadata import version
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bursar.call import Body, CacheWrite, Call, Image, Input, Output, Usage
from bursar.clock import Instant
from bursar.money import Money, cost
from bursar.pricing.bill import bill
from bursar.pricing.book import Book
from bursar.pricing.limits import load_limits
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import Card, Unpriced, rates_at

NOW = Instant(1_795_435_200_000_000)  # 2026-11-23T12:00Z
PROVIDERS = ("anthropic", "deepseek", "google", "groq", "mistral", "openai")
BOOK = Book({}, {name: name for name in PROVIDERS})
CARDS = [card for provider in PROVIDERS for card in BOOK.models(provider, NOW) if isinstance(card, Card)]
TIERS = [(card, tier) for card in CARDS for tier in card.tiers]


def test_the_price_list_is_the_one_that_was_read_for_this_version() -> None:
    assert version("genai-prices") == "0.2.3"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_model_has_a_card_or_a_reason(provider: str) -> None:
    for answer in BOOK.models(provider, NOW):
        match answer:
            case Card():
                assert answer.context_tokens > 0
                assert answer.tiers["default"][0].above_input_tokens == 0
                assert answer.tiers["default"][0].rates.input.picodollars > 0
                assert answer.image_tokens_max <= answer.context_tokens
            case Unpriced():
                assert f"The model {answer.model!r} cannot be priced: " in answer.message
                assert f'[models."{answer.model}"]' in answer.message


@pytest.mark.parametrize(
    "model",
    [
        "claude-fable-5",
        "claude-fable-5-1",
        "claude-haiku-4-5",
        "claude-haiku-5-5",
        "claude-opus-4-5",
        "claude-opus-4-6",
        "claude-opus-4-7",
        "claude-opus-4-8",
        "claude-opus-5",
        "claude-opus-5-5",
        "claude-sonnet-4-5",
        "claude-sonnet-4-6",
        "claude-sonnet-5",
        "claude-sonnet-5-5",
    ],
)
def test_current_claude_models_are_priced(model: str) -> None:
    assert isinstance(BOOK.card("anthropic", model, NOW), Card)


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4.1",
        "gpt-4.1-mini",
        "gpt-4.1-nano",
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-5",
        "gpt-5-chat-latest",
        "gpt-5-codex",
        "gpt-5-mini",
        "gpt-5-nano",
        "gpt-5-pro",
        "gpt-5.1",
        "gpt-5.1-codex",
        "gpt-5.2",
        "gpt-5.2-codex",
        "gpt-5.3-codex",
        "gpt-5.4",
        "gpt-5.4-mini",
        "gpt-5.5",
        "gpt-5.5-pro",
        "gpt-5.6",
        "gpt-5.6-luna",
        "gpt-5.6-terra",
        "gpt-6-astra",
        "gpt-6-luna",
        "gpt-6-sol",
        "gpt-6.1-sol",
        "gpt-6.1-terra",
        "o1",
        "o3",
        "o3-mini",
        "o3-pro",
        "o4-mini",
        "text-embedding-3-small",
    ],
)
def test_current_openai_models_are_priced(model: str) -> None:
    assert isinstance(BOOK.card("openai", model, NOW), Card)


def test_the_two_public_price_lists_agree_on_every_model_that_is_priced() -> None:
    limits = load_limits()
    for card in CARDS:
        row = limits.find(card.provider, card.model)
        assert row is not None, card.model
        if card.provider in {"anthropic", "openai"}:
            rates = card.tiers["default"][0].rates
            assert (rates.input, rates.output) == (row.input_rate, row.output_rate), card.model


def test_published_prices_are_read_exactly() -> None:
    rates = {card.model: card.tiers["default"][0].rates for card in CARDS}
    assert [str(rate) for rate in rates["gpt-5-nano"][:5]] == ["0.05", "0.40", "0.005", "0.05", "0.05"]
    assert [str(rate) for rate in rates["claude-opus-5-5"][:5]] == ["4.00", "20.00", "0.20", "5.00", "8.00"]
    assert [str(rate) for rate in rates["gpt-5.6-luna"][:5]] == ["0.20", "1.20", "0.02", "0.25", "0.50"]


def a_quote(card: Card, tier: str, given_input: Input, output: Output, cache_write: CacheWrite) -> Quote:
    call = Call("any", card.provider, card.model, False, Body("{}", {}), given_input, output, cache_write, tier)
    answer = worst_case(call, BOOK, NOW, OutputPolicy())
    assert isinstance(answer, Quote)
    return answer


def most(quote: Quote) -> Money:
    return quote.fixed + cost([(quote.output_tokens, quote.per_output_token)])


def test_museum_13_the_dearest_usage_of_every_tier_of_every_model_is_within_its_quote() -> None:
    assert len(TIERS) > 300
    for (card, tier), cache_write in product(TIERS, CacheWrite):
        starts = {step.above_input_tokens for steps in card.tiers.values() for step in steps}
        for size in sorted({1, *starts, *(start + 1 for start in starts), card.context_tokens}):
            quote = a_quote(card, tier, Input(size, True, size, 1, 0), Output(1_000, choices=2), cache_write)
            for tokens in {start for start in starts if start <= quote.input_tokens} | {quote.input_tokens}:
                for usage in dearest_usages(quote, tokens, cache_write, tier):
                    amount = bill(usage, quote)
                    assert isinstance(amount, Money)
                    assert amount <= most(quote), (card.model, tier, cache_write, size, usage)


def dearest_usages(quote: Quote, tokens: int, cache_write: CacheWrite, tier: str) -> list[Usage]:
    output = (quote.output_tokens + 64) * 2
    served = [tier, "default", *(name for name in quote.card.tiers if name.removesuffix("@us") in (tier, "default"))]
    usages = [Usage(tokens, output, service_tier=name) for name in (*served, "unheard-of")]
    usages.append(Usage(0, output, cache_read_tokens=tokens, service_tier=tier))
    if cache_write is not CacheWrite.NONE:
        usages.append(Usage(0, output, cache_write_5m_tokens=tokens, service_tier=tier))
    if cache_write is CacheWrite.ONE_HOUR:
        usages.append(Usage(0, output, cache_write_1h_tokens=tokens, service_tier=tier))
    return usages


images = st.builds(Image, st.none() | st.integers(1, 20_000), st.none() | st.integers(1, 20_000), st.booleans())


@given(st.data())
def test_museum_13_no_usage_within_the_bounds_of_any_tier_of_any_model_is_billed_above_its_quote(
    data: st.DataObject,
) -> None:
    card, tier = data.draw(st.sampled_from(TIERS))
    size = data.draw(st.integers(0, 2 * card.context_tokens))
    given_input = Input(
        text_bytes=size,
        is_ascii=data.draw(st.booleans()),
        nfc_bytes=size,
        messages=data.draw(st.integers(0, 100)),
        tools=data.draw(st.integers(0, 50)),
        images=tuple(data.draw(st.lists(images, max_size=3))),
        opaque=data.draw(st.booleans()),
    )
    output = Output(data.draw(st.none() | st.integers(0, 10**6)), data.draw(st.integers(1, 8)))
    cache_write = data.draw(st.sampled_from(list(CacheWrite)))
    quote = a_quote(card, tier, given_input, output, cache_write)
    assert quote.input_tokens <= card.context_tokens
    total = data.draw(st.integers(0, quote.input_tokens))
    read = data.draw(st.integers(0, total))
    write_1h = data.draw(st.integers(0, total - read)) if cache_write is CacheWrite.ONE_HOUR else 0
    write_5m = data.draw(st.integers(0, total - read - write_1h)) if cache_write is not CacheWrite.NONE else 0
    usage = Usage(
        input_tokens=total - read - write_1h - write_5m,
        output_tokens=data.draw(st.integers(0, (quote.output_tokens + 64) * output.choices)),
        cache_read_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        service_tier=data.draw(st.sampled_from([tier, "default", "standard", "unheard-of"])),
    )
    assume(total or usage.output_tokens)  # usage that counts nothing is not believed
    amount = bill(usage, quote)
    assert isinstance(amount, Money)
    assert amount <= most(quote)


def test_no_class_of_any_tier_is_free_unless_there_is_no_output() -> None:
    for card, tier in TIERS:
        for start, rates in card.tiers[tier]:
            assert rates == rates_at(card.tiers[tier], start + 1)
            assert min(rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h).picodollars > 0
            assert (rates.output.picodollars > 0) == (card.output_tokens_max > 0)
            assert rates.cache_write_5m >= rates.input, card.model
            assert rates.cache_write_1h >= rates.cache_write_5m, card.model
