"""What changes when one price book takes the place of another, and which changes nobody may overlook. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from bursar.call import ServerTool
from bursar.clock import Instant
from bursar.money import Rate
from bursar.pricing.book import Book
from bursar.pricing.rates import FOREVER, Card, Step, Unpriced, rates_at

FALL_MAX = 10
"""A rate that falls to less than this part of itself was written in another unit, or is a mistake."""
_NO_FEE = "not known"
CHANGES_AHEAD_MAX = 12
"""How many dated changes of one model are looked at; by the time of day there are a few a day, for ever."""


class Kind(StrEnum):
    """What a change means for the cap."""

    DEARER = "dearer"
    NEW = "new"
    CHEAPER = "cheaper"
    """Less would be held and booked: right only where the provider did lower its price."""
    GONE = "gone"
    """Calls to it would be refused."""
    IMPLAUSIBLE = "implausible"
    """Never taken: a price that falls to nothing, or nearly so."""


class Change(NamedTuple):
    """One fact of one model that is not the same in both books."""

    provider: str
    model: str
    what: str
    old: str
    new: str
    kind: Kind


def changes(old: Book, new: Book, providers: tuple[str, ...], now: Instant) -> tuple[Change, ...]:
    """Give every difference, now and at the changes of price that are known by now, each once.

    The books know each provider under its own name as an upstream.
    """
    found: dict[Change, None] = {}
    for provider in providers:
        # To look a name up among the hundreds of a router takes milliseconds, so each is looked up once per book.
        before, after = ({card.model: card for card in book.models(provider, now)} for book in (old, new))
        for name in sorted(before.keys() | after.keys()):
            first = (
                before.get(name) or old.card(provider, name, now),
                after.get(name) or new.card(provider, name, now),
            )
            for pair in _ahead(old, new, provider, name, first):
                found.update((Change(provider, name, *one), None) for one in _compare(*pair))
    return tuple(found)


_Pair = tuple[Card | Unpriced, Card | Unpriced]


def _ahead(old: Book, new: Book, provider: str, name: str, pair: _Pair) -> Iterator[_Pair]:
    """Give the cards of both books, now and at the changes of price to come."""
    for _ in range(CHANGES_AHEAD_MAX):
        yield pair
        at = min(card.valid_until if isinstance(card, Card) else FOREVER for card in pair)
        if at == FOREVER:
            return
        pair = (old.card(provider, name, at), new.card(provider, name, at))


_Difference = tuple[str, str, str, Kind]


def _compare(before: Card | Unpriced, after: Card | Unpriced) -> Iterator[_Difference]:
    if isinstance(before, Card) and isinstance(after, Card):
        yield from _bounds(before, after)
        yield from _fees(before.fees, after.fees)
        for tier in sorted(before.tiers.keys() | after.tiers.keys()):
            yield from _tier(tier, before.tiers.get(tier), after.tiers.get(tier))
    elif isinstance(after, Card):
        yield "model", "not priced", "priced", Kind.NEW
    elif isinstance(before, Card):
        yield "model", "priced", _why(after), Kind.GONE


def _why(unpriced: Unpriced) -> str:
    reason = unpriced.message.partition("cannot be priced: ")[2].partition(". Nothing was sent")[0]
    return f"not priced: {reason}"


def _bounds(before: Card, after: Card) -> Iterator[_Difference]:
    for what in ("context_tokens", "context_tokens_unasked", "output_tokens_max", "image_tokens_max"):
        was, becomes = getattr(before, what), getattr(after, what)
        if was != becomes:
            # A smaller bound is a smaller hold.
            yield what, str(was), str(becomes), Kind.CHEAPER if becomes < was else Kind.DEARER


def _fees(before: Mapping[ServerTool, Rate], after: Mapping[ServerTool, Rate]) -> Iterator[_Difference]:
    for tool in sorted(before.keys() | after.keys()):
        was, becomes = before.get(tool), after.get(tool)
        if was is None or becomes is None:
            told = [_NO_FEE if fee is None else str(fee) for fee in (was, becomes)]
            yield f"a million uses of {tool}", told[0], told[1], Kind.NEW if was is None else Kind.GONE
        elif was != becomes:
            yield f"a million uses of {tool}", str(was), str(becomes), _kind(was, becomes)


def _tier(tier: str, before: tuple[Step, ...] | None, after: tuple[Step, ...] | None) -> Iterator[_Difference]:
    if before is None:
        yield f"tier {tier}", "not priced", "priced", Kind.NEW
    elif after is None:
        yield f"tier {tier}", "priced", "not priced", Kind.GONE
    else:
        for start in sorted({step.above_input_tokens for step in (*before, *after)}):
            was, becomes = rates_at(before, start + 1), rates_at(after, start + 1)
            above = f" above {start} input tokens" if start else ""
            for name, one, other in zip(was._fields, was, becomes, strict=True):
                if one != other:
                    yield f"{tier}{above}: {name}", str(one), str(other), _kind(one, other)


def _kind(was: Rate, becomes: Rate) -> Kind:
    if becomes > was:
        return Kind.DEARER
    return Kind.IMPLAUSIBLE if becomes.picodollars * FALL_MAX < was.picodollars else Kind.CHEAPER
