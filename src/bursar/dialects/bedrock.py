"""Bedrock's Converse API: `converse` and `converse-stream`, one format for every model; the model is in the path."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bursar.call import CacheWrite, Call, Output, Refused
from bursar.dialects import bedrock_frames
from bursar.dialects.bedrock_path import STREAMED, read_plain
from bursar.dialects.bedrock_usage import FrameMeter, tier_text, usage_of
from bursar.dialects.body import (
    Document,
    RefusedError,
    object_with,
    read,
    shown,
    unbounded,
    unreadable,
    utf8_bytes,
    value_text,
    with_members,
)
from bursar.dialects.fields import (
    TOKENS_MAX,
    Seen,
    all_named,
    input_facts,
    items,
    member_of,
    names,
    never,
    only_known,
    only_known_in,
    whole,
)
from bursar.dialects.meters import JsonMeter, PassMeter
from bursar.dialects.protocol import Meter, Quirks, Request
from bursar.dialects.turns import of_converse, repeated

CONFIG = "inferenceConfig"
OUTPUT_FIELD = "maxTokens"

_FIELDS = names(
    """
    messages system inferenceConfig toolConfig additionalModelRequestFields additionalModelResponseFieldPaths
    requestMetadata performanceConfig serviceTier outputConfig guardrailConfig promptVariables
    """
)
_NEVER = {
    "guardrailConfig": "a guardrail is billed by the length of the text, in and out, at rates that are not held.",
    "promptVariables": "a stored prompt is not seen here, and takes no bound of its output.",
}
_INFERENCE = frozenset({OUTPUT_FIELD, "temperature", "topP", "stopSequences"})
_TOOL_CONFIG = frozenset({"tools", "toolChoice"})
_TOOL_CHOICE = frozenset({"auto", "any", "tool"})
_TOOL_SPEC = frozenset({"name", "description", "inputSchema", "strict"})
_OUTPUT_CONFIG = frozenset({"textFormat", "effort"})
# What models take beyond the common fields. None of it may bound the output once more, or bring work that is not held.
_ADDITIONAL = "additionalModelRequestFields"
_ADDITIONAL_FIELDS = names(
    """
    thinking reasoning_config reasoningConfig reasoning_effort top_k topK inferenceConfig output_config anthropic_beta
    """
)
_THINKING = frozenset({"type", "budget_tokens", "display"})
_EFFORT = frozenset({"effort"})
_TOP_K = frozenset({"topK"})
_LONG_CONTEXT = "context-1m-"
_PLAIN_BETAS = (
    _LONG_CONTEXT,
    "interleaved-thinking-",
    "dev-full-thinking-",
    "fine-grained-tool-streaming-",
    "token-efficient-tools-",
    "output-128k-",
    "effort-",
    "extended-cache-ttl-",
)
_TEXT_BLOCKS = names("text cachePoint citationsContent searchResult")
_REFUSED_BLOCKS = {
    "video": "it is billed by rules of each model's own that are not held.",
    "audio": "it is billed at rates that are not held.",
    "guardContent": "a guardrail is billed by the length of the text, at rates that are not held.",
    "toolAddition": "it brings in the tools of a server, which nothing bounds.",
    "toolRemoval": "it belongs to the tools of a server, which nothing bounds.",
}
_TOOL_USE = names("toolUseId name input type")
_TOOL_RESULT = names("toolUseId content status type")
_IMAGE = names("format source error")
_DOCUMENT = names("format name source context citations")
_SOURCE = names("bytes s3Location text content")
# A stored prompt has a bound and tools of its own, and takes none from the request.
_STORED_PROMPT = ":prompt/"
_ERRORS_BY_CODE = {
    "cap_exhausted": "ServiceQuotaExceededException",
    "run_stopped": "ServiceQuotaExceededException",
    "loop_detected": "ServiceQuotaExceededException",
    "too_many_runs": "ServiceQuotaExceededException",
    "cap_held": "ThrottlingException",
}
_ERRORS_BY_STATUS = {
    401: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


class BedrockConverse:
    """Reads, bounds and meters `/model/{model}/converse` and `/model/{model}/converse-stream`."""

    name = "bedrock_converse"

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        try:
            return _call(self.name, request, read(request.body))
        except RefusedError as error:
            return error.refused

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: the output bound is set, every other byte is the client's.

        What the upstream wants otherwise in Anthropic's format is not for this one.
        """
        if output_tokens == call.output.tokens_asked:
            return with_members(call.body, {})
        text = value_text(call.body, CONFIG)
        bounded = object_with(text if text.startswith("{") else "{}", OUTPUT_FIELD, str(output_tokens))
        return with_members(call.body, {CONFIG: bounded})

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply."""
        if not 200 <= status < 300:
            return PassMeter("error status")
        if content_type.lower().startswith(bedrock_frames.CONTENT_TYPE):
            return FrameMeter(call)
        return JsonMeter(lambda reply: usage_of(reply, call))

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error in the shape of AWS; its SDKs take the type from the body where no header has it."""
        kind = _ERRORS_BY_CODE.get(code) or _ERRORS_BY_STATUS.get(status)
        kind = kind or ("InternalServerException" if status >= 500 else "ValidationException")
        error = {"__type": kind, "message": message, "bursar": {**details, "code": code}}
        return json.dumps(error, default=str).encode()


