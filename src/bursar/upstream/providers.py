"""What each provider does its own way, as data: where it is, how it takes a key, which errors it does not bill."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.dialects.protocol import Quirks

_REDIRECTS = frozenset(range(300, 400))
# "Failed requests are not charged" (Anthropic help centre); so any error status before the body ends is unbilled.
_ALL_ERRORS = _REDIRECTS | frozenset(range(400, 600))
# OpenAI documents only a refused Flex 429; the others are answered before anything is generated. A 408 or a 5xx may
# have been generated and billed, so it is presumed.
_BEFORE_GENERATION = _REDIRECTS | frozenset({400, 401, 403, 404, 405, 409, 411, 413, 414, 415, 422, 429, 431})


@dataclass(frozen=True, slots=True)
class Provider:
    """The ways of one provider."""

    key_header: str
    key_prefix: str
    unbilled_statuses: frozenset[int]


PROVIDERS = {
    "openai": Provider(key_header="authorization", key_prefix="Bearer ", unbilled_statuses=_BEFORE_GENERATION),
    "anthropic": Provider(key_header="x-api-key", key_prefix="", unbilled_statuses=_ALL_ERRORS),
    # "If your request fails with a 400 or 500 error, you won't be charged" (its billing page); no word of a 503.
    "gemini": Provider(key_header="x-goog-api-key", key_prefix="", unbilled_statuses=_BEFORE_GENERATION | {500}),
}
"""By wire format: what is sound for every server that speaks it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An upstream as configured, ready to be called."""

    name: str
    base_url: str
    secret: str
    """Empty for a server that takes no key."""
    provider: Provider
    quirks: Quirks
    connect_seconds_max: float
    idle_seconds_max: float
    total_seconds_max: float
