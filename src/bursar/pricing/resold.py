"""Cards of models that are sold by others than their makers, at the makers' prices or at prices of their own.

Imports the price list: import this module through `Book.load`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from genai_prices import types as listed_types

from bursar.clock import Instant
from bursar.pricing.limits import Limits
from bursar.pricing.listed import DoubtError, listed_card
from bursar.pricing.rates import Card, surcharged

_ANY_NAME = re.compile(r"(?P<zone>)(?P<model>.+)")


@dataclass(frozen=True, slots=True)
class Seller:
    """Who sells models of others: how it names them, and what it charges of the maker's price."""

    lists: tuple[str, ...]
    """The makers' price lists; the first that has the model counts."""
    name: re.Pattern[str] = _ANY_NAME
    percent: int = 100
    percent_of_zone: Mapping[str, int] = field(default_factory=dict)


_ON_BEDROCK = re.compile(r"(?:(?P<zone>[a-z-]+)\.)?anthropic\.(?P<model>claude-.+?)(?:-v\d+(?::\d+)?)?")

SELLERS = {
    # A profile of one region or zone costs a tenth more than the global one, and the government's a fifth.
    "bedrock": Seller(("anthropic",), _ON_BEDROCK, percent=110, percent_of_zone={"global": 100, "us-gov": 120}),
    # The price is that of the region which the request is made in, whatever the model is called there.
    "bedrock-us-gov": Seller(("anthropic",), _ON_BEDROCK, percent=120),
    # A gateway in front of several makers; a name may say which one it means: `anthropic:claude-sonnet-4-5`.
    "any": Seller(("openai", "anthropic", "google", "mistral", "groq", "deepseek", "x-ai")),
}


def resold_card(
    seller_id: str,
    name: str,
    now: Instant,
    limits: Limits,
    providers: Mapping[str, listed_types.Provider],
    source: str,
    horizon: int,
) -> Card:
    """Give the card of a model by the price of its maker; raises DoubtError."""
    seller = SELLERS[seller_id]
    maker, colon, of_maker = name.partition(":")
    if colon and maker in seller.lists:
        card = listed_card(maker, of_maker, now, limits, providers, source, horizon)
        return surcharged(replace(card, model=name), seller.percent)
    found = seller.name.fullmatch(name)
    if found is None:
        raise DoubtError(f"{seller_id} names the models that bursar can price there in another way")
    percent = seller.percent_of_zone.get(found["zone"] or "", seller.percent)
    doubts: list[DoubtError] = []
    for list_id in seller.lists:
        try:
            card = listed_card(list_id, found["model"], now, limits, providers, source, horizon)
        except DoubtError as doubt:
            doubts.append(doubt)
        else:
            return surcharged(replace(card, model=name), percent)
    # The doubt about a model that a list has says more than that another list has it not.
    raise next((doubt for doubt in doubts if doubt.known), doubts[0])
