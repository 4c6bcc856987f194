"""Money is whole, exact, and rounded in one place, upwards."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.money import NANODOLLARS_MAX, ZERO, BrokenInvariantError, Money, MoneyError, Rate, cost, ensure

amounts = st.integers(min_value=0, max_value=NANODOLLARS_MAX)
tokens = st.integers(min_value=0, max_value=10**9)
rates = st.integers(min_value=0, max_value=10**12).map(Rate)
lines = st.lists(st.tuples(tokens, rates), max_size=6)


@pytest.mark.parametrize(
    ("text", "nanodollars"),
    [
        ("5", 5_000_000_000),
        (" 5.00 ", 5_000_000_000),
        ("$0.25", 250_000_000),
        ("0", 0),
        ("0.000000001", 1),
        ("1e2", 100_000_000_000),
        ("9223372036", 9_223_372_036_000_000_000),
    ],
)
def test_an_amount_in_usd_is_read_to_the_nanodollar(text: str, nanodollars: int) -> None:
    assert Money.from_usd(text) == Money(nanodollars)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not an amount in USD; write"),
        ("five", "is not an amount in USD; write"),
        ("1,5", "is not an amount in USD; write"),
        ("-1", "of zero or more"),
        ("nan", "of zero or more"),
        ("-inf", "of zero or more"),
        ("inf", "of zero or more"),
        ("9223372037", "more than the ledger can count"),
        ("9223372036.5", "more than the ledger can count"),
        ("1e400", "more than the ledger can count"),
        ("0.0000000001", "more than nine decimals"),
        ("1.0000000005", "more than nine decimals"),
    ],
)
def test_what_is_not_an_exact_amount_is_refused_with_a_reason(text: str, says: str) -> None:
    with pytest.raises(MoneyError, match=says):
        Money.from_usd(text)


@pytest.mark.parametrize(
    ("nanodollars", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (1_500_000_000, "1.50"),
        (12_000, "0.000012"),
        (-1_000_000, "-0.001"),
        (-5_000_000_000, "-5.00"),
        (NANODOLLARS_MAX, "9223372036.854775807"),
    ],
)
def test_money_is_shown_in_usd_with_at_least_two_decimals(nanodollars: int, text: str) -> None:
    assert str(Money(nanodollars)) == text


@given(st.integers(min_value=0, max_value=9_223_372_036 * 10**9))
def test_what_is_shown_reads_back_as_the_same_amount(nanodollars: int) -> None:
    assert Money.from_usd(str(Money(nanodollars))) == Money(nanodollars)


@given(amounts, amounts)
def test_money_adds_subtracts_and_compares_like_whole_numbers(one: int, other: int) -> None:
    assert Money(one) + Money(other) == Money(one + other)
    assert Money(one) - Money(other) == Money(one - other)
    assert (Money(one) < Money(other)) == (one < other)
    assert Money(one) + ZERO == Money(one)


@pytest.mark.parametrize(
    ("price", "picodollars"),
    [("1.25", 1_250_000), ("$2", 2_000_000), ("0", 0), ("0.000001", 1), ("0.0000001", 1), ("0.0000011", 2)],
)
def test_a_price_per_million_tokens_is_read_to_the_picodollar_and_rounded_up(price: str, picodollars: int) -> None:
    assert Rate.from_usd_per_million(price) == Rate(picodollars)
    assert Rate.from_usd_per_million(Decimal(price.removeprefix("$"))) == Rate(picodollars)


@pytest.mark.parametrize(
    ("price", "says"),
    [
        ("free", "write for example"),
        ("-0.1", "of zero or more"),
        ("nan", "of zero or more"),
        ("inf", "of zero or more"),
        ("1000000.01", "more than 1000000 USD"),
    ],
)
def test_what_is_not_a_price_is_refused_with_a_reason(price: str, says: str) -> None:
    with pytest.raises(MoneyError, match=says):
        Rate.from_usd_per_million(price)


def test_the_dearest_price_that_can_be_written_is_a_million_dollars_per_million_tokens() -> None:
    assert Rate.from_usd_per_million("1000000") == Rate(10**12)


@pytest.mark.parametrize(("picodollars", "text"), [(2_500_000, "2.50"), (37_500, "0.0375"), (0, "0.00")])
def test_a_rate_is_shown_in_usd_per_million_tokens(picodollars: int, text: str) -> None:
    assert str(Rate(picodollars)) == text


@given(rates, st.integers(min_value=0, max_value=1_000))
def test_a_percentage_of_a_rate_is_rounded_up(rate: Rate, percent: int) -> None:
    exact = Fraction(rate.picodollars * percent, 100)
    assert exact <= rate.times(percent).picodollars < exact + 1


# The rounding, one mutant a line: to nearest, down, per line, always one up, and by the wrong factor.
@pytest.mark.parametrize(
    ("lines_of_tokens", "nanodollars"),
    [
        ([(1, 1)], 1),
        ([(1, 499)], 1),
        ([(1, 1_001)], 2),
        ([(1, 1_000)], 1),
        ([(1, 500), (1, 500)], 1),
        ([(1, 1), (1, 1), (1, 1)], 1),
        ([(3, 333), (1, 2)], 2),
        ([(0, 10**12)], 0),
        ([], 0),
        ([(1_000_000, 1_250_000)], 1_250_000_000),
    ],
)
def test_a_sum_of_lines_is_rounded_up_once(lines_of_tokens: list[tuple[int, int]], nanodollars: int) -> None:
    assert cost((count, Rate(rate)) for count, rate in lines_of_tokens) == Money(nanodollars)


@given(lines)
def test_a_cost_is_never_below_the_exact_sum_and_less_than_a_nanodollar_above_it(
    costed: list[tuple[int, Rate]],
) -> None:
    exact = sum((Fraction(count * rate.picodollars, 1_000) for count, rate in costed), Fraction(0))
    assert exact <= cost(costed).nanodollars < exact + 1


@given(lines, lines)
def test_two_bills_are_never_cheaper_than_one(one: list[tuple[int, Rate]], other: list[tuple[int, Rate]]) -> None:
    together = cost([*one, *other])
    assert together <= cost(one) + cost(other)
    assert (cost(one) + cost(other) - together).nanodollars <= 1


def test_a_rule_that_holds_says_nothing() -> None:
    ensure(True, "held is never negative")


def test_a_broken_rule_names_itself_and_its_evidence() -> None:
    with pytest.raises(BrokenInvariantError, match=r"held is never negative: \(-1, 'run:a'\)"):
        ensure(False, "held is never negative", -1, "run:a")
    with pytest.raises(BrokenInvariantError, match=r"^held is never negative$"):
        ensure(False, "held is never negative")


@pytest.mark.parametrize(
    ("usd", "nanodollars"), [("0", 0), ("0.0000000001", 1), ("1.5", 1_500_000_000), ("0.000000001", 1)]
)
def test_a_charge_is_rounded_up_to_a_nanodollar(usd: str, nanodollars: int) -> None:
    assert Money.charged(Decimal(usd)) == Money(nanodollars)


@pytest.mark.parametrize("usd", ["-0.01", "NaN", "-Infinity", "Infinity", "9300000000"])
def test_a_charge_that_is_no_amount_is_refused(usd: str) -> None:
    with pytest.raises(MoneyError, match="can have been charged"):
        Money.charged(Decimal(usd))
