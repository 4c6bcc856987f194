"""What the end of a conversation repeats: the same tool calls with the same results, turn after turn. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bursar.call import Repeated
from bursar.dialects.spelling import snake

TURNS_MAX = 100
"""How many equal turns are counted; more than anybody lets through."""
_LAYOUT_CHARS = 256
"""The same arguments or the same result, laid out anew or at another time, differ in length by less than this."""
# What tells the time in a result makes it no other result: dates with times, times to the second (12:34 may be the line
# and column of a mistake), and how long something took. It begins with a set of characters, which is searched for
# fast, and every repetition has an end, so that no text takes long.
_TIMES = re.compile(
    r"[0-9][0-9]{0,8}+(?:"
    r"(?:-[0-9]{2}-[0-9]{2}[T ][0-9]{2})?:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?"
    r"(?: ?(?:Z|UTC|[AP]M|[+-][0-9]{2}:?[0-9]{2}))?"
    r"|-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}Z?"
    r"|(?:\.[0-9]{1,9})? ?(?:ms|us|µs|ns)\b"
    r"|\.[0-9]{1,9} ?(?:s|sec|seconds)\b)"
)
_MARKERS = frozenset({"cache_control", "cachePoint", "cache_point"})


class Called(NamedTuple):
    """The model calls a tool."""

    id: object
    name: object
    arguments: object


class Resulted(NamedTuple):
    """A tool's result is handed to the model."""

    id: object
    result: object


class Said(NamedTuple):
    """A person, or a program in their place, says something: whatever comes after it is no repetition."""


Step = Called | Resulted | Said
Turn = tuple[list[Called], list[Resulted]]


def timeless(text: str) -> str:
    """Give a text without what tells the time in it."""
    return _TIMES.sub("", text).strip()


def repeated(steps: Iterator[Step]) -> Repeated:
    """Count how often the last turn of a conversation is there, one after another; `steps` come last first."""
    last: Turn | None = None
    times = 0
    for turn in _turns(steps):
        if last is None:
            last = turn
        elif times == TURNS_MAX or not _is_same(turn, last):
            break
        times += 1
    if last is None:
        return Repeated()
    names = (call.name if isinstance(call.name, str) else "" for call in reversed(last[0]))
    return Repeated(tuple(dict.fromkeys(names)), times)


def _turns(steps: Iterator[Step]) -> Iterator[Turn]:
    calls: list[Called] = []
    results: list[Resulted] = []
    for step in steps:
        if isinstance(step, Said):
            break
        if isinstance(step, Called):
            calls.append(step)
            continue
        if calls and results:
            yield _turn(calls, results)
            calls, results = [], []
        results.append(step)
    if calls and results:
        yield _turn(calls, results)


def _turn(calls: list[Called], results: list[Resulted]) -> Turn:
    """Put results in the order of their calls; where there are no ids they stay as they came."""
    places = {str(call.id): place for place, call in enumerate(calls)}
    return calls, sorted(results, key=lambda result: places.get(str(result.id), 0))


def _is_same(one: Turn, other: Turn) -> bool:
    (calls, results), (other_calls, other_results) = one, other
    return (
        [call.name for call in calls] == [call.name for call in other_calls]
        and len(results) == len(other_results)
        and all(_is_alike(a.arguments, b.arguments, _argued) for a, b in zip(calls, other_calls, strict=True))
        and all(
            a.result == b.result or _is_alike(a.result, b.result, _shown)
            for a, b in zip(results, other_results, strict=True)
        )
    )


def _is_alike(one: object, other: object, normal: Callable[[object], str]) -> bool:
    # Most turns differ, and most of those at first sight; what follows is for the few that may be the same.
    if type(one) is not type(other):
        return False
    if isinstance(one, str) and isinstance(other, str) and abs(len(one) - len(other)) >= _LAYOUT_CHARS:
        return False
    return normal(one) == normal(other)


def _argued(arguments: object) -> str:
    """Give arguments without their layout, where they are JSON in a text."""
    try:
        return _text(json.loads(arguments) if isinstance(arguments, str) else arguments)
    except (ValueError, RecursionError):
        return str(arguments).strip()


