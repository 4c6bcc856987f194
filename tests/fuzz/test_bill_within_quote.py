"""For any request that is accepted and any usage within the provider's limits, the bill is within the hold."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from provider_model import (
    CLAUDE_FOR_TOOLS,
    CLAUDE_TYPED_TOOLS,
    FOR_TOOLS,
    PER_MESSAGE,
    PER_REPLY,
    PER_TOOL,
    Picture,
    byte_level_tokens,
    claude_image,
    claude_tokens,
    gemini_image,
    openai_image,
    tool_json,
)

from bursar.call import Call, Refused
from bursar.clock import SECOND, Instant
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import find
from bursar.ledger.hold import ask_of
from bursar.money import Money
from bursar.pricing.bill import bill
from bursar.pricing.book import Book
from bursar.pricing.quote import OutputPolicy, Quote, worst_case
from bursar.pricing.rates import Card

NOON = Instant(1_795_435_200 * SECOND)
# Noon, DeepSeek's dear hours, minutes before they begin, and next spring.
MOMENTS = [NOON, *(Instant(NOON + hours * 3600 * SECOND) for hours in (14, 12.9, 24 * 150))]
BOOK = Book(
    {},
    {name: name for name in ("openai", "anthropic", "deepseek", "mistral", "groq", "bedrock")} | {"gemini": "google"},
)
SETTINGS = settings(max_examples=250, deadline=None, database=None, print_blob=True)


@cache
def cards(upstream: str) -> list[Card]:
    """Give every model of the real book that gives output."""
    return [card for card in every_card(upstream) if card.output_tokens_max]


@cache
def embedders(upstream: str) -> list[Card]:
    """Give every model of the real book that gives none."""
    return [card for card in every_card(upstream) if not card.output_tokens_max]


def every_card(upstream: str) -> list[Card]:
    found = [card for card in BOOK.models(upstream, NOON) if isinstance(card, Card)]
    assert found, upstream
    return found


class Side(NamedTuple):
    """A request as it is sent, and what its provider may meter for it."""

    upstream: str
    path: str
    body: dict[str, Any]
    input_tokens_max: int
    seen: bool
    """Whether the gateway sees all of the input."""
    extra_output: int = 0
    windows: int = 1
    """How many inputs have a window of their own."""
    headers: dict[str, str] = {}  # noqa: RUF012 - never written to


TEXTS = st.one_of(
    st.text(max_size=60),
    st.text("aZ~'@ \n\"\\", min_size=1, max_size=40).map(lambda text: text * 20),
    st.text("é\u0301Ⱥ~\U0001d160한a", min_size=1, max_size=12).map(lambda text: text * 20),
    st.integers(1, 120_000).map(lambda times: "x " * times),
)
PICTURES = st.builds(Picture, st.integers(1, 9_000), st.integers(1, 9_000), st.booleans())
SCHEMAS = st.dictionaries(
    st.text(max_size=12), st.sampled_from([{"type": "string"}, {"description": "Größe, 大小"}]), max_size=4
)
BOUNDS = st.one_of(st.integers(1, 200), st.integers(1, 200_000), st.sampled_from([16, 4_096, 32_768, 10_000_000]))


def png(picture: Picture) -> str:
    size = picture.width.to_bytes(4, "big") + picture.height.to_bytes(4, "big")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + bytes(12)).decode()


@st.composite
def chats(draw: st.DrawFn) -> Side:
    upstream = draw(st.sampled_from(["openai", "openai", "deepseek", "mistral", "groq"]))
    card = draw(st.sampled_from(cards(upstream)))
    said, pictures = draw(st.lists(TEXTS, min_size=1, max_size=4)), draw(st.lists(PICTURES, max_size=3))
    tools = [
        {"type": "function", "function": {"name": f"f{at}", "parameters": {"type": "object", "properties": schema}}}
        for at, schema in enumerate(draw(st.lists(SCHEMAS, max_size=3)))
    ]
    content: list[Any] = [{"type": "text", "text": text} for text in said]
    for picture in pictures:
        url = {"url": "data:image/png;base64," + png(picture), "detail": "low" if picture.low else "high"}
        content.append({"type": "image_url", "image_url": url})
    body: dict[str, Any] = {"model": card.model, "messages": [{"role": "user", "content": content}]}
    body |= draw(st.sampled_from([{}, {"max_tokens": 0}, {"max_completion_tokens": 0}]))
    for name in body.keys() & {"max_tokens", "max_completion_tokens"}:
        body[name] = draw(BOUNDS)
    body |= _maybe(draw, tools=tools, n=draw(st.integers(1, 9)), service_tier=draw(_tiers(card)))
    extra = 0
    if draw(st.integers(0, 4)) == 0:
        body["prediction"] = {"type": "content", "content": said[0]}
        extra = len(said[0].encode())
    seen = draw(st.integers(0, 9)) > 0
    if not seen:
        content.append({"type": "file", "file": {"file_id": "file-1"}})
    tokens = byte_level_tokens([*said, *tool_json(body.get("tools", []))]) + PER_MESSAGE + PER_REPLY
    tokens += (FOR_TOOLS + PER_TOOL * len(tools)) if "tools" in body else 0
    tokens += sum(openai_image(card.model, picture) for picture in pictures)
    return Side(upstream, "/v1/chat/completions", body, tokens, seen, extra)


@st.composite
def responses(draw: st.DrawFn) -> Side:
    card = draw(st.sampled_from(cards("openai")))
    said, pictures = draw(st.lists(TEXTS, min_size=1, max_size=4)), draw(st.lists(PICTURES, max_size=3))
    content: list[Any] = [{"type": "input_text", "text": text} for text in said]
    for picture in pictures:
        url = "data:image/png;base64," + png(picture)
        content.append({"type": "input_image", "image_url": url, "detail": "low" if picture.low else "auto"})
    tools = [
        {"type": "function", "name": f"f{at}", "parameters": schema}
        for at, schema in enumerate(draw(st.lists(SCHEMAS, max_size=3)))
    ]
    body: dict[str, Any] = {"model": card.model, "input": [{"role": "user", "content": content}]}
    body |= _maybe(draw, tools=tools, max_output_tokens=draw(BOUNDS), service_tier=draw(_tiers(card)))
    seen = draw(st.integers(0, 9)) > 0
    if not seen:
        body["previous_response_id"] = "resp_1"
    tokens = byte_level_tokens([*said, *tool_json(body.get("tools", []))]) + PER_MESSAGE + PER_REPLY
    tokens += (FOR_TOOLS + PER_TOOL * len(tools)) if "tools" in body else 0
    tokens += sum(openai_image(card.model, picture) for picture in pictures)
    return Side("openai", "/v1/responses", body, tokens, seen)


@st.composite
def messages(draw: st.DrawFn) -> Side:
    card = draw(st.sampled_from(cards("anthropic")))
    said, pictures = draw(st.lists(TEXTS, min_size=1, max_size=4)), draw(st.lists(PICTURES, max_size=3))
    content: list[Any] = [{"type": "text", "text": text} for text in said]
    content += [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(picture)}}
        for picture in pictures
    ]
    ttl = draw(st.sampled_from([None, "5m", "1h"]))
    if ttl and content:
        content[0]["cache_control"] = {"type": "ephemeral", "ttl": ttl}
    typed = draw(st.lists(st.sampled_from(sorted(CLAUDE_TYPED_TOOLS)), max_size=2))
    tools: list[Any] = [
        {"name": f"f{at}", "input_schema": schema} for at, schema in enumerate(draw(st.lists(SCHEMAS, max_size=3)))
    ]
    tools += [{"type": kind, "name": kind} for kind in typed]
    bound = draw(BOUNDS)
    body: dict[str, Any] = {
        "model": card.model,
        "max_tokens": bound,
        "messages": [{"role": "user", "content": content}],
    }
    body |= _maybe(
        draw,
        tools=tools,
        inference_geo="us" if "default@us" in card.tiers else None,
        speed="fast" if "fast" in card.tiers else None,
        thinking={"type": "enabled", "budget_tokens": 1_024},
    )
    seen = draw(st.integers(0, 9)) > 0
    if not seen:
        content.append({"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}})
    tokens = claude_tokens([*said, *tool_json(body.get("tools", []))]) + 11
    if body.get("tools"):
        tokens += CLAUDE_FOR_TOOLS + sum(CLAUDE_TYPED_TOOLS[kind] for kind in typed)
    tokens += sum(map(claude_image, pictures))
    headers = draw(st.sampled_from([{}, {"anthropic-beta": "context-1m-2025-08-07"}]))
    return Side("anthropic", "/v1/messages", body, tokens, seen, headers=headers)


@st.composite
def converses(draw: st.DrawFn) -> Side:
    card = draw(st.sampled_from(cards("anthropic")))
    said, pictures = draw(st.lists(TEXTS, min_size=1, max_size=4)), draw(st.lists(PICTURES, max_size=3))
    content: list[Any] = [{"text": text} for text in said]
    content += [{"image": {"format": "png", "source": {"bytes": png(picture)}}} for picture in pictures]
    ttl = draw(st.sampled_from([None, "5m", "1h"]))
    if ttl:
        content.append({"cachePoint": {"type": "default", "ttl": ttl}})
    tools = [
        {"toolSpec": {"name": f"f{at}", "inputSchema": {"json": schema}}}
        for at, schema in enumerate(draw(st.lists(SCHEMAS, max_size=3)))
    ]
    thinking = {"thinking": {"type": "enabled", "budget_tokens": draw(BOUNDS)}}
    long_window = {"anthropic_beta": ["context-1m-2025-08-07"]}
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}]}
    body |= _maybe(
        draw,
        system=[{"text": said[0]}],
        inferenceConfig={"maxTokens": draw(BOUNDS)},
        toolConfig={"tools": tools} if tools else None,
        additionalModelRequestFields=draw(st.sampled_from([thinking, long_window, thinking | long_window])),
        serviceTier={"type": draw(st.sampled_from(["default", "flex"]))},
        performanceConfig={"latency": draw(st.sampled_from(["standard", "optimized"]))},
    )
    shown = [*said, *tool_json(body.get("toolConfig", {}).get("tools", []))]
    shown += [said[0]] if "system" in body else []
    seen = draw(st.integers(0, 9)) > 0
    if not seen:
        content.append({"document": {"format": "pdf", "name": "a", "source": {"bytes": "AAAA"}}})
    tokens = claude_tokens(shown) + 11 + sum(map(claude_image, pictures))
    tokens += CLAUDE_FOR_TOOLS if "toolConfig" in body else 0
    zone = draw(st.sampled_from(["", "us.", "global.", "us-gov."]))
    return Side("bedrock", f"/model/{zone}anthropic.{card.model}-v1%3A0/converse", body, tokens, seen)


@st.composite
def geminis(draw: st.DrawFn) -> Side:
    card = draw(st.sampled_from(cards("gemini")))
    said, pictures = draw(st.lists(TEXTS, min_size=1, max_size=4)), draw(st.lists(PICTURES, max_size=3))
    content: list[Any] = [{"text": text} for text in said]
    content += [{"inlineData": {"mimeType": "image/png", "data": png(picture)}} for picture in pictures]
    schemas = draw(st.lists(SCHEMAS, max_size=3))
    functions = [{"name": f"f{at}", "parameters": schema} for at, schema in enumerate(schemas)]
    settings_ = _maybe(draw, maxOutputTokens=draw(BOUNDS), candidateCount=draw(st.integers(1, 8)))
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": content}], "generationConfig": settings_}
    body |= _maybe(draw, tools=[{"functionDeclarations": functions}] if functions else [])
    body |= _maybe(draw, systemInstruction={"parts": [{"text": said[0]}]}, serviceTier=draw(_tiers(card)).upper())
    shown = [*said, *tool_json(body.get("tools", []))] + ([said[0]] if "systemInstruction" in body else [])
    seen = draw(st.integers(0, 9)) > 0
    if not seen:
        kind = draw(st.sampled_from(["audio/wav", "video/mp4", "application/pdf"]))
        content.append({"inlineData": {"mimeType": kind, "data": "AAAA"}})
    tokens = byte_level_tokens(shown) + 1 + PER_MESSAGE * 2 + sum(map(gemini_image, pictures))
    tokens += (FOR_TOOLS + PER_TOOL * len(functions)) if "tools" in body else 0
    return Side("gemini", f"/v1beta/models/{card.model}:generateContent", body, tokens, seen)


@st.composite
def completions(draw: st.DrawFn) -> Side:
    card = draw(st.sampled_from(cards("openai")))
    prompts = draw(st.lists(TEXTS, min_size=1, max_size=4))
    body: dict[str, Any] = {"model": card.model, "prompt": prompts if len(prompts) > 1 else prompts[0]}
    body |= _maybe(draw, max_tokens=draw(BOUNDS), n=draw(st.integers(1, 5)), best_of=draw(st.integers(1, 9)))
    tokens = byte_level_tokens(prompts) + len(prompts) * PER_MESSAGE
    return Side("openai", "/v1/completions", body, tokens, seen=True, windows=len(prompts))


@st.composite
def embeddings(draw: st.DrawFn) -> Side:
    upstream = draw(st.sampled_from(["openai", "mistral"]))
    card = draw(st.sampled_from(embedders(upstream)))
    given = draw(st.lists(TEXTS, min_size=1, max_size=6))
    as_tokens = draw(st.booleans())
    body = {"model": card.model, "input": [list(text.encode()) or [0] for text in given] if as_tokens else given}
    tokens = byte_level_tokens(given) + len(given) * PER_MESSAGE
    return Side(upstream, "/v1/embeddings", body, tokens, seen=True, windows=len(given))


@st.composite
def gemini_embeddings(draw: st.DrawFn) -> Side:
    card = draw(st.sampled_from(embedders("gemini")))
    given = draw(st.lists(TEXTS, min_size=1, max_size=6))
    body = {"requests": [{"content": {"parts": [{"text": text}]}} for text in given]}
    tokens = byte_level_tokens(given) + len(given) * PER_MESSAGE
    path = f"/v1beta/models/{card.model}:batchEmbedContents"
    return Side("gemini", path, body, tokens, seen=True, windows=len(given))


def _maybe(draw: st.DrawFn, **members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in (None, []) and draw(st.booleans())}


def _tiers(card: Card) -> st.SearchStrategy[str]:
    return st.sampled_from(["auto", *sorted(card.tiers)])


# ---- what the provider meters ---------------------------------------------------------------------------------------


@st.composite
def parted(draw: st.DrawFn, total: int, parts: int) -> list[int]:
    """Split a count into so many parts."""
    edges = sorted(draw(st.integers(0, total)) for _ in range(parts - 1))
    return [high - low for low, high in zip([0, *edges], [*edges, total], strict=True)]


@st.composite
def openai_usage(draw: st.DrawFn, side: Side, call: Call, input_tokens: int, output: int) -> dict[str, Any]:
    fresh, read, written = draw(parted(input_tokens, 3))
    tier = draw(st.sampled_from([call.service_tier, "default", None]))
    names = (
        ("input_tokens", "output_tokens") if side.path == "/v1/responses" else ("prompt_tokens", "completion_tokens")
    )
    given, made = names
    usage = {
        given: fresh + read + written,
        f"{given}_details": {"cached_tokens": read, "cache_write_tokens": written},
        made: output,
        f"{made}_details": {"reasoning_tokens": draw(st.integers(0, output))},
        "total_tokens": input_tokens + output,
    }
    reply = {"model": call.model, "service_tier": tier, "usage": usage}
    return reply | ({"status": "completed", "output": []} if side.path == "/v1/responses" else {"choices": []})


@st.composite
def anthropic_usage(draw: st.DrawFn, side: Side, call: Call, input_tokens: int, output: int) -> dict[str, Any]:
    fresh, read, five, hour = draw(parted(input_tokens, 4))
    controls = json.dumps(side.body)
    if '"cache_control"' not in controls:
        fresh, five, hour = fresh + five + hour, 0, 0
    elif '"1h"' not in controls:
        five, hour = five + hour, 0
    card = next(card for card in cards("anthropic") if card.model == call.model)
    places = ["global", "us"] if "default@us" in card.tiers else ["not_available"]
    usage = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": five + hour,
        "cache_creation": {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour},
        "output_tokens": output,
        "service_tier": "standard",
        "speed": draw(st.sampled_from([side.body.get("speed", "standard"), "standard"])),
        "inference_geo": draw(st.sampled_from(places)),
    }
    return {"type": "message", "model": call.model, "usage": usage}


@st.composite
def converse_usage(draw: st.DrawFn, side: Side, call: Call, input_tokens: int, output: int) -> dict[str, Any]:
    fresh, read, five, hour = draw(parted(input_tokens, 4))
    marks = json.dumps(side.body)
    if '"cachePoint"' not in marks:
        fresh, five, hour = fresh + five + hour, 0, 0
    elif '"1h"' not in marks:
        five, hour = five + hour, 0
    usage: dict[str, Any] = {"inputTokens": fresh, "outputTokens": output, "cacheReadInputTokens": read}
    usage["totalTokens"] = draw(st.sampled_from([fresh + output, input_tokens + output]))
    usage["cacheWriteInputTokens"] = five + hour
    details = [{"ttl": "1h", "inputTokens": hour}, {"ttl": "5m", "inputTokens": five}]
    usage |= draw(st.sampled_from([{}, {"cacheDetails": details}]))
    served = draw(st.sampled_from([{}, {"serviceTier": {"type": "default"}}, {"serviceTier": {"type": "flex"}}]))
    return {"stopReason": "end_turn", "usage": usage, **served}


@st.composite
def gemini_usage(draw: st.DrawFn, side: Side, call: Call, input_tokens: int, output: int) -> dict[str, Any]:
    fresh, read = draw(parted(input_tokens, 2))
    thoughts, said = draw(parted(output, 2))
    by_tool, prompt = draw(parted(fresh, 2))
    usage: dict[str, Any] = {
        "promptTokenCount": prompt + read,
        "toolUsePromptTokenCount": by_tool,
        "cachedContentTokenCount": read,
        "candidatesTokenCount": said,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": input_tokens + output,
    }
    if not side.seen and "application/pdf" not in json.dumps(side.body) and draw(st.booleans()):
        audio, cached_audio = draw(st.integers(0, prompt)), draw(st.integers(0, read))
        usage["promptTokensDetails"] = [{"modality": "AUDIO", "tokenCount": audio + cached_audio}]
        usage["cacheTokensDetails"] = [{"modality": "AUDIO", "tokenCount": cached_audio}]
    return {"candidates": [{"finishReason": "STOP"}], "modelVersion": call.model, "usageMetadata": usage}


@st.composite
def no_output_usage(draw: st.DrawFn, side: Side, call: Call, input_tokens: int, output: int) -> dict[str, Any]:
    if side.upstream == "gemini":
        return {"embeddings": [], "usageMetadata": {"promptTokenCount": input_tokens, "totalTokenCount": input_tokens}}
    given = draw(st.sampled_from([input_tokens, input_tokens // 2]))
    return {"model": call.model, "data": [], "usage": {"prompt_tokens": given, "total_tokens": input_tokens}}


KINDS = {
    "gemini": (geminis(), gemini_usage),
    "completions": (completions(), openai_usage),
    "embeddings": (embeddings(), no_output_usage),
    "gemini embeddings": (gemini_embeddings(), no_output_usage),
    "chat": (chats(), openai_usage),
    "converse": (converses(), converse_usage),
    "responses": (responses(), openai_usage),
    "messages": (messages(), anthropic_usage),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@SETTINGS
@given(data=st.data(), now=st.sampled_from(MOMENTS), ascii_only=st.booleans())
def test_the_bill_is_within_the_hold(kind: str, data: st.DataObject, now: Instant, ascii_only: bool) -> None:
    requests, usages = KINDS[kind]
    side = data.draw(requests)
    route = find(side.path)
    assert route is not None
    raw = json.dumps(side.body, ensure_ascii=ascii_only).encode("utf-8", "replace")
    call = route.dialect.parse(Request(side.upstream, route.path, side.headers, raw))
    if isinstance(call, Refused):
        event("refused")
        return
    quote = worst_case(call, BOOK, now, OutputPolicy())
    if not isinstance(quote, Quote):
        event("unpriced")
        return

    # Near a cap the ledger grants less output; what is then sent is what the provider keeps to.
    granted = data.draw(
        st.sampled_from([quote.output_tokens, quote.output_tokens_floor])
        | st.integers(quote.output_tokens_floor, quote.output_tokens)
    )
    held = ask_of(quote).amounts(granted).usd
    sent = route.dialect.parse(
        Request(side.upstream, route.path, side.headers, route.dialect.render(call, granted, Quirks()))
    )
    assert isinstance(sent, Call)
    assert sent.output.tokens_asked == granted

    window = quote.card.context_tokens if call.takes_long_context else quote.card.context_tokens_unasked
    window *= side.windows
    most = min(side.input_tokens_max, window) if side.seen else window
    input_tokens = data.draw(st.sampled_from([most, most]) | st.integers(1, max(1, most)))
    most_output = granted * call.output.choices + side.extra_output
    output = data.draw(st.sampled_from([most_output, most_output]) | st.integers(0, most_output))
    reply = data.draw(usages(side, call, input_tokens, output))

    meter = route.dialect.meter(call, 200, "application/json")
    meter.feed(json.dumps(reply).encode())
    _rest, usage = meter.finish()
    cost = bill(usage, quote)  # type: ignore[arg-type]
    assert isinstance(cost, Money), cost
    event("billed")
    assert cost.nanodollars <= held, (quote, usage)
