"""Which requests are the same, and how long that is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.call import Call
from bursar.clock import SECOND, Instant
from bursar.dialects.protocol import Request
from bursar.dialects.table import find
from bursar.edge.loops import QUIET_SECONDS, Looped, Loops, Seen

MOST = 3


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000

    def now(self) -> Instant:
        return Instant(self.seconds * SECOND)


def loops(clock: Clock | None = None) -> Loops:
    return Loops(lambda key: MOST, clock or Clock())


def call(body: object, path: str = "/v1/chat/completions", upstream: str = "openai") -> Call:
    route = find(path)
    assert route is not None
    made = route.dialect.parse(Request(upstream, route.path, {}, json.dumps(body).encode()))
    assert isinstance(made, Call), made
    return made


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "hello"}], **changes}


def answer(made: Loops, request: Call, run: str = "r") -> bool:
    """Ask, and be answered; give whether it was let through."""
    seen = made.look(request, run, "key")
    if isinstance(seen, Looped):
        return False
    made.answered(seen)
    return True


def are_the_same(*bodies: object, path: str = "/v1/chat/completions", upstream: str = "openai") -> bool:
    """Say whether the last body is refused after the others were answered again and again in turn."""
    made, calls = loops(), [call(body, path, upstream) for body in bodies]
    row = [calls[number % len(calls)] for number in range(1 + MOST)]
    assert all(answer(made, one) for one in row)
    return not answer(made, calls[-1])


def spoken(*messages: dict[str, Any]) -> dict[str, Any]:
    return chat(messages=list(messages))


USER = {"role": "user", "content": "hello"}


def called(ident: str, arguments: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return spoken(USER, {"role": "assistant", "tool_calls": [{"id": ident, "type": "function", "function": function}]})


def offering(kind: str) -> dict[str, Any]:
    function = {"name": "f", "parameters": {"properties": {"id": {"type": kind}}}}
    return chat(tools=[{"type": "function", "function": function}])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chat(), chat()),
        (chat(user="a"), chat(user="b")),
        (chat(metadata={"session_id": "a"}), chat(prompt_cache_key="b")),
        (chat(stream=True, stream_options={"include_usage": True}), chat()),
        (
            spoken({"role": "system", "content": "It is 2026-11-24T10:00:00Z."}, USER),
            spoken({"role": "system", "content": "It is 2026-11-24T10:00:07Z."}, USER),
        ),
        (
            spoken({"role": "developer", "content": [{"type": "text", "text": "Now: 10:00:00"}]}, USER),
            spoken({"role": "developer", "content": [{"type": "text", "text": "Now: 10:00:01"}]}, USER),
        ),
        (
            called("a", "{}"),
            called("b", "{}"),
        ),
    ],
)
def test_what_changes_with_every_sending_makes_no_other_request(one: object, other: object) -> None:
    assert are_the_same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chat(), chat(messages=[{"role": "user", "content": "hellp"}])),
        (chat(), chat(temperature=0.5)),
        (chat(seed=1), chat(seed=2)),
        (chat(max_tokens=10), chat(max_tokens=11)),
        (chat(), chat(model="gpt-4.1-nano")),
        (chat(), chat(messages=[{"role": "user", "content": "hello " * 200}])),
        # What a person or a program asks for may well be a time or an id.
        (
            chat(messages=[{"role": "user", "content": "what was at 2026-11-24T10:00:00Z"}]),
            chat(messages=[{"role": "user", "content": "what was at 2026-11-24T11:00:00Z"}]),
        ),
        (
            called("a", '{"id":1}'),
            called("a", '{"id":2}'),
        ),
        (
            offering("string"),
            offering("number"),
        ),
    ],
)
def test_what_asks_for_something_else_is_another_request(one: object, other: object) -> None:
    assert not are_the_same(one, other)


def test_the_formats_have_their_own_names_for_the_same() -> None:
    claude = {"model": "claude-sonnet-4-5", "max_tokens": 9}
    early, late = ([{"type": "text", "text": f"at {time} AM"}] for time in ("9:59:59", "10:00:01"))
    marked = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]
    plain = [{"type": "text", "text": "hello"}]
    assert are_the_same(
        {**claude, "system": early, "messages": [{"role": "user", "content": marked}]},
        {**claude, "system": late, "messages": [{"role": "user", "content": plain}]},
        path="/v1/messages",
        upstream="anthropic",
    )
    use = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "a", "name": "f", "input": {"id": 1}}}]}
    result = {"role": "user", "content": [{"toolResult": {"toolUseId": "a", "content": [{"text": "x"}]}}]}
    point = {"role": "user", "content": [{"text": "hello"}, {"cachePoint": {"type": "default"}}]}
    bedrock = "/model/anthropic.claude-sonnet-4-5-20250929-v1:0/converse"
    start = {"role": "user", "content": [{"text": "hello"}]}
    assert are_the_same({"messages": [point, use, result]}, {"messages": [start, use, result]}, path=bedrock)
    other = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "a", "name": "f", "input": {"id": 2}}}]}
    assert not are_the_same({"messages": [start, use, result]}, {"messages": [start, other, result]}, path=bedrock)
    gemini = "/v1beta/models/gemini-2.5-flash:generateContent"
    said = {"role": "user", "parts": [{"text": "hello"}]}
    now = [{"systemInstruction": {"parts": [{"text": f"at 10:00:0{second}"}]}, "contents": [said]} for second in (1, 2)]
    assert are_the_same(*now, path=gemini, upstream="gemini")
    assert are_the_same({"contents": said}, {"contents": said, "labels": {"a": "b"}}, path=gemini, upstream="gemini")


def test_a_reference_to_an_item_is_what_it_refers_to() -> None:
    bodies = [{"model": "gpt-4.1-mini", "input": [{"type": "item_reference", "id": f"msg_{n}"}]} for n in (1, 2)]
    assert are_the_same(bodies[0], bodies[0], path="/v1/responses")
    assert not are_the_same(*bodies, path="/v1/responses")


def test_a_conversation_that_the_server_keeps_may_have_gone_on() -> None:
    body = {"model": "gpt-4.1-mini", "input": "go on", "conversation": "conv_1"}
    assert not are_the_same(body, body, path="/v1/responses")


def test_who_is_silent_for_a_while_is_a_clock_and_no_loop() -> None:
    clock = Clock()
    made = loops(clock)
    for _ in range(3 * MOST):
        assert answer(made, call(chat()))
        clock.seconds += QUIET_SECONDS + 1
    assert [answer(made, call(chat())) for _ in range(2 + MOST)] == [True] * (1 + MOST) + [False]
    # Whoever goes on asking is not let through by the time that passes.
    for _ in range(3):
        clock.seconds += QUIET_SECONDS
        assert not answer(made, call(chat()))
    clock.seconds += QUIET_SECONDS + 1
    assert answer(made, call(chat()))


def test_an_answer_to_what_was_asked_before_counts_nothing() -> None:
    made = loops()
    answer(made, call(chat()))
    late = made.look(call(chat()), "r", "key")
    assert isinstance(late, Seen)
    assert answer(made, call(chat(seed=1)))
    made.answered(late)
    assert [answer(made, call(chat(seed=1))) for _ in range(MOST)] == [True] * (MOST - 1) + [False]


@given(seeds=st.lists(st.integers(0, 2), max_size=40))
def test_nothing_is_refused_before_it_was_answered_as_often_as_allowed(seeds: list[int]) -> None:
    made, row, before = loops(), 0, -1
    for seed in seeds:
        row = row + 1 if seed == before else 1
        before = seed
        is_refused = not answer(made, call(chat(seed=seed)))
        assert not is_refused or row > MOST
        assert is_refused or row <= 1 + MOST
        row -= is_refused