def _call(dialect: str, request: Request, document: Document) -> Call:
    values, quirks = document.values, request.quirks
    named = read_plain(request.path)
    if named is None or named.is_count:
        raise RefusedError(Refused(404, "unmetered", "This path names no model and method of the Converse API."))
    if _STORED_PROMPT in named.model:
        raise unbounded("A stored prompt is refused: it is not seen here, and takes no bound. Send its text instead.")
    only_known(values, _FIELDS, quirks)
    never(values, _NEVER)
    config = only_known_in(values.get(CONFIG), CONFIG, _INFERENCE, quirks)
    only_known_in(values.get("outputConfig"), "outputConfig", _OUTPUT_CONFIG, quirks)
    additional = _additional(values, quirks)
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=named.model,
        stream=named.method == STREAMED,
        body=document.body,
        input=input_facts(document, _input(document, quirks)),
        output=_output(config, additional),
        cache_write=_cache_write(document),
        service_tier=tier_text(
            _named_in(values, "serviceTier", "type", quirks) or "default",
            _named_in(values, "performanceConfig", "latency", quirks) or "standard",
        ),
        takes_long_context=any(beta.startswith(_LONG_CONTEXT) for beta in _betas(additional)),
        repeated=repeated(of_converse(values.get("messages"))),
    )


def _additional(values: dict[str, object], quirks: Quirks) -> dict[str, object]:
    found = only_known_in(values.get(_ADDITIONAL), _ADDITIONAL, _ADDITIONAL_FIELDS, quirks)
    only_known_in(found.get(CONFIG), f"{_ADDITIONAL}.{CONFIG}", _TOP_K, quirks)
    only_known_in(found.get("output_config"), f"{_ADDITIONAL}.output_config", _EFFORT, quirks)
    for beta in _betas(found):
        if not beta.startswith(_PLAIN_BETAS) and beta not in quirks.allow_fields:
            raise unbounded(
                f"`anthropic_beta` asks for `{shown(beta)}`, which is not known to bursar, so nothing bounds what it "
                f'costs. Remove it, or allow it with `[policy] allow_fields = ["{shown(beta)}"]`.'
            )
    return found


def _betas(additional: dict[str, object]) -> list[str]:
    betas = additional.get("anthropic_beta")
    if betas is None:
        return []
    if not isinstance(betas, list) or not all(isinstance(beta, str) for beta in betas):
        raise unreadable("`anthropic_beta` must be a list of names.")
    return betas


def _named_in(values: dict[str, object], outer: str, name: str, quirks: Quirks) -> str:
    """Give the one name that an object has, or nothing."""
    value = only_known_in(values.get(outer), outer, frozenset({name}), quirks).get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isascii() or not value.isalpha() or len(value) > 32:
        raise unreadable(f"`{outer}.{name}` is not a name: {shown(value)}")
    return value.lower()


def _output(config: dict[str, object], additional: dict[str, object]) -> Output:
    asked = whole(config, OUTPUT_FIELD, 1)
    budget = 0
    for name in ("thinking", "reasoning_config"):
        thinking = only_known_in(additional.get(name), f"{_ADDITIONAL}.{name}", _THINKING, Quirks())
        budget = max(budget, whole(thinking, "budget_tokens", 1, TOKENS_MAX - 1) or 0)
    # Thinking has to stay below the bound, or the provider refuses the request; when interleaved it may be above.
    return Output(tokens_asked=asked, tokens_min=budget + 1 if asked is None else min(budget + 1, asked))


