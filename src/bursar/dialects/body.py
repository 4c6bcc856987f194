"""The request body on the border: strict JSON in, and edits that leave every other byte alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from bursar.call import Body, Member, Refused

DEPTH_MAX = 100
"""Objects and arrays inside each other; no client that was recorded goes beyond a third of it."""
BRACKETS_MAX = 1_000_000
"""Objects and arrays, those in texts counted as well: making more of them would hold up everybody else for seconds."""
DIGITS_MAX = 310
"""No double has more digits before its point; reading longer ones takes time that grows with their square."""
_NAME_SHOWN_CHARS = 60

_space = re.compile(r"[ \t\n\r]*").match


class RefusedError(Exception):
    """Carries a Refused from the depth of a reader up to the dialect's `parse`, which returns it as a value."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def unreadable(message: str) -> RefusedError:
    """Make the refusal of a body that is not what the provider would read: 400."""
    return RefusedError(Refused(400, "unreadable", message))


def unbounded(message: str) -> RefusedError:
    """Make the refusal of something that nothing bounds or prices: 422."""
    return RefusedError(Refused(422, "unbounded", message))


def shown(name: object) -> str:
    """Give a client's text as short printable ASCII, for messages and headers."""
    text = ascii(name)[1:-1] if isinstance(name, str) else type(name).__name__
    return text if len(text) <= _NAME_SHOWN_CHARS else text[:_NAME_SHOWN_CHARS] + "..."


@dataclass(frozen=True, slots=True)
class Document:
    """A body that was read: its text with the places of its top-level members, and their values."""

    body: Body
    values: dict[str, object]
    plain: str
    """The text without `\\u` escapes, so that a search finds what a server would read."""
    plain_bytes: int
    """UTF-8 bytes of `plain`."""


def read(raw: bytes) -> Document:
    """Read one JSON object, strictly: UTF-8, no duplicate keys at any depth, no NaN; raises RefusedError only."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise unreadable(f"The body is not UTF-8 (byte {error.start}).") from None
    brackets = text.count("{") + text.count("[")
    if brackets > BRACKETS_MAX:
        raise unreadable(f"The body has more than {BRACKETS_MAX} opening brackets.")
    try:
        start = _after_space(text, 0)
        if text[start : start + 1] != "{":
            raise unreadable("The body must be one JSON object.")
        members, values, end = _object_at(text, start)
    except json.JSONDecodeError as error:
        raise unreadable(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except RecursionError:
        raise unreadable(_TOO_DEEP) from None
    if _after_space(text, end) != len(text):
        raise unreadable(f"The body has more after its JSON object (character {end}).")
    if brackets > DEPTH_MAX and _is_too_deep(values):
        raise unreadable(_TOO_DEEP)
    if "\\u" not in text:
        return Document(Body(text, members), values, text, len(raw))
    plain = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return Document(Body(text, members), values, plain, utf8_bytes(plain))


def utf8_bytes(text: str) -> int:
    """Count the UTF-8 bytes of a text; a lone surrogate, which an escape can make, counts as the U+FFFD it becomes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def with_members(body: Body, changes: Mapping[str, str]) -> bytes:
    """Give the body with these top-level members set to these JSON texts; every other byte stays as it was."""
    return _edited(body.text, body.members, changes).encode("utf-8")


def with_and_without(body: Body, changes: Mapping[str, str], dropped: frozenset[str]) -> bytes:
    """Give the body with these members set and those left out; between the members nothing is kept but commas."""
    kept = {
        name: body.text[member.key_start : member.value_start] + changes.get(name, value_text(body, name))
        for name, member in body.members.items()
        if name not in dropped
    }
    added = [f'"{name}":{value}' for name, value in changes.items() if name not in body.members and name not in dropped]
    return ("{" + ",".join([*added, *kept.values()]) + "}").encode("utf-8")


def object_with(text: str, name: str, value: str) -> str:
    """Give the text of a JSON object with one member set to a JSON text; every other character stays as it was."""
    members, _, _ = _object_at(text, 0)
    if not members:
        return f'{{"{name}":{value}}}'
    return _edited(text, members, {name: value})


def with_items(text: str, change: Callable[[object, str], str]) -> str:
    """Give the text of a JSON list with every item as `change` gives it, from its value and its text."""
    pieces: list[str] = []
    kept = 0
    at = _after_space(text, 1)
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        pieces += (text[kept:at], change(value, text[at:end]))
        kept = end
        at = _after_space(text, end)
        at = _after_space(text, at + 1) if text[at] == "," else at
    return "".join([*pieces, text[kept:]])


def value_text(body: Body, name: str) -> str:
    """Give the JSON text of a top-level member, or nothing when there is none."""
    member = body.members.get(name)
    return body.text[member.value_start : member.value_end] if member else ""


_TOO_DEEP = f"The body nests objects and arrays more than {DEPTH_MAX} deep."


def _edited(text: str, members: Mapping[str, Member], changes: Mapping[str, str]) -> str:
    at = next(iter(members.values())).key_start
    # New members go first: what stands there is a key, so a comma after them is always right.
    pieces = [text[:at]]
    edits = []
    for name, value in changes.items():
        if member := members.get(name):
            edits.append((member.value_start, member.value_end, value))
        else:
            pieces.append(f'"{name}":{value},')
    for start, end, value in sorted(edits):
        pieces += (text[at:start], value)
        at = end
    pieces.append(text[at:])
    return "".join(pieces)


def _after_space(text: str, at: int) -> int:
    match = _space(text, at)
    return match.end() if match else at


def _object_at(text: str, start: int) -> tuple[dict[str, Member], dict[str, object], int]:
    """Read the object that begins at `start`, with the place of each of its members, and where it ends."""
    members: dict[str, Member] = {}
    values: dict[str, object] = {}
    at = _after_space(text, start + 1)
    if text[at : at + 1] == "}":
        return members, values, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a key in double quotes", text, at)
        key_start = at
        name, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, at)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, at)
        value_start = _after_space(text, at + 1)
        value, value_end = _DECODER.raw_decode(text, value_start)
        if name in members:
            raise _duplicate(name)
        members[name] = Member(key_start, value_start, value_end)
        values[name] = value
        at = _after_space(text, value_end)
        mark = text[at : at + 1]
        if mark == "}":
            return members, values, at + 1
        if mark != ",":
            raise json.JSONDecodeError("Expecting ',' or '}'", text, at)
        at = _after_space(text, at + 1)


def _duplicate(name: object) -> RefusedError:
    return unreadable(f"The body names `{shown(name)}` twice; which one a server takes is anybody's guess.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _duplicate(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return members


def _whole(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise unreadable(f"The body has a number of more than {DIGITS_MAX} digits.")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise unreadable(f"The body has {name}, which is not JSON.")


def _is_too_deep(values: dict[str, object]) -> bool:
    level: list[Any] = [values]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_constant=_constant)
