"""The bill is exact, and within the quote whenever the usage is within the quote's bounds."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pricing_samples import RATES, a_call, a_card, a_rate_of_each, an_input, quoted

from bursar.call import CacheWrite, Output, Unmetered, Usage
from bursar.money import Money, cost
from bursar.pricing.bill import bill
from bursar.pricing.rates import Step

CLIFF = a_card(
    {
        "default": (Step(0, RATES), Step(1_000, RATES.times(200))),
        "flex": (Step(0, RATES.times(50)),),
        "priority": (Step(0, RATES.times(300)),),
    }
)


def test_each_class_is_billed_at_its_own_rate() -> None:
    usage = Usage(100, 10, cache_read_tokens=200, cache_write_5m_tokens=30, cache_write_1h_tokens=4)
    lines = zip((100, 10, 200, 30, 4), RATES, strict=False)
    assert bill(usage, quoted(a_call(), CLIFF)) == cost(lines)


def test_the_bill_is_rounded_up_once() -> None:
    card = a_card({"default": (Step(0, a_rate_of_each(400, 400, 400, 400, 400)),)})
    assert bill(Usage(1, 1), quoted(a_call(), card)) == Money(1)
    assert bill(Usage(2, 1), quoted(a_call(), card)) == Money(2)


@pytest.mark.parametrize(
    ("usage", "percent"),
    [
        (Usage(1_000, 0), 100),
        (Usage(1_001, 0), 200),
        (Usage(1, 0, cache_read_tokens=999), 100),
        (Usage(1, 0, cache_read_tokens=1_000), 200),
        (Usage(1, 0, cache_write_5m_tokens=1_000), 200),
        (Usage(1, 0, cache_write_1h_tokens=1_000), 200),
        (Usage(1_000, 10**6), 100),
    ],
)
def test_the_whole_call_is_dearer_above_the_cliff_and_cached_input_counts(usage: Usage, percent: int) -> None:
    rates = RATES.times(percent)
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
    )
    assert bill(usage, quoted(a_call(), CLIFF)) == cost(zip(counts, rates, strict=False))


@pytest.mark.parametrize(
    ("asked", "reported", "percent"),
    [
        ("default", "default", 100),
        ("default", "standard", 100),
        ("default", "", 100),
        ("flex", "flex", 50),
        ("flex", "default", 100),
        ("priority", "default", 100),
        ("priority", "priority", 300),
        ("default", "priority", 300),
        ("default", "a tier of tomorrow", 100),
        ("priority", "a tier of tomorrow", 300),
    ],
)
def test_the_tier_that_was_served_is_billed_and_an_unknown_one_at_the_dearest_rates_of_the_quote(
    asked: str, reported: str, percent: int
) -> None:
    quote = quoted(a_call(an_input(10), service_tier=asked), CLIFF)
    assert bill(Usage(100, 10, service_tier=reported), quote) == cost(
        [(100, RATES.times(percent).input), (10, RATES.times(percent).output)]
    )


def test_a_reply_that_names_another_model_is_billed_as_the_model_that_was_asked_for() -> None:
    quote = quoted(a_call(), CLIFF)
    assert bill(Usage(100, 10, model="gpt-5-nano"), quote) == bill(Usage(100, 10, model="gpt-5"), quote)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(-1, 1),
        Usage(1, -1),
        Usage(1, 1, cache_read_tokens=-1),
        Usage(1, 1, cache_write_5m_tokens=-1),
        Usage(1, 1, cache_write_1h_tokens=-1),
    ],
)
def test_a_negative_count_is_no_usage(usage: Usage) -> None:
    answer = bill(usage, quoted(a_call(), CLIFF))
    assert answer == Unmetered("the reported usage has a negative count")


def test_usage_that_counts_nothing_is_no_usage_and_a_single_token_is() -> None:
    quote = quoted(a_call(), CLIFF)
    assert bill(Usage(0, 0), quote) == Unmetered("the reported usage counts nothing at all")
    for one in (Usage(1, 0), Usage(0, 1), Usage(0, 0, 1), Usage(0, 0, 0, 1), Usage(0, 0, 0, 0, 1)):
        assert bill(one, quote) > Money(0)


def test_a_cost_that_the_ledger_cannot_count_is_no_cost() -> None:
    nanodollar_a_token = a_card({"default": (Step(0, a_rate_of_each(0, 1_000, 0, 0, 0)),)})
    quote = quoted(a_call(), nanodollar_a_token)
    assert bill(Usage(0, 2**63 - 1), quote) == Money(2**63 - 1)
    too_much = Unmetered("the reported usage costs more than the ledger can count")
    assert bill(Usage(0, 2**63), quote) == too_much


rates = st.builds(a_rate_of_each, *[st.integers(0, 10**8)] * 5)
ladders = st.builds(
    lambda first, second, start: (Step(0, first), Step(start, second)), rates, rates, st.integers(1, 5_000)
)
counts = st.integers(0, 5_000)


@given(
    st.fixed_dictionaries({"default": ladders, "flex": ladders, "default@us": ladders, "flex@us": ladders}),
    st.sampled_from(["default", "flex"]),
    st.sampled_from(list(CacheWrite)),
    st.integers(0, 4_000),
    st.integers(0, 3_000),
    st.integers(1, 4),
    st.tuples(counts, counts, counts, counts),
    st.integers(0, 20_000),
    st.sampled_from(["", "@us"]),
    st.booleans(),
)
def test_no_usage_within_the_bounds_of_a_quote_is_billed_above_it(
    tiers: dict[str, tuple[Step, ...]],
    asked: str,
    cache_write: CacheWrite,
    text_bytes: int,
    output_tokens: int,
    choices: int,
    used: tuple[int, int, int, int],
    output_used: int,
    region: str,
    served_as_asked: bool,
) -> None:
    output = Output(tokens_asked=output_tokens, choices=choices)
    call = a_call(an_input(text_bytes), output, cache_write=cache_write, service_tier=asked)
    quote = quoted(call, a_card(tiers))
    left = quote.input_tokens
    classes = []
    for count, allowed in zip(used, allowed_classes(cache_write), strict=True):
        classes.append(min(count, left) if allowed else 0)
        left -= classes[-1]
    usage = Usage(
        input_tokens=classes[0],
        output_tokens=min(output_used, (quote.output_tokens + 64) * choices),
        cache_read_tokens=classes[1],
        cache_write_5m_tokens=classes[2],
        cache_write_1h_tokens=classes[3],
        service_tier=(asked if served_as_asked else "default") + region,
    )
    assume(any((*classes, usage.output_tokens)))  # usage that counts nothing is not believed
    amount = bill(usage, quote)
    assert isinstance(amount, Money)
    assert amount <= quote.fixed + cost([(quote.output_tokens, quote.per_output_token)])


def allowed_classes(cache_write: CacheWrite) -> tuple[bool, bool, bool, bool]:
    writes_5m = cache_write is not CacheWrite.NONE
    return True, True, writes_5m, cache_write is CacheWrite.ONE_HOUR


def test_what_the_provider_says_it_charged_is_the_bill() -> None:
    assert bill(Usage(1_000, 10, cost=Money(5)), quoted(a_call(), CLIFF)) == Money(5)


def test_a_charge_that_the_ledger_cannot_count_is_no_bill() -> None:
    assert isinstance(bill(Usage(1, 1, cost=Money(2**63)), quoted(a_call(), CLIFF)), Unmetered)
