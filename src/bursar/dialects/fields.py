"""Typed reading of the members that bound or price a call, shared by the dialects; a wrong one raises RefusedError."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bursar.call import Call, Image, Input, ServerTool
from bursar.dialects.body import Document, shown, unbounded, unreadable, utf8_bytes, with_and_without, with_members
from bursar.dialects.images import size_of_base64
from bursar.dialects.protocol import Quirks

TOKENS_MAX = 10_000_000
"""No model gives or takes more; a larger bound is a mistake, or meant to overflow somebody's arithmetic."""
CHOICES_MAX = 128

_is_model = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}").fullmatch
_is_tier = re.compile(r"[a-z][a-z0-9_-]{0,31}").fullmatch
_is_client_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,199}").fullmatch
NEIGHBOURS = 16
"""How many characters on each side of one that is not ASCII count as mixed with it."""
RUNS_MAX = 10_000
_OTHER_THAN_ASCII = re.compile(r"[^\x00-\x7f]+")
_ESCAPE = re.compile(r"\\.")
_DATA_URL = re.compile(r"data:[a-z0-9.+/-]{0,60};base64,", re.IGNORECASE)


def names(text: str) -> frozenset[str]:
    """Give the words of a text as a set: how the allow-lists are written."""
    return frozenset(text.split())


@dataclass(slots=True)
class Seen:
    """What a walk over the input has met so far."""

    messages: int = 0
    tools: int = 0
    tool_json_bytes: int = 0
    fixed_tokens: int = 0
    images: list[Image] = field(default_factory=list)
    media_chars: int = 0
    opaque: bool = False
    audio: bool = False
    pieces: int = 1
    server_tools: dict[ServerTool, int] = field(default_factory=dict)
    """The provider's own tools that are offered, each with the most uses that its definitions allow."""

    def take_base64(self, payload: object, low_detail: bool) -> None:
        """Note an image given as base64; only what is proven to be an image is taken out of the text."""
        size = size_of_base64(payload) if isinstance(payload, str) else None
        if size is None or not isinstance(payload, str) or not payload.isascii():
            self.images.append(Image(None, None, low_detail))
            return
        self.images.append(Image(size[0], size[1], low_detail))
        self.media_chars += len(payload)

    def take_url(self, url: object, low_detail: bool) -> None:
        """Note an image given by URL; a data URL is read, anything else has no size that we can see."""
        match = _DATA_URL.match(url) if isinstance(url, str) else None
        if match is None or not isinstance(url, str):
            self.images.append(Image(None, None, low_detail))
        else:
            self.take_base64(url[match.end() :], low_detail)


def only_known(values: dict[str, object], known: frozenset[str], quirks: Quirks) -> None:
    """Refuse a top-level field that is neither on the allow-list nor vouched for by the operator."""
    unknown = values.keys() - known
    if unknown and (unknown := unknown - quirks.allow_fields):
        name = shown(min(unknown))
        raise unbounded(
            f"The field `{name}` is not known to bursar, so nothing bounds what it costs. "
            f'Remove it, or allow it with `[policy] allow_fields = ["{name}"]`.'
        )


def only_known_in(values: object, outer: str, known: frozenset[str], quirks: Quirks) -> dict[str, object]:
    """Give an object member whose own members are all on the allow-list; an absent one is empty."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise unreadable(f"`{outer}` must be an object.")
    for name in values.keys() - known:
        path = f"{outer}.{shown(name)}"
        if path not in quirks.allow_fields:
            raise unbounded(
                f"The field `{path}` is not known to bursar, so nothing bounds what it costs. "
                f'Remove it, or allow it with `[policy] allow_fields = ["{path}"]`.'
            )
    return values


def never(values: dict[str, object], reasons: dict[str, str]) -> None:
    """Refuse fields that nothing can bound, whoever vouches for them; null, false and no items ask for nothing."""
    for name in values.keys() & reasons.keys():
        # An empty object may ask for something: `"web_search_options": {}` does.
        if values[name] not in (None, False, []):
            raise unbounded(f"The field `{name}` is refused: {reasons[name]}")


def model_of(values: dict[str, object]) -> str:
    """Give the model, a name of bounded length and plain characters."""
    model = values.get("model")
    if not isinstance(model, str) or not model:
        raise unreadable("`model` is missing; it must be the name of a model.")
    if not _is_model(model):
        raise unreadable(f"`model` is not a name that a provider could know: {shown(model)}")
    return model


def whole(values: dict[str, object], name: str, low: int, high: int = TOKENS_MAX) -> int | None:
    """Give a whole number between two limits, or None when it is absent or null."""
    value = values.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise unreadable(f"`{name}` must be a whole number from {low} to {high}.")
    return value


def flag(values: dict[str, object], name: str) -> bool:
    """Give a boolean; absent and null are false."""
    value = values.get(name)
    if value is not None and type(value) is not bool:
        raise unreadable(f"`{name}` must be true or false.")
    return value is True


def items(value: object, name: str) -> list[dict[str, object]]:
    """Give a list of objects; absent and null are empty."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise unreadable(f"`{name}` must be a list of objects.")
    return value


