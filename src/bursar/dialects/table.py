"""The routes that are metered, and the few that are free; what is not in this table is refused."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.dialects import free
from bursar.dialects.anthropic_messages import AnthropicMessages
from bursar.dialects.bedrock import BedrockConverse
from bursar.dialects.bedrock_path import plain_path
from bursar.dialects.gemini import Gemini
from bursar.dialects.gemini_embeddings import GeminiEmbeddings
from bursar.dialects.gemini_path import read_path
from bursar.dialects.openai_chat import OpenAIChat
from bursar.dialects.openai_completions import OpenAICompletions
from bursar.dialects.openai_embeddings import OpenAIEmbeddings
from bursar.dialects.openai_responses import OpenAIResponses
from bursar.dialects.protocol import Dialect


@dataclass(frozen=True, slots=True)
class Route:
    """The dialect of a path, the provider's own path, and the upstream that it goes to unless another is named."""

    dialect: Dialect
    path: str
    upstream: str
    is_free: bool = False
    """Whether it is asked without a hold; `dialects/free.py` decides again, by its own table, whether it may be."""


_ROUTES = (
    Route(OpenAIChat(), "/v1/chat/completions", "openai"),
    Route(OpenAIResponses(), "/v1/responses", "openai"),
    Route(OpenAICompletions(), "/v1/completions", "openai"),
    Route(OpenAIEmbeddings(), "/v1/embeddings", "openai"),
    Route(AnthropicMessages(), "/v1/messages", "anthropic"),
)
_GEMINI = Gemini()
_GEMINI_EMBEDDINGS = GeminiEmbeddings()
_GEMINI_METHODS: dict[str, Dialect] = {
    "generateContent": _GEMINI,
    "streamGenerateContent": _GEMINI,
    "countTokens": _GEMINI,
    "embedContent": _GEMINI_EMBEDDINGS,
    "batchEmbedContents": _GEMINI_EMBEDDINGS,
}

_BEDROCK = BedrockConverse()

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (*(route.dialect for route in _ROUTES), _GEMINI, _GEMINI_EMBEDDINGS, _BEDROCK)
}
"""Every dialect, by its name."""

_FREE_ROUTES = (
    Route(DIALECTS["openai_responses"], "/v1/responses/input_tokens", "openai", is_free=True),
    Route(DIALECTS["anthropic_messages"], "/v1/messages/count_tokens", "anthropic", is_free=True),
)


def find(path: str) -> Route | None:
    """Give the route of a path, matched exactly: no decoding, no folding of case or slashes, no query."""
    named = read_path(path)
    if named is None:
        plain = plain_path(path)
        if plain is None:
            return _BY_PATH.get(path)
        return Route(_BEDROCK, plain, "bedrock", free.dialect_of(plain) is not None)
    dialect = _GEMINI_METHODS.get(named.method)
    # Both of Google's versions are sent on as the one of which we know all fields.
    return None if dialect is None else Route(dialect, named.path, "gemini", free.dialect_of(named.path) is not None)


def _spellings(path: str) -> tuple[str, ...]:
    """Some clients add `/v1` to their base URL, some leave it out: both, and both at once, mean the same."""
    return path, path.removeprefix("/v1"), "/v1" + path


_BY_PATH = {spelling: route for route in (*_ROUTES, *_FREE_ROUTES) for spelling in _spellings(route.path)}
