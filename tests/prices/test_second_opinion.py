"""The bill equals what an independent source says, or the difference is explained in docs/prices.md."""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bursar.call import Body, CacheWrite, Call, Input, Output, Usage
from bursar.clock import SECOND, Instant
from bursar.money import NANODOLLARS_PER_USD, Money
from bursar.pricing.bill import bill
from bursar.pricing.book import Book
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import Card, Unpriced

OPINION = json.loads((Path(__file__).parent / "second_opinion.json").read_text(encoding="utf-8"))
ASKED_AT = Instant(int(datetime.fromisoformat(OPINION["asked_at"]).timestamp()) * SECOND)
PAGE = Path(__file__).parents[2] / "docs" / "prices.md"
# The source computes in floats; bursar rounds up to a nanodollar.
FLOAT_ERROR = Decimal("1e-12")
ROW = re.compile(
    r"\| (?P<provider>[a-z-]+) \| (?P<models>`.+`) \| (?P<usages>[^|]+) \| (?P<ours>dearer|cheaper|refused) \|"
)


class Case(NamedTuple):
    provider: str
    model: str
    usage: str


class OneCard:
    def __init__(self, card: Card) -> None:
        self._card = card

    def card(self, upstream: str, model: str, now: Instant) -> Card | Unpriced:
        return self._card


@cache
def cards() -> dict[tuple[str, str], Card]:
    book = Book({}, {provider: provider for provider in OPINION["models"]})
    found = {}
    for provider, rows in OPINION["models"].items():
        for model in rows:
            card = book.card(provider, model, ASKED_AT)
            if isinstance(card, Card):
                found[provider, model] = card
    return found


def verdict(card: Card, given: dict[str, Any]) -> str:
    """Say whether the bill is the `same` as the source's, `dearer` or `cheaper`, or the call `refused`."""
    tier = given.get("tier", "default")
    # A long input needs room in the quote, so that its rates are those of the length.
    call = Call(
        dialect="openai_chat",
        upstream=card.provider,
        model=card.model,
        stream=False,
        body=Body("{}", {}),
        input=Input(0, True, 0, 0, 0, opaque=True),
        output=Output(tokens_asked=1),
        cache_write=CacheWrite.ONE_HOUR,
        service_tier=tier,
    )
    quote = worst_case(call, OneCard(card), ASKED_AT, OutputPolicy())
    if not isinstance(quote, Quote):
        return "refused"
    counts = (given["input"], given["output"], given.get("read", 0), given.get("write", 0), given.get("write_1h", 0))
    amount = bill(Usage(*counts, service_tier=tier), quote)
    assert isinstance(amount, Money)
    difference = amount.nanodollars - Decimal(given["usd"]) * NANODOLLARS_PER_USD
    slack = Decimal(given["usd"]) * NANODOLLARS_PER_USD * FLOAT_ERROR
    if -slack <= difference < 1 + slack:
        return "same"
    return "dearer" if difference > 0 else "cheaper"


@cache
def differences() -> dict[Case, str]:
    found = {}
    for (provider, model), card in cards().items():
        for name, given in OPINION["models"][provider][model].items():
            answer = verdict(card, given)
            if answer != "same":
                found[Case(provider, model, name)] = answer
    return found


def explained() -> dict[Case, str]:
    """Read the table of the page: what it says of each model and usage."""
    found: dict[Case, str] = {}
    for row in ROW.finditer(PAGE.read_text(encoding="utf-8")):
        for model in re.findall(r"`([^`]+)`", row["models"]):
            for usage in row["usages"].split(","):
                case = Case(row["provider"], model, usage.strip())
                assert case not in found, f"{case} is explained twice"
                found[case] = row["ours"]
    return found


def test_at_least_a_hundred_live_models_are_compared_at_five_usages_each() -> None:
    compared = [OPINION["models"][provider][model] for provider, model in cards()]
    assert len(compared) >= 100
    assert min(map(len, compared)) >= 5


@pytest.mark.parametrize("provider", sorted(OPINION["models"]))
def test_the_bill_is_the_second_opinion_or_the_difference_is_explained(provider: str) -> None:
    found = {case: ours for case, ours in differences().items() if case.provider == provider}
    assert found == {case: ours for case, ours in explained().items() if case.provider == provider}


def test_a_wrong_price_would_be_noticed() -> None:
    card = cards()["openai", "gpt-5"]
    given = OPINION["models"]["openai"]["gpt-5"]["plain"]
    assert verdict(card, given) == "same"
    assert verdict(card, {**given, "output": given["output"] + 1}) == "dearer"
    assert verdict(card, {**given, "input": given["input"] - 1}) == "cheaper"
    assert verdict(card, {**given, "tier": "ultrafast"}) == "refused"
