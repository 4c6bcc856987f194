"""How answers look on the wire: the JSON bodies and the event streams of the provider APIs, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bursar.drill.gemini import gemini_body, gemini_error, gemini_events, gemini_usage
from bursar.drill.prompt import Mistake, Prompt
from bursar.drill.till import MODELS, Metered

BYTES_PER_TOKEN = 4
_SLOT = "\u0000slot\u0000"
_SLOT_JSON = json.dumps(_SLOT)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool that the model asks its client to run."""

    name: str
    arguments: str
    """As JSON."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of the model: its text in the pieces in which a stream sends it, or tool calls, and why it ended."""

    pieces: tuple[str, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    is_cut: bool = False
    """Whether the output bound ended it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All that is needed to write an answer down in any of the APIs."""

    id: str
    created: int
    prompt: Prompt
    choices: tuple[Choice, ...]
    usage: Any
    """The usage object as it is reported; None leaves it out."""


def usage_json(api: str, used: Metered) -> dict[str, Any]:
    """Give the usage object of the API for what was used."""
    written = used.cache_write_5m_tokens + used.cache_write_1h_tokens
    if api == "gemini":
        return gemini_usage(used)
    if api == "messages":
        return {
            "input_tokens": used.input_tokens,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": used.cache_read_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": used.cache_write_5m_tokens,
                "ephemeral_1h_input_tokens": used.cache_write_1h_tokens,
            },
            "output_tokens": used.output_tokens,
            "service_tier": "standard",
        }
    into, out = ("input", "output") if api == "responses" else ("prompt", "completion")
    details = {"cached_tokens": used.cache_read_tokens}
    if written:
        details["cache_write_tokens"] = written
    return {
        f"{into}_tokens": used.all_input_tokens,
        f"{into}_tokens_details": details,
        f"{out}_tokens": used.output_tokens,
        f"{out}_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.all_input_tokens + used.output_tokens,
    }


def garbage_usage(api: str) -> dict[str, Any]:
    """Give a usage object that no meter should believe."""
    if api == "gemini":
        return {"promptTokenCount": "many", "candidatesTokenCount": -7}
    into = "prompt_tokens" if api == "chat" else "input_tokens"
    out = "completion_tokens" if api == "chat" else "output_tokens"
    return {into: "many", out: -7, "total_tokens": None}


def whole(answer: Answer) -> bytes:
    """Write the answer as one JSON body."""
    build = _BODIES[answer.prompt.api]
    return _json(build(answer))


def events(answer: Answer) -> Iterator[bytes]:
    """Write the answer as server-sent events, each with its blank line."""
    return _EVENTS[answer.prompt.api](answer)


def error_body(api: str, mistake: Mistake) -> bytes:
    """Write an error as the provider of this API does."""
    if api == "gemini":
        return _json(gemini_error(mistake.status, mistake.message))
    if api == "messages":
        error = {"type": mistake.kind, "message": mistake.message}
        return _json({"type": "error", "error": error, "request_id": "req_drill"})
    code = "model_not_found" if mistake.status == 404 else None
    return _json({"error": {"message": mistake.message, "type": mistake.kind, "param": None, "code": code}})


