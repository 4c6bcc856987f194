"""OpenAI's legacy completions, which vLLM and others still serve: a prompt, or a list of them, goes on."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.call import CacheWrite, Call, Output, Refused
from bursar.dialects import openai
from bursar.dialects.body import Document, RefusedError, read, unreadable, utf8_bytes, value_text
from bursar.dialects.fields import (
    CHOICES_MAX,
    Seen,
    flag,
    input_facts,
    model_of,
    names,
    only_known,
    only_known_in,
    shaped,
    whole,
)
from bursar.dialects.openai_chat import OpenAIChat
from bursar.dialects.prompts import pieces_of
from bursar.dialects.protocol import Meter, Quirks, Request

OUTPUT_FIELD = "max_tokens"
OUTPUT_TOKENS_DEFAULT = 16
"""What the provider takes when the client names no bound; so that is the bound, and it is sent."""

_FIELDS = names(
    """
    model prompt suffix max_tokens n best_of echo stream stream_options logprobs
    temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty seed stop logit_bias user
    """
)
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})


class OpenAICompletions:
    """Reads, bounds and meters `/v1/completions`."""

    name = "openai_completions"

    def __init__(self) -> None:
        self._chat = OpenAIChat()

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        try:
            return _call(self.name, request, read(request.body))
        except RefusedError as error:
            return error.refused

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: bound and wish for usage are set, every other byte is the client's."""
        changes = {}
        if output_tokens != call.output.tokens_asked or value_text(call.body, OUTPUT_FIELD) in ("", "null"):
            changes[OUTPUT_FIELD] = str(output_tokens)
        return shaped(call, changes | openai.wish_for_usage(call, quirks), quirks)

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply; its usage is that of a chat."""
        return self._chat.meter(call, status, content_type)

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error in OpenAI's shape."""
        return openai.error_body(status, code, message, details)


def _call(dialect: str, request: Request, document: Document) -> Call:
    values, quirks = document.values, request.quirks
    only_known(values, _FIELDS, quirks)
    openai.only_plain_betas(request)
    model = model_of(values)
    openai.only_single_inference(model)
    stream = flag(values, "stream")
    options = only_known_in(values.get("stream_options"), "stream_options", _STREAM_OPTIONS, quirks)
    # Without a prompt the model begins a text of its own.
    pieces = 1 if values.get("prompt") is None else pieces_of(values["prompt"], "prompt")
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=model,
        stream=stream,
        body=document.body,
        input=input_facts(document, Seen(messages=pieces, pieces=pieces)),
        output=_output(document, pieces),
        cache_write=CacheWrite.IMPLICIT,
        service_tier="default",
        wants_usage=stream and flag(options, "include_usage"),
        usage_rules=quirks.usage,
    )


def _output(document: Document, pieces: int) -> Output:
    values = document.values
    asked = whole(values, OUTPUT_FIELD, 0)
    answers, drafts = whole(values, "n", 1, CHOICES_MAX) or 1, whole(values, "best_of", 1, CHOICES_MAX) or 1
    # Every draft is billed, also those that nobody gets to see.
    choices = pieces * max(answers, drafts)
    if choices > CHOICES_MAX:
        raise unreadable(f"The prompts times `n` or `best_of` are more than {CHOICES_MAX} completions; send fewer.")
    # No word on whether an echoed prompt counts as output, so it does.
    extra = utf8_bytes(value_text(document.body, "prompt")) if flag(values, "echo") else 0
    return Output(
        tokens_asked=OUTPUT_TOKENS_DEFAULT if asked is None else asked,
        choices=choices,
        tokens_min=0 if asked == 0 else 1,
        tokens_extra=extra,
    )
