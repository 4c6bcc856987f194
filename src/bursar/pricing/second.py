"""A second public price list beside the book: LiteLLM's table, or models.dev's; and where the two are apart. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from typing import Any, NamedTuple

from bursar.clock import Instant
from bursar.money import Rate
from bursar.pricing.book import Book
from bursar.pricing.limits_source import PROVIDERS, picodollars
from bursar.pricing.rates import DEFAULT_TIER, Card, rates_at

MODELS_DEV_PROVIDERS = ("anthropic", "deepseek", "google", "groq", "mistral", "openai")
_CLASSES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
}
_LITELLM = re.compile(rf"({'|'.join(sorted(_CLASSES, reverse=True))})(?:_above_(\d+)k_tokens)?(?:_(flex|priority))?")
_MODELS_DEV = {"input": "input", "output": "output", "cache_read": "cache_read", "cache_write": "cache_write_5m"}


class Point(NamedTuple):
    """What one rate is about: a tier, a length of the input, a class of tokens."""

    tier: str
    above_input_tokens: int
    name: str

    def __str__(self) -> str:
        above = f" above {self.above_input_tokens} input tokens" if self.above_input_tokens else ""
        return f"{self.tier}{above}: {self.name}"


SecondList = Mapping[str, Mapping[str, Mapping[Point, Rate]]]
"""By provider and by model name in lower case."""


class Difference(NamedTuple):
    """A rate that the two lists do not have in common; in USD per million tokens."""

    provider: str
    model: str
    what: str
    book: str
    second: str
    book_is: str
    """`cheaper` or `dearer`, or `refused` where only the second list prices it."""
    why: str = ""
    """What explains it; empty where nothing does."""


class Explained(NamedTuple):
    """A difference that somebody has looked into."""

    provider: str
    model: re.Pattern[str]
    what: re.Pattern[str]
    book_is: str
    second: str
    """What the second list says; empty explains whatever it says, which is right only where the book is dearer."""
    why: str

    def covers(self, found: Difference) -> bool:
        """Say whether this explains the difference."""
        if (self.provider, self.book_is) != (found.provider, found.book_is):
            return False
        if self.second not in ("", found.second):
            return False
        return bool(self.model.fullmatch(found.model) and self.what.fullmatch(found.what))


def load_explained() -> tuple[Explained, ...]:
    """Read what is part of this package."""
    text = files("bursar.pricing").joinpath("data", "explained.json").read_text(encoding="utf-8")
    return tuple(
        Explained(provider, re.compile(model), re.compile(what), book_is, second, why)
        for provider, model, what, book_is, second, why in json.loads(text)["explained"]
    )


class Comparison(NamedTuple):
    """The two lists beside each other."""

    compared: int
    """Models that both have."""
    only_book: int
    """Models of the book at providers that both know."""
    differences: tuple[Difference, ...]


def read_list(table: object) -> SecondList:
    """Read either table, with its numbers as Decimal or int; raises ValueError when it is neither."""
    if isinstance(table, dict) and all(isinstance(entry, dict) for entry in table.values()):
        if any("litellm_provider" in entry for entry in table.values()):
            return _litellm(table)
        if any("models" in entry for entry in table.values()):
            return _models_dev(table)
    raise ValueError("it is neither LiteLLM's table of models nor that of models.dev")


def compare(
    book: Book, second: SecondList, upstreams: Mapping[str, str], explained: tuple[Explained, ...], now: Instant
) -> Comparison:
    """Compare every model that the book prices; `upstreams` gives the provider's name of each upstream."""
    compared, alone, found = 0, 0, []
    for upstream, provider in upstreams.items():
        rows = second.get(provider, {})
        if not rows:
            continue
        for card in book.models(upstream, now):
            if not isinstance(card, Card) or card.provider != provider:
                continue
            row = rows.get(card.model.lower())
            compared, alone = (compared, alone + 1) if row is None else (compared + 1, alone)
            found += [_with_reason(one, explained) for one in _differences(card, row or {})]
    return Comparison(compared, alone, tuple(dict.fromkeys(found)))


def _differences(card: Card, row: Mapping[Point, Rate]) -> Iterator[Difference]:
    for point in sorted(row):
        theirs = row[point]
        steps = card.tiers.get(point.tier)
        if steps is None:
            yield Difference(card.provider, card.model, str(point), "-", str(theirs), "refused")
            continue
        ours: Rate = getattr(rates_at(steps, point.above_input_tokens + 1), point.name)
        if ours != theirs:
            kind = "cheaper" if ours < theirs else "dearer"
            yield Difference(card.provider, card.model, str(point), str(ours), str(theirs), kind)


def _with_reason(found: Difference, explained: tuple[Explained, ...]) -> Difference:
    return next((found._replace(why=one.why) for one in explained if one.covers(found)), found)


def _litellm(table: Mapping[str, Any]) -> SecondList:
    rows: dict[str, dict[str, dict[Point, Rate]]] = {}
    for key, entry in table.items():
        prefix = entry.get("litellm_provider", "")
        provider = PROVIDERS.get(prefix)
        if provider is None:
            continue
        points = {}
        for field, value in entry.items():
            found = _LITELLM.fullmatch(field)
            if found and value:
                point = Point(found[3] or DEFAULT_TIER, int(found[2] or 0) * 1000, _CLASSES[found[1]])
                points[point] = Rate(picodollars(_number(value)))
        rows.setdefault(provider, {}).setdefault(key.removeprefix(f"{prefix}/").lower(), points)
    return rows


def _models_dev(table: Mapping[str, Any]) -> SecondList:
    rows: dict[str, dict[str, dict[Point, Rate]]] = {}
    for provider in MODELS_DEV_PROVIDERS:
        for name, entry in table.get(provider, {}).get("models", {}).items():
            cost = entry.get("cost") or {}
            rows.setdefault(provider, {})[name.lower()] = {
                # Per million there: the number of USD is the number of microdollars, a million picodollars each.
                Point(DEFAULT_TIER, 0, ours): Rate(picodollars(_number(cost[theirs]) * Decimal("0.000001")))
                for theirs, ours in _MODELS_DEV.items()
                if cost.get(theirs)
            }
    return rows


def _number(value: object) -> Decimal:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{str(value)[:40]!r} is not a price") from None
