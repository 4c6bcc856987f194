"""What the end of a conversation repeats, in every wire format."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.call import Call, Repeated
from bursar.dialects.protocol import Request
from bursar.dialects.table import find
from bursar.dialects.turns import TURNS_MAX, of_chat, of_converse, of_gemini, of_messages, of_responses, repeated

Step = tuple[str, Any, Any]
Turn = list[Step]
"""The tool calls of one turn: name, arguments, result."""


def _chat(turns: list[Turn]) -> dict[str, Any]:
    messages: list[Any] = [{"role": "system", "content": "help"}, {"role": "user", "content": "go"}]
    for number, turn in enumerate(turns):
        calls = [
            {
                "id": f"call_{number}_{place}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for place, (name, arguments, _) in enumerate(turn)
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": f"call_{number}_{place}", "content": result}
            for place, (_, _, result) in enumerate(turn)
        ]
    return {"model": "gpt-4.1-mini", "messages": messages}


def _responses(turns: list[Turn]) -> dict[str, Any]:
    items: list[Any] = [{"role": "user", "content": "go"}]
    for number, turn in enumerate(turns):
        items.append({"type": "reasoning", "id": f"rs_{number}", "summary": []})
        items += [
            {"type": "function_call", "call_id": f"c{number}{place}", "name": name, "arguments": json.dumps(arguments)}
            for place, (name, arguments, _) in enumerate(turn)
        ]
        items += [
            {"type": "function_call_output", "call_id": f"c{number}{place}", "output": result}
            for place, (_, _, result) in enumerate(turn)
        ]
    return {"model": "gpt-4.1-mini", "input": items}


def _messages(turns: list[Turn]) -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    for number, turn in enumerate(turns):
        uses = [
            {"type": "tool_use", "id": f"toolu_{number}_{place}", "name": name, "input": arguments}
            for place, (name, arguments, _) in enumerate(turn)
        ]
        results: list[Any] = [
            {"type": "tool_result", "tool_use_id": f"toolu_{number}_{place}", "content": result}
            for place, (_, _, result) in enumerate(turn)
        ]
        reminder = {"type": "text", "text": f"<system-reminder>{number}</system-reminder>"}
        thought = {"type": "text", "text": f"I look for the {number}th time"}
        messages += [
            {"role": "assistant", "content": [thought, *uses]},
            {"role": "user", "content": [*results, reminder]},
        ]
    results[-1]["cache_control"] = {"type": "ephemeral"}
    return {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": messages}


def _gemini(turns: list[Turn]) -> dict[str, Any]:
    contents: list[Any] = [{"role": "user", "parts": [{"text": "go"}]}]
    for turn in turns:
        calls: list[Any] = [{"text": "I look"}]
        calls += [{"functionCall": {"name": name, "args": arguments}} for name, arguments, _ in turn]
        results = [{"functionResponse": {"name": name, "response": {"out": result}}} for name, _, result in turn]
        contents += [{"role": "model", "parts": calls}, {"role": "user", "parts": results}]
    return {"contents": contents}


def _converse(turns: list[Turn]) -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": [{"text": "go"}]}]
    for number, turn in enumerate(turns):
        uses = [
            {"toolUse": {"toolUseId": f"t{number}{place}", "name": name, "input": arguments}}
            for place, (name, arguments, _) in enumerate(turn)
        ]
        results = [
            {"toolResult": {"toolUseId": f"t{number}{place}", "content": [{"text": result}], "status": "success"}}
            for place, (_, _, result) in enumerate(turn)
        ]
        messages += [
            {"role": "assistant", "content": [{"text": "I look"}, *uses]},
            {"role": "user", "content": [*results, {"cachePoint": {"type": "default"}}]},
        ]
    return {"messages": messages}


FORMATS: dict[str, tuple[str, str, Callable[[list[Turn]], dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", "openai", _chat),
    "responses": ("/v1/responses", "openai", _responses),
    "messages": ("/v1/messages", "anthropic", _messages),
    "gemini": ("/v1beta/models/gemini-2.5-flash:generateContent", "gemini", _gemini),
    "converse": ("/model/anthropic.claude-sonnet-4-5-20250929-v1:0/converse", "bedrock", _converse),
}
by_format = pytest.mark.parametrize("name", FORMATS)


def read(name: str, body: dict[str, Any]) -> Repeated:
    path, upstream, _ = FORMATS[name]
    route = find(path)
    assert route is not None
    call = route.dialect.parse(Request(upstream, route.path, {}, json.dumps(body).encode()))
    assert isinstance(call, Call), call
    return call.repeated


def seen(name: str, turns: list[Turn]) -> Repeated:
    return read(name, FORMATS[name][2](turns))


LS: Step = ("bash", {"command": "ls", "cwd": "/"}, "a b")
CAT: Step = ("bash", {"command": "cat a"}, "1")
READ: Step = ("read", {"path": "a"}, "1")


@by_format
def test_equal_turns_at_the_end_are_counted(name: str) -> None:
    assert seen(name, [[LS]]) == Repeated(("bash",), 1)
    assert seen(name, [[LS]] * 8) == Repeated(("bash",), 8)
    assert seen(name, [[LS], [CAT], [LS], [LS]]).times == 2
    assert seen(name, [[LS], [LS], [LS], [CAT]]) == Repeated(("bash",), 1)


@by_format
def test_other_arguments_or_another_result_end_the_count(name: str) -> None:
    tool, arguments, result = LS
    assert seen(name, [[(tool, {**arguments, "cwd": "/x"}, result)], [LS]]).times == 1
    assert seen(name, [[(tool, arguments, "a b c")], [LS]]).times == 1
    assert seen(name, [[(tool, arguments, "a b" + "c" * 500)], [LS]]).times == 1
    assert seen(name, [[("other", arguments, result)], [LS]]).times == 1
    assert seen(name, [[(tool, {"n": 1}, result)], [(tool, {"n": True}, result)]]).times == 1


@by_format
def test_a_turn_of_several_calls_is_one(name: str) -> None:
    assert seen(name, [[LS, READ]] * 3) == Repeated(("bash", "read"), 3)
    assert seen(name, [[LS, LS, LS, LS]]).times == 1
    assert seen(name, [[LS, READ], [READ, LS]]).times == 1
    assert seen(name, [[LS, READ], [LS]]).times == 1


@by_format
def test_the_order_of_keys_and_what_tells_the_time_make_no_other_turn(name: str) -> None:
    tool, arguments, _ = LS
    turned = dict(reversed(arguments.items()))
    early = "2026-11-24T10:00:00Z 3 failed in 0.25s, at 10:00:00 and 7 ms"
    late = "2026-11-24T10:01:07.125+01:00 3 failed in 0.5s, at 10:01:07 and 12 ms"
    assert seen(name, [[(tool, arguments, early)], [(tool, turned, late)]]).times == 2
    assert seen(name, [[(tool, arguments, early)], [(tool, turned, late.replace("3 failed", "2 failed"))]]).times == 1
    assert seen(name, [[(tool, arguments, "a.c:12:34: error")], [(tool, arguments, "a.c:15:10: error")]]).times == 1


@by_format
def test_who_speaks_in_between_starts_it_anew(name: str) -> None:
    body = FORMATS[name][2]([[LS]] * 5)
    conversation = body.get("messages") or body.get("contents") or body["input"]
    said = conversation[0] if name != "chat" else conversation[1]
    conversation.insert(len(conversation) - 2, said)
    assert read(name, body).times == 1
    conversation.append(said)
    assert read(name, body) == Repeated()


@given(
    turns=st.lists(st.sampled_from([[LS], [CAT], [READ], [LS, READ], [("bash", {"command": "ls"}, "")]]), min_size=1)
)
@by_format
def test_no_more_is_counted_than_is_there(name: str, turns: list[Turn]) -> None:
    equal_at_the_end = next((n for n, turn in enumerate(reversed(turns)) if turn != turns[-1]), len(turns))
    assert seen(name, turns).times == min(equal_at_the_end, TURNS_MAX)


@by_format
def test_a_conversation_that_was_cut_at_its_beginning(name: str) -> None:
    body = FORMATS[name][2]([[LS]] * 3)
    conversation = body.get("messages") or body.get("contents") or body["input"]
    del conversation[: 2 if name == "chat" else 1]
    assert read(name, body).times == 3


def test_counting_ends() -> None:
    assert seen("gemini", [[LS]] * (TURNS_MAX + 5)).times == TURNS_MAX


def test_results_are_told_apart_by_their_ids_in_whatever_order_they_come() -> None:
    body = _chat([[LS, READ]] * 2)
    body["messages"][-2:] = reversed(body["messages"][-2:])
    assert read("chat", body).times == 2


def test_an_error_is_another_result() -> None:
    body = _messages([[LS]] * 2)
    body["messages"][-1]["content"][0]["is_error"] = True
    assert read("messages", body).times == 1


def test_a_result_that_is_no_text() -> None:
    parts = [{"type": "text", "text": "a b"}]
    assert seen("chat", [[("bash", {}, parts)], [("bash", {}, "a b")]]).times == 1
    assert seen("chat", [[("bash", {}, parts)]] * 2).times == 2
    pictures = [{"type": "input_image", "image_url": "data:image/png;base64,", "detail": None, "x": 1}]
    assert seen("responses", [[("look", {}, pictures)]] * 3) == Repeated(("look",), 3)


def test_arguments_are_compared_by_their_meaning_where_they_have_one() -> None:
    body = _chat([[LS]] * 3)
    compact, turned, broken = '{"command":"ls","cwd":"/"}', '{ "cwd": "/",\n "command": "ls" }', '{"command": "ls'
    functions = [message["tool_calls"][0]["function"] for message in body["messages"] if "tool_calls" in message]
    functions[0]["arguments"], functions[1]["arguments"], functions[2]["arguments"] = broken, compact, turned
    assert read("chat", body).times == 2
    functions[1]["arguments"] = functions[2]["arguments"] = broken
    assert read("chat", body).times == 3
    deep = "[" * 200_000
    functions[1]["arguments"] = functions[2]["arguments"] = deep
    assert read("chat", body).times == 2


def test_tools_of_every_kind_of_the_openai_formats() -> None:
    shell = [
        {"type": "local_shell_call", "call_id": "c", "id": "x", "status": "completed", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "c", "id": "c", "output": "a"},
    ]
    assert read("responses", {"model": "gpt-4.1-mini", "input": [*shell, *shell]}) == Repeated(("local_shell_call",), 2)
    old = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    assert read("chat", {"model": "gpt-4.1-mini", "messages": [*old, *old]}) == Repeated(("f",), 2)
    custom = [
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "p", "input": "x"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    assert read("chat", {"model": "gpt-4.1-mini", "messages": [*custom, *custom]}) == Repeated(("p",), 2)


def test_a_single_object_in_the_place_of_a_list() -> None:
    call = {"role": "model", "parts": {"function_call": {"name": "f", "args": {}}}}
    result = {"role": "function", "parts": {"function_response": {"name": "f", "response": {"x": 1}}}}
    assert read("gemini", {"contents": [call, result, call, result]}) == Repeated(("f",), 2)
    assert read("gemini", {"contents": {"role": "user", "parts": [{"text": "go"}]}}) == Repeated()


@pytest.mark.parametrize("prompt", ["go", [{"role": "user", "content": "go"}]])
def test_a_conversation_without_tools_repeats_nothing(prompt: object) -> None:
    assert read("responses", {"model": "gpt-4.1-mini", "input": prompt}) == Repeated()
    assert seen("chat", [[LS]] * 2).times == 2


_NAMES = st.sampled_from(
    [
        "role",
        "type",
        "id",
        "call_id",
        "name",
        "arguments",
        "input",
        "content",
        "parts",
        "tool_calls",
        "function",
        "toolUse",
        "toolResult",
        "functionCall",
    ]
)
_VALUES = st.sampled_from(
    ["user", "assistant", "tool", "tool_use", "tool_result", "f_call", "f_call_output", 1, None, {}]
)
ANYTHING = st.recursive(
    _VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=30
)


@given(conversation=ANYTHING | st.lists(ANYTHING))
def test_whatever_a_conversation_is_it_can_be_read(conversation: object) -> None:
    for read_steps in (of_chat, of_responses, of_messages, of_converse, of_gemini):
        assert 0 <= repeated(read_steps(conversation)).times <= TURNS_MAX
