"""What is counted of a request: everything that can be input, or the request is not counted at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bursar.call import Body, Call, Image, Member
from bursar.dialects.free import count_of
from bursar.dialects.input_text import TOKENS_PER_NODE, InputText, input_text
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import DIALECTS

PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
}


def read(dialect: str, fields: dict[str, Any], allow: frozenset[str] = frozenset()) -> Call:
    body = json.dumps(fields).encode()
    request = Request("there", PATHS[dialect], {}, body, Quirks(allow_fields=allow))
    call = DIALECTS[dialect].parse(request)
    assert isinstance(call, Call), call
    return call


def chat(**more: Any) -> Call:
    return read("openai_chat", {"model": "gpt-5", "messages": [{"role": "user", "content": "hello"}], **more})


def claude(**more: Any) -> Call:
    fields = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
    return read("anthropic_messages", {**fields, **more})


def responses(**more: Any) -> Call:
    return read("openai_responses", {"model": "gpt-5", "input": "hello", **more})


# ---- the texts --------------------------------------------------------------------------------------------------


def test_every_name_and_every_value_is_a_text_and_a_node() -> None:
    found = input_text(chat(temperature=1, metadata={"a": "not input"}, user="nor this", seed=7, n=2))
    assert found is not None
    # The member, the list, the message, its two names, its two values.
    assert sorted(found.texts) == ["", "", "", "content", "hello", "messages", "role", "user"]
    assert found.nodes == len(found.texts)
    assert found.frame_tokens == TOKENS_PER_NODE * found.nodes == 32


def test_what_is_no_text_counts_as_the_json_that_it_is() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"maximum": 12.5, "strict": True, "x": None}}}
    found = input_text(chat(tools=[tool]))
    assert found is not None
    assert {"12.5", "true", "null", "maximum", "strict", "f"} <= set(found.texts)


def test_definitions_count_with_their_escapes_on_top_and_messages_do_not() -> None:
    text = 'say "hi"\n\n\u00e9'
    tool = {"type": "function", "function": {"name": "f", "description": text}}
    found = input_text(chat(tools=[tool], messages=[{"role": "user", "content": text}]))
    assert found is not None
    assert found.texts.count(text) == 2
    assert found.texts.count('say \\"hi\\"\\n\\n\\u00e9') == 1


def test_a_field_that_nobody_knows_counts_as_text() -> None:
    found = input_text(read("openai_chat", {"model": "m", "messages": [], "new": "words"}, frozenset({"new"})))
    assert found is not None
    assert "words" in found.texts


def test_deep_and_wide_bodies_are_read_whole() -> None:
    deep: Any = "bottom"
    for _ in range(40):
        deep = {"x": [deep]}
    found = input_text(responses(text={"format": deep}))
    assert found is not None
    assert "bottom" in found.texts
    assert found.texts.count("x") == 40


@pytest.mark.parametrize("change", [{"images": (Image(1, 1),)}, {"opaque": True}])
def test_what_is_not_all_text_is_not_counted_as_text(change: dict[str, Any]) -> None:
    call = chat()
    assert input_text(replace(call, input=replace(call.input, **change))) is None


def test_a_dialect_whose_frame_is_not_known_is_not_counted_as_text() -> None:
    assert input_text(claude()) is None
    assert isinstance(input_text(responses()), InputText)


# ---- the free way -------------------------------------------------------------------------------------------------


def test_the_count_is_asked_for_with_the_members_that_are_input_as_the_client_wrote_them() -> None:
    free = count_of(claude(system="be brief", temperature=0.5, stream=True, metadata={"user_id": "u"}))
    assert free is not None
    assert json.loads(free.body) == {
        "model": "claude-sonnet-4-5",
        "messages": [{"role": "user", "content": "hello"}],
        "system": "be brief",
    }
    assert free.head.target == "/v1/messages/count_tokens"
    free = count_of(responses(instructions="x", max_output_tokens=20, store=False))
    assert free is not None
    assert json.loads(free.body) == {"model": "gpt-5", "input": "hello", "instructions": "x"}


def test_a_call_with_a_field_that_the_count_may_not_see_is_not_counted() -> None:
    assert count_of(claude()) is not None
    fields = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [], "new": "words"}
    assert count_of(read("anthropic_messages", fields, frozenset({"new"}))) is None
    plain = {"model": "gpt-5", "input": "hello", "new": "words"}
    assert count_of(read("openai_responses", plain, frozenset({"new"}))) is None


def test_a_dialect_without_a_free_way_has_no_count() -> None:
    assert count_of(chat()) is None


def test_a_gemini_call_is_counted_in_its_envelope() -> None:
    text = '{"contents":[],"systemInstruction":{"parts":[]},"serviceTier":"x"}'
    members = {}
    for name, start, end in (("contents", 1, 14), ("systemInstruction", 15, 47), ("serviceTier", 48, 65)):
        members[name] = Member(start, start + len(name) + 3, end)
    call = replace(chat(), dialect="gemini", model="gemini-2.5-pro", body=Body(text, members))
    free = count_of(call)
    assert free is not None
    assert json.loads(free.body) == {
        "generateContentRequest": {
            "model": "models/gemini-2.5-pro",
            "contents": [],
            "systemInstruction": {"parts": []},
        }
    }
    assert free.head.target == "/v1beta/models/gemini-2.5-pro:countTokens"
