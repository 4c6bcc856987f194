"""What bursar holds for a text: how much its bound of a request grows when the text is put into it."""

from __future__ import annotations

import json

from bursar.call import Call
from bursar.dialects.protocol import Request
from bursar.dialects.table import find
from bursar.money import Rate
from bursar.pricing.quote import input_bound
from bursar.pricing.rates import FOREVER, Card, Family, Rates, Step

_PATHS = {Family.BYTE_LEVEL: "/v1/chat/completions", Family.CLAUDE: "/v1/messages"}
_NOTHING = Step(0, Rates(*[Rate(0)] * 5))


def card(family: Family) -> Card:
    """Give a card without a window, so that nothing but the text bounds the input."""
    return Card(
        model="m",
        provider="p",
        family=family,
        context_tokens=2**40,
        output_tokens_max=1,
        tiers={"default": (_NOTHING,)},
        image_tokens_max=0,
        source="a test",
        valid_until=FOREVER,
    )


def bound_of(text: str, family: Family) -> int:
    """Give the tokens that are held for this text, what is held for an empty one taken off."""
    return _input(text, family) - _input("", family)


def _input(text: str, family: Family) -> int:
    route = find(_PATHS[family])
    assert route is not None
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": text}]}
    # As Python's own clients send it; escapes would only make the body longer.
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    call = route.dialect.parse(Request("up", route.path, {}, raw))
    assert isinstance(call, Call), call
    return input_bound(call.input, card(family))
