"""Google's own format: `generateContent` and `streamGenerateContent`; the model is in the path."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bursar.call import CacheWrite, Call, Output, Refused
from bursar.dialects.body import Document, RefusedError, object_with, read, shown, unbounded, unreadable, value_text
from bursar.dialects.fields import CHOICES_MAX, Seen, input_facts, names, shaped, whole
from bursar.dialects.gemini_input import take_contents, take_tools
from bursar.dialects.gemini_path import GeminiPath, read_path
from bursar.dialects.gemini_usage import meter_of
from bursar.dialects.protocol import Meter, Quirks, Request
from bursar.dialects.spelling import folded, listed, spelled_as
from bursar.dialects.turns import of_gemini, repeated

CONFIG = "generationConfig"
OUTPUT_FIELD = "maxOutputTokens"
PLAIN_TIERS = frozenset({"unspecified", "standard", "default"})
"""Absent is `standard`, whatever the project."""

_FIELDS = names(
    """
    contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent serviceTier labels store
    model
    """
)
_CONFIG_FIELDS = names(
    """
    temperature topP topK candidateCount maxOutputTokens stopSequences seed responseLogprobs logprobs presencePenalty
    frequencyPenalty responseMimeType responseSchema responseJsonSchema responseModalities mediaResolution
    thinkingConfig enableEnhancedCivicAnswers audioTimestamp
    """
)
_NEVER = {
    "speechConfig": "audio output is billed at rates that are not held.",
    "imageConfig": "images in the output are billed at rates that are not held.",
    "routingConfig": "another model than the one that is quoted may answer.",
    "modelSelectionConfig": "another model than the one that is quoted may answer.",
}
_KNOWN_CONFIG = _CONFIG_FIELDS | frozenset(_NEVER)
_THINKING = frozenset({"includeThoughts", "thinkingBudget", "thinkingLevel"})
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    414: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}


class Gemini:
    """Reads, bounds and meters `:generateContent` and `:streamGenerateContent`."""

    name = "gemini"

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        try:
            return _call(self.name, request, read(request.body))
        except RefusedError as error:
            return error.refused

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: the output bound is set, every other byte is the client's."""
        if output_tokens == call.output.tokens_asked:
            return shaped(call, {}, quirks)
        config = spelled_as(call.body.members, CONFIG)
        text = value_text(call.body, config)
        text = text if text.startswith("{") else "{}"
        bound = object_with(text, spelled_as(json.loads(text), OUTPUT_FIELD), str(output_tokens))
        return shaped(call, {config: bound}, quirks)

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply."""
        return meter_of(call, status, content_type)

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error in Google's shape."""
        return error_body(status, code, message, details)


def error_body(status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
    """Give an error as Google does: the number, its name, and our code as the reason of an `ErrorInfo`."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": code.upper(),
        "domain": "bursar",
        "metadata": {name: str(value) for name, value in details.items() if value is not None},
    }
    error = {
        "code": status,
        "message": message,
        "status": _STATUSES.get(status, "UNAVAILABLE"),
        "details": [info],
        "bursar": {**details, "code": code},
    }
    return json.dumps({"error": error}, default=str).encode()


def asked_of(request: Request) -> GeminiPath:
    """Give what the path asks for; raises RefusedError for a path that is not Google's."""
    named = read_path(request.path)
    if named is None:
        raise RefusedError(Refused(404, "unmetered", "This path names no model and method of Google's."))
    return named


def only_model(value: object, model: str) -> None:
    """Refuse a body that names another model than the path: the path decides, here and at the provider."""
    if value not in (None, model, f"models/{model}"):
        raise unreadable(f"The path names the model `{model}` and the body another; which one counts is unknown.")


def _call(dialect: str, request: Request, document: Document) -> Call:
    quirks = request.quirks
    named = asked_of(request)
    values = folded(document.values, "", _FIELDS, quirks)
    only_model(values.get("model"), named.model)
    config = _config(values, quirks)
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=named.model,
        stream=named.method == "streamGenerateContent",
        body=document.body,
        input=input_facts(document, _input(document, values, quirks)),
        output=Output(
            tokens_asked=whole(config, OUTPUT_FIELD, 1),
            choices=whole(config, "candidateCount", 1, CHOICES_MAX) or 1,
        ),
        cache_write=CacheWrite.NONE,  # the provider caches by itself and bills no write
        service_tier=_tier(values),
        usage_rules=quirks.usage,
        repeated=repeated(of_gemini(values.get("contents"))),
    )


def _config(values: dict[str, object], quirks: Quirks) -> dict[str, object]:
    config = folded(values.get(CONFIG), CONFIG, _KNOWN_CONFIG, quirks)
    for name in _NEVER.keys() & config.keys():
        if config[name] is not None:
            raise unbounded(f"The field `{CONFIG}.{name}` is refused: {_NEVER[name]}")
    if config.get("responseModalities") not in (None, [], ["TEXT"], ["text"]):
        raise unbounded('`responseModalities` must be ["TEXT"]: the others are billed at rates that are not held.')
    thinking = folded(config.get("thinkingConfig"), f"{CONFIG}.thinkingConfig", _THINKING, quirks)
    whole(thinking, "thinkingBudget", -1)  # thoughts are inside the output bound, so any budget is bounded
    return config


def _tier(values: dict[str, object]) -> str:
    tier = values.get("serviceTier")
    if tier is None:
        return "default"
    name = tier.lower().removeprefix("service_tier_") if isinstance(tier, str) else ""
    if not name.isascii() or not name.isalpha() or len(name) > 32:
        raise unreadable(f"`serviceTier` is not the name of a tier: {shown(tier)}")
    return "default" if name in PLAIN_TIERS else name


def _input(document: Document, values: dict[str, object], quirks: Quirks) -> Seen:
    seen = Seen()
    if not listed(values.get("contents"), "contents"):
        raise unreadable("`contents` is missing.")
    take_contents(seen, values["contents"], "contents", quirks)
    take_contents(seen, values.get("systemInstruction"), "systemInstruction", quirks)
    take_tools(seen, document, values, quirks)
    if values.get("cachedContent") is not None:
        if "cachedContent" not in quirks.allow_fields:
            raise unbounded(
                "The field `cachedContent` is refused: what is cached can bring tools of the server's with it that are "
                'not seen here. If yours have none, allow it with `[policy] allow_fields = ["cachedContent"]`.'
            )
        seen.opaque = seen.audio = True
    return seen
