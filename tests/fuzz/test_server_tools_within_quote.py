"""Whatever tools of its own a provider runs within their bounds, what it bills is within what was held."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from test_bill_within_quote import BOOK, MOMENTS, cards

from bursar.call import Call, ServerTool, Usage
from bursar.clock import Instant
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import find
from bursar.ledger.hold import ask_of
from bursar.money import Money
from bursar.pricing.bill import bill
from bursar.pricing.quote import OutputPolicy, Quote, worst_case

QUIRKS = Quirks(server_tools=frozenset(ServerTool), server_tool_uses=2)
ANTHROPIC_INFERENCES = 10
LEAST = 20
"""Tokens of the shortest prompt, which the first inference is given alone."""


@st.composite
def anthropic(draw: st.DrawFn) -> dict[str, Any]:
    kinds = draw(st.lists(st.sampled_from(["search", "fetch"]), min_size=1, max_size=2, unique=True))
    types = {"search": "web_search_20250305", "fetch": "web_fetch_20250910"}
    uses = st.sampled_from([{}, {"max_uses": None}]) | st.builds(lambda most: {"max_uses": most}, st.integers(0, 30))
    return {
        "max_tokens": draw(st.integers(1, 5_000)),
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": types[kind], "name": f"web_{kind}", **draw(uses)} for kind in kinds],
    }


@st.composite
def openai(draw: st.DrawFn) -> dict[str, Any]:
    kinds = draw(st.lists(st.sampled_from(["web_search", "file_search"]), min_size=1, max_size=2, unique=True))
    most = draw(
        st.sampled_from([{}, {"max_tool_calls": None}]) | st.builds(lambda m: {"max_tool_calls": m}, st.integers(0, 9))
    )
    return {"max_output_tokens": 500, "input": "hi", "tools": [{"type": kind} for kind in kinds], **most}


def used_anthropic(data: st.DataObject, sent: dict[str, Any], window: int) -> dict[str, Any]:
    """Give a reply of any number of inferences up to the pause, each of any length, with any of the uses."""
    inferences = data.draw(st.integers(1, ANTHROPIC_INFERENCES))
    found = sum(data.draw(st.integers(0, window) | st.just(window)) for _ in range(inferences - 1))
    read = data.draw(st.integers(0, found))
    usage: dict[str, Any] = {
        "input_tokens": LEAST + found - read,
        "cache_read_input_tokens": read,
        "output_tokens": data.draw(st.integers(0, inferences * sent["max_tokens"])),
        "server_tool_use": {
            f"{tool['name']}_requests": data.draw(st.integers(0, tool["max_uses"])) for tool in sent["tools"]
        },
    }
    return {"usage": usage}


def used_openai(data: st.DataObject, sent: dict[str, Any], window: int) -> dict[str, Any]:
    """Give a reply of any number of calls up to the bound, and an inference more than that."""
    calls = data.draw(st.integers(0, sent["max_tool_calls"]))
    kinds = [data.draw(st.sampled_from([tool["type"] for tool in sent["tools"]])) for _ in range(calls)]
    given = LEAST + sum(data.draw(st.integers(0, window) | st.just(window)) for _ in kinds)
    made = data.draw(st.integers(0, sent["max_output_tokens"]))
    details = {"cached_tokens": data.draw(st.integers(0, given))}
    usage = {"input_tokens": given, "output_tokens": made, "input_tokens_details": details}
    return {"output": [{"type": f"{kind}_call"} for kind in kinds], "usage": usage}


KINDS: dict[str, Any] = {
    "/v1/messages": ("anthropic", anthropic(), used_anthropic),
    "/v1/responses": ("openai", openai(), used_openai),
}


@pytest.mark.parametrize("path", list(KINDS))
@settings(max_examples=250, deadline=None, database=None, print_blob=True)
@given(data=st.data(), now=st.sampled_from(MOMENTS))
def test_the_bill_of_any_uses_within_their_bounds_is_within_the_hold(
    path: str, data: st.DataObject, now: Instant
) -> None:
    upstream, requests, used = KINDS[path]
    card = data.draw(st.sampled_from([card for card in cards(upstream) if card.fees]))
    body = {"model": card.model, **data.draw(requests)}
    route = find(path)
    assert route is not None
    call = route.dialect.parse(Request(upstream, path, {}, json.dumps(body).encode(), QUIRKS))
    assert isinstance(call, Call), call
    quote = worst_case(call, BOOK, now, OutputPolicy())
    if not isinstance(quote, Quote):
        event("unpriced")
        return
    granted = data.draw(st.integers(quote.output_tokens_floor, quote.output_tokens))
    held = ask_of(quote).amounts(granted)

    sent = json.loads(route.dialect.render(call, granted, QUIRKS))
    window = quote.card.context_tokens if call.takes_long_context else quote.card.context_tokens_unasked
    meter = route.dialect.meter(call, 200, "application/json")
    meter.feed(json.dumps(used(data, sent, window)).encode())
    _rest, usage = meter.finish()
    assert isinstance(usage, Usage), usage
    amount = bill(usage, quote)
    assert isinstance(amount, Money)
    assert amount.nanodollars <= held.usd
    assert usage.input_tokens + usage.cache_read_tokens + usage.output_tokens <= held.tokens
