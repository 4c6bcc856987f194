"""Which models a caller may use, in the shape that the client knows; from the price book, without asking a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from bursar.clock import Clock
from bursar.dialects.protocol import Dialect
from bursar.dialects.table import DIALECTS
from bursar.edge.callers import Caller, may
from bursar.pricing.book import Book
from bursar.pricing.rates import Card

_OPENAI_PATHS = ("/v1/models", "/models", "/v1/v1/models")
_GOOGLE_PATH = "/v1beta/models"
_UNKNOWN_TIME = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class ModelsPath:
    """A path that asks for the list, or for one model of it."""

    upstream: str
    """Empty: the one that the client's shape belongs to."""
    model: str
    """Empty: all of them."""
    is_google: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """How one company writes its list of models."""

    upstream: str
    dialect: Dialect
    """For errors."""
    one: Callable[[Card], dict[str, object]]
    all: Callable[[list[dict[str, object]]], dict[str, object]]


def read_models_path(path: str, upstreams: Mapping[str, object]) -> ModelsPath | None:
    """Read a path without its run; None when it is not about models."""
    found = _read(path, "")
    if found is None:
        upstream, slash, rest = path[1:].partition("/")
        found = _read(slash + rest, upstream) if upstream in upstreams else None
    return found


def shape_of(asked: ModelsPath, headers: Mapping[str, str], dialect_of_upstream: str) -> Shape:
    """Give the shape: that of the upstream that is named, else that of the path, else that of the headers."""
    if dialect_of_upstream:
        return SHAPES[dialect_of_upstream]
    if asked.is_google or "x-goog-api-key" in headers:
        return SHAPES["gemini"]
    return SHAPES["anthropic" if "anthropic-version" in headers else "openai"]


async def models_of(book: Book, clock: Clock, upstream: str, caller: Caller) -> list[Card]:
    """Give the cards of what is priced and what the caller may use."""
    # The first time, hundreds of cards are made, which would hold up everybody else.
    cards = await asyncio.to_thread(lambda: list(book.models(upstream, clock.now())))
    return [card for card in cards if isinstance(card, Card) and may(caller.models, card.model)]


def _read(path: str, upstream: str) -> ModelsPath | None:
    for base in (*_OPENAI_PATHS, _GOOGLE_PATH):
        if path == base or path.startswith(base + "/"):
            return ModelsPath(upstream, unquote(path[len(base) + 1 :]), base == _GOOGLE_PATH)
    return None


def _openai(card: Card) -> dict[str, object]:
    return {"id": card.model, "object": "model", "created": 0, "owned_by": card.provider or "bursar"}


def _anthropic(card: Card) -> dict[str, object]:
    return {
        "type": "model",
        "id": card.model,
        "display_name": card.model,
        "created_at": _UNKNOWN_TIME,
        "max_input_tokens": card.context_tokens,
        "max_tokens": card.output_tokens_max,
    }


def _anthropic_list(rows: list[dict[str, object]]) -> dict[str, object]:
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return {"data": rows, "has_more": False, "first_id": first, "last_id": last}


def _google(card: Card) -> dict[str, object]:
    methods = ["generateContent", "countTokens"] if card.output_tokens_max else ["embedContent", "countTokens"]
    return {
        "name": f"models/{card.model}",
        "displayName": card.model,
        "inputTokenLimit": card.context_tokens,
        "outputTokenLimit": card.output_tokens_max,
        "supportedGenerationMethods": methods,
    }


SHAPES = {
    "openai": Shape("openai", DIALECTS["openai_chat"], _openai, lambda rows: {"object": "list", "data": rows}),
    "anthropic": Shape("anthropic", DIALECTS["anthropic_messages"], _anthropic, _anthropic_list),
    "gemini": Shape("gemini", DIALECTS["gemini"], _google, lambda rows: {"models": rows}),
}
"""By wire format."""
