"""What a client may say about who spends, beside its key: tags and a user, from a closed list of places."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from bursar.call import Body
from bursar.dialects.body import shown, unreadable, value_text
from bursar.ledger.account import PERSON, TAG_NAME, TAG_VALUE

TAGS_MAX = 32
"""Tags that one call may have."""

# What is meant for bursar or for budgets has to be right; what was written for another gateway may be something else.
OWN_TAGS = "x-bursar-tags"
OWN_USER = "x-bursar-user"
TAG_LISTS = (OWN_TAGS, "x-litellm-tags")
"""Headers with `env=prod,team=x`; a tag without a value is a tag, too."""
TAG_OBJECTS = (
    "x-portkey-metadata",
    "cf-aig-metadata",
    "databricks-ai-gateway-request-tags",
    "x-litellm-spend-logs-metadata",
)
"""Headers with a JSON object whose members are tags."""
TAG_PREFIX = "helicone-property-"
"""Headers whose name ends with the name of a tag."""
BAGGAGE_TAG = "bursar.tag."
BODY_OBJECTS = ("metadata", "litellm_metadata", "labels", "requestMetadata")
"""Members of a body that are objects whose members are tags."""
BODY_LISTS = ("tags",)
"""Members of a body, or of such an object, that are a list of tags."""
USER_HEADERS = (
    OWN_USER,
    "x-litellm-end-user-id",
    "x-litellm-customer-id",
    "helicone-user-id",
    "x-openwebui-user-id",
    "langfuse_trace_user_id",
)
BAGGAGE_USERS = ("bursar.user", "user.id", "enduser.id")
BODY_USERS = ("user", "safety_identifier")
OBJECT_USERS = ("user_id", "_user")
"""Members of such an object that name a user."""
OBJECT_RUNS = ("session_id",)
"""Members of such an object that name a run, and are no tags."""

_TAG_NAME = re.compile(TAG_NAME)
_TAG_VALUE = re.compile(TAG_VALUE)
_USER = re.compile(PERSON)
_NO_TAGS = frozenset((*OBJECT_USERS, *OBJECT_RUNS, *BODY_LISTS))
_HEADERS = frozenset((*TAG_LISTS, *TAG_OBJECTS, "baggage"))
_MEMBERS = frozenset((*BODY_OBJECTS, *BODY_LISTS))


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that is said, and where."""

    name: str
    value: str
    where: str