def models_body(is_anthropic: bool) -> bytes:
    """Write the list of models of one of the two companies."""
    names = [name for name, model in MODELS.items() if model.provider == ("anthropic" if is_anthropic else "openai")]
    if is_anthropic:
        made = "2026-01-01T00:00:00Z"
        rows = [{"type": "model", "id": name, "display_name": name, "created_at": made} for name in names]
        return _json({"data": rows, "has_more": False, "first_id": names[0], "last_id": names[-1]})
    data = [{"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "drill"} for name in names]
    return _json({"object": "list", "data": data})


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _text(choice: Choice) -> str:
    return "".join(choice.pieces)


def _without_none(fields: dict[str, Any], name: str) -> dict[str, Any]:
    if fields.get(name) is None:
        fields.pop(name, None)
    return fields


# ---- OpenAI chat completions ---------------------------------------------------------------------------------------


def _chat_finish(choice: Choice) -> str:
    if choice.is_cut:
        return "length"
    return "tool_calls" if choice.tool_calls else "stop"


def _chat_tool(answer: Answer, index: int, tool: ToolCall) -> dict[str, Any]:
    function = {"name": tool.name, "arguments": tool.arguments}
    return {"id": f"call_{answer.id}{index}", "type": "function", "function": function}


def _chat_body(answer: Answer) -> dict[str, Any]:
    choices = []
    for index, choice in enumerate(answer.choices):
        message: dict[str, Any] = {"role": "assistant", "content": _text(choice), "refusal": None, "annotations": []}
        if choice.tool_calls:
            message["tool_calls"] = [_chat_tool(answer, i, tool) for i, tool in enumerate(choice.tool_calls)]
            message["content"] = _text(choice) or None
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": _chat_finish(choice)})
    body = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.prompt.model_name,
        "choices": choices,
        "usage": answer.usage,
        "service_tier": answer.prompt.tier,
        "system_fingerprint": "fp_drill",
    }
    return _without_none(body, "usage")


def _chat_events(answer: Answer) -> Iterator[bytes]:
    base: dict[str, Any] = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": answer.prompt.model_name,
        "service_tier": answer.prompt.tier,
        "system_fingerprint": "fp_drill",
    }
    rest: dict[str, Any] = {"usage": None} if answer.prompt.usage_wanted else {}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: %b\n\n" % _json({**base, "choices": [choice], **rest})

    for index, choice in enumerate(answer.choices):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
        head, tail = chunk(index, {"content": _SLOT}).split(_SLOT_JSON.encode())
        for piece in choice.pieces:
            yield b"%b%b%b" % (head, json.dumps(piece).encode(), tail)
        for i, tool in enumerate(choice.tool_calls):
            opening = _chat_tool(answer, i, ToolCall(tool.name, ""))
            yield chunk(index, {"tool_calls": [{"index": i, **opening}]})
            yield chunk(index, {"tool_calls": [{"index": i, "function": {"arguments": tool.arguments}}]})
    for index, choice in enumerate(answer.choices):
        yield chunk(index, {}, _chat_finish(choice))
    if answer.prompt.usage_wanted and answer.usage is not None:
        yield b"data: %b\n\n" % _json({**base, "choices": [], "usage": answer.usage})
    yield b"data: [DONE]\n\n"


# ---- OpenAI responses ----------------------------------------------------------------------------------------------


def _responses_frame(answer: Answer, status: str, output: Sequence[Any], usage: Any) -> dict[str, Any]:
    is_cut = status == "incomplete"
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": answer.prompt.model_name,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": answer.prompt.tier,
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
    }


def _responses_message(answer: Answer, status: str, content: list[Any]) -> dict[str, Any]:
    return {"id": f"msg_{answer.id}", "type": "message", "status": status, "content": content, "role": "assistant"}


def _responses_tool(answer: Answer, index: int, tool: ToolCall, status: str) -> dict[str, Any]:
    return {
        "id": f"fc_{answer.id}{index}",
        "type": "function_call",
        "status": status,
        "arguments": tool.arguments,
        "call_id": f"call_{answer.id}{index}",
        "name": tool.name,
    }


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _responses_output(answer: Answer) -> list[dict[str, Any]]:
    choice = answer.choices[0]
    status = "incomplete" if choice.is_cut else "completed"
    output = []
    if choice.pieces:
        output.append(_responses_message(answer, status, [_output_text(_text(choice))]))
    output.extend(_responses_tool(answer, i, tool, "completed") for i, tool in enumerate(choice.tool_calls))
    return output


def _responses_body(answer: Answer) -> dict[str, Any]:
    status = "incomplete" if answer.choices[0].is_cut else "completed"
    return _without_none(_responses_frame(answer, status, _responses_output(answer), answer.usage), "usage")


def _responses_events(answer: Answer) -> Iterator[bytes]:
    for number, (name, fields) in enumerate(_responses_steps(answer)):
        data = _json({"type": name, "sequence_number": number, **fields})
        yield b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _responses_steps(answer: Answer) -> Iterator[tuple[str, dict[str, Any]]]:
    started = _responses_frame(answer, "in_progress", [], None)
    yield "response.created", {"response": started}
    yield "response.in_progress", {"response": started}
    choice = answer.choices[0]
    index = 0
    if choice.pieces:
        yield from _responses_text_steps(answer, choice)
        index = 1
    for i, tool in enumerate(choice.tool_calls):
        item = {"item_id": f"fc_{answer.id}{i}", "output_index": index + i}
        opening = _responses_tool(answer, i, ToolCall(tool.name, ""), "in_progress")
        yield "response.output_item.added", {"output_index": index + i, "item": opening}
        yield "response.function_call_arguments.delta", {**item, "delta": tool.arguments}
        yield "response.function_call_arguments.done", {**item, "name": tool.name, "arguments": tool.arguments}
        done = _responses_tool(answer, i, tool, "completed")
        yield "response.output_item.done", {"output_index": index + i, "item": done}
    status = "incomplete" if choice.is_cut else "completed"
    final = _responses_frame(answer, status, _responses_output(answer), answer.usage)
    yield f"response.{status}", {"response": _without_none(final, "usage")}


