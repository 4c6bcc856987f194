"""Requests and replies of the three dialects, as small as they can be and still be real."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MODEL = "gpt-4.1-mini"
CLAUDE = "claude-sonnet-4-5"


def sse(*events: object, done: bool = False) -> list[bytes]:
    made = []
    for event in events:
        name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
        made.append(f"{name}data: {json.dumps(event, separators=(',', ':'))}\n\n".encode())
    return [*made, b"data: [DONE]\n\n"] if done else made


@dataclass(frozen=True)
class Format:
    """One dialect: a request, its reply of 10 input and 5 output tokens, and what that costs."""

    name: str
    path: str
    request: dict[str, Any]
    reply: bytes
    stream: tuple[bytes, ...]
    cost_nanodollars: int


_CHAT_USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
_CHAT_CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": MODEL}

CHAT = Format(
    name="chat",
    path="/v1/chat/completions",
    request={"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]},
    reply=json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"},
            ],
            "usage": _CHAT_USAGE,
        }
    ).encode(),
    stream=tuple(
        sse(
            _CHAT_CHUNK | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None},
            _CHAT_CHUNK | {"choices": [{"index": 0, "delta": {"content": "hi"}}], "usage": None},
            _CHAT_CHUNK | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None},
            _CHAT_CHUNK | {"choices": [], "usage": _CHAT_USAGE},
            done=True,
        )
    ),
    # gpt-4.1-mini: $0.40 and $1.60 per million tokens.
    cost_nanodollars=10 * 400 + 5 * 1600,
)

_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": MODEL,
    "output": [],
    "usage": {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 15,
    },
}

RESPONSES = Format(
    name="responses",
    path="/v1/responses",
    request={"model": MODEL, "max_output_tokens": 100, "input": "hello"},
    reply=json.dumps(_RESPONSE).encode(),
    stream=tuple(
        sse(
            {"type": "response.created", "response": _RESPONSE | {"status": "in_progress", "usage": None}},
            {"type": "response.output_text.delta", "delta": "hi", "item_id": "m", "output_index": 0},
            {"type": "response.completed", "response": _RESPONSE},
        )
    ),
    cost_nanodollars=10 * 400 + 5 * 1600,
)

_CLAUDE_USAGE = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 5}
_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": CLAUDE,
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": _CLAUDE_USAGE,
}

MESSAGES = Format(
    name="messages",
    path="/v1/messages",
    request={"model": CLAUDE, "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]},
    reply=json.dumps(_MESSAGE).encode(),
    stream=tuple(
        sse(
            {
                "type": "message_start",
                "message": _MESSAGE
                | {"content": [], "stop_reason": None, "usage": _CLAUDE_USAGE | {"output_tokens": 1}},
            },
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        )
    ),
    # claude-sonnet-4-5: $3 and $15 per million tokens.
    cost_nanodollars=10 * 3000 + 5 * 15000,
)

FORMATS = (CHAT, RESPONSES, MESSAGES)
