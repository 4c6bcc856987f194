"""Fields of Google's JSON, each of which has two spellings: `maxOutputTokens` and `max_output_tokens` are the same."""

from __future__ import annotations

import re
from functools import cache

from bursar.dialects.body import shown, unbounded, unreadable
from bursar.dialects.protocol import Quirks

_UPPER = re.compile(r"[A-Z]")


def snake(name: str) -> str:
    """Give the other spelling of a name in camel case."""
    return _UPPER.sub(lambda found: "_" + found[0].lower(), name)


@cache
def spellings(known: frozenset[str]) -> dict[str, str]:
    """Give the camel-case name by each of its spellings."""
    return {spelled: name for name in known for spelled in (name, snake(name))}


def folded(values: object, outer: str, known: frozenset[str], quirks: Quirks) -> dict[str, object]:
    """Give an object by its camel-case names; an absent one is empty.

    Refuses what is not known, and a field that is there in both spellings: which of them counts is the server's guess.
    """
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise unreadable(f"`{outer or 'body'}` must be an object.")
    names = spellings(known)
    found: dict[str, object] = {}
    for spelled, value in values.items():
        path = f"{outer}.{shown(spelled)}" if outer else shown(spelled)
        name = names.get(spelled)
        if name is None and path not in quirks.allow_fields:
            raise unbounded(
                f"The field `{path}` is not known to bursar, so nothing bounds what it costs. "
                f'Remove it, or allow it with `[policy] allow_fields = ["{path}"]`.'
            )
        if name in found:
            raise unreadable(f"`{path}` is there in two spellings; which one a server takes is anybody's guess.")
        if name is not None:
            found[name] = value
    return found


def spelled_as(values: object, name: str) -> str:
    """Give the spelling under which an object has the field, or the camel-case one when it has none."""
    return snake(name) if isinstance(values, dict) and snake(name) in values and name not in values else name


def listed(value: object, name: str) -> list[dict[str, object]]:
    """Give a list of objects; Google takes a single object for a list of one, and absent or null for an empty one."""
    if value is None:
        return []
    many = [value] if isinstance(value, dict) else value
    if not isinstance(many, list) or not all(isinstance(item, dict) for item in many):
        raise unreadable(f"`{name}` must be a list of objects.")
    return many
