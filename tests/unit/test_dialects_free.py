"""What is free is asked without a hold: only counts, only documented fields, only the model that was checked."""

from __future__ import annotations

import json

import pytest

from bursar.call import Call, Head, Refused
from bursar.dialects.free import FreeRequest, count_of, counted, dialect_of, free_request
from bursar.dialects.protocol import Quirks, Request
from bursar.dialects.table import find

MESSAGES = "/v1/messages/count_tokens"
RESPONSES = "/v1/responses/input_tokens"
GEMINI = "/v1beta/models/gemini-2.5-pro:countTokens"
CONVERSE = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/count-tokens"
BODIES = {
    MESSAGES: {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hi"}]},
    RESPONSES: {"model": "gpt-5", "input": "hi"},
    GEMINI: {"contents": [{"parts": [{"text": "hi"}]}]},
    CONVERSE: {"input": {"converse": {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}}},
}
MODELS = {GEMINI: "gemini-2.5-pro", CONVERSE: "us.anthropic.claude-sonnet-4-5-20250929-v1:0"}


def asked(path: str, body: object, query: str = "", headers: tuple[tuple[str, str], ...] = ()) -> FreeRequest | Refused:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    quirks = Quirks(allow_fields=frozenset({"novelty"}))
    return free_request(Request("there", path, {}, raw, quirks, Head(path + (f"?{query}" if query else ""), headers)))


@pytest.mark.parametrize("path", BODIES)
def test_a_count_is_passed_on_as_it_is(path: str) -> None:
    free = asked(path, BODIES[path], headers=(("anthropic-version", "2023-06-01"),))
    assert isinstance(free, FreeRequest)
    assert (free.upstream, json.loads(free.body)) == ("there", BODIES[path])
    assert free.head == Head(path, (("anthropic-version", "2023-06-01"),))
    assert free.model == BODIES[path].get("model", MODELS.get(path))
    route = find(path)
    assert route is not None
    assert route.is_free
    assert (route.dialect.name, route.path) == (free.dialect, path)


def test_the_beta_of_claude_code_is_passed_on_and_no_other_query() -> None:
    free = asked(MESSAGES, BODIES[MESSAGES], "beta=true")
    assert isinstance(free, FreeRequest)
    assert free.head.target == MESSAGES + "?beta=true"
    for path, query in ((MESSAGES, "beta=false"), (RESPONSES, "beta=true"), (GEMINI, "alt=sse"), (GEMINI, "key=x")):
        answer = asked(path, BODIES[path], query)
        assert isinstance(answer, Refused)
        assert (answer.status, answer.code) == (400, "unreadable")


@pytest.mark.parametrize("path", BODIES)
def test_a_field_that_the_endpoint_does_not_document_is_refused_whoever_vouches_for_it(path: str) -> None:
    for name in ("novelty", "stream", "max_tokens", "background", "mcp_servers"):
        answer = asked(path, {**BODIES[path], name: 1})
        assert isinstance(answer, Refused)
        assert (answer.status, answer.code) == (422, "unbounded")
        assert f"`{name}`" in answer.message


@pytest.mark.parametrize("envelope", ["generateContentRequest", "generate_content_request"])
def test_a_whole_request_may_be_counted_if_it_is_for_the_model_of_the_path(envelope: str) -> None:
    whole = {"model": "models/gemini-2.5-pro", "contents": [], "system_instruction": {}, "tools": []}
    assert isinstance(asked(GEMINI, {envelope: whole}), FreeRequest)
    assert isinstance(asked(GEMINI, {envelope: {**whole, "model": "gemini-2.5-pro"}}), FreeRequest)
    other = asked(GEMINI, {envelope: {**whole, "model": "models/gemini-3-pro"}})
    assert isinstance(other, Refused)
    assert "and the body another" in other.message
    odd = asked(GEMINI, {envelope: {**whole, "novelty": 1}})
    assert isinstance(odd, Refused)
    assert f"`{envelope}.novelty`" in odd.message
    empty = asked(GEMINI, {envelope: []})
    assert isinstance(empty, Refused)
    assert empty.message == f"`{envelope}` must be an object."


def test_what_is_no_request_is_refused() -> None:
    for path, body in ((MESSAGES, b"{"), (MESSAGES, {"messages": []}), (RESPONSES, {"model": 3})):
        answer = asked(path, body)
        assert isinstance(answer, Refused)
        assert answer.code == "unreadable"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1beta/models/gemini-2.5-pro:generateContent"])
def test_a_path_that_is_paid_for_is_never_free(path: str) -> None:
    assert dialect_of(path) is None
    assert asked(path, {"model": "m"}) == Refused(404, "unmetered", "This path is not in the table of what is free.")


def call_of(path: str, body: dict[str, object]) -> Call:
    route = find(path)
    assert route is not None
    call = route.dialect.parse(
        Request("there", route.path, {}, json.dumps(body).encode(), head=Head(path, (("a", "b"),)))
    )
    assert isinstance(call, Call), call
    return call


def test_the_input_of_a_call_is_counted_with_what_the_count_documents() -> None:
    call = call_of("/v1/messages", {**BODIES[MESSAGES], "max_tokens": 5, "stream": True, "system": "x", "metadata": {}})
    free = count_of(call)
    assert free is not None
    assert json.loads(free.body) == {**BODIES[MESSAGES], "system": "x"}
    assert free.head == Head(MESSAGES, (("a", "b"),))
    call = call_of("/v1/responses", {**BODIES[RESPONSES], "max_output_tokens": 99, "tools": []})
    free = count_of(call)
    assert free is not None
    assert json.loads(free.body) == {**BODIES[RESPONSES], "tools": []}
    assert free.head.target == RESPONSES


def test_a_call_of_google_is_counted_in_an_envelope_that_names_the_model_of_the_path() -> None:
    body = {**BODIES[GEMINI], "generation_config": {"maxOutputTokens": 5}, "model": "gemini-2.5-pro"}
    free = count_of(call_of("/v1beta/models/gemini-2.5-pro:streamGenerateContent", body))
    assert free is not None
    assert json.loads(free.body) == {
        "generateContentRequest": {**body, "model": "models/gemini-2.5-pro"},
    }
    assert free.head.target == GEMINI


def converse(model: str, **more: object) -> FreeRequest | None:
    return count_of(call_of(f"/model/{model}/converse", {**BODIES[CONVERSE]["input"]["converse"], **more}))


@pytest.mark.parametrize("zone", ["", "us.", "us-gov.", "eu.", "apac.", "global."])
def test_a_converse_call_is_counted_by_the_name_of_its_model_without_a_zone(zone: str) -> None:
    model = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    whole = {"system": [{"text": "x"}], "toolConfig": {"tools": []}, "additionalModelRequestFields": {"top_k": 1}}
    free = converse(zone + model.replace(":", "%3A"), **whole, inferenceConfig={"maxTokens": 5}, requestMetadata={})
    assert free is not None
    assert json.loads(free.body) == {"input": {"converse": {**BODIES[CONVERSE]["input"]["converse"], **whole}}}
    assert (free.model, free.head.target) == (model, f"/model/{model}/count-tokens")


def test_a_converse_call_is_not_counted_where_something_is_left_out_or_the_name_says_nothing() -> None:
    assert converse("anthropic.claude", outputConfig={"textFormat": {"type": "json_schema"}}) is None
    assert converse("arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.a") is None


def test_inside_a_count_of_aws_only_what_is_documented_passes() -> None:
    assert isinstance(asked(CONVERSE, {"input": {"invokeModel": {"body": "e30="}}}), FreeRequest)
    for body, says in (
        ({"input": {"run": {}}}, "`input.run`"),
        ({"input": {"converse": {"messages": [], "guardrailConfig": {}}}}, "`input.converse.guardrailConfig`"),
        ({"input": {"invokeModel": {"accept": "x"}}}, "`input.invokeModel.accept`"),
        ({"input": {"converse": []}}, "`input.converse` must be an object"),
        ({}, "`input` must be an object"),
    ):
        answer = asked(CONVERSE, body)
        assert isinstance(answer, Refused)
        assert says in answer.message


def test_what_has_no_free_way_is_not_counted() -> None:
    assert count_of(call_of("/v1/chat/completions", {"model": "m", "messages": []})) is None
    assert count_of(call_of("/v1/embeddings", {"model": "m", "input": "x"})) is None


@pytest.mark.parametrize(
    ("path", "answer", "tokens"),
    [
        (MESSAGES, {"input_tokens": 14}, 14),
        (RESPONSES, {"object": "response.input_tokens", "input_tokens": 12}, 12),
        (GEMINI, {"totalTokens": 31, "promptTokensDetails": []}, 31),
        (GEMINI, {"input_tokens": 31}, None),
        (CONVERSE, {"inputTokens": 17}, 17),
        (CONVERSE, {"input_tokens": 17}, None),
        (MESSAGES, {"input_tokens": 0}, None),
        (MESSAGES, {"input_tokens": -1}, None),
        (MESSAGES, {"input_tokens": "14"}, None),
        (MESSAGES, {"input_tokens": True}, None),
        (MESSAGES, {"input_tokens": 1e3}, None),
        (MESSAGES, {"input_tokens": 10_000_001}, None),
        (MESSAGES, {}, None),
        (MESSAGES, [14], None),
    ],
)
def test_only_a_count_that_could_be_one_is_taken(path: str, answer: object, tokens: int | None) -> None:
    free = asked(path, BODIES[path])
    assert isinstance(free, FreeRequest)
    raw = json.dumps(answer).encode()
    assert counted(free, 200, raw) == tokens
    assert counted(free, 429, raw) is None
    assert counted(free, 200, raw + b" " * 65_536) is None
    assert counted(free, 200, raw[:-1]) is None
