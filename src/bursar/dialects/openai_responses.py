"""OpenAI responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from bursar.call import CacheWrite, Call, Output, Refused, ServerTool, ServerTools, Usage
from bursar.dialects import openai
from bursar.dialects.body import Document, RefusedError, read, shown, unbounded, unreadable, utf8_bytes, value_text
from bursar.dialects.fields import (
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
from bursar.dialects.server_tools import (
    OPENAI_MARK,
    OPENAI_PAID_ITEMS,
    OPENAI_USES_FIELD,
    openai_bounds,
    openai_uses,
    takes_openai_tool,
)
from bursar.dialects.turns import of_responses, repeated

OUTPUT_FIELD = "max_output_tokens"
OUTPUT_TOKENS_MIN = 16
"""The provider refuses a lower bound."""
TYPED_TOOL_TOKENS = 4_096
"""More than any tool that the provider itself describes to the model is known to take."""

_FIELDS = names(
    """
    model input instructions stream stream_options max_output_tokens max_tool_calls service_tier
    previous_response_id conversation truncation store include
    tools tool_choice parallel_tool_calls reasoning text temperature top_p top_logprobs
    metadata client_metadata user safety_identifier prompt_cache_key prompt_cache_options prompt_cache_retention
    background background_options prompt context_management
    """
)
_NEVER = {
    "background": "the response goes on when the connection is gone, and its usage is never seen.",
    "background_options": "the response goes on when the connection is gone, and its usage is never seen.",
    "prompt": "a stored prompt can bring server-side tools with it that are not seen here.",
    "context_management": "compaction on the server is a further inference that nothing bounds.",
}
_STREAM_OPTIONS = frozenset({"include_obfuscation"})
_REASONING = frozenset({"effort", "summary", "generate_summary", "context", "mode"})
_FUNCTIONS = frozenset({"function", "custom"})
_CLIENT_TOOLS = frozenset({"local_shell", "apply_patch", "computer", "computer_use_preview"})
_PLAIN_ITEMS = names(
    """
    function_call custom_tool_call reasoning local_shell_call local_shell_call_output shell_call shell_call_output
    apply_patch_call apply_patch_call_output computer_call tool_search_call web_search_call file_search_call
    """
)
_OUTPUT_ITEMS = frozenset({"function_call_output", "custom_tool_call_output"})
# Stored on the server, or sealed so that its length does not tell how much is in it.
_OPAQUE_ITEMS = frozenset({"item_reference", "compaction"})
_TOOL_ITEMS = frozenset({"additional_tools", "tool_search_output"})
_TEXTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
# Tuples, because what a reply has in their place may be anything, also what cannot be in a set.
_BILLED_ITEMS = ("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_call")
_FINAL_STATUSES = (None, "completed", "incomplete", "failed")
_FINAL_EVENTS = ("response.completed", "response.incomplete", "response.failed")


class OpenAIResponses:
    """Reads, bounds and meters `/v1/responses`."""

    name = "openai_responses"

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        try:
            return _call(self.name, request, read(request.body))
        except RefusedError as error:
            return error.refused

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: bound and tier are set, every other byte is the client's."""
        changes = {}
        if output_tokens != call.output.tokens_asked:
            changes[OUTPUT_FIELD] = str(output_tokens)
        if call.service_tier == "default" and (quirks.takes_service_tier or "service_tier" in call.body.members):
            changes["service_tier"] = '"default"'
        if call.server_tools.uses_max:
            changes[OPENAI_USES_FIELD] = str(call.server_tools.passes_max - 1)
        return shaped(call, changes, quirks)

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply."""
        if not 200 <= status < 300:
            return PassMeter("error status")
        if not content_type.lower().startswith("text/event-stream"):
            return JsonMeter(lambda reply: _usage(reply, call.server_tools))
        return EventMeter(_Tally(call.server_tools), b'"response.failed"', OPENAI_MARK)

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
    only_known_in(values.get("stream_options"), "stream_options", _STREAM_OPTIONS, quirks)
    reasoning = only_known_in(values.get("reasoning"), "reasoning", _REASONING, quirks)
    if reasoning.get("mode") not in (None, "standard"):
        raise unbounded('`reasoning.mode` must be "standard": whether the bound holds for other modes is not known.')
    asked = whole(values, OUTPUT_FIELD, 1)
    seen = _input(document, quirks)
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=model,
        stream=flag(values, "stream"),
        body=document.body,
        input=input_facts(document, seen),
        output=Output(asked, tokens_min=OUTPUT_TOKENS_MIN if asked is None else min(asked, OUTPUT_TOKENS_MIN)),
        cache_write=CacheWrite.IMPLICIT,
        service_tier=tier_of(values, openai.PLAIN_TIERS),
        client_names=client_names(
            (
                member_of(values.get("client_metadata"), "session_id"),
                values.get("prompt_cache_key"),
                member_of(values.get("metadata"), "session_id"),
            )
        ),
        server_tools=openai_bounds(seen, values, quirks),
        repeated=repeated(of_responses(values.get("input"))),
    )


def _input(document: Document, quirks: Quirks) -> Seen:
    values = document.values
    seen = Seen()
    seen.opaque = values.get("previous_response_id") is not None or values.get("conversation") is not None
    given = values.get("input")
    if isinstance(given, list):
        for item in items(given, "input"):
            seen.messages += 1
            _item(seen, item, quirks)
    elif isinstance(given, str):
        seen.messages = 1
    elif given is not None or not seen.opaque:
        raise unreadable("`input` must be a text or a list of items.")
    seen.messages += values.get("instructions") is not None
    _tools(seen, items(values.get("tools"), "tools"), quirks)
    seen.tool_json_bytes += utf8_bytes(value_text(document.body, "tools"))
    return seen


def _item(seen: Seen, item: dict[str, object], quirks: Quirks) -> None:
    untyped = "message" if "role" in item else "item_reference"
    kind = untyped if item.get("type") is None else type_of(item, "input")
    if kind == "message":
        _content(seen, item.get("content"))
    elif kind in _OUTPUT_ITEMS:
        _content(seen, item.get("output"))
    elif kind == "computer_call_output":
        openai.take_image(seen, member_of(item.get("output"), "image_url"), None)
    elif kind in _OPAQUE_ITEMS:
        seen.opaque = True
    elif kind in _TOOL_ITEMS:
        tools = items(item.get("tools"), "tools")
        _tools(seen, tools, quirks)
        seen.tool_json_bytes += utf8_bytes(json.dumps(tools, ensure_ascii=False))
    elif kind not in _PLAIN_ITEMS:
        raise unbounded(f"The input item type `{shown(kind)}` is refused: it is not known to bursar, or not bounded.")


def _content(seen: Seen, content: object) -> None:
    for part in parts(content):
        kind = type_of(part, "content")
        if kind in ("input_image", "computer_screenshot"):
            openai.take_image(seen, part.get("image_url"), part.get("detail"))
        elif kind == "input_file":
            seen.opaque = True
        elif kind not in _TEXTS:
            raise unbounded(
                f"The content type `{shown(kind)}` is refused: it is not known to bursar, or billed at rates that "
                "are not held. Text, images and files are allowed."
            )


def _tools(seen: Seen, tools: list[dict[str, object]], quirks: Quirks) -> None:
    for tool in tools:
        seen.tools += 1
        kind = type_of(tool, "tools")
        if kind in _FUNCTIONS:
            continue
        if kind == "namespace":
            _tools(seen, items(tool.get("tools"), "tools"), quirks)
        elif kind in _CLIENT_TOOLS or _runs_at_the_client(kind, tool):
            seen.fixed_tokens += TYPED_TOOL_TOKENS
        elif not takes_openai_tool(seen, kind, tool, quirks):
            openai.refuse_tool(kind)


def _runs_at_the_client(kind: str, tool: dict[str, object]) -> bool:
    if kind == "shell":
        return member_of(tool.get("environment"), "type") == "local"
    return kind == "tool_search" and tool.get("execution") == "client"


class _Tally:
    """Usage of a stream: in the event that ends it."""

    def __init__(self, offered: ServerTools) -> None:
        self._offered = offered
        self._items: list[object] = []
        self._response: dict[str, object] | None = None

    def take(self, data: bytes) -> bool:
        try:
            event = json_object(data)
        except UntrustedError:
            return False
        response = event.get("response")
        if event.get("type") in _FINAL_EVENTS and isinstance(response, dict):
            self._response = response
        elif event.get("type") == "response.output_item.done":
            self._items.append(event.get("item"))
        return False

    def result(self) -> Usage:
        if self._response is None:
            raise UntrustedError("the stream ended before its end")
        usage = _usage(self._response, self._offered)
        # Some servers leave the output out of the last event.
        uses = {**usage.tool_uses}
        for tool, times in _tool_uses(self._items, self._offered).items():
            uses[tool] = max(times, uses.get(tool, 0))
        return replace(usage, tool_uses=uses)


def _tool_uses(output: object, offered: ServerTools) -> dict[ServerTool, int]:
    for item in output if isinstance(output, list) else ():
        kind = member_of(item, "type")
        if kind in _BILLED_ITEMS and OPENAI_PAID_ITEMS.get(str(kind)) not in offered.uses_max:
            raise UntrustedError("a tool on the provider's side was used, and its fee is not in the usage")
    return openai_uses(output)


def _usage(response: dict[str, object], offered: ServerTools) -> Usage:
    if response.get("status") not in _FINAL_STATUSES:
        raise UntrustedError("the response is not finished")
    output = response.get("output")
    if offered.uses_max and not isinstance(output, list):
        raise UntrustedError("the reply does not say how often the provider's own tools were used")
    usage = inner(response, "usage")
    given, made = required_count(usage, "input_tokens"), required_count(usage, "output_tokens")
    classes = openai.token_classes(usage, given, made, "input_tokens_details", "output_tokens_details")
    tier, model = reported_tier(response.get("service_tier")), reported_model(response.get("model"))
    return replace(openai.usage_from(classes, tier, model), tool_uses=_tool_uses(output, offered))