def _responses_text_steps(answer: Answer, choice: Choice) -> Iterator[tuple[str, dict[str, Any]]]:
    where = {"item_id": f"msg_{answer.id}", "output_index": 0, "content_index": 0}
    opening = _responses_message(answer, "in_progress", [])
    yield "response.output_item.added", {"output_index": 0, "item": opening}
    yield "response.content_part.added", {**where, "part": _output_text("")}
    for piece in choice.pieces:
        yield "response.output_text.delta", {**where, "delta": piece, "logprobs": []}
    text = _text(choice)
    yield "response.output_text.done", {**where, "text": text, "logprobs": []}
    yield "response.content_part.done", {**where, "part": _output_text(text)}
    status = "incomplete" if choice.is_cut else "completed"
    yield "response.output_item.done", {"output_index": 0, "item": _responses_output(answer)[0] | {"status": status}}


# ---- Anthropic messages --------------------------------------------------------------------------------------------


def _stop_reason(choice: Choice) -> str:
    if choice.is_cut:
        return "max_tokens"
    return "tool_use" if choice.tool_calls else "end_turn"


def _messages_frame(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.prompt.model_name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _messages_body(answer: Answer) -> dict[str, Any]:
    choice = answer.choices[0]
    content: list[dict[str, Any]] = []
    if choice.pieces:
        content.append({"type": "text", "text": _text(choice)})
    for i, tool in enumerate(choice.tool_calls):
        use = {"type": "tool_use", "id": f"toolu_{answer.id}{i}", "name": tool.name}
        content.append({**use, "input": json.loads(tool.arguments)})
    body = {**_messages_frame(answer), "content": content, "stop_reason": _stop_reason(choice), "usage": answer.usage}
    return _without_none(body, "usage")


def _named(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json({"type": name, **fields}))


def _messages_events(answer: Answer) -> Iterator[bytes]:
    choice = answer.choices[0]
    frame = _messages_frame(answer)
    if answer.usage is not None:
        frame["usage"] = {**answer.usage, "output_tokens": 1} if _is_counted(answer.usage) else answer.usage
    yield _named("message_start", {"message": frame})
    index = 0
    if choice.pieces:
        yield _named("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
        yield _named("ping", {})
        delta = {"index": 0, "delta": {"type": "text_delta", "text": _SLOT}}
        head, tail = _named("content_block_delta", delta).split(_SLOT_JSON.encode())
        for piece in choice.pieces:
            yield b"%b%b%b" % (head, json.dumps(piece).encode(), tail)
        yield _named("content_block_stop", {"index": 0})
        index = 1
    for i, tool in enumerate(choice.tool_calls):
        block = {"type": "tool_use", "id": f"toolu_{answer.id}{i}", "name": tool.name, "input": {}}
        yield _named("content_block_start", {"index": index + i, "content_block": block})
        partial = {"type": "input_json_delta", "partial_json": tool.arguments}
        yield _named("content_block_delta", {"index": index + i, "delta": partial})
        yield _named("content_block_stop", {"index": index + i})
    ending = {"delta": {"stop_reason": _stop_reason(choice), "stop_sequence": None}, "usage": answer.usage}
    yield _named("message_delta", _without_none(ending, "usage"))
    yield _named("message_stop", {})


def _is_counted(usage: Any) -> bool:
    return isinstance(usage.get("output_tokens"), int) and usage["output_tokens"] > 0


_BODIES = {"chat": _chat_body, "responses": _responses_body, "messages": _messages_body, "gemini": gemini_body}
_EVENTS = {"chat": _chat_events, "responses": _responses_events, "messages": _messages_events, "gemini": gemini_events}
