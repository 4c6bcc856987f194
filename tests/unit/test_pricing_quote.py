"""The quote is an upper bound, term by term, and only `worst_case` makes one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing_samples import NOW, RATES, OneCard, a_call, a_card, a_rate_of_each, an_input, quoted

from bursar.call import CacheWrite, Image, Input, Output
from bursar.money import BrokenInvariantError, Rate, cost
from bursar.pricing.quote import OutputPolicy, Quote, input_bound, worst_case
from bursar.pricing.rates import Card, Family, Step, Unpriced

BYTES, CLAUDE, UNKNOWN = (a_card(family=family) for family in (Family.BYTE_LEVEL, Family.CLAUDE, Family.UNKNOWN))
BASE = 512


# ---- the seal -----------------------------------------------------------------------------------------------------


def test_a_quote_made_by_anybody_else_breaks_an_invariant() -> None:
    quote = quoted(a_call(), a_card())
    with pytest.raises(BrokenInvariantError, match=r"^only worst_case\(\) makes a Quote$"):
        replace(quote, seal=object())
    with pytest.raises(BrokenInvariantError, match=r"^only worst_case\(\) makes a Quote$"):
        replace(quote, seal=None)


def test_a_quote_is_of_the_call_that_was_asked_about() -> None:
    call, card = a_call(), a_card()
    assert quoted(call, card).call is call
    assert quoted(call, card).card is card


def test_the_seal_is_not_shown() -> None:
    assert "seal" not in repr(quoted(a_call(), a_card()))


# ---- input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "given_input", "tokens"),
    [
        (BYTES, an_input(1_000), 1_001 + BASE),
        (BYTES, an_input(1_000, is_ascii=False, nfc_bytes=3_000), 1_001 + BASE),
        (BYTES, an_input(1_000, is_ascii=False, tool_json_bytes=100), 1_201 + BASE),
        (BYTES, an_input(1_000, tool_json_bytes=100), 1_001 + BASE),
        (BYTES, an_input(1_000, messages=3, tools=2, fixed_tokens=700), 1_001 + BASE + 48 + 128 + 700),
        (CLAUDE, an_input(1_000), 1_750 + BASE),
        (CLAUDE, an_input(1_001), 1_752 + BASE),
        (CLAUDE, an_input(1_000, is_ascii=False, nfc_bytes=1_001), 2_503 + BASE),
        (CLAUDE, an_input(1_000, is_ascii=False, tool_json_bytes=100), 2_550 + BASE),
        (CLAUDE, replace(an_input(1_000, is_ascii=False), lone_ascii_bytes=1_000), 1_750 + BASE),
        (CLAUDE, replace(an_input(1_000, is_ascii=False), lone_ascii_bytes=800), 1_900 + BASE),
        (CLAUDE, replace(an_input(1_000, is_ascii=False), lone_ascii_bytes=799), 1_901 + BASE),
        (CLAUDE, an_input(1_000, tools=1, fixed_tokens=325), 1_750 + BASE + 64 + 1_024 + 325),
        (CLAUDE, an_input(1_000, is_ascii=False, tools=1), 2_500 + BASE + 64 + 1_024),
        (UNKNOWN, an_input(1_000), 1_750 + BASE),
        (BYTES, an_input(0, images=(Image(None, None), Image(1, 1))), 1 + BASE + 10_000),
        (BYTES, an_input(2_000_000), 1_000_000),
        (CLAUDE, an_input(10, opaque=True), 1_000_000),
        (replace(BYTES, added_tokens=7), an_input(0), 1 + BASE + 7),
    ],
)
def test_the_input_is_bounded_by_its_bytes_its_frame_its_images_and_the_window(
    card: Card, given_input: Input, tokens: int
) -> None:
    assert input_bound(given_input, card) == tokens


def test_a_longer_window_counts_only_for_a_call_that_asks_for_it() -> None:
    cheap, dear = a_rate_of_each(1, 1, 1, 1, 1), a_rate_of_each(9, 9, 9, 9, 9)
    card = a_card({"default": (Step(0, cheap), Step(200_000, dear))}, family=Family.CLAUDE)
    card = replace(card, context_tokens_unasked=200_000)
    call = a_call(an_input(500_000))
    assert quoted(call, card).input_tokens == 875_512
    assert quoted(call, card).rates.input == Rate(9)
    unasked = quoted(replace(call, takes_long_context=False), card)
    assert (unasked.input_tokens, unasked.rates.input) == (200_000, Rate(1))
    opaque = replace(a_call(an_input(1, opaque=True)), takes_long_context=False)
    assert quoted(opaque, card).input_tokens == 200_000


def test_a_window_that_needs_no_asking_is_the_whole_one() -> None:
    assert a_card(context_tokens=7).context_tokens_unasked == 7


def test_an_unknown_tokenizer_is_taken_for_the_worse_one() -> None:
    for given_input in (an_input(999), an_input(999, is_ascii=False, tools=3, tool_json_bytes=50)):
        bounds = [input_bound(given_input, card) for card in (BYTES, CLAUDE, UNKNOWN)]
        assert bounds[2] == max(bounds)


# ---- rates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache_write", "rate"),
    [
        (CacheWrite.NONE, 3_000_000),
        (CacheWrite.IMPLICIT, 3_750_000),
        (CacheWrite.FIVE_MINUTES, 3_750_000),
        (CacheWrite.ONE_HOUR, 6_000_000),
    ],
)
def test_the_input_is_quoted_at_the_dearest_write_that_the_request_can_cause(
    cache_write: CacheWrite, rate: int
) -> None:
    quote = quoted(a_call(cache_write=cache_write, output=Output(tokens_asked=0)), a_card())
    assert quote.fixed == cost([(quote.input_tokens, Rate(rate)), (64, RATES.output)])


@pytest.mark.parametrize("cache_write", list(CacheWrite))
def test_the_input_is_never_quoted_below_any_rate_that_it_can_be_billed_at(cache_write: CacheWrite) -> None:
    for rates in (a_rate_of_each(5, 0, 1, 2, 3), a_rate_of_each(5, 0, 9, 2, 3), a_rate_of_each(5, 0, 1, 9, 3)):
        quote = quoted(a_call(an_input(10**6), cache_write=cache_write), a_card({"default": (Step(0, rates),)}))
        writes = [] if cache_write is CacheWrite.NONE else [rates.cache_write_5m]
        assert quote.fixed >= cost([(quote.input_tokens, max(rates.input, rates.cache_read, *writes))])


def test_a_quote_reaches_the_rates_of_every_cliff_below_its_input_bound() -> None:
    cheap_top = (Step(0, RATES.times(300)), Step(1_000, RATES), Step(2_000, RATES.times(200)))
    card = a_card({"default": cheap_top})
    assert quoted(a_call(an_input(100)), card).rates == RATES.times(300)
    assert quoted(a_call(an_input(1_500)), card).rates == RATES.times(300)
    tall = a_card({"default": (Step(0, RATES), Step(1_000, RATES.times(200)))})
    assert quoted(a_call(an_input(487)), tall).input_tokens == 1_000
    assert quoted(a_call(an_input(487)), tall).rates == RATES
    assert quoted(a_call(an_input(488)), tall).rates == RATES.times(200)


def test_a_tier_that_is_asked_for_is_quoted_with_the_ordinary_one_that_may_be_served_instead() -> None:
    flex_and_priority = a_card(
        {
            "default": (Step(0, RATES),),
            "flex": (Step(0, RATES.times(50)),),
            "priority": (Step(0, RATES.times(200)),),
        }
    )
    assert quoted(a_call(service_tier="default"), flex_and_priority).rates == RATES
    assert quoted(a_call(service_tier="flex"), flex_and_priority).rates == RATES
    assert quoted(a_call(service_tier="priority"), flex_and_priority).rates == RATES.times(200)
    assert quoted(a_call(service_tier="standard_only"), flex_and_priority).rates == RATES


@pytest.mark.parametrize("tier", ["auto", "scale", "ultrafast", "flex", "default@eu", "no such tier"])
def test_a_tier_without_a_price_is_unpriced(tier: str) -> None:
    one = (Step(0, RATES),)
    card = a_card({"priority": one, "default@us": one, "default": one})
    answer = worst_case(a_call(service_tier=tier), OneCard(card), NOW, OutputPolicy())
    assert isinstance(answer, Unpriced)
    assert repr(tier) in answer.message
    assert answer.message.endswith("Tiers with a price: default, priority.")
    assert (answer.model, answer.code, answer.status) == ("gpt-5", "unpriced", 422)


def test_a_model_without_a_price_is_unpriced() -> None:
    unpriced = Unpriced("gpt-99", "no such model")
    assert worst_case(a_call(), OneCard(unpriced), NOW, OutputPolicy()) is unpriced


# ---- output -------------------------------------------------------------------------------------------------------

POLICY = OutputPolicy(tokens_default=2_000, tokens_floor=256, tokens_comfort=1_000)


@pytest.mark.parametrize(
    ("output", "wanted", "floor", "comfort"),
    [
        (Output(tokens_asked=None), 2_000, 256, 1_000),
        (Output(tokens_asked=50_000), 50_000, 256, 1_000),
        (Output(tokens_asked=200_000), 100_000, 256, 1_000),
        (Output(tokens_asked=500), 500, 256, 500),
        (Output(tokens_asked=100), 100, 100, 100),
        (Output(tokens_asked=50_000, tokens_min=20_001), 50_000, 20_001, 20_001),
        (Output(tokens_asked=8, tokens_min=16), 16, 16, 16),
        (Output(tokens_asked=None, tokens_min=9_000), 9_000, 9_000, 9_000),
        (Output(tokens_asked=0, tokens_min=0), 0, 0, 0),
    ],
)
def test_the_output_bound_is_the_client_s_or_ours_within_what_the_model_gives(
    output: Output, wanted: int, floor: int, comfort: int
) -> None:
    quote = quoted(a_call(output=output), a_card(), POLICY)
    assert (quote.output_tokens, quote.output_tokens_floor, quote.output_tokens_comfort) == (wanted, floor, comfort)
    assert quote.client_bounded == (output.tokens_asked is not None)


def test_where_nothing_is_clamped_the_floor_is_what_is_wanted() -> None:
    quote = quoted(a_call(output=Output(tokens_asked=5_000)), a_card(), replace(POLICY, clamps=False))
    assert (quote.output_tokens, quote.output_tokens_floor, quote.output_tokens_comfort) == (5_000, 5_000, 5_000)


def test_every_choice_is_paid_for_with_its_margin_and_its_rejected_predictions() -> None:
    quote = quoted(a_call(an_input(100), Output(tokens_asked=10, choices=3, tokens_extra=7)), a_card())
    assert quote.per_output_token == Rate(45_000_000)
    assert quote.fixed_tokens == quote.input_tokens + 213
    assert quote.fixed == cost([(quote.input_tokens, RATES.input), (213, RATES.output)])


def test_a_model_that_costs_nothing_is_quoted_nothing() -> None:
    quote = quoted(a_call(), a_card({"default": (Step(0, a_rate_of_each(0, 0, 0, 0, 0)),)}))
    assert (quote.fixed.nanodollars, quote.per_output_token) == (0, Rate(0))


@given(
    st.one_of(st.none(), st.integers(0, 10**7)),
    st.integers(0, 10**5),
    st.integers(1, 10**5),
    st.integers(1, 10**5),
    st.integers(1, 10**5),
    st.booleans(),
)
def test_the_floor_the_comfort_and_the_wanted_bound_are_in_order(
    asked: int | None, least: int, default: int, floor: int, comfort: int, clamps: bool
) -> None:
    policy = OutputPolicy(default, floor, comfort, clamps)
    quote: Quote = quoted(a_call(output=Output(asked, tokens_min=least)), a_card(), policy)
    assert quote.output_tokens_floor <= quote.output_tokens_comfort <= quote.output_tokens
    assert least <= quote.output_tokens_floor
    assert quote.output_tokens <= max(100_000, least)
    if asked is not None:
        assert quote.output_tokens <= max(asked, least)
