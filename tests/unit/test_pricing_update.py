"""Every change between two price books is found, and named for what it means to the cap."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pricing_newer import LATER, LIMITS, MODEL, NOW, limits, rates

from bursar.clock import SECOND, Instant
from bursar.pricing.book import Book
from bursar.pricing.newer import pack
from bursar.pricing.rates import Card, rates_at
from bursar.pricing.update import Change, Kind, changes

ROW = [1000, 100, 100_000, 2_000_000, 100]
DAY = 24 * 3600 * SECOND


def book(*models: dict[str, Any], row: list[int] | None = None, **rows: list[int]) -> Book:
    rows = rows or {"gpt_7": row or ROW}
    return Book({}, {"openai": "openai"}, stored=pack(LATER, "s", json.dumps(rates(*models)), limits(**rows)))


def priced(**prices: Any) -> dict[str, Any]:
    return {**MODEL, "prices": {**MODEL["prices"], **prices}}


def found(old: Book, new: Book, now: Instant = NOW) -> list[tuple[str, str, str, Kind]]:
    answer = changes(old, new, ("openai",), now)
    assert {(change.provider, change.model) for change in answer} <= {("openai", "gpt-7")}
    return [change[2:] for change in answer]


def test_the_same_book_has_no_changes() -> None:
    assert changes(book(MODEL), book(MODEL), ("openai",), NOW) == ()
    assert changes(Book({}, {"openai": "openai"}), Book({}, {"openai": "openai"}), ("openai",), NOW) == ()


@pytest.mark.parametrize(
    ("price", "kind"),
    [("2.000001", Kind.DEARER), ("1.999999", Kind.CHEAPER), ("0.20", Kind.CHEAPER), ("0.199999", Kind.IMPLAUSIBLE)],
)
def test_a_rate_is_dearer_cheaper_or_implausible(price: str, kind: Kind) -> None:
    row = [1000, 100, 100_000, int(price.replace(".", "")) * 10 ** (6 - len(price.partition(".")[2])), 100]
    change = found(book(MODEL), book(priced(output_mtok=float(price)), row=row))
    assert change == [("default: output", "2.00", price, kind)]


def test_a_rate_that_falls_to_nothing_is_implausible() -> None:
    change = found(book(MODEL), book(priced(output_mtok=0), row=[1000, 100, 100_000, 0, 100]))
    assert [kind for *_, kind in change] == [Kind.IMPLAUSIBLE]


def test_a_class_that_gets_a_rate_of_its_own_below_the_ordinary_one_is_cheaper() -> None:
    assert found(book(MODEL), book(priced(cache_read_mtok=0.05))) == [
        ("default: cache_read", "0.10", "0.05", Kind.CHEAPER)
    ]


def test_a_cliff_that_is_taken_away_is_cheaper_above_it_only() -> None:
    cliff = priced(input_mtok={"base": 0.1, "tiers": [{"start": 500, "price": 0.3}]})
    change = found(book(cliff, row=ROW), book(MODEL))
    assert change == [
        (f"default above 500 input tokens: {name}", "0.30", "0.10", Kind.CHEAPER)
        for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h")
    ]
    assert {kind for *_, kind in found(book(MODEL), book(cliff))} == {Kind.DEARER}


def test_a_smaller_bound_is_cheaper_for_it_holds_less() -> None:
    narrow = found(book(MODEL), book(MODEL, row=[900, 90, *ROW[2:]]))
    assert [(what, kind) for what, _, _, kind in narrow] == [
        ("context_tokens", Kind.CHEAPER),
        ("context_tokens_unasked", Kind.CHEAPER),
        ("output_tokens_max", Kind.CHEAPER),
        ("image_tokens_max", Kind.CHEAPER),
    ]
    assert {kind for *_, kind in found(book(MODEL), book(MODEL, row=[1100, 110, *ROW[2:]]))} == {Kind.DEARER}


def test_a_model_that_comes_is_new_and_one_that_goes_is_gone_and_says_why() -> None:
    other = {"id": "gpt-8", "match": {"equals": "gpt-8"}, "prices": MODEL["prices"]}
    both = book(MODEL, other, gpt_7=ROW, gpt_8=ROW)
    one = book(MODEL, gpt_7=ROW)
    assert changes(one, both, ("openai",), NOW) == (
        Change("openai", "gpt-8", "model", "not priced", "priced", Kind.NEW),
    )
    why = "not priced: it is not in the price list of openai"
    assert changes(both, one, ("openai",), NOW) == (Change("openai", "gpt-8", "model", "priced", why, Kind.GONE),)


def test_two_lists_that_begin_to_disagree_take_the_model_away() -> None:
    (change,) = found(book(MODEL), book(priced(output_mtok=3)))
    assert change[2:] == ("not priced: two public price lists disagree on it", Kind.GONE)


def test_a_fee_comes_and_goes_and_changes() -> None:
    with_fee, dearer, nearly_free = (priced(web_searches_kcount=usd) for usd in (10, 10.5, 0.5))
    what = "a million uses of web_search"
    assert found(book(MODEL), book(with_fee)) == [(what, "not known", "10000.00", Kind.NEW)]
    assert found(book(with_fee), book(MODEL)) == [(what, "10000.00", "not known", Kind.GONE)]
    assert found(book(with_fee), book(dearer)) == [(what, "10000.00", "10500.00", Kind.DEARER)]
    assert found(book(dearer), book(with_fee)) == [(what, "10500.00", "10000.00", Kind.CHEAPER)]
    assert found(book(with_fee), book(nearly_free)) == [(what, "10000.00", "500.00", Kind.IMPLAUSIBLE)]


def test_a_tier_comes_and_goes() -> None:
    flex = {
        **MODEL,
        "price_variants": [{"when": {"service_tier": "flex"}, "prices": {"input_mtok": 1, "output_mtok": 1}}],
    }
    assert found(book(MODEL), book(flex)) == [("tier flex", "not priced", "priced", Kind.NEW)]
    assert found(book(flex), book(MODEL)) == [("tier flex", "priced", "not priced", Kind.GONE)]


def test_a_price_that_falls_on_a_known_day_to_come_is_found_today() -> None:
    prices = [
        {"prices": MODEL["prices"]},
        {"constraint": {"start_date": "2026-12-20"}, "prices": {"input_mtok": 0.1, "output_mtok": 1}},
    ]
    falling = {**MODEL, "prices": prices}
    assert found(book(MODEL), book(falling)) == [("default: output", "2.00", "1.00", Kind.CHEAPER)]


def test_prices_by_the_time_of_day_are_compared_for_every_hour_and_come_to_an_end() -> None:
    night = {"constraint": {"start_time": "01:00:00Z", "end_time": "04:00:00Z"}}
    cheap = {
        **MODEL,
        "prices": [{"prices": MODEL["prices"]}, {**night, "prices": {"input_mtok": 0.1, "output_mtok": 1}}],
    }
    dear = {
        **MODEL,
        "prices": [{"prices": MODEL["prices"]}, {**night, "prices": {"input_mtok": 0.1, "output_mtok": 4}}],
    }
    for hour in range(0, 24, 5):
        now = Instant(NOW + hour * DAY // 24)
        assert found(book(MODEL), book(cheap), now) == [("default: output", "2.00", "1.00", Kind.CHEAPER)]
        assert found(book(MODEL), book(dear), now) == [("default: output", "2.00", "4.00", Kind.DEARER)]


def test_the_source_of_the_limits_is_no_change() -> None:
    assert LIMITS["made_on"] != LATER
    assert found(book(MODEL), book(MODEL)) == []


# ---- properties -----------------------------------------------------------------------------------------------------

MICRO = st.integers(1, 40).map(lambda tenths: tenths * 100_000)
PRICES = st.fixed_dictionaries(
    {"input": MICRO, "output": MICRO}, optional={"cache_read": MICRO, "cliff": MICRO, "flex": MICRO}
)


def drawn(prices: dict[str, int]) -> Book:
    """Give a book with one model at these prices, in picodollars per token."""
    usd = {name: picodollars / 1_000_000 for name, picodollars in prices.items()}
    made: dict[str, Any] = {"input_mtok": usd["input"], "output_mtok": usd["output"]}
    if "cliff" in usd:
        made["output_mtok"] = {"base": usd["output"], "tiers": [{"start": 500, "price": usd["cliff"]}]}
    if "cache_read" in usd:
        made["cache_read_mtok"] = usd["cache_read"]
    model: dict[str, Any] = {**MODEL, "prices": made}
    if "flex" in usd:
        flex = {**made, "input_mtok": usd["flex"]}
        model["price_variants"] = [{"when": {"service_tier": "flex"}, "prices": flex}]
    return book(model, row=[1000, 100, prices["input"], prices["output"], 100])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(PRICES, PRICES, st.integers(1, 1000))
def test_a_book_without_a_word_of_warning_makes_no_call_cheaper(
    old: dict[str, int], new: dict[str, int], input_tokens: int
) -> None:
    before, after = (drawn(prices).card("openai", "gpt-7", NOW) for prices in (old, new))
    assert isinstance(before, Card)
    assert isinstance(after, Card)
    kinds = {kind for *_, kind in found(drawn(old), drawn(new))}
    cheaper = [
        (tier, name)
        for tier in before.tiers.keys() & after.tiers.keys()
        for name in before.tiers[tier][0].rates._fields
        if getattr(rates_at(after.tiers[tier], input_tokens), name)
        < getattr(rates_at(before.tiers[tier], input_tokens), name)
    ]
    gone = before.tiers.keys() - after.tiers.keys()
    assert not cheaper or kinds & {Kind.CHEAPER, Kind.IMPLAUSIBLE}, cheaper
    assert not gone or Kind.GONE in kinds
    assert bool(kinds) == (before.tiers != after.tiers)
