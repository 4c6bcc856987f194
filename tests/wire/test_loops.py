"""A run that repeats itself is refused, in every dialect; one that does not, or has a reason to, is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bodies import CHAT, FORMATS, MESSAGES, RESPONSES, Format
from conftest import KEY_ENV, Wire, wire_up
from scripted import Answer, Served, answer, chunked, cut, play

from bursar.edge.loops import Loops
from bursar.events import CallRefused
from bursar.ledger.account import Unit

LOOPS = 3
TEMPLATE = {"usd": "1.00", "calls": 100, "loops": LOOPS}
SECRET_TEXT = "a-secret-file-name"

by_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path, keys={"wire": {"key_env": KEY_ENV, "run": TEMPLATE}}) as made:
        yield made


def code(got: Answer) -> object:
    error = got.json.get("error")
    assert isinstance(error, dict)
    holder = error if "bursar" in error else got.json
    found = holder["bursar"]
    assert isinstance(found, dict)
    return found.get("code") or error.get("code")


async def ask(wire: Wire, fmt: Format, body: object = None, run: str = "r1", **headers: str) -> int:
    return (await wire.post(fmt.path, fmt.request if body is None else body, x_bursar_run=run, **headers)).status


@by_format
async def test_the_same_request_answered_again_and_again_is_refused(wire: Wire, fmt: Format) -> None:
    wire.provider.script = play(answer(fmt.reply))
    # The first of a row is not compared yet.
    assert [await ask(wire, fmt) for _ in range(1 + LOOPS)] == [200] * (1 + LOOPS)
    got = await wire.post(fmt.path, fmt.request, x_bursar_run="r1")
    assert (got.status, got.headers["x-should-retry"]) == (429, "false")
    assert code(got) == "loop_detected"
    assert b"the same request 3 times in a row" in got.body
    assert len(wire.provider.served) == 1 + LOOPS
    await wire.settled(1 + LOOPS)
    calls = await wire.account("run:r1", Unit.CALLS)
    assert (calls.captured, calls.held) == (1 + LOOPS, 0)
    assert [event.code for event in wire.events if isinstance(event, CallRefused)] == ["loop_detected"]
    # Another run has a row of its own, and whoever asks something else goes on.
    assert await ask(wire, fmt, run="r2") == 200
    assert await ask(wire, fmt, with_text(fmt, "something else")) == 200
    assert await ask(wire, fmt) == 200


def with_text(fmt: Format, text: str) -> dict[str, Any]:
    spoken = [{"role": "user", "content": text}]
    return fmt.request | ({"input": spoken} if "input" in fmt.request else {"messages": spoken})


@by_format
async def test_streams_and_what_differs_by_sending_only_are_the_same(wire: Wire, fmt: Format) -> None:
    wire.provider.script = play(chunked(*fmt.stream))
    for number in range(1 + LOOPS):
        body = fmt.request | {"stream": True, "metadata": {"user_id": f"session-{number}"}}
        turned = json.dumps(dict(reversed(body.items())), indent=number).encode()
        assert await ask(wire, fmt, turned) == 200
    assert await ask(wire, fmt, fmt.request | {"stream": True}) == 429


async def test_a_request_that_failed_is_sent_again_for_a_reason(wire: Wire) -> None:
    for _ in range(3 * LOOPS):
        wire.provider.script = play(answer(b"{}", status=500))
        assert await ask(wire, CHAT) == 500
        wire.provider.script = cut(b"")
        assert await ask(wire, CHAT) == 502
    wire.provider.script = play(answer(CHAT.reply))
    assert [await ask(wire, CHAT) for _ in range(1 + LOOPS)] == [200] * LOOPS + [429]


async def test_samples_of_one_prompt_that_are_taken_together_are_no_loop(wire: Wire) -> None:
    waiting: list[asyncio.StreamWriter] = []

    async def hold_back(_served: Served, writer: asyncio.StreamWriter) -> None:
        waiting.append(writer)

    wire.provider.script = hold_back
    calls = [asyncio.create_task(wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")) for _ in range(4 * LOOPS)]
    await wire.until(lambda: len(waiting) == 4 * LOOPS)
    for writer in waiting:
        writer.write(answer(CHAT.reply))
    assert {(await call).status for call in calls} == {200}
    wire.provider.script = play(answer(CHAT.reply))
    assert await ask(wire, CHAT) == 200


# ---- tools ----------------------------------------------------------------------------------------------------------


def with_turns(fmt: Format, count: int) -> dict[str, Any]:
    """Give a request whose conversation ends with this many equal turns, none of them with the ids of another."""
    turns: list[Any] = []
    for number in range(count):
        name, ident, file = "read_file", f"id_{number}", {"path": SECRET_TEXT}
        if fmt is CHAT:
            function = {"name": name, "arguments": json.dumps(file)}
            turns += [
                {"role": "assistant", "tool_calls": [{"id": ident, "type": "function", "function": function}]},
                {"role": "tool", "tool_call_id": ident, "content": "gone"},
            ]
        elif fmt is MESSAGES:
            result = {"type": "tool_result", "tool_use_id": ident, "content": "gone"}
            turns += [
                {"role": "assistant", "content": [{"type": "tool_use", "id": ident, "name": name, "input": file}]},
                {"role": "user", "content": [result]},
            ]
        else:
            assert fmt is RESPONSES
            turns += [
                {"type": "function_call", "call_id": ident, "name": name, "arguments": json.dumps(file)},
                {"type": "function_call_output", "call_id": ident, "output": "gone"},
            ]
    spoken = [{"role": "user", "content": "go"}, *turns]
    return fmt.request | ({"input": spoken} if "input" in fmt.request else {"messages": spoken})


@by_format
async def test_the_same_tool_with_the_same_result_is_refused(wire: Wire, fmt: Format) -> None:
    wire.provider.script = play(answer(fmt.reply))
    assert [await ask(wire, fmt, with_turns(fmt, count)) for count in range(1, LOOPS)] == [200] * (LOOPS - 1)
    got = await wire.post(fmt.path, with_turns(fmt, LOOPS), x_bursar_run="r1")
    assert (got.status, code(got)) == (429, "loop_detected")
    assert b"called read_file 3 times in a row" in got.body
    assert SECRET_TEXT.encode() not in got.body
    assert len(wire.provider.served) == LOOPS - 1
    # Nothing is remembered: the conversation says so itself, wherever it is sent from.
    assert await ask(wire, fmt, with_turns(fmt, LOOPS), run="r2") == 429
    # Clients that a 429 does not stop get what stops them, as at a cap.
    assert await ask(wire, fmt, with_turns(fmt, LOOPS), user_agent="opencode/1.0") == 402


async def test_who_wants_loops_gets_them(tmp_path: Path) -> None:
    template = TEMPLATE | {"loops": "none"}
    async with wire_up(tmp_path, keys={"wire": {"key_env": KEY_ENV, "run": template}}) as wire:
        wire.provider.script = play(answer(CHAT.reply))
        assert [await ask(wire, CHAT) for _ in range(12)] == [200] * 12
        assert await ask(wire, CHAT, with_turns(CHAT, 12)) == 200


async def test_embeddings_are_no_steps(wire: Wire) -> None:
    reply = {"object": "list", "data": [], "model": "text-embedding-3-small", "usage": {"prompt_tokens": 1}}
    wire.provider.script = play(answer(json.dumps(reply).encode()))
    body = {"model": "text-embedding-3-small", "input": "hello"}
    answers = [await wire.post("/v1/embeddings", body, x_bursar_run="r1") for _ in range(3 + LOOPS)]
    assert {got.status for got in answers} == {200}


async def test_what_is_remembered_has_an_end(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.edge.loops.RUNS_MAX", 2)
    wire.provider.script = play(answer(CHAT.reply))
    assert [await ask(wire, CHAT, run=run) for run in ("r1", "r2", "r3")] == [200] * 3
    loops = wire.gateway._loops
    assert isinstance(loops, Loops)
    assert list(loops._rows) == ["r2", "r3"]
