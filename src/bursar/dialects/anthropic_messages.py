"""Anthropic messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from bursar.call import CacheWrite, Call, Output, Refused
from bursar.dialects.anthropic_usage import EventTally, usage_of
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
)
from bursar.dialects.fields import (
    Seen,
    all_named,
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
from bursar.dialects.meters import EventMeter, JsonMeter, PassMeter
from bursar.dialects.protocol import Meter, Quirks, Request
from bursar.dialects.server_tools import ANTHROPIC_MARK, anthropic_bounds, takes_anthropic_tool, with_max_uses
from bursar.dialects.turns import of_messages, repeated

OUTPUT_FIELD = "max_tokens"
THINKING_TOKENS_MIN = 1_024
"""The provider refuses a smaller thinking budget."""
PLAIN_TIERS = frozenset({"auto", "standard_only", "standard", "default"})
"""Absent is `auto`, which takes priority capacity where there is some, at its own rates; so it is made explicit."""

_FIELDS = names(
    """
    model messages max_tokens system stream service_tier speed inference_geo
    tools tool_choice thinking output_config output_format context_management cache_control
    temperature top_p top_k stop_sequences metadata diagnostics
    container mcp_servers fallbacks fallback_credit_token compaction thread billing_policy
    """
)
_NEVER = {
    "container": "code runs on the server, billed by time.",
    "mcp_servers": "the server calls tools and the model again, as often as it likes.",
    "fallbacks": "every attempt is billed, each at another model's rates.",
    "fallback_credit_token": "it belongs to fallbacks, which nothing bounds.",
    "compaction": "compaction on the server is a further inference that nothing bounds.",
    "thread": "the input is kept on the server and is not seen here.",
    "billing_policy": "it changes what is billed.",
}
_NEVER_BETAS = ("server-side-fallback-", "fallback-credit-", "mcp-client-", "advisor-", "message-threads-")
_THINKING = frozenset({"type", "budget_tokens", "display", "block_binding"})
_OUTPUT_CONFIG = frozenset({"effort", "format", "task_budget"})
_CONTEXT_MANAGEMENT = frozenset({"edits"})
_CLEARING = ("clear_thinking", "clear_tool_uses")
# Tokens that a tool of the provider's own adds to the input (its price page; the largest of several values).
_TOOL_TOKENS = {
    "bash_20241022": 325,
    "bash_20250124": 325,
    "text_editor_20241022": 700,
    "text_editor_20250124": 700,
    "text_editor_20250429": 700,
    "text_editor_20250728": 700,
    "computer_20241022": 1_234,
    "computer_20250124": 1_234,
    "computer_20251124": 4_590,
    "computer_toolset_20260801": 4_590,
    "browser_toolset_20260801": 7_550,
    "memory_20250818": 1_024,
}
_TEXT_BLOCKS = names("text thinking tool_use tool_reference server_tool_use")
# Sealed or stored on the server: their length does not tell how much is in them.
_OPAQUE_BLOCKS = names("redacted_thinking web_search_tool_result web_fetch_tool_result compaction")
_old_session = re.compile(r".*_session_([0-9a-f-]{36})").fullmatch


class AnthropicMessages:
    """Reads, bounds and meters `/v1/messages`."""

    name = "anthropic_messages"

    def parse(self, request: Request) -> Call | Refused:
        """Read the request; never raises whatever the bytes are."""
        try:
            return _call(self.name, request, read(request.body))
        except RefusedError as error:
            return error.refused

    def render(self, call: Call, output_tokens: int, quirks: Quirks) -> bytes:
        """Give the body to send: bound and tier are set, every other byte is the client's."""
        changes = {}
        asked = call.output.tokens_asked or 0
        if output_tokens != asked:
            changes[OUTPUT_FIELD] = str(output_tokens)
        budget = call.output.tokens_min - 1
        if 1 <= output_tokens <= budget < asked:
            # Thinking must stay below the bound, or the provider refuses the request.
            thinking = value_text(call.body, "thinking")
            changes["thinking"] = object_with(
                thinking, "budget_tokens", str(max(THINKING_TOKENS_MIN, output_tokens - 1))
            )
        is_ordinary = call.service_tier.partition("@")[0] in ("default", "fast")
        if is_ordinary and (quirks.takes_service_tier or "service_tier" in call.body.members):
            changes["service_tier"] = '"standard_only"'
        if call.server_tools.uses_max:
            changes["tools"] = with_max_uses(value_text(call.body, "tools"), call.server_tools.uses_unasked)
        return shaped(call, changes, quirks)

    def meter(self, call: Call, status: int, content_type: str) -> Meter:
        """Give the meter for one reply."""
        if not 200 <= status < 300:
            return PassMeter("error status")
        if not content_type.lower().startswith("text/event-stream"):
            return JsonMeter(lambda reply: usage_of(reply, call.cache_write, call.server_tools))
        return EventMeter(EventTally(call.cache_write, call.server_tools), b"message_stop", ANTHROPIC_MARK)

    def error(self, status: int, code: str, message: str, details: Mapping[str, object]) -> bytes:
        """Give an error in Anthropic's shape."""
        error = {"type": _error_type(status, code), "message": message, "code": code, "bursar": dict(details)}
        return json.dumps({"type": "error", "error": error}, default=str).encode()


