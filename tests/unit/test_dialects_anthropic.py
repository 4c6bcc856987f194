"""What only the Anthropic dialect reads."""

from __future__ import annotations

import pytest

from bursar.call import Call
from bursar.dialects.anthropic_messages import AnthropicMessages
from bursar.dialects.protocol import Request


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({}, False),
        ({"anthropic-beta": "claude-code-20250219"}, False),
        ({"anthropic-beta": "claude-code-20250219,context-1m-2025-08-07"}, True),
    ],
)
def test_the_longer_window_is_asked_for_in_a_header(headers: dict[str, str], asked: bool) -> None:
    body = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}'
    call = AnthropicMessages().parse(Request("anthropic", "/v1/messages", headers, body))
    assert isinstance(call, Call)
    assert call.takes_long_context is asked
