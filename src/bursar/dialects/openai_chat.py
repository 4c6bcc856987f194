"""OpenAI chat completions, the dialect of most OpenAI-compatible servers as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bursar.call import CacheWrite, Call, Output, Refused, Usage, UsageRules
from bursar.dialects import openai
from bursar.dialects.body import (
    Document,
    RefusedError,
    read,
    shown,
    unbounded,
    unreadable,
    utf8_bytes,
    value_text,
)
from bursar.dialects.fields import (
    CHOICES_MAX,
    Seen,
    client_names,
    flag,
    input_facts,
    items,
    member_of,
    model_of,
    names,
    never,
    only_known,
    only_known_in,
    parts,
    shaped,
    tier_of,
    type_of,
    whole,
)
from bursar.dialects.meters import (
    DroppingMeter,
    EventMeter,
    JsonMeter,
    PassMeter,
    UntrustedError,
    inner,
    json_object,
    reported_model,
    reported_tier,
    required_count,
)
from bursar.dialects.protocol import Meter, Quirks, Request
from bursar.dialects.turns import of_chat, repeated

OUTPUT_FIELD = "max_completion_tokens"

_FIELDS = names(
    """
    model messages stream stream_options max_tokens max_completion_tokens n service_tier prediction modalities
    tools tool_choice parallel_tool_calls functions function_call response_format
    temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty seed stop logit_bias logprobs
    top_logprobs reasoning_effort verbosity
    metadata store user safety_identifier prompt_cache_key prompt_cache_options prompt_cache_retention
    audio web_search_options
    """
)
_NEVER = {
    "audio": "audio output is billed at rates that are not held.",
    "web_search_options": "the searches and what they bring into the input are not bounded.",
}
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})
_TOOLS = frozenset({"function", "custom"})


class OpenAIChat:
    """Reads, bounds and meters `/v1/chat/completions`."""

    name = "openai_chat"

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        try:
            return _call(self.name, request, read(request.body))
        except RefusedError as error:
            return error.refused

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: bound, tier and the wish for usage are set, every other byte is the client's."""
        members = call.body.members
        changes = {}
        field = _output_field(call, quirks)
        if output_tokens != call.output.tokens_asked:
            changes[field] = str(output_tokens)
        changes |= openai.wish_for_usage(call, quirks)
        if call.service_tier == "default" and (quirks.takes_service_tier or "service_tier" in members):
            changes["service_tier"] = '"default"'
        return shaped(call, changes, quirks)

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply."""
        if not 200 <= status < 300:
            return PassMeter("error status")
        if not content_type.lower().startswith("text/event-stream"):
            return JsonMeter(lambda reply: _usage(reply, call.usage_rules))
        kind = EventMeter if call.wants_usage else DroppingMeter
        return kind(_Tally(call.usage_rules), end=b"[DONE]")

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error in OpenAI's shape."""
        return openai.error_body(status, code, message, details)


def _call(dialect: str, request: Request, document: Document) -> Call:
    values, quirks = document.values, request.quirks
    only_known(values, _FIELDS, quirks)
    never(values, _NEVER)
    openai.only_plain_betas(request)
    openai.only_plain_cache(document, quirks)
    model = model_of(values)
    openai.only_single_inference(model)
    if values.get("modalities") not in (None, ["text"]):
        raise unbounded('`modalities` must be ["text"]: audio is billed at rates that are not held.')
    stream = flag(values, "stream")
    options = only_known_in(values.get("stream_options"), "stream_options", _STREAM_OPTIONS, quirks)
    seen = _input(document)
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=model,
        stream=stream,
        body=document.body,
        input=input_facts(document, seen),
        output=_output(document),
        cache_write=CacheWrite.IMPLICIT,
        service_tier=tier_of(values, openai.PLAIN_TIERS),
        wants_usage=stream and flag(options, "include_usage"),
        client_names=client_names(
            (values.get("prompt_cache_key"), member_of(values.get("metadata"), "session_id")),
        ),
        usage_rules=quirks.usage,
        repeated=repeated(of_chat(values.get("messages"))),
    )


