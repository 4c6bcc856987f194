"""What the dialects of OpenAI share: service tiers, models with a mind of their own, images, errors, token classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from bursar.call import Call, Usage
from bursar.dialects.body import Document, object_with, shown, unbounded, value_text
from bursar.dialects.fields import Seen, all_named, member_of, only_known_in
from bursar.dialects.meters import UntrustedError, count, inner
from bursar.dialects.protocol import Quirks, Request
from bursar.money import ZERO, Money, MoneyError

PLAIN_TIERS = frozenset({"auto", "default", "standard"})
"""Absent is `auto`, and `auto` is what the project is set to, which may be a dearer tier; so it is made explicit."""

# They search or loop on the server whatever the request says.
_SERVER_SIDE_MODELS = ("-search-preview", "-search-api", "deep-research", ":online")
_CACHE_OPTIONS = frozenset({"mode", "ttl", "comparison_response_id"})
_ERROR_TYPES_BY_CODE = {
    "cap_exhausted": "insufficient_quota",
    "run_stopped": "insufficient_quota",
    "loop_detected": "insufficient_quota",
    "cap_held": "rate_limit_exceeded",
}
_ERROR_TYPES_BY_STATUS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_exceeded"}


def only_plain_betas(request: Request) -> None:
    """Refuse the beta that spawns agents on the server, as many as it likes."""
    if "multi_agent" in request.headers.get("openai-beta", ""):
        raise unbounded("The header `openai-beta` asks for multi_agent, which nothing bounds. Remove it.")


def only_single_inference(model: str) -> None:
    """Refuse models that search or loop on the server for one request."""
    for mark in _SERVER_SIDE_MODELS:
        if mark in model:
            raise unbounded(f"The model `{model}` works on the server on its own (`{mark}`), which nothing bounds.")


def only_plain_cache(document: Document, quirks: Quirks) -> None:
    """Refuse cache options without a known price: prewarming, and writes for 12 hours wherever they are asked for."""
    options = document.values.get("prompt_cache_options")
    only_known_in(options, "prompt_cache_options", _CACHE_OPTIONS, quirks)
    controls = [options]
    if '"prompt_cache_breakpoint"' in document.plain:
        controls += all_named(document.values, "prompt_cache_breakpoint")
    for control in controls:
        if member_of(control, "ttl") not in (None, "30m"):
            raise unbounded("A cache write with another `ttl` than 30m has no known price.")


def take_image(seen: Seen, url: object, detail: object) -> None:
    """Note an image of the input."""
    seen.take_url(url, low_detail=detail == "low")


def wish_for_usage(call: Call, quirks: Quirks) -> dict[str, str]:
    """Give the field that makes a stream end with its usage, where the client did not ask for that itself."""
    if not call.stream or not quirks.takes_stream_options or call.wants_usage:
        return {}
    options = value_text(call.body, "stream_options")
    wish = object_with(options, "include_usage", "true") if options.startswith("{") else '{"include_usage":true}'
    return {"stream_options": wish}


def token_classes(
    usage: dict[str, object], input_tokens: int, output_tokens: int, details: str, output_details: str
) -> tuple[int, int, int, int]:
    """Split into input at the full rate, output, cache reads and cache writes; raises UntrustedError."""
    inputs, outputs = inner(usage, details), inner(usage, output_details)
    if usage.get("total_tokens") is not None:
        total = count(usage, "total_tokens")
        if total < input_tokens + output_tokens:
            raise UntrustedError("the usage contradicts itself: the total is less than its parts")
        # Some servers report reasoning apart from the completion, and only the total has it.
        output_tokens = total - input_tokens
    reads, writes = count(inputs, "cached_tokens"), count(inputs, "cache_write_tokens")
    if reads + writes > input_tokens:
        raise UntrustedError("the usage contradicts itself: more cached tokens than input")
    if count(outputs, "reasoning_tokens") > output_tokens:
        raise UntrustedError("the usage contradicts itself: more reasoning tokens than output")
    if count(inputs, "audio_tokens") or count(outputs, "audio_tokens"):
        raise UntrustedError("audio tokens are billed at a rate that is not held")
    if count(inner(inputs, "cache_write_tokens_details"), "ttl_12h_tokens"):
        raise UntrustedError("cache writes for 12 hours are billed at a rate that is not held")
    return input_tokens - reads - writes, output_tokens, reads, writes


def with_reasoning(usage: dict[str, object], prompt: int, completion: int) -> int:
    """Give the output of a server that leaves reasoning out of the completion; raises UntrustedError.

    Where the counts contradict each other, the larger output counts.
    """
    reasoning = count(inner(usage, "completion_tokens_details"), "reasoning_tokens")
    return max(completion + reasoning, count(usage, "total_tokens") - prompt)


def with_cached(usage: dict[str, object], name: str) -> dict[str, object]:
    """Give the usage with its cached input in the details, where a server counts it at the top."""
    details = inner(usage, "prompt_tokens_details")
    if details.get("cached_tokens") is not None:
        return usage
    return usage | {"prompt_tokens_details": details | {"cached_tokens": usage.get(name)}}


def reported_cost(usage: dict[str, object]) -> Money | None:
    """Give what the server says it charged in USD, or None when it does not say; raises UntrustedError.

    For calls on a key of one's own at the model's provider, `cost` is the fee alone, and the provider bills its part.
    """
    if usage.get("cost") is None:
        return None
    cost, own_key = _amount(usage["cost"], "cost"), usage.get("is_byok")
    if own_key is not False:
        said = inner(usage, "cost_details").get("upstream_inference_cost")
        upstream = ZERO if said is None else _amount(said, "upstream_inference_cost")
        if own_key is not None and upstream == ZERO:
            return None  # a fee alone says nothing of the provider's bill
        cost += upstream
    # No server is believed that it charges nothing: then the tokens are priced, and none at all are no count.
    return None if cost == ZERO else cost


def _amount(value: object, name: str) -> Money:
    try:
        return Money.charged(Decimal(str(value)))
    except (InvalidOperation, MoneyError):
        raise UntrustedError(f"`{name}` is not an amount in USD") from None


def usage_from(classes: tuple[int, int, int, int], tier: str, model: str) -> Usage:
    """Put the token classes together with tier and model."""
    fresh, output, reads, writes = classes
    return Usage(fresh, output, cache_read_tokens=reads, cache_write_5m_tokens=writes, service_tier=tier, model=model)


def error_body(status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
    """Give an error that the SDKs raise as their typed one; they keep only what is in `error`, so `bursar` is there."""
    kind = _ERROR_TYPES_BY_CODE.get(code) or _ERROR_TYPES_BY_STATUS.get(status)
    if kind is None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code, "bursar": dict(details)}
    return json.dumps({"error": error}, default=str).encode()


def refuse_tool(kind: str) -> None:
    """Refuse a tool that runs on the provider's side."""
    raise unbounded(
        f"The tool type `{shown(kind)}` is refused: it runs on the provider's side, or is not known to bursar, "
        "and nothing bounds what it costs. Function and custom tools are allowed."
    )