def _shown(result: object) -> str:
    """Give a result without times and cache markers."""
    return _text(_lasting(result))


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _lasting(result: object) -> object:
    if isinstance(result, str):
        return timeless(result)
    if isinstance(result, list):
        return [_lasting(item) for item in result]
    if isinstance(result, dict):
        return {name: _lasting(value) for name, value in result.items() if name not in _MARKERS}
    return result


# ---- the wire formats, each from its end ----------------------------------------------------------------------------


def _objects(value: object) -> Iterator[dict[str, object]]:
    """Give the objects of a list, the last first."""
    if isinstance(value, list):
        yield from (item for item in reversed(value) if isinstance(item, dict))


def _inner(value: dict[str, object], name: str) -> dict[str, object]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def of_chat(messages: object) -> Iterator[Step]:
    """Read OpenAI's `messages`."""
    for message in _objects(messages):
        role = message.get("role")
        if role == "user":
            yield Said()
        elif role in ("tool", "function"):
            yield Resulted(message.get("tool_call_id"), message.get("content"))
        for call in _objects(message.get("tool_calls")):
            function = _inner(call, "function") or _inner(call, "custom")
            yield Called(call.get("id"), function.get("name"), function.get("arguments", function.get("input")))
        if function := _inner(message, "function_call"):
            yield Called(None, function.get("name"), function.get("arguments"))


def of_responses(items: object) -> Iterator[Step]:
    """Read the `input` of OpenAI's Responses."""
    for item in _objects(items):
        kind = item.get("type")
        if item.get("role") == "user":
            yield Said()
        elif isinstance(kind, str) and kind.endswith("_call_output"):
            yield Resulted(item.get("call_id"), item.get("output"))
        elif isinstance(kind, str) and kind.endswith("_call") and "call_id" in item:
            asked = next((item[name] for name in ("arguments", "input", "action", "operation") if name in item), None)
            yield Called(item["call_id"], item.get("name", kind), asked)


def of_messages(messages: object) -> Iterator[Step]:
    """Read Anthropic's `messages`."""
    for message in _objects(messages):
        blocks = list(_objects(message.get("content")))
        # Agents put reminders of their own beside the results; only without a result it is somebody who speaks.
        if message.get("role") == "user" and not any(block.get("type") == "tool_result" for block in blocks):
            yield Said()
        for block in blocks:
            if block.get("type") == "tool_result":
                yield Resulted(block.get("tool_use_id"), [block.get("content"), block.get("is_error")])
            elif block.get("type") == "tool_use":
                yield Called(block.get("id"), block.get("name"), block.get("input"))


def of_converse(messages: object) -> Iterator[Step]:
    """Read the `messages` of Bedrock's Converse."""
    for message in _objects(messages):
        blocks = list(_objects(message.get("content")))
        if message.get("role") == "user" and not any("toolResult" in block for block in blocks):
            yield Said()
        for block in blocks:
            if result := _inner(block, "toolResult"):
                yield Resulted(result.get("toolUseId"), [result.get("content"), result.get("status")])
            elif use := _inner(block, "toolUse"):
                yield Called(use.get("toolUseId"), use.get("name"), use.get("input"))


def of_gemini(contents: object) -> Iterator[Step]:
    """Read Gemini's `contents`; it may leave out the ids of calls, and the list around a single one."""
    for content in _objects([contents] if isinstance(contents, dict) else contents):
        parts = content.get("parts")
        steps = list(map(_gemini_step, _objects([parts] if isinstance(parts, dict) else parts)))
        if content.get("role") != "model" and not any(isinstance(step, Resulted) for step in steps):
            yield Said()
        yield from (step for step in steps if step is not None)


def _gemini_step(part: dict[str, object]) -> Step | None:
    if response := _either(part, "functionResponse"):
        return Resulted(response.get("id"), response.get("response"))
    if call := _either(part, "functionCall"):
        return Called(call.get("id"), call.get("name"), call.get("args"))
    return None


def _either(part: dict[str, object], name: str) -> dict[str, object]:
    return _inner(part, name) or _inner(part, snake(name))
