"""How far ahead a call looks for a dearer price: as far as its answer may be away."""

from __future__ import annotations

from typing import Any

import pytest
from pricing_samples import NOW

from bursar.clock import SECOND, Instant
from bursar.edge.wiring import price_book
from bursar.pricing.rates import Card, rates_at
from bursar.settings import parse

HOUR = 3600
DAWN = NOW - NOW % (24 * HOUR * SECOND)
"""DeepSeek is dearer from one o'clock UTC on."""
WAITS = ("wait_seconds_max", "connect_seconds_max", "idle_seconds_max", "total_seconds_max")


def output_rate(waits: dict[str, int], seconds_before: int) -> int:
    policy = {name: seconds for name, seconds in waits.items() if name == "wait_seconds_max"}
    upstream: dict[str, Any] = {name: seconds for name, seconds in waits.items() if name not in policy}
    settings = parse({"policy": policy, "upstreams": {"deepseek": upstream}}, "test")
    card = price_book(settings).card("deepseek", "deepseek-v4-pro", Instant(DAWN + (HOUR - seconds_before) * SECOND))
    assert isinstance(card, Card)
    return rates_at(card.tiers["default"], 1).output.picodollars


@pytest.mark.parametrize("long", WAITS)
def test_a_call_is_quoted_at_the_dearest_price_of_every_wait_that_may_come_before_its_end(long: str) -> None:
    waits = {name: 1800 if name == long else 1 for name in WAITS}
    with_a_count = 1800 + 3 + 3
    assert [output_rate(waits, with_a_count + more) for more in (0, 1)] == [3_960_000, 1_980_000]
