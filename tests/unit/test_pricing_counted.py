"""A count lowers the bound of the input, never raises it, and never below what it covers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pricing_samples import NOW, RATES, OneCard, a_call, a_card, an_input

from bursar.call import CacheWrite, Call, Image, Input, Output, Usage
from bursar.money import BrokenInvariantError, Money, cost
from bursar.pricing.bill import bill
from bursar.pricing.counted import CountedBy, InputCount, provider_bound, tokenizer_bound
from bursar.pricing.quote import OutputPolicy, Quote, counting_saves, input_bound, worst_case
from bursar.pricing.rates import Card, Family, Step

PROVIDER, TOKENIZER = CountedBy.PROVIDER, CountedBy.TOKENIZER
BYTES, CLAUDE = a_card(family=Family.BYTE_LEVEL), a_card(family=Family.CLAUDE)


def quoted_with(call: Call, card: Card, counted: InputCount | None) -> Quote:
    quote = worst_case(call, OneCard(card), NOW, OutputPolicy(), counted)
    assert isinstance(quote, Quote)
    return quote


def bound(given_input: Input, card: Card, tokens: int, by: CountedBy) -> int:
    call = a_call(given_input)
    return input_bound(given_input, card, InputCount(call, tokens, by))


@pytest.mark.parametrize(
    ("tokens", "provider", "tokenizer"), [(0, 64, 0), (1, 66, 2), (20, 85, 21), (21, 87, 22), (25_000, 26_314, 25_500)]
)
def test_the_margins(tokens: int, provider: int, tokenizer: int) -> None:
    assert (provider_bound(tokens), tokenizer_bound(tokens)) == (provider, tokenizer)


@pytest.mark.parametrize(
    ("card", "given_input", "tokens", "by", "expected"),
    [
        (BYTES, an_input(100_000, messages=3, tools=2, fixed_tokens=700), 25_000, PROVIDER, 26_314),
        (
            BYTES,
            an_input(100_000, messages=3, tools=2, fixed_tokens=700),
            25_000,
            TOKENIZER,
            25_500 + 48 + 512 + 128 + 700,
        ),
        (CLAUDE, an_input(100_000), 25_000, PROVIDER, 26_314),
        # An image is bounded as it is without a count.
        (BYTES, an_input(100_000, images=(Image(None, None),)), 25_000, PROVIDER, 26_314 + 5_000),
        (BYTES, an_input(100_000, images=(Image(None, None),)), 25_000, TOKENIZER, 25_500 + 512 + 5_000),
        # A count above what the bytes can be is none.
        (BYTES, an_input(1_000), 1_500, PROVIDER, 1_001 + 512),
        (BYTES, an_input(1_000), 10**12, TOKENIZER, 1_001 + 512),
        # What comes from elsewhere is bounded by the window alone.
        (BYTES, an_input(1_000, opaque=True), 10, PROVIDER, 1_000_000),
        (a_card(context_tokens=9_000), an_input(100_000), 25_000, PROVIDER, 9_000),
    ],
)
def test_a_count_stands_in_for_the_bytes(
    card: Card, given_input: Input, tokens: int, by: CountedBy, expected: int
) -> None:
    assert bound(given_input, card, tokens, by) == expected


def test_a_count_of_another_call_bounds_nothing() -> None:
    call = a_call(an_input(100_000))
    other = InputCount(replace(call, upstream="azure"), 25_000, PROVIDER)
    with pytest.raises(BrokenInvariantError, match="a count bounds the call that was counted"):
        worst_case(call, OneCard(BYTES), NOW, OutputPolicy(), other)
    twin = InputCount(replace(call), 25_000, PROVIDER)
    with pytest.raises(BrokenInvariantError):
        worst_case(call, OneCard(BYTES), NOW, OutputPolicy(), twin)


def test_a_counted_quote_asks_for_less_in_money_and_in_tokens() -> None:
    call = a_call(an_input(100_000), Output(tokens_asked=1_000))
    plain = quoted_with(call, BYTES, None)
    tight = quoted_with(call, BYTES, InputCount(call, 25_000, PROVIDER))
    assert (plain.input_tokens, tight.input_tokens) == (100_513, 26_314)
    assert tight.fixed_tokens == 26_314 + 64
    assert tight.fixed == cost([(26_314, RATES.input), (64, RATES.output)])
    assert (tight.output_tokens, tight.per_output_token) == (plain.output_tokens, plain.per_output_token)


def test_a_count_below_a_cliff_takes_the_rates_below_it() -> None:
    dear = RATES.times(200)
    card = a_card({"default": (Step(0, RATES), Step(50_000, dear))})
    call = a_call(an_input(100_000))
    assert quoted_with(call, card, None).rates == dear
    assert quoted_with(call, card, InputCount(call, 25_000, PROVIDER)).rates == RATES
    assert quoted_with(call, card, InputCount(call, 49_000, PROVIDER)).rates == dear


def test_what_counting_saves_is_a_hope_for_text_of_eight_bytes_a_token() -> None:
    quote = quoted_with(a_call(an_input(80_000)), BYTES, None)
    saved = 80_513 - 10_000
    assert counting_saves(quote) == (cost([(saved, RATES.input)]), saved)
    writes = quoted_with(a_call(an_input(80_000), cache_write=CacheWrite.ONE_HOUR), BYTES, None)
    assert counting_saves(writes) == (cost([(saved, RATES.cache_write_1h)]), saved)


def test_counting_saves_nothing_where_only_the_window_bounds() -> None:
    assert counting_saves(quoted_with(a_call(an_input(80_000, opaque=True)), BYTES, None)) == (Money(0), 0)
    tiny = a_card(context_tokens=100)
    assert counting_saves(quoted_with(a_call(an_input(80_000)), tiny, None)) == (Money(0), 0)


FAMILIES = st.sampled_from(list(Family))
INPUTS = st.builds(
    lambda text, extra, ascii_, messages, tools, fixed, images, opaque: an_input(
        text,
        is_ascii=ascii_,
        nfc_bytes=text if ascii_ else text + extra,
        messages=messages,
        tools=tools,
        tool_json_bytes=text // 3,
        fixed_tokens=fixed,
        images=(Image(None, None),) * images,
        opaque=opaque,
    ),
    st.integers(0, 2_000_000),
    st.integers(0, 1_000),
    st.booleans(),
    st.integers(0, 50),
    st.integers(0, 30),
    st.integers(0, 2_000),
    st.integers(0, 3),
    st.booleans(),
)


@given(INPUTS, FAMILIES, st.integers(1, 10**9), st.sampled_from(list(CountedBy)))
def test_a_counted_bound_is_never_above_the_one_from_bytes(
    given_input: Input, family: Family, tokens: int, by: CountedBy
) -> None:
    card = a_card(family=family)
    assert bound(given_input, card, tokens, by) <= input_bound(given_input, card)


@given(
    INPUTS,
    FAMILIES,
    st.integers(1, 2_000_000),
    st.integers(0, 100),
    st.integers(0, 1_000),
    st.lists(st.integers(0, 1_000), min_size=4, max_size=4),
    st.sampled_from(list(CacheWrite)),
    st.integers(0, 20_000_000),
)
def test_the_bill_is_within_the_counted_quote_for_all_usage_that_the_count_allows(
    given_input: Input,
    family: Family,
    tokens: int,
    percent_of_margin: int,
    output_permille: int,
    shares: list[int],
    cache_write: CacheWrite,
    cliff: int,
) -> None:
    """The provider counts `tokens`, bills up to a twentieth more in whatever classes, and keeps the output bound."""
    card = a_card({"default": (Step(0, RATES), Step(cliff, RATES.times(200)))}, family=family)
    given_input = replace(given_input, opaque=False, images=())
    call = a_call(given_input, Output(tokens_asked=1_000), cache_write=cache_write)
    quote = quoted_with(call, card, InputCount(call, tokens, PROVIDER))
    billed = min(tokens + tokens // 20 * percent_of_margin // 100, input_bound(given_input, card))
    read, write_5m, write_1h, plain = (billed * share // (sum(shares) or 1) for share in shares)
    if cache_write is CacheWrite.NONE:
        plain, write_5m, write_1h = plain + write_5m + write_1h, 0, 0
    if cache_write is not CacheWrite.ONE_HOUR:
        plain, write_1h = plain + write_1h, 0
    usage = Usage(plain, quote.output_tokens * output_permille // 1_000, read, write_5m, write_1h)
    assume(any((plain, usage.output_tokens, read, write_5m, write_1h)))  # usage that counts nothing is not believed
    paid = bill(usage, quote)
    held = quote.fixed + cost([(quote.output_tokens, quote.per_output_token)])
    assert isinstance(paid, Money)
    assert paid <= held