def _output(document: Document) -> Output:
    values = document.values
    old, new = whole(values, "max_tokens", 1), whole(values, OUTPUT_FIELD, 1)
    if old is not None and new is not None:
        raise unreadable(f"Send `max_tokens` or `{OUTPUT_FIELD}`, not both: which one counts differs by server.")
    choices = whole(values, "n", 1, CHOICES_MAX) or 1
    prediction = values.get("prediction")
    if prediction is not None and not isinstance(prediction, dict):
        raise unreadable("`prediction` must be an object.")
    # Predicted tokens that are rejected are billed as output.
    extra = utf8_bytes(value_text(document.body, "prediction")) if prediction else 0
    return Output(tokens_asked=old or new, choices=choices, tokens_extra=extra)


def _output_field(call: Call, quirks: Quirks) -> str:
    """Give the field that the client bounds its output with, else the one that the upstream knows; never both."""
    for field in ("max_tokens", OUTPUT_FIELD):
        if value_text(call.body, field) not in ("", "null"):
            return field
    return quirks.output_field or OUTPUT_FIELD


def _input(document: Document) -> Seen:
    values = document.values
    seen = Seen()
    if "messages" not in values:
        raise unreadable("`messages` is missing.")
    messages = items(values["messages"], "messages")
    seen.messages = len(messages)
    for message in messages:
        _content(seen, parts(message.get("content")))
        if message.get("audio") is not None:
            raise unbounded("A message refers to `audio`, which is billed at rates that are not held.")
    tools = items(values.get("tools"), "tools")
    for tool in tools:
        if (kind := type_of(tool, "tools")) not in _TOOLS:
            openai.refuse_tool(kind)
    seen.tools = len(tools) + len(items(values.get("functions"), "functions"))
    seen.tool_json_bytes = sum(utf8_bytes(value_text(document.body, name)) for name in ("tools", "functions"))
    return seen


def _content(seen: Seen, content: list[dict[str, object]]) -> None:
    for part in content:
        match type_of(part, "content"):
            case "text" | "refusal":
                pass
            case "image_url":
                image = part.get("image_url")
                url = image if isinstance(image, str) else member_of(image, "url")
                openai.take_image(seen, url, member_of(image, "detail"))
            case "file":
                seen.opaque = True
            case kind:
                raise unbounded(
                    f"The content type `{shown(kind)}` is refused: it is not known to bursar, or billed at rates that "
                    "are not held. Text, images and files are allowed."
                )


class _Tally:
    """Usage of a stream: the chunk without choices at its end, or the last one that carries usage before `[DONE]`."""

    def __init__(self, rules: UsageRules) -> None:
        self._rules = rules
        self._reply: dict[str, object] | None = None
        self._is_done = False

    def take(self, data: bytes) -> bool:
        if data.strip() == b"[DONE]":
            self._is_done = True
            return False
        try:
            chunk = json_object(data)
        except UntrustedError:
            return False
        if not isinstance(chunk.get("usage"), dict):
            return False
        self._reply = chunk
        is_usage_chunk = chunk.get("choices") == []
        self._is_done = self._is_done or is_usage_chunk
        return is_usage_chunk

    def result(self) -> Usage:
        if self._reply is None:
            raise UntrustedError("the stream carried no usage")
        if not self._is_done:
            raise UntrustedError("the stream ended before its end")
        return _usage(self._reply, self._rules)


def _usage(reply: dict[str, object], rules: UsageRules) -> Usage:
    usage = inner(reply, "usage")
    prompt, completion = required_count(usage, "prompt_tokens"), required_count(usage, "completion_tokens")
    if rules.reasoning_apart:
        completion = openai.with_reasoning(usage, prompt, completion)
        usage = usage | {"total_tokens": None}
    if rules.cached_field:
        usage = openai.with_cached(usage, rules.cached_field)
    classes = openai.token_classes(usage, prompt, completion, "prompt_tokens_details", "completion_tokens_details")
    cost = openai.reported_cost(usage) if rules.reports_cost else None
    tier, model = reported_tier(reply.get("service_tier")), reported_model(reply.get("model"))
    return replace(openai.usage_from(classes, tier, model), cost=cost)