def baggage(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Give the members of the W3C baggage, their properties left out."""
    said = headers.get("baggage")
    if not said:
        return []
    members = (member.partition("=") for member in said.split(","))
    return [(name.strip(), unquote(value.partition(";")[0].strip())) for name, equals, value in members if equals]


# ---- tags -----------------------------------------------------------------------------------------------------------


def tags(headers: Mapping[str, str], body: Body | None) -> dict[str, str]:
    """Give the tags by name, each with the one value that all places agree on; raises RefusedError."""
    found: dict[str, Said] = {}
    for said in _tags(headers, body) if _may_have_some(headers, body) else ():
        before = found.setdefault(said.name, said)
        if before.value != said.value:
            here, there = f"{before.value!r} in {before.where}", f"{said.value!r} in {said.where}"
            raise unreadable(f"the tag {said.name} is {here} and {there}; send one")
    if len(found) > TAGS_MAX:
        raise unreadable(f"the call has {len(found)} tags; {TAGS_MAX} are the most that are taken")
    return {said.name: said.value for said in found.values()}


def _may_have_some(headers: Mapping[str, str], body: Body | None) -> bool:
    """Say at once that there is nothing to read, as in most calls."""
    if not _HEADERS.isdisjoint(headers) or (body is not None and not _MEMBERS.isdisjoint(body.members)):
        return True
    return any(header.startswith(TAG_PREFIX) for header in headers)


def _tags(headers: Mapping[str, str], body: Body | None) -> Iterator[Said]:
    for header in TAG_LISTS:
        for text in headers.get(header, "").split(","):
            if text.strip():
                yield _must(_tag(text), header, text)
    for name, value in baggage(headers):
        if name.startswith(BAGGAGE_TAG):
            text = f"{name.removeprefix(BAGGAGE_TAG)}={value}"
            yield _must(_tag(text), "baggage", text)
    for header in headers:
        if header.startswith(TAG_PREFIX):
            yield from _maybe(f"{header.removeprefix(TAG_PREFIX)}={headers[header]}", header)
    for where, values in _objects(headers, body):
        yield from _members(values, where)
    for member in BODY_LISTS if body is not None else ():
        yield from _listed(_value(body, member), member)


def _members(values: Mapping[str, object], where: str) -> Iterator[Said]:
    for name, value in values.items():
        if name in BODY_LISTS:
            yield from _listed(value, f"{where}.{name}")
        elif name not in _NO_TAGS:
            yield from _maybe(f"{name}={_text(value)}", where)


def _listed(value: object, where: str) -> Iterator[Said]:
    many = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
    for text in many:
        yield from _maybe(_text(text), where)


def _maybe(text: str, where: str) -> Iterator[Said]:
    tag = _tag(text)
    if tag is not None:
        yield Said(*tag, where)


def _must(tag: tuple[str, str] | None, where: str, text: str) -> Said:
    if tag is None:
        what = "NAME=VALUE, such as env=prod, of letters, digits and . _ : @ + -"
        raise unreadable(f"{shown(text.strip())} in {where} is not a tag: {what}")
    return Said(*tag, where)


def _tag(text: str) -> tuple[str, str] | None:
    """Read `NAME=VALUE` or a name alone; the name in small letters, since the name of a header has no other."""
    name, equals, value = (part.strip() for part in text.partition("="))
    name = name.lower()
    if not _TAG_NAME.fullmatch(name) or (equals and not _TAG_VALUE.fullmatch(value)):
        return None
    return name, value


def _text(value: object) -> str:
    """Give a plain value as text, as JSON writes it; nothing for what is not plain."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int)) else ""


def _objects(headers: Mapping[str, str], body: Body | None) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Give the objects whose members are tags, from headers and body."""
    for header in TAG_OBJECTS:
        if header in headers:
            yield header, _object(headers[header], header)
    for member in BODY_OBJECTS if body is not None else ():
        value = _value(body, member)
        if isinstance(value, dict):
            yield member, value


def _object(text: str, header: str) -> Mapping[str, object]:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise unreadable(f"the header {header} is not a JSON object in which each name occurs once")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _value(body: Body | None, member: str) -> object:
    """Give the value of a member of a body, which was read strictly before."""
    text = value_text(body, member) if body is not None else ""
    return json.loads(text) if text else None


# ---- users ----------------------------------------------------------------------------------------------------------


def own_users(headers: Mapping[str, str]) -> Iterator[Said]:
    """Give the users that are named in bursar's own words; raises RefusedError."""
    for said in _header_users(headers, (OWN_USER,), BAGGAGE_USERS[:1]):
        if not _USER.fullmatch(said.value):
            raise unreadable(
                f"{shown(said.value)} in {said.where} is not a user: 1 to 128 letters, digits and . _ : @ + -"
            )
        yield said


def user(headers: Mapping[str, str], body: Body | None) -> str:
    """Give the user that all places agree on, or nothing; raises RefusedError."""
    found = [*own_users(headers), *(said for said in _users(headers, body) if _USER.fullmatch(said.value))]
    for said in found:
        if said.value != found[0].value:
            raise unreadable(
                f"the user is {found[0].value!r} in {found[0].where} and {said.value!r} in {said.where}; send one"
            )
    return found[0].value if found else ""


def _users(headers: Mapping[str, str], body: Body | None) -> Iterator[Said]:
    yield from _header_users(headers, USER_HEADERS[1:], BAGGAGE_USERS[1:])
    for member in BODY_USERS:
        yield Said("user", _text(_value(body, member)), member)
    for where, values in _objects(headers, body):
        for name in OBJECT_USERS:
            yield Said("user", _text(values.get(name)), f"{where}.{name}")


def _header_users(headers: Mapping[str, str], names: Iterable[str], members: Iterable[str]) -> Iterator[Said]:
    for name in names:
        if name in headers:
            yield Said("user", headers[name].strip(), name)
    for name, value in baggage(headers):
        if name in members:
            yield Said("user", value, f"{name} in baggage")