_ERROR_TYPES_BY_CODE = {
    "cap_exhausted": "billing_error",
    "run_stopped": "billing_error",
    "loop_detected": "billing_error",
    "cap_held": "rate_limit_error",
}
_ERROR_TYPES_BY_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


def _error_type(status: int, code: str) -> str:
    kind = _ERROR_TYPES_BY_CODE.get(code) or _ERROR_TYPES_BY_STATUS.get(status)
    return kind or ("api_error" if status >= 500 else "invalid_request_error")


def _call(dialect: str, request: Request, document: Document) -> Call:
    values, quirks = document.values, request.quirks
    only_known(values, _FIELDS, quirks)
    never(values, _NEVER)
    _only_plain_betas(request)
    only_known_in(values.get("output_config"), "output_config", _OUTPUT_CONFIG, quirks)
    _only_clearing(values, quirks)
    seen = _input(document, quirks)
    server_tools = anthropic_bounds(seen, quirks)
    return Call(
        dialect=dialect,
        upstream=request.upstream,
        head=request.head,
        model=model_of(values),
        stream=flag(values, "stream"),
        body=document.body,
        input=input_facts(document, seen),
        output=_output(values, quirks, server_tools.passes_max),
        cache_write=_cache_write(document),
        service_tier=_tier(values),
        client_names=client_names(_session_names(values)),
        takes_long_context="context-1m" in request.headers.get("anthropic-beta", ""),
        server_tools=server_tools,
        repeated=repeated(of_messages(values.get("messages"))),
    )


def _only_plain_betas(request: Request) -> None:
    for beta in request.headers.get("anthropic-beta", "").split(","):
        if beta.strip().lower().startswith(_NEVER_BETAS):
            raise unbounded(f"The header `anthropic-beta` asks for `{shown(beta.strip())}`, which nothing bounds.")


def _only_clearing(values: dict[str, object], quirks: Quirks) -> None:
    management = values.get("context_management")
    only_known_in(management, "context_management", _CONTEXT_MANAGEMENT, quirks)
    for edit in items(member_of(management, "edits"), "context_management.edits"):
        kind = type_of(edit, "context_management.edits")
        if not kind.startswith(_CLEARING):
            raise unbounded(
                f"The context edit `{shown(kind)}` is refused: it is a further inference on the server that nothing "
                "bounds. clear_thinking and clear_tool_uses are allowed."
            )


def _output(values: dict[str, object], quirks: Quirks, passes_max: int) -> Output:
    asked = whole(values, OUTPUT_FIELD, 0)
    if asked is None:
        raise unreadable(f"`{OUTPUT_FIELD}` is missing.")
    thinking = only_known_in(values.get("thinking"), "thinking", _THINKING, quirks)
    budget = whole(thinking, "budget_tokens", 1) or 0
    # With interleaved thinking the budget may be above the bound, and the bound still holds.
    # Whether the bound is for all the inferences of a call or for each of them is not documented.
    return Output(tokens_asked=asked, choices=passes_max, tokens_min=min(budget + 1, asked))


