"""Google's embeddings of text: `embedContent` and `batchEmbedContents`."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.call import CacheWrite, Call, Output, Refused, Usage
from bursar.dialects.body import Document, RefusedError, read, unreadable
from bursar.dialects.fields import Seen, input_facts, names, shaped, whole
from bursar.dialects.gemini import asked_of, error_body, only_model
from bursar.dialects.gemini_input import only_text
from bursar.dialects.meters import JsonMeter, PassMeter, count, inner, required_count
from bursar.dialects.prompts import PIECES_MAX
from bursar.dialects.protocol import Meter, Quirks, Request
from bursar.dialects.spelling import folded, listed

DIMENSIONS_MAX = 1_000_000
_CONFIG = "embedContentConfig"
_PLAIN = names("taskType title outputDimensionality autoTruncate")
_FIELDS = _PLAIN | {"model", "content", _CONFIG}
_BATCH = frozenset({"requests"})


class GeminiEmbeddings:
    """Reads, bounds and meters `:embedContent` and `:batchEmbedContents`."""

    name = "gemini_embeddings"

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        try:
            return _call(self.name, request, read(request.body))
        except RefusedError as error:
            return error.refused

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: the client's; there is no output to bound."""
        return shaped(call, {}, quirks)

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply; where it carries no usage, the hold is captured whole."""
        return JsonMeter(_usage) if 200 <= status < 300 else PassMeter("error status")

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error in Google's shape."""
        return error_body(status, code, message, details)


def _call(dialect: str, request: Request, document: Document) -> Call:
    named = asked_of(request)
    quirks = request.quirks
    pieces: list[dict[str, object]] = [document.values]
    if named.method == "batchEmbedContents":
        pieces = listed(folded(document.values, "", _BATCH, quirks).get("requests"), "requests")
        if not 1 <= len(pieces) <= PIECES_MAX:
            raise unreadable(f"`requests` must have 1 to {PIECES_MAX} requests.")
    for piece in pieces:
        _only_an_embedding_of_text(piece, named.model, quirks)
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=named.model,
        stream=False,
        body=document.body,
        input=input_facts(document, Seen(messages=len(pieces), pieces=len(pieces))),
        output=Output(tokens_asked=0, tokens_min=0),
        cache_write=CacheWrite.NONE,
        service_tier="default",
        usage_rules=quirks.usage,
    )


def _only_an_embedding_of_text(piece: dict[str, object], model: str, quirks: Quirks) -> None:
    values = folded(piece, "", _FIELDS, quirks)
    only_model(values.get("model"), model)
    for settings in (values, folded(values.get(_CONFIG), _CONFIG, _PLAIN, quirks)):
        whole(settings, "outputDimensionality", 1, DIMENSIONS_MAX)
    if not isinstance(values.get("content"), dict):
        raise unreadable("`content` is missing.")
    only_text(values["content"], "content", quirks)


def _usage(reply: dict[str, object]) -> Usage:
    usage = inner(reply, "usageMetadata")
    return Usage(max(required_count(usage, "promptTokenCount"), count(usage, "totalTokenCount")), 0)
