"""Nothing is lost between the two sides, whatever they are; and what is posted is exactly the difference."""

from __future__ import annotations

import datetime
from decimal import Decimal

from bill_samples import DAY
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.cli.bills.compare import EPOCH, compare, day_number, differs, nanodollars
from bursar.cli.bills.post import postings
from bursar.cli.bills.reports import Billed, Report, Tokens
from bursar.ledger.store import SpentRow

DAYS = [DAY + datetime.timedelta(days=number) for number in range(4)]
# The same model in three spellings, another one, and something that is not for a model.
NAMES = ["gpt-5", "gpt-5-2025-08-07", "GPT-5", "o9", "web search tool calls"]
USD = st.integers(-(10**6), 10**12).map(lambda amount: Decimal(amount) / 10**9)
ROWS = st.builds(
    SpentRow,
    st.sampled_from(DAYS).map(day_number),
    st.just("openai"),
    st.sampled_from(NAMES),
    st.integers(0, 9),
    st.integers(0, 10**12),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
BILLS = st.builds(Billed, st.sampled_from(DAYS), st.sampled_from(["gpt-5", "o9", "web search tool calls"]), USD)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(ROWS, max_size=12), st.lists(BILLS, max_size=12), st.sets(st.sampled_from(DAYS)))
def test_both_sides_are_whole_and_every_line_is_once(
    spent: list[SpentRow], billed: list[Billed], days: set[datetime.date]
) -> None:
    report = Report("openai-costs", frozenset(DAYS), tuple(billed))
    lines = compare(report, spent, frozenset(days), lambda row: None)
    ours = sum(row.usd for row in spent if EPOCH + datetime.timedelta(days=row.day) in days)
    theirs = sum((row.usd or Decimal(0) for row in billed if row.day in days), Decimal(0))
    assert sum(line.ledger_usd for line in lines) == ours
    assert sum(line.provider_usd or 0 for line in lines) == nanodollars(theirs)
    keys = [(line.day, line.model) for line in lines]
    assert keys == sorted(set(keys))
    sides = {"more": 0, "less": 0}
    for posting in postings(lines, "openai", "digest"):
        assert posting.usd >= 0
        sides[posting.scope.rpartition(":")[2]] += posting.usd
    assert ours + sides["more"] - sides["less"] == nanodollars(theirs)
    ids = [posting.call_id for posting in postings(lines, "openai", "digest")]
    assert len(ids) == len(set(ids))


def test_a_line_without_a_price_never_agrees_and_is_never_posted() -> None:
    rows = (
        Billed(DAY, "gpt-5", usd=Decimal(1)),
        Billed(DAY, "gpt-5", tokens=Tokens(3, 4), named="gpt-5"),
        Billed(DAY, "gpt-5", tokens=Tokens(5), named="gpt-5"),
    )
    (line,) = compare(Report("openai-usage", frozenset({DAY}), rows[1:]), [], frozenset({DAY}), lambda row: None)
    assert (line.difference, line.provider_tokens, differs(line, 10**18)) == (None, 12, True)
    assert postings([line], "openai", "digest") == []
    (mixed,) = compare(Report("openai-usage", frozenset({DAY}), rows), [], frozenset({DAY}), lambda row: Decimal(2))
    assert (mixed.provider_usd, mixed.provider_tokens) == (5 * 10**9, None)
    assert differs(mixed, 5 * 10**9) is False


def test_amounts_are_compared_to_the_nearest_nanodollar() -> None:
    assert [nanodollars(Decimal(usd)) for usd in ("0.0000000004", "0.0000000005", "-0.0000000005", "1.1234567894")] == [
        0,
        1,
        -1,
        1_123_456_789,
    ]
