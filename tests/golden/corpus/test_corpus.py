"""The golden corpus: pairs of a request and its reply, held and billed to the nanodollar as their sums say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from corpus_sums import PAIRS, facts, filled, numbers, pairs, reply_bytes, request_bytes, worked_out

from bursar.call import Call, Unmetered, Usage
from bursar.clock import Instant
from bursar.dialects.protocol import Meter, Quirks, Request
from bursar.dialects.table import find
from bursar.ledger.hold import ask_of
from bursar.money import Money
from bursar.pricing.bill import bill
from bursar.pricing.book import Book
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.upstream.providers import PROVIDERS

NOON = Instant(1_795_435_200_000_000)
"""2026-11-23T12:00Z, outside the hours at which DeepSeek is dearer."""
PROVIDER_OF = {
    name: PROVIDERS[name].prices
    for name in ("openai", "anthropic", "bedrock", "deepseek", "gemini", "groq", "mistral", "xai")
}
BOOK = Book({}, PROVIDER_OF)
ALL = [pytest.param(file, pair, id=f"{file.parent.name}/{file.stem}") for file, pair in pairs()]


def call_of(pair: dict[str, Any]) -> Call:
    route = find(pair["path"])
    assert route is not None
    upstream = pair.get("upstream", route.upstream)
    return parsed(upstream, pair, request_bytes(pair))


def parsed(upstream: str, pair: dict[str, Any], body: bytes) -> Call:
    route = find(pair["path"])
    assert route is not None
    call = route.dialect.parse(Request(upstream, route.path, pair.get("headers", {}), body, ways(upstream)))
    assert isinstance(call, Call), call
    return call


def ways(upstream: str) -> Quirks:
    provider = PROVIDERS[upstream]
    return Quirks(
        output_field=provider.output_field,
        takes_stream_options=provider.takes_stream_options,
        takes_service_tier=provider.takes_service_tier,
        usage=provider.usage,
        server_tools=provider.server_tools,
    )


def quote_of(call: Call) -> Quote:
    quote = worst_case(call, BOOK, NOON, OutputPolicy())
    assert isinstance(quote, Quote), quote
    return quote


def metered(pair: dict[str, Any], call: Call, piece: int) -> Usage | Unmetered:
    route = find(pair["path"])
    assert route is not None
    reply = pair["reply"]
    kind = "text/event-stream; charset=utf-8" if "events" in reply else reply.get("content_type", "application/json")
    kind = "application/vnd.amazon.eventstream" if "frames" in reply else kind
    meter: Meter = route.dialect.meter(call, reply.get("status", 200), kind)
    raw = reply_bytes(pair)
    for at in range(0, len(raw), piece):
        meter.feed(raw[at : at + piece])
    _rest, usage = meter.finish()
    return usage


def ending(pair: dict[str, Any], quote: Quote, held: int, usage: Usage | Unmetered) -> int:
    """Give what the call costs in the end, by the three rules of settlement."""
    cost = bill(usage, quote) if isinstance(usage, Usage) else usage
    if isinstance(cost, Money):
        return cost.nanodollars
    unbilled = PROVIDERS[quote.call.upstream].unbilled_statuses
    return 0 if pair["reply"].get("status", 200) in unbilled else held


@pytest.mark.parametrize(("file", "pair"), ALL)
def test_the_numbers_of_a_pair_are_its_sums(file: Path, pair: dict[str, Any]) -> None:
    assert pair["numbers"] == numbers(pair)
    assert file.read_text(encoding="utf-8") == filled(pair)


@pytest.mark.parametrize(("file", "pair"), ALL)
def test_a_call_is_held_and_billed_to_the_nanodollar(file: Path, pair: dict[str, Any]) -> None:
    expected = pair["numbers"]
    call = call_of(pair)
    quote = quote_of(call)
    held = ask_of(quote).amounts(quote.output_tokens).usd
    assert (quote.input_tokens, held) == (expected["tokens_in"], expected["hold"])

    for piece in (1 << 20, 7):
        usage = metered(pair, call, piece)
        if "usage" in pair:
            given = dataclasses.asdict(usage) if isinstance(usage, Usage) else usage
            assert given == dataclasses.asdict(Usage(**pair["usage"]))
        else:
            assert usage == Unmetered(pair["unmetered"])
        assert ending(pair, quote, held, usage) == expected["bill"]
    assert expected["bill"] <= held


@pytest.mark.parametrize(("file", "pair"), ALL)
def test_what_is_sent_keeps_the_bound_that_was_held(file: Path, pair: dict[str, Any]) -> None:
    call = call_of(pair)
    route = find(pair["path"])
    assert route is not None
    quote = quote_of(call)
    sent = route.dialect.render(call, quote.output_tokens, ways(call.upstream))
    again = parsed(call.upstream, pair, sent)
    assert again.output.tokens_asked == quote.output_tokens
    assert again.server_tools == call.server_tools
    assert (again.service_tier, again.output.choices) == (call.service_tier, call.output.choices)


def test_the_corpus_is_large_and_has_every_dialect_and_every_ending() -> None:
    assert len(ALL) >= 150
    for folder in PAIRS.iterdir():
        here = [pair for file, pair in pairs() if file.parent == folder]
        assert len({pair["about"] for pair in here}) == len(here)
        endings = {pair["bill"] if pair["bill"] in ("the hold", "nothing") else "sum" for pair in here}
        assert endings == {"the hold", "nothing", "sum"}, folder.name


@pytest.mark.parametrize(
    ("sum_", "value"), [("bytes", 2), ("ceil(7 * bytes / 4) + 1", 5), ("max(usd_in, 0.125) * 8", 1), ("3 - 1 - 1", 1)]
)
def test_the_calculator_can_count(sum_: str, value: int) -> None:
    assert worked_out(sum_, facts({"request": {}, "rates": {"in": "0.1"}})) == value