def parts(content: object) -> list[dict[str, object]]:
    """Give the parts of a content; a text has none."""
    return [] if isinstance(content, str) else items(content, "content")


def type_of(item: dict[str, object], where: str) -> str:
    """Give the `type` of an item."""
    kind = item.get("type")
    if not isinstance(kind, str):
        raise unreadable(f"`{where}` has an item without a `type`.")
    return kind


def tier_of(values: dict[str, object], plain: frozenset[str]) -> str:
    """Give the service tier with the ordinary one spelled `default`; `plain` are the names that ask for it."""
    tier = values.get("service_tier")
    if tier is None:
        return "default"
    if not isinstance(tier, str) or not _is_tier(tier):
        raise unreadable(f"`service_tier` is not the name of a tier: {shown(tier)}")
    return "default" if tier in plain else tier


def client_names(candidates: Iterable[object]) -> tuple[str, ...]:
    """Keep the candidates that are short plain names, each once, in their order."""
    plain = [name for name in candidates if isinstance(name, str) and _is_client_name(name)]
    return tuple(dict.fromkeys(plain))


def member_of(value: object, name: str) -> object:
    """Give a member of what may be an object, else None."""
    return value.get(name) if isinstance(value, dict) else None


def input_facts(document: Document, seen: Seen) -> Input:
    """Measure the text of the body, without its media, and put it together with what the walk has met."""
    text = document.plain
    nfc_bytes = document.plain_bytes
    if not unicodedata.is_normalized("NFC", text):
        # The letter of an escape must not join with a combining mark behind it: what it stands for does not.
        nfc_bytes = utf8_bytes(unicodedata.normalize("NFC", _ESCAPE.sub("  ", text)))
    text_bytes = document.plain_bytes - seen.media_chars
    return Input(
        text_bytes=text_bytes,
        is_ascii=text.isascii(),
        nfc_bytes=nfc_bytes - seen.media_chars,
        messages=seen.messages,
        tools=seen.tools,
        tool_json_bytes=min(seen.tool_json_bytes, text_bytes),
        fixed_tokens=seen.fixed_tokens,
        images=tuple(seen.images),
        opaque=seen.opaque,
        lone_ascii_bytes=max(0, _lone_ascii(text) - seen.media_chars),
        pieces=seen.pieces,
        audio=seen.audio,
    )


def _lone_ascii(text: str) -> int:
    """Count the ASCII characters that are not near a character of another kind.

    Claude's tokenizer makes more tokens of a byte where ASCII and other characters meet, and meeting is local.
    """
    if text.isascii():
        return len(text)
    near = 0
    end = 0
    for runs, run in enumerate(_OTHER_THAN_ASCII.finditer(text)):
        if runs == RUNS_MAX:
            return 0  # mixed all over, and not worth a longer look
        start = max(end, run.start() - NEIGHBOURS)
        end = min(len(text), run.end() + NEIGHBOURS)
        near += end - start
    return len(text) - near


def all_named(values: dict[str, object], name: str) -> Iterator[object]:
    """Give the value of every member of this name that is not null, at any depth."""
    level: list[object] = [values]
    while level:
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                if node.get(name) is not None:
                    yield node[name]
                below += node.values()
            elif isinstance(node, list):
                below += node
        level = below


def shaped(call: Call, changes: dict[str, str], quirks: Quirks) -> bytes:
    """Give the body to send: with what bounds and meters it, and then with what this upstream wants otherwise."""
    changes = {**changes, **quirks.set_fields}
    betas = dict(call.head.headers).get("anthropic-beta", "") if quirks.beta_field else ""
    if betas:
        changes[quirks.beta_field] = json.dumps([beta.strip() for beta in betas.split(",") if beta.strip()])
    if quirks.dropped_fields:
        return with_and_without(call.body, changes, quirks.dropped_fields)
    return with_members(call.body, changes)
