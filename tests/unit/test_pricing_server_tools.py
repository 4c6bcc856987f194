"""What a call may cost that uses tools of the provider's: passes, fees, and a bill that stays within the quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import types as listed
from hypothesis import given
from hypothesis import strategies as st
from pricing_samples import NOW, RATES, OneCard, a_call, a_card, a_rate_of_each, an_input, quoted
from test_pricing_listed import DAY, MIDNIGHT, PRICES, a_model, card

from bursar.call import CacheWrite, Call, Input, Output, ServerTool, ServerTools, Unmetered, Usage
from bursar.clock import Instant
from bursar.money import Money, MoneyError, Rate, cost
from bursar.pricing.bill import bill
from bursar.pricing.counted import CountedBy, InputCount
from bursar.pricing.own import OwnModel, own_card
from bursar.pricing.quote import OutputPolicy, counting_saves, worst_case
from bursar.pricing.rates import Card, Step, Unpriced, surcharged
from bursar.pricing.show import facts

WEB, FILES, FETCH = ServerTool.WEB_SEARCH, ServerTool.FILE_SEARCH, ServerTool.WEB_FETCH
CENT = Rate(10**10)
FEES = {WEB: CENT, FILES: Rate(2_500_000_000), FETCH: Rate(0)}
LADDER = {"default": (Step(0, RATES), Step(200_000, RATES.times(200)))}


def with_tools(
    uses: Mapping[ServerTool, int], passes: int, given_input: Input | None = None, output: Output | None = None
) -> Call:
    return replace(a_call(given_input, output), server_tools=ServerTools(uses, passes, 3))


def priced(fees: Mapping[ServerTool, Rate] = FEES, tiers: Any = None, context: int = 1_000_000) -> Card:
    return replace(a_card(tiers, context_tokens=context), fees=fees)


# ---- the quote --------------------------------------------------------------------------------------------------


def test_every_pass_after_the_first_is_a_whole_window_and_every_use_has_its_fee() -> None:
    quote = quoted(with_tools({WEB: 3, FILES: 2, FETCH: 9}, 4, an_input(1_000)), priced(context=10_000))
    assert quote.input_tokens == 1_513 + 3 * 10_000
    fees = 3 * CENT.picodollars + 2 * FEES[FILES].picodollars
    assert quote.fixed == cost([(quote.input_tokens, RATES.input), (64, RATES.output), (fees, Rate(1))])
    assert quote.fixed_tokens == quote.input_tokens + 64


def test_a_window_that_was_not_asked_for_bounds_no_pass() -> None:
    long = replace(priced(tiers=LADDER), context_tokens_unasked=200_000)
    call = with_tools({WEB: 1}, 3, an_input(500_000))
    asked = quoted(call, long)
    assert (asked.input_tokens, asked.rates) == (500_513 + 2_000_000, RATES.times(200))
    unasked = quoted(replace(call, takes_long_context=False), long)
    # Three passes are longer than the step together, and none of them is.
    assert (unasked.input_tokens, unasked.rates) == (600_000, RATES)


def test_a_count_makes_only_the_first_pass_tight_and_is_not_worth_asking_for() -> None:
    call = with_tools({WEB: 1}, 2, an_input(10_000))
    loose = quoted(call, priced(context=20_000))
    assert counting_saves(loose) == (Money(0), 0)
    counted = InputCount(call, 100, CountedBy.PROVIDER)
    tight = worst_case(call, OneCard(priced(context=20_000)), NOW, OutputPolicy(), counted)
    assert not isinstance(tight, Unpriced)
    assert tight.input_tokens == 100 + 5 + 64 + 20_000
    assert counting_saves(quoted(with_tools({WEB: 0}, 1, an_input(10_000)), priced()))[1] > 0


@pytest.mark.parametrize("fees", [{}, {FILES: CENT}, {FETCH: Rate(0), FILES: CENT}])
def test_a_tool_without_a_known_fee_is_unpriced(fees: dict[ServerTool, Rate]) -> None:
    answer = worst_case(with_tools({FILES: 1, WEB: 1}, 2), OneCard(priced(fees)), NOW, OutputPolicy())
    assert isinstance(answer, Unpriced)
    missing = "file_search" if not fees else "web_search"
    assert answer.message.startswith(f"What one use of {missing} costs with 'gpt-5' is not in the price list")
    assert answer.message.endswith(f'with fees = {{ {missing} = "..." }} (USD for one use).')
    assert (answer.model, answer.code, answer.status) == ("gpt-5", "unpriced", 422)


def test_a_fee_of_nothing_is_a_known_fee() -> None:
    quote = quoted(with_tools({FETCH: 5}, 1), priced())
    assert quote.fixed == quoted(a_call(), priced()).fixed


# ---- the bill ---------------------------------------------------------------------------------------------------


def test_a_use_is_billed_with_its_fee_and_rounded_with_all_the_rest() -> None:
    third = {WEB: Rate(333), FILES: Rate(333)}
    quote = quoted(
        with_tools({WEB: 5, FILES: 5}, 2), priced(third, {"default": (Step(0, a_rate_of_each(1, 0, 0, 0, 0)),)})
    )
    assert bill(Usage(1, 0, tool_uses={WEB: 1, FILES: 2}), quote) == Money(1)
    assert bill(Usage(2, 0, tool_uses={WEB: 1, FILES: 2}), quote) == Money(2)
    assert bill(Usage(2, 0), quote) == Money(1)


def test_uses_above_the_bound_are_billed_all_the_same() -> None:
    quote = quoted(with_tools({WEB: 1}, 2), priced())
    assert bill(Usage(1, 0, tool_uses={WEB: 400}), quote) == cost([(1, RATES.input), (400, CENT)])


@pytest.mark.parametrize(
    ("usage", "why"),
    [
        (Usage(1, 1, tool_uses={WEB: -1}), "the reported usage has a negative count"),
        (Usage(1, 1, tool_uses={WEB: 1, FILES: -1}), "the reported usage has a negative count"),
        (Usage(0, 0, tool_uses={WEB: 1}), "the reported usage counts nothing at all"),
        (Usage(1, 1, tool_uses={FETCH: 1}), "a tool on the provider's side was used that the call did not offer"),
        (Usage(1, 1, tool_uses={WEB: 2**63}), "the reported usage costs more than the ledger can count"),
    ],
)
def test_uses_that_cannot_be_are_no_bill(usage: Usage, why: str) -> None:
    assert bill(usage, quoted(with_tools({WEB: 1, FILES: 1}, 2), priced())) == Unmetered(why)


def test_passes_are_billed_by_the_length_that_one_of_them_can_have() -> None:
    long = replace(priced(tiers=LADDER), context_tokens_unasked=200_000)
    call = replace(with_tools({WEB: 1}, 3, an_input(1_000)), takes_long_context=False)
    assert bill(Usage(500_000, 0), quoted(call, long)) == cost([(500_000, RATES.input)])
    asked = replace(call, takes_long_context=True)
    assert bill(Usage(500_000, 0), quoted(asked, long)) == cost([(500_000, RATES.input.times(200))])
    single = replace(call, server_tools=ServerTools({WEB: 0}, 1, 3))
    assert bill(Usage(500_000, 0), quoted(single, long)) == cost([(500_000, RATES.input.times(200))])


rates = st.builds(a_rate_of_each, *[st.integers(0, 10**8)] * 5)
ladders = st.builds(
    lambda first, second, start: (Step(0, first), Step(start, second)), rates, rates, st.integers(1, 50_000)
)
shares = st.integers(0, 100)


@given(
    ladders,
    st.dictionaries(st.sampled_from(list(ServerTool)), st.integers(0, 20), min_size=1),
    st.tuples(*[st.integers(0, 10**11)] * 3),
    st.integers(1, 10),
    st.integers(1, 10),
    st.booleans(),
    st.integers(0, 20_000),
    st.tuples(*[shares] * 6),
)
def test_no_usage_within_the_bounds_is_billed_above_the_quote(
    ladder: tuple[Step, ...],
    uses: dict[ServerTool, int],
    fees: tuple[int, ...],
    passes: int,
    choices: int,
    takes_long: bool,
    text_bytes: int,
    used: tuple[int, ...],
) -> None:
    known = dict(zip(ServerTool, map(Rate, fees), strict=True))
    page = replace(priced(known, {"default": ladder}, context=60_000), context_tokens_unasked=20_000)
    call = with_tools(uses, passes, an_input(text_bytes), Output(tokens_asked=1_000, choices=choices))
    call = replace(call, takes_long_context=takes_long, cache_write=CacheWrite.FIVE_MINUTES)
    quote = quoted(call, page)
    fresh = quote.input_tokens * used[0] // 100
    read = (quote.input_tokens - fresh) * used[1] // 100
    usage = Usage(
        input_tokens=fresh,
        output_tokens=1 + (1_064 * choices - 1) * used[3] // 100,
        cache_read_tokens=read,
        cache_write_5m_tokens=(quote.input_tokens - fresh - read) * used[2] // 100,
        tool_uses={tool: most * used[4] // 100 for tool, most in uses.items()},
    )
    amount = bill(usage, quote)
    assert isinstance(amount, Money)
    assert amount <= quote.fixed + cost([(quote.output_tokens, quote.per_output_token)])


# ---- where fees come from ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "prices", "fees"),
    [
        ("openai", {"web_searches_kcount": Decimal(10), "storage_searches_kcount": Decimal("2.5")}, (WEB, FILES)),
        ("openai", {"web_searches_kcount": Decimal(10)}, (WEB,)),
        ("openai", {"web_searches_kcount": Decimal(0)}, ()),
        ("openai", {}, ()),
        ("anthropic", {"web_searches_kcount": Decimal(10), "storage_searches_kcount": Decimal("2.5")}, (FETCH, WEB)),
        ("anthropic", {}, (FETCH,)),
        ("google", {"web_searches_kcount": Decimal(35)}, ()),
        ("openrouter", {"web_searches_kcount": Decimal(10)}, ()),
    ],
)
def test_the_fees_of_the_price_list_are_those_that_its_provider_is_known_to_bound(
    provider: str, prices: dict[str, Any], fees: tuple[ServerTool, ...]
) -> None:
    found = card(a_model((None, PRICES | prices)), provider=provider).fees
    assert found == {tool: FEES[tool] for tool in fees}


def test_a_fee_of_less_than_a_dollar_for_a_thousand_is_a_fee() -> None:
    assert card(a_model((None, PRICES | {"web_searches_kcount": Decimal("0.5")}))).fees == {WEB: Rate(5 * 10**8)}


@pytest.mark.parametrize(("name", "is_known"), [("gpt-4.1-mini", False), ("gpt-4o-mini", False), ("gpt-4o", True)])
def test_searches_that_are_billed_in_blocks_of_tokens_have_no_known_fee(name: str, is_known: bool) -> None:
    prices = PRICES | {"web_searches_kcount": Decimal(10), "storage_searches_kcount": Decimal("2.5")}
    model = a_model((None, prices))
    model.id = name
    assert card(model).fees == ({WEB: CENT} if is_known else {}) | {FILES: FEES[FILES]}


def test_a_fee_that_changes_while_the_call_may_last_is_the_dearer_one() -> None:
    day = datetime.fromtimestamp((MIDNIGHT + DAY) // 1_000_000, UTC).date()
    later = listed.StartDateConstraint(day)
    soon = Instant(MIDNIGHT + DAY - 1)

    def fees(first: dict[str, Any], second: dict[str, Any]) -> Mapping[ServerTool, Rate]:
        return card(a_model((None, PRICES | first), (later, PRICES | second)), soon).fees

    ten, twenty = ({"web_searches_kcount": Decimal(one)} for one in (10, 20))
    assert fees(ten, twenty) == fees(twenty, ten) == {WEB: Rate(2 * 10**10)}
    assert fees(ten, {}) == fees({}, ten) == {}


def test_an_operator_s_own_model_has_the_fees_that_it_is_given() -> None:
    own = OwnModel("1", "2", 8_000, 1_000, fees={"web_search": "0.01", "web_fetch": "0"})
    assert own_card("m", own).fees == {WEB: CENT, FETCH: Rate(0)}
    assert own_card("m", OwnModel("1", "2", 8_000, 1_000)).fees == {}
    with pytest.raises(MoneyError):
        own_card("m", OwnModel("1", "2", 8_000, 1_000, fees={"web_search": "a cent"}))


@pytest.mark.parametrize(("percent", "fee"), [(110, 11 * 10**9), (100, 10**10), (80, 10**10)])
def test_a_dearer_endpoint_has_dearer_fees_and_a_cheaper_one_has_not(percent: int, fee: int) -> None:
    assert surcharged(priced({WEB: CENT}), percent).fees == {WEB: Rate(fee)}


def test_what_a_use_costs_is_told() -> None:
    assert facts(priced({WEB: CENT, FETCH: Rate(0)})).conditions[-2:] == (
        "web_search: 0.01 USD a use, where the settings let it through",
        "web_fetch: 0.00 USD a use, where the settings let it through",
    )
    assert facts(priced({WEB: Rate(1)})).conditions[-1].startswith("web_search: 0.000000001 USD")
    assert (
        facts(priced({})).conditions[-1] == "no fee of a tool that the provider runs is known, so none is let through"
    )
