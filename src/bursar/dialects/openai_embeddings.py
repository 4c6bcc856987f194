"""OpenAI embeddings: input only, in one piece or in a list."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.call import CacheWrite, Call, Output, Refused, Unmetered, Usage
from bursar.dialects import openai
from bursar.dialects.body import Document, RefusedError, read
from bursar.dialects.fields import Seen, input_facts, model_of, names, only_known, shaped, whole
from bursar.dialects.meters import (
    PassMeter,
    UntrustedError,
    count,
    inner,
    json_object,
    reported_model,
    required_count,
)
from bursar.dialects.prompts import pieces_of
from bursar.dialects.protocol import Meter, Quirks, Request

DIMENSIONS_MAX = 1_000_000
WHOLE_BYTES_MAX = 65_536
"""A longer reply is not kept: it is numbers, and the usage behind them is read out of its last bytes."""
_MARK = b'"usage"'

_FIELDS = names("model input dimensions encoding_format user")


class OpenAIEmbeddings:
    """Reads, bounds and meters `/v1/embeddings`."""

    name = "openai_embeddings"

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
        """Give the meter for one reply."""
        return TailMeter() if 200 <= status < 300 else PassMeter("error status")

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error in OpenAI's shape."""
        return openai.error_body(status, code, message, details)


class TailMeter:
    """Reads the usage at the end of a reply, however long the reply is."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._is_cut = False

    def feed(self, chunk: bytes) -> bytes:
        """Give the chunk back, and keep the last bytes of the reply."""
        self._tail += chunk[-WHOLE_BYTES_MAX:]
        if len(self._tail) > WHOLE_BYTES_MAX or len(chunk) > WHOLE_BYTES_MAX:
            self._is_cut = True
            del self._tail[:-WHOLE_BYTES_MAX]
        return chunk

    def finish(self) -> tuple[bytes, Usage | Unmetered]:
        """Read the usage out of the last bytes."""
        try:
            return b"", _usage(self._reply())
        except UntrustedError as error:
            return b"", Unmetered(str(error))

    def _reply(self) -> dict[str, object]:
        if not self._is_cut:
            return json_object(bytes(self._tail))
        # The data before it are numbers or base64, in which the mark cannot be.
        at = self._tail.rfind(_MARK)
        if at < 0:
            raise UntrustedError("the reply has no usage at its end")
        return json_object(b"{" + bytes(self._tail[at:]))


def _call(dialect: str, request: Request, document: Document) -> Call:
    values = document.values
    only_known(values, _FIELDS, request.quirks)
    whole(values, "dimensions", 1, DIMENSIONS_MAX)
    seen = Seen(pieces=pieces_of(values.get("input"), "input"))
    seen.messages = seen.pieces
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=model_of(values),
        stream=False,
        body=document.body,
        input=input_facts(document, seen),
        output=Output(tokens_asked=0, tokens_min=0),
        cache_write=CacheWrite.NONE,
        service_tier="default",
        usage_rules=request.quirks.usage,
    )


def _usage(reply: dict[str, object]) -> Usage:
    usage = inner(reply, "usage")
    given = required_count(usage, "prompt_tokens")
    total = count(usage, "total_tokens")
    if total and total < given:
        raise UntrustedError("the usage contradicts itself: the total is less than its parts")
    return Usage(max(given, total), 0, model=reported_model(reply.get("model")))
