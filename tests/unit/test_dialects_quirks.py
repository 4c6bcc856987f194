"""What an upstream does its own way: fields that it wants or does not want, and usage that it reports differently."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar.call import Call, Head, Refused, Unmetered, Usage, UsageRules
from bursar.dialects.body import read, with_and_without
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import DIALECTS
from bursar.money import Money

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = CHAT | {"max_tokens": 9}
APART = Quirks(usage=UsageRules(reasoning_apart=True))
COST = Quirks(usage=UsageRules(reports_cost=True))


def parsed(body: dict[str, Any], quirks: Quirks, dialect: str = "openai_chat", **headers: str) -> Call:
    head = Head("/x", tuple((name.replace("_", "-"), value) for name, value in headers.items()))
    call = DIALECTS[dialect].parse(Request("up", "/x", dict(head.headers), json.dumps(body).encode(), quirks, head))
    assert not isinstance(call, Refused), call
    return call


def sent(body: dict[str, Any], quirks: Quirks, dialect: str = "openai_chat", **headers: str) -> dict[str, Any]:
    made = DIALECTS[dialect].render(parsed(body, quirks, dialect, **headers), 7, quirks)
    value = json.loads(made)
    assert isinstance(value, dict)
    return value


def metered(usage: dict[str, Any], quirks: Quirks, stream: bool = False) -> Usage | Unmetered:
    call = parsed(CHAT | {"stream": stream}, quirks)
    kind = "text/event-stream" if stream else "application/json"
    meter = DIALECTS["openai_chat"].meter(call, 200, kind)
    reply = json.dumps({"choices": [], "usage": usage})
    meter.feed(f"data: {reply}\n\ndata: [DONE]\n\n".encode() if stream else reply.encode())
    return meter.finish()[1]


# ---- fields ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic_messages"])
def test_what_the_server_wants_is_set_and_what_it_takes_elsewhere_is_left_out(dialect: str) -> None:
    quirks = Quirks(
        set_fields={"anthropic_version": '"v1"'},
        dropped_fields=frozenset({"model", "stream"}),
        takes_service_tier=False,
    )
    got = sent(MESSAGES | {"stream": False, "temperature": 1}, quirks, dialect)
    assert got == {"anthropic_version": "v1", "messages": CHAT["messages"], "max_tokens": 7, "temperature": 1}


def test_a_field_that_is_always_set_leaves_every_other_byte_alone() -> None:
    quirks = Quirks(set_fields={"num_retries": "0"}, takes_service_tier=False)
    raw = b'{ "model":"m",\n "messages" : [] , "max_tokens": 7}'
    call = DIALECTS["openai_chat"].parse(Request("up", "/x", {}, raw, quirks))
    assert isinstance(call, Call)
    assert DIALECTS["openai_chat"].render(call, 7, quirks) == b'{ "num_retries":0,' + raw[2:]


def test_betas_named_by_a_header_go_into_the_field_that_a_server_without_headers_reads() -> None:
    quirks = Quirks(beta_field="anthropic_beta")
    got = sent(MESSAGES, quirks, "anthropic_messages", anthropic_beta="context-1m-2025-08-07, x-1,")
    assert got["anthropic_beta"] == ["context-1m-2025-08-07", "x-1"]
    assert "anthropic_beta" not in sent(MESSAGES, quirks, "anthropic_messages")
    assert "anthropic_beta" not in sent(MESSAGES, Quirks(), "anthropic_messages", anthropic_beta="x-1")


def test_members_that_are_left_out_may_stand_anywhere() -> None:
    document = read(b'{"a":1, "b" :[2,{"a":3}],"c":"\\u00e9"}')
    assert with_and_without(document.body, {}, frozenset({"a", "c"})) == b'{"b" :[2,{"a":3}]}'
    assert with_and_without(document.body, {"c": "4", "d": "5"}, frozenset({"b"})) == b'{"d":5,"a":1,"c":4}'
    assert with_and_without(document.body, {"a": "4"}, frozenset({"a", "b", "c"})) == b"{}"


# ---- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("usage", "output"),
    [
        ({"completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 30}}, 32),
        ({"completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 30}, "total_tokens": 42}, 32),
        ({"completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 30}, "total_tokens": 12}, 32),
        ({"completion_tokens": 2, "total_tokens": 50}, 40),
        ({"completion_tokens": 2}, 2),
    ],
)
def test_reasoning_that_a_server_leaves_out_of_the_completion_is_output(
    usage: dict[str, Any], output: int, stream: bool
) -> None:
    got = metered({"prompt_tokens": 10} | usage, APART, stream)
    assert isinstance(got, Usage)
    assert (got.input_tokens, got.output_tokens) == (10, output)


TOKENS = {"prompt_tokens": 10, "completion_tokens": 2}


@pytest.mark.parametrize(
    ("usage", "nanodollars"),
    [
        ({"cost": 0.00014}, 140_000),
        ({"cost": 1e-10}, 1),
        ({"cost": 2}, 2_000_000_000),
        ({"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 1.0}}, 1_050_000_000),
        ({"cost": 0.05, "cost_details": {"upstream_inference_cost": 1.0}}, 1_050_000_000),
        ({"cost": 0.05, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.05}}, 50_000_000),
        ({"cost": 0.05, "is_byok": None, "cost_details": {"upstream_inference_cost": None}}, 50_000_000),
    ],
)
def test_what_the_server_says_it_charged_is_taken_exactly_and_rounded_up(
    usage: dict[str, Any], nanodollars: int
) -> None:
    got = metered(TOKENS | usage, COST)
    assert isinstance(got, Usage)
    assert got.cost == Money(nanodollars)


@pytest.mark.parametrize("usage", [{}, {"cost": None}, {"cost": 0}, {"cost": 0.0, "is_byok": False}])
def test_tokens_are_priced_where_no_charge_is_named_for_them(usage: dict[str, Any]) -> None:
    got = metered(TOKENS | usage, COST)
    assert isinstance(got, Usage)
    assert got.cost is None


@pytest.mark.parametrize("details", [{}, {"upstream_inference_cost": None}, {"upstream_inference_cost": 0}])
def test_tokens_are_priced_where_a_fee_is_named_and_the_bill_of_ones_own_key_is_not(details: dict[str, Any]) -> None:
    got = metered(TOKENS | {"cost": 0.05, "is_byok": True, "cost_details": details}, COST)
    assert isinstance(got, Usage)
    assert (got.cost, got.input_tokens, got.output_tokens) == (None, 10, 2)


def test_nothing_charged_for_nothing_counted_is_no_charge() -> None:
    """A server that counts nothing does not count, whatever it says it charged; so the hold is captured whole."""
    got = metered({"prompt_tokens": 0, "completion_tokens": 0, "cost": 0}, COST)
    assert isinstance(got, Usage)
    assert got.cost is None


@pytest.mark.parametrize("cost", [-0.1, "NaN", "Infinity", True, {}, [1], "a lot", 1e300])
def test_a_charge_that_is_no_amount_is_not_trusted(cost: object) -> None:
    assert metered(TOKENS | {"cost": cost}, COST) == Unmetered("`cost` is not an amount in USD")


def test_a_charge_of_a_server_that_is_not_known_to_name_it_is_not_looked_at() -> None:
    got = metered(TOKENS | {"cost": 0.01}, Quirks())
    assert isinstance(got, Usage)
    assert got.cost is None


HITS = Quirks(usage=UsageRules(cached_field="prompt_cache_hit_tokens"))


@pytest.mark.parametrize(
    ("usage", "cached"),
    [
        ({"prompt_cache_hit_tokens": 4}, 4),
        ({"prompt_cache_hit_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}, 3),
        ({"prompt_cache_hit_tokens": 4, "prompt_tokens_details": {}}, 4),
        ({}, 0),
    ],
)
def test_cached_input_is_read_where_the_server_counts_it(usage: dict[str, Any], cached: int) -> None:
    got = metered(TOKENS | usage, HITS)
    assert isinstance(got, Usage)
    assert (got.input_tokens, got.cache_read_tokens) == (10 - cached, cached)


def test_more_cached_input_than_input_is_not_trusted() -> None:
    assert isinstance(metered(TOKENS | {"prompt_cache_hit_tokens": 11}, HITS), Unmetered)