def _cache_write(document: Document) -> CacheWrite:
    if '"cachePoint"' not in document.plain:
        return CacheWrite.NONE
    dearest = CacheWrite.FIVE_MINUTES
    for point in all_named(document.values, "cachePoint"):
        ttl = member_of(point, "ttl")
        if ttl == "1h":
            dearest = CacheWrite.ONE_HOUR
        elif ttl not in (None, "5m"):
            raise unbounded(f"A cache write with ttl `{shown(ttl)}` has no known price. Use 5m or 1h.")
    return dearest


# ---- the input ------------------------------------------------------------------------------------------------------


def _input(document: Document, quirks: Quirks) -> Seen:
    values = document.values
    seen = Seen()
    if not items(values.get("messages"), "messages"):
        raise unreadable("`messages` is missing.")
    for message in items(values["messages"], "messages"):
        seen.messages += 1
        _content(seen, message.get("content"), quirks)
    if values.get("system") is not None:
        seen.messages += 1
        _content(seen, values["system"], quirks)
    config = only_known_in(values.get("toolConfig"), "toolConfig", _TOOL_CONFIG, quirks)
    only_known_in(config.get("toolChoice"), "toolConfig.toolChoice", _TOOL_CHOICE, quirks)
    for tool in items(config.get("tools"), "toolConfig.tools"):
        _tool(seen, tool, quirks)
    seen.tool_json_bytes = utf8_bytes(value_text(document.body, "toolConfig"))
    return seen


def _tool(seen: Seen, tool: dict[str, object], quirks: Quirks) -> None:
    for kind, value in tool.items():
        if kind == "toolSpec":
            seen.tools += 1
            only_known_in(value, "toolConfig.tools.toolSpec", _TOOL_SPEC, quirks)
        elif kind != "cachePoint" and value is not None:
            raise unbounded(
                f"The tool `{shown(kind)}` is refused: it runs on the provider's side, or is not known to bursar, and "
                "nothing bounds what it costs. Tools that the client runs (`toolSpec`) are allowed."
            )


def _content(seen: Seen, content: object, quirks: Quirks) -> None:
    for block in items(content, "content"):
        for kind, value in block.items():
            if value is not None:
                _block(seen, kind, value, quirks)


def _block(seen: Seen, kind: str, value: object, quirks: Quirks) -> None:
    if kind in _TEXT_BLOCKS or kind == "json":
        return
    if kind == "reasoningContent":
        # What is sealed has no length that tells how much is in it.
        seen.opaque = seen.opaque or member_of(value, "redactedContent") is not None
    elif kind == "toolUse":
        _seal(seen, only_known_in(value, kind, _TOOL_USE, quirks))
    elif kind == "toolResult":
        result = only_known_in(value, kind, _TOOL_RESULT, quirks)
        _seal(seen, result)
        _content(seen, result.get("content"), quirks)
    elif kind == "image":
        _image(seen, only_known_in(value, kind, _IMAGE, quirks), quirks)
    elif kind == "document":
        _document(seen, only_known_in(value, kind, _DOCUMENT, quirks), quirks)
    else:
        why = _REFUSED_BLOCKS.get(kind, "it is not known to bursar, or not bounded.")
        raise unbounded(f"The content `{shown(kind)}` is refused: {why}")


def _seal(seen: Seen, block: dict[str, object]) -> None:
    """Note what a tool of the provider's own has left: it may be more for the model than it is here."""
    seen.opaque = seen.opaque or block.get("type") is not None


def _image(seen: Seen, image: dict[str, object], quirks: Quirks) -> None:
    source = only_known_in(image.get("source"), "image.source", _SOURCE, quirks)
    if source.get("bytes") is not None:
        seen.take_base64(source["bytes"], low_detail=False)
    else:
        seen.take_url(None, low_detail=False)


def _document(seen: Seen, document: dict[str, object], quirks: Quirks) -> None:
    source = only_known_in(document.get("source"), "document.source", _SOURCE, quirks)
    if source.get("content") is not None:
        _content(seen, source["content"], quirks)
    # Pages are billed as text and as images, and how many there are is not seen.
    if source.get("text") is None and source.get("content") is None:
        seen.opaque = True