def _tier(values: dict[str, object]) -> str:
    """Give the price tier: fast mode and a region that is asked for have prices of their own."""
    tier, speed, region = tier_of(values, PLAIN_TIERS), values.get("speed"), values.get("inference_geo")
    if speed not in (None, "standard"):
        if speed != "fast" or tier != "default":
            raise unbounded("`speed` must be standard or fast, in the standard service tier.")
        tier = "fast"
    if region in (None, "global"):
        return tier
    if not isinstance(region, str) or not re.fullmatch("[a-z]{2,20}", region):
        raise unreadable(f"`inference_geo` is not the name of a region: {shown(region)}")
    return f"{tier}@{region}"


def _cache_write(document: Document) -> CacheWrite:
    if '"cache_control"' not in document.plain:
        return CacheWrite.NONE
    dearest = CacheWrite.FIVE_MINUTES
    if '"ttl"' in document.plain:
        for control in all_named(document.values, "cache_control"):
            ttl = member_of(control, "ttl")
            if ttl == "1h":
                dearest = CacheWrite.ONE_HOUR
            elif ttl not in (None, "5m"):
                raise unbounded(f"A cache write with ttl `{shown(ttl)}` has no known price. Use 5m or 1h.")
    return dearest


def _session_names(values: dict[str, object]) -> list[object]:
    user = member_of(values.get("metadata"), "user_id")
    if not isinstance(user, str):
        return []
    if user.startswith("{"):
        try:
            return [member_of(json.loads(user), "session_id")]
        except (ValueError, RecursionError):
            return []
    match = _old_session(user)
    return [match[1]] if match else []


def _input(document: Document, quirks: Quirks) -> Seen:
    values = document.values
    seen = Seen()
    if "messages" not in values:
        raise unreadable("`messages` is missing.")
    for message in items(values["messages"], "messages"):
        seen.messages += 1
        _content(seen, message.get("content"))
    if values.get("system") is not None:
        seen.messages += 1
        _content(seen, values["system"])
    for tool in items(values.get("tools"), "tools"):
        seen.tools += 1
        kind = tool.get("type")
        if kind in (None, "custom") or takes_anthropic_tool(seen, kind, tool, quirks):
            continue
        if not isinstance(kind, str) or kind not in _TOOL_TOKENS:
            raise unbounded(
                f"The tool type `{shown(kind)}` is refused: it runs on the provider's side, or is not known to bursar, "
                "and nothing bounds what it costs. Tools that the client runs are allowed."
            )
        seen.fixed_tokens += _TOOL_TOKENS[kind]
    seen.tool_json_bytes = utf8_bytes(value_text(document.body, "tools"))
    return seen


def _content(seen: Seen, content: object) -> None:
    for block in parts(content):
        kind = type_of(block, "content")
        if kind in _TEXT_BLOCKS:
            continue
        if kind in ("tool_result", "search_result"):
            _content(seen, block.get("content"))
        elif kind == "image":
            _image(seen, block.get("source"))
        elif kind == "document":
            _document(seen, block.get("source"))
        elif kind in _OPAQUE_BLOCKS:
            seen.opaque = True
        else:
            raise unbounded(f"The content type `{shown(kind)}` is refused: it is not known to bursar, or not bounded.")


def _image(seen: Seen, source: object) -> None:
    if member_of(source, "type") == "base64":
        seen.take_base64(member_of(source, "data"), low_detail=False)
    else:
        seen.take_url(None, low_detail=False)


def _document(seen: Seen, source: object) -> None:
    match member_of(source, "type"):
        case "text":
            pass
        case "content":
            _content(seen, member_of(source, "content"))
        case _:
            # Pages are billed as text and as images, and how many there are is not seen.
            seen.opaque = True
