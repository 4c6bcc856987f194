"""What a request says about who is spending: one answer from all places, or a refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.call import Body, Refused
from bursar.clock import SECOND, Instant
from bursar.dialects.body import read
from bursar.edge import labels, runs
from bursar.edge.callers import Caller
from bursar.edge.identity import Asked, Claims, claims
from bursar.edge.labels import TAGS_MAX
from bursar.edge.runs import Named
from bursar.ledger.account import TAG_NAME, TAG_VALUE, Limits

NOW = Instant(1_795_435_200 * SECOND)
KEY = Caller("ci", "", Limits(calls=5))


def body(**members: object) -> Body:
    return read(json.dumps({"model": "m", **members}).encode()).body


def said(
    caller: Caller = KEY,
    headers: dict[str, str] | None = None,
    given: Body | None = None,
    path: str = "",
    names: tuple[str, ...] = (),
) -> Claims | Refused:
    return claims(caller, Asked(path, headers or {}, given or body(), names), NOW)


def tags(*args: object, **kwargs: object) -> dict[str, str]:
    got = said(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(got, Claims), got
    return dict(got.tags)


def run(headers: dict[str, str], path: str = "", names: tuple[str, ...] = ()) -> Named:
    got = said(headers=headers, path=path, names=names)
    assert isinstance(got, Claims), got
    return got.named


def refusal(*args: object, **kwargs: object) -> tuple[int, str]:
    got = said(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(got, Refused), got
    return got.status, got.message


# ---- tags -----------------------------------------------------------------------------------------------------------


def test_all_places_together_give_the_tags() -> None:
    headers = {"x-bursar-tags": "env=prod, plain ,", "helicone-property-job": "7", "baggage": "bursar.tag.who=a%40b"}
    given = body(metadata={"n": 7, "yes": True, "no": None, "deep": {"x": 1}, "tags": ["x=1", "y"]}, tags="z=2")
    assert tags(headers=headers, given=given) == {
        "env": "prod",
        "plain": "",
        "job": "7",
        "who": "a@b",
        "n": "7",
        "yes": "true",
        "x": "1",
        "y": "",
        "z": "2",
    }


def test_the_same_tag_twice_is_one_and_two_values_are_none() -> None:
    one = {"x-bursar-tags": "env=prod", "x-litellm-tags": "ENV=prod", "x-portkey-metadata": '{"env":"prod"}'}
    assert tags(headers=one, given=body(metadata={"env": "prod"})) == {"env": "prod"}
    for other in (
        {"x-litellm-tags": "env=dev"},
        {"helicone-property-env": "dev"},
        {"cf-aig-metadata": '{"env":"dev"}'},
        {"baggage": "bursar.tag.env=dev"},
        {"x-litellm-tags": "env"},
    ):
        status, message = refusal(headers={"x-bursar-tags": "env=prod", **other})
        assert status == 400
        assert "the tag env is 'prod' in x-bursar-tags and" in message
    assert refusal(headers={"x-bursar-tags": "env=prod,env=dev"})[0] == 400
    assert refusal(headers={"baggage": "bursar.tag.env=a,bursar.tag.ENV=b"})[0] == 400
    assert refusal(headers={"x-bursar-tags": "env=prod"}, given=body(labels={"env": "dev"}))[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"x-bursar-tags": "env=a b"},
        {"x-bursar-tags": "env="},
        {"x-bursar-tags": "=prod"},
        {"x-bursar-tags": "e/v=prod"},
        {"x-bursar-tags": "env=" + "x" * 129},
        {"x-litellm-tags": "two words"},
        {"baggage": "bursar.tag.=prod"},
        {"baggage": "bursar.tag.env=%0a"},
        {"x-portkey-metadata": "env=prod"},
        {"x-portkey-metadata": '["env"]'},
        {"cf-aig-metadata": '{"env":"prod","env":"dev"}'},
        {"cf-aig-metadata": "[" * 100_000},
    ],
)
def test_what_is_meant_for_budgets_and_cannot_be_read_is_refused(headers: dict[str, str]) -> None:
    assert refusal(headers=headers)[0] == 400


@pytest.mark.parametrize(
    "headers", [{"x-bursar-tag": "env=prod"}, {"baggage": "bursar.tags.env=prod"}, {"x-bursar-": "a"}]
)
def test_a_word_of_bursars_own_that_is_misspelt_is_refused(headers: dict[str, str]) -> None:
    assert refusal(headers=headers)[0] == 400


def test_what_was_written_for_others_is_a_tag_only_where_it_looks_like_one() -> None:
    given = body(metadata={"topic": "two words", "a b": "c", "user_id": "u", "session_id": "s", "_user": "u"})
    assert tags(headers={"helicone-property-mood": "so so"}, given=given) == {}


def test_a_call_has_so_many_tags_at_most() -> None:
    many = [f"t{number}" for number in range(TAGS_MAX + 1)]
    assert len(tags(headers={"x-bursar-tags": ",".join(many[:-1])})) == TAGS_MAX
    assert refusal(headers={"x-bursar-tags": ",".join(many)})[0] == 400


def test_the_tags_of_a_key_are_always_there_and_no_client_changes_them() -> None:
    key = replace(KEY, tags=("env=prod", "beta"))
    assert tags(key) == {"env": "prod", "beta": ""}
    assert tags(key, headers={"x-bursar-tags": "env=prod,job=1"}) == {"env": "prod", "beta": "", "job": "1"}
    assert refusal(key, given=body(metadata={"env": "dev"}))[0] == 403
    assert refusal(key, headers={"x-bursar-tags": "beta=2"})[0] == 403


# ---- users ----------------------------------------------------------------------------------------------------------


def test_the_user_is_the_keys_unless_the_key_leaves_it_to_the_client() -> None:
    named = {"x-litellm-end-user-id": "bob"}
    for caller, user in ((KEY, ""), (replace(KEY, user="eve"), "eve"), (replace(KEY, user="*"), "bob")):
        got = said(caller, headers=named, given=body(user="bob"))
        assert isinstance(got, Claims)
        assert got.user == user


@pytest.mark.parametrize("headers", [{"x-bursar-user": "bob"}, {"baggage": "bursar.user=bob"}])
def test_bursars_own_word_for_the_user_is_refused_where_it_would_not_count(headers: dict[str, str]) -> None:
    for caller in (KEY, replace(KEY, user="eve")):
        assert refusal(caller, headers=headers)[0] == 403
    for caller in (replace(KEY, user="bob"), replace(KEY, user="*")):
        got = said(caller, headers=headers)
        assert isinstance(got, Claims)
        assert got.user == "bob"


def test_where_the_client_names_the_user_it_has_to_and_only_one() -> None:
    key = replace(KEY, user="*")
    status, message = refusal(key)
    assert (status, "x-bursar-user" in message) == (400, True)
    # What Claude Code sends is no name of a user.
    assert refusal(key, given=body(metadata={"user_id": '{"session_id":"s"}'}))[0] == 400
    assert refusal(key, headers={"x-bursar-user": "a b"})[0] == 400
    assert refusal(key, headers={"x-bursar-user": ""})[0] == 400
    assert refusal(key, headers={"helicone-user-id": "ann"}, given=body(user="bob"))[0] == 400
    assert refusal(key, headers={"baggage": "user.id=ann,enduser.id=bob"})[0] == 400
    # What costs nothing needs no user.
    free = claims(key, Asked("", {}, None, ()), NOW)
    assert isinstance(free, Claims)


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_the_first_name_of_a_run_counts() -> None:
    sessions = {"session-id": "s2", "x-claude-code-session-id": "s1", "baggage": "session.id=s3"}
    assert run({**sessions, "x-bursar-run": "own"}) == Named("own")
    assert run(sessions) == Named("s1")
    assert run({"baggage": "session.id=s3"}, names=("s4",)) == Named("s3")
    assert run({}, names=("not a name", "s4")) == Named("s4")
    assert run({}) == Named("ci@2026-11-23")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("a", {"x-bursar-run": "b"}),
        ("a", {"baggage": "bursar.run=b"}),
        ("", {"x-bursar-run": "a", "baggage": "bursar.run=b"}),
        ("", {"baggage": "bursar.run=a,bursar.run=b"}),
    ],
)
def test_two_explicit_names_of_a_run_are_refused(path: str, headers: dict[str, str]) -> None:
    assert refusal(path=path, headers=headers)[0] == 400
    agreed = {name: value.removesuffix("b") + "a" if value.endswith("b") else value for name, value in headers.items()}
    assert run(agreed, path) == Named("a")


def test_a_run_key_stays_in_its_run_whatever_it_says() -> None:
    got = said(replace(KEY, run="mine"), headers={"x-bursar-run": "b", "x-bursar-parent-run": "c"}, path="a")
    assert isinstance(got, Claims)
    assert got.named == Named("mine")


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"x-bursar-run": "b", "x-bursar-parent-run": "a"}, Named("b", "a", is_told_so=True)),
        ({"session-id": "b", "x-bursar-parent-run": "a"}, Named("b", "a", is_told_so=True)),
        ({"x-claude-code-session-id": "s", "x-claude-code-agent-id": "k"}, Named("s:k", "s")),
        (
            {"x-claude-code-session-id": "s", "x-claude-code-agent-id": "k", "x-claude-code-parent-agent-id": "j"},
            Named("s:k", "s:j"),
        ),
        ({"x-claude-code-session-id": "s", "x-claude-code-agent-id": "no name"}, Named("s")),
        ({"x-session-id": "b", "x-parent-session-id": "a"}, Named("b", "a")),
        ({"x-session-id": "b", "x-parent-session-id": "b"}, Named("b")),
        ({"goose-session-id": "b", "x-parent-session-id": "a"}, Named("b")),
        ({"x-bursar-run": "b", "x-claude-code-agent-id": "k"}, Named("b")),
    ],
)
def test_sub_agents_are_runs_inside_their_parents(headers: dict[str, str], named: Named) -> None:
    assert run(headers) == named


@pytest.mark.parametrize("headers", [{"x-bursar-parent-run": "a b", "x-bursar-run": "c"}, {"x-bursar-parent-run": "a"}])
def test_a_parent_is_a_name_and_its_child_has_one(headers: dict[str, str]) -> None:
    assert refusal(headers=headers)[0] == 400


# ---- the page -------------------------------------------------------------------------------------------------------


def test_every_place_is_on_the_page_about_identity() -> None:
    page = (Path(__file__).parents[2] / "docs" / "identity.md").read_text(encoding="utf-8")
    own = (labels.TAG_PREFIX, labels.BAGGAGE_TAG, runs.OWN_RUN, runs.PARENT, runs.BAGGAGE_RUN, runs.OPENCODE_PARENT)
    places = [
        *(labels.TAG_LISTS + labels.TAG_OBJECTS + labels.BODY_OBJECTS + labels.BODY_LISTS),
        *(labels.USER_HEADERS + labels.BAGGAGE_USERS + labels.BODY_USERS + labels.OBJECT_USERS + labels.OBJECT_RUNS),
        *(runs.SESSION_HEADERS + own + (runs.CLAUDE_AGENT, runs.CLAUDE_PARENT)),
    ]
    assert [place for place in places if f"`{place}" not in page] == []


# ---- any places -----------------------------------------------------------------------------------------------------

NAMES = st.from_regex(TAG_NAME, fullmatch=True).filter(lambda name: name not in ("tags", "user_id", "session_id"))
VALUES = st.from_regex(TAG_VALUE, fullmatch=True)
PLACES = 7


def put(place: int, name: str, value: str, headers: dict[str, str], members: dict[str, dict[str, str]]) -> None:
    """Say one tag in one place, beside what is said there."""
    if place < 2:
        header = ("x-bursar-tags", "x-litellm-tags")[place]
        headers[header] = ",".join(filter(None, (headers.get(header), f"{name.upper()}={value}")))
    elif place == 2:
        headers[f"helicone-property-{name}"] = value
    elif place == 3:
        member = f"bursar.tag.{name}={quote(value)}"
        headers["baggage"] = ",".join(filter(None, (headers.get("baggage"), member)))
    elif place == 4:
        headers["cf-aig-metadata"] = json.dumps({**json.loads(headers.get("cf-aig-metadata", "{}")), name: value})
    else:
        members.setdefault(("metadata", "labels")[place - 5], {})[name] = value


@given(
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, PLACES - 1)), max_size=12),
    st.tuples(st.integers(0, 5), st.integers(0, PLACES - 1), VALUES),
)
def test_wherever_tags_are_said_they_are_the_same_tags_and_one_other_value_is_refused(
    wanted: dict[str, str], more: list[tuple[int, int]], other: tuple[int, int, str]
) -> None:
    headers: dict[str, str] = {}
    members: dict[str, dict[str, str]] = {}
    names = list(wanted)
    for which, place in [*((number, number % PLACES) for number in range(len(names))), *more]:
        if names:
            name = names[which % len(names)]
            put(place, name, wanted[name], headers, members)
    assert tags(headers=headers, given=body(**members)) == wanted
    which, place, value = other
    name = names[which % len(names)] if names else ""
    if name and wanted[name] != value:
        first, second = (place, (place + 1) % PLACES)
        headers, members = {}, {}
        put(first, name, wanted[name], headers, members)
        put(second, name, value, headers, members)
        assert refusal(headers=headers, given=body(**members))[0] == 400
