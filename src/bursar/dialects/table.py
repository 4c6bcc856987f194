"""The routes that are metered; what is not in this table is refused."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.dialects.anthropic_messages import AnthropicMessages
from bursar.dialects.openai_chat import OpenAIChat
from bursar.dialects.openai_responses import OpenAIResponses
from bursar.dialects.protocol import Dialect


@dataclass(frozen=True, slots=True)
class Route:
    """The dialect of a path, the provider's own path, and the upstream that it goes to unless another is named."""

    dialect: Dialect
    path: str
    upstream: str


_ROUTES = (
    Route(OpenAIChat(), "/v1/chat/completions", "openai"),
    Route(OpenAIResponses(), "/v1/responses", "openai"),
    Route(AnthropicMessages(), "/v1/messages", "anthropic"),
)

DIALECTS: dict[str, Dialect] = {route.dialect.name: route.dialect for route in _ROUTES}
"""Every dialect, by its name."""


def find(path: str) -> Route | None:
    """Give the route of a path, matched exactly: no decoding, no folding of case or slashes, no query."""
    return _BY_PATH.get(path)


def _spellings(path: str) -> tuple[str, ...]:
    """Some clients add `/v1` to their base URL, some leave it out: both, and both at once, mean the same."""
    return path, path.removeprefix("/v1"), "/v1" + path


_BY_PATH = {spelling: route for route in _ROUTES for spelling in _spellings(route.path)}
