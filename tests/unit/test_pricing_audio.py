"""Audio costs on top of the input that it is part of, and inputs that are worked on apart have a window each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing_samples import RATES, a_call, a_card, an_input, quoted

from bursar.call import CacheWrite, Output, Unmetered, Usage
from bursar.money import Money, Rate, cost
from bursar.pricing.bill import bill
from bursar.pricing.quote import input_bound
from bursar.pricing.rates import Rates, Step, dearest_rates

LOUD = RATES._replace(audio_extra=Rate(7_000_000), audio_cache_read_extra=Rate(700_000))
CARD = a_card({"default": (Step(0, LOUD),)})


def test_audio_is_billed_as_input_and_once_more_by_what_it_costs_above_it() -> None:
    usage = Usage(100, 10, cache_read_tokens=50, audio_input_tokens=40, audio_cache_read_tokens=5)
    assert bill(usage, quoted(a_call(), CARD)) == Money(
        (100 * 3_000_000 + 10 * 15_000_000 + 50 * 300_000 + 40 * 7_000_000 + 5 * 700_000) // 1_000
    )


@pytest.mark.parametrize("usage", [Usage(1, 1, audio_input_tokens=-1), Usage(1, 1, audio_cache_read_tokens=-1)])
def test_a_negative_count_of_audio_is_no_usage(usage: Usage) -> None:
    assert bill(usage, quoted(a_call(), CARD)) == Unmetered("the reported usage has a negative count")


def test_a_card_without_audio_rates_bills_audio_as_input() -> None:
    quote = quoted(a_call(), a_card({"default": (Step(0, RATES),)}))
    assert bill(Usage(100, 0, audio_input_tokens=100), quote) == cost([(100, RATES.input)])


@pytest.mark.parametrize("cache_write", CacheWrite)
def test_what_may_be_audio_is_quoted_at_the_rate_of_audio(cache_write: CacheWrite) -> None:
    silent = an_input(1_000)
    rates = LOUD._replace(output=Rate(0))
    card = a_card({"default": (Step(0, rates),)})
    quiet, loud = (
        quoted(a_call(one, Output(1), cache_write=cache_write), card) for one in (silent, replace(silent, audio=True))
    )
    assert loud.input_tokens == quiet.input_tokens
    assert loud.fixed == cost([(loud.input_tokens, Rate(10_000_000))])
    assert quiet.fixed < loud.fixed


def test_cached_audio_that_is_dearer_than_fresh_audio_is_quoted_at_its_own_rate() -> None:
    card = a_card({"default": (Step(0, Rates(*[Rate(10)] * 5, Rate(0), Rate(90))),)})
    quote = quoted(a_call(replace(an_input(100), audio=True), Output(1)), card)
    assert quote.fixed == cost([(quote.input_tokens, Rate(100)), (64, Rate(10))])


def test_the_dearest_rates_are_the_dearest_of_audio_too() -> None:
    assert dearest_rates([RATES, LOUD]) == LOUD
    assert LOUD.times(150).audio_extra == Rate(10_500_000)


def test_every_piece_of_the_input_has_a_window_of_its_own() -> None:
    card = a_card(context_tokens=2_000)
    long = an_input(100_000)
    assert input_bound(long, card) == 2_000
    assert input_bound(replace(long, pieces=7), card) == 14_000
    assert input_bound(replace(long, pieces=7, opaque=True), card) == 14_000
    assert input_bound(replace(an_input(10), pieces=7), card) == input_bound(an_input(10), card)


@given(
    st.builds(Rates, *[st.integers(0, 10**8).map(Rate)] * 7),
    st.tuples(*[st.integers(0, 3_000)] * 4),
    st.booleans(),
)
def test_no_audio_within_the_bounds_of_a_quote_is_billed_above_it(
    rates: Rates, counts: tuple[int, int, int, int], is_opaque: bool
) -> None:
    call = a_call(replace(an_input(3_000), audio=True, opaque=is_opaque), Output(500))
    quote = quoted(call, a_card({"default": (Step(0, rates),)}))
    fresh, cached = counts[0], min(counts[1], quote.input_tokens - min(counts[0], quote.input_tokens))
    usage = Usage(
        input_tokens=min(fresh, quote.input_tokens),
        output_tokens=500,
        cache_read_tokens=cached,
        audio_input_tokens=min(counts[2], fresh, quote.input_tokens),
        audio_cache_read_tokens=min(counts[3], cached),
    )
    amount = bill(usage, quote)
    assert isinstance(amount, Money)
    assert amount.nanodollars <= quote.fixed.nanodollars + cost([(500, quote.per_output_token)]).nanodollars
