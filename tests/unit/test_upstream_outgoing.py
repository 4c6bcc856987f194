"""Where a call goes at each provider, and that a name from outside never becomes part of the path."""

from __future__ import annotations

import json

import pytest
from pricing_samples import RATES, a_call, a_card, quoted

from bursar.call import Body, Call, Head
from bursar.dialects.body import read
from bursar.dialects.protocol import Quirks
from bursar.pricing.rates import Step
from bursar.upstream.configured import ways_of
from bursar.upstream.http import Origin
from bursar.upstream.outgoing import NoWayError, quirks_for, request_bytes, target_of
from bursar.upstream.providers import COMPATIBLE, PROVIDERS, Endpoint, Provider


def an_endpoint(provider: Provider, path_prefix: str = "/v1", api_version: str = "") -> Endpoint:
    return Endpoint(
        name="up",
        base_url="https://up.test/base",
        secret="s3cret",
        provider=provider,
        quirks=Quirks(set_fields={"a": "1"}),
        connect_seconds_max=1,
        idle_seconds_max=1,
        total_seconds_max=1,
        path_prefix=path_prefix,
        ways=ways_of(provider, api_version=api_version, region="r1", project="p1"),
    )


GEMINI = "/v1beta/models/gemini-3.6-flash"


@pytest.mark.parametrize(
    ("name", "target", "model", "stream", "wanted"),
    [
        ("openai", "/v1/chat/completions?x=1", "m", False, "/v1/chat/completions?x=1"),
        ("gemini", f"{GEMINI}:generateContent", "gemini-3.6-flash", False, f"{GEMINI}:generateContent"),
        ("azure", "/v1/responses?x=1", "m", True, "/openai/v1/responses"),
        (
            "vertex",
            f"{GEMINI}:streamGenerateContent?alt=sse",
            "gemini-3.6-flash",
            True,
            "/v1/projects/p1/locations/r1/publishers/google/models/gemini-3.6-flash:streamGenerateContent?alt=sse",
        ),
        (
            "vertex",
            f"{GEMINI}:countTokens",
            "gemini-3.6-flash",
            False,
            "/v1/projects/p1/locations/r1/publishers/google/models/gemini-3.6-flash:countTokens",
        ),
        ("bedrock", "/v1/messages?beta=true", "a/../b:c", False, "/model/a%2F..%2Fb%3Ac/invoke"),
        ("bedrock", "/v1/messages", "m", True, "/model/m/invoke-with-response-stream"),
        (
            "vertex-anthropic",
            "/v1/messages",
            "claude@1",
            False,
            "/v1/projects/p1/locations/r1/publishers/anthropic/models/claude@1:rawPredict",
        ),
    ],
)
def test_a_call_goes_where_the_provider_takes_it(name: str, target: str, model: str, stream: bool, wanted: str) -> None:
    assert target_of(an_endpoint(PROVIDERS[name]), Head(target), model, stream) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/v1/chat/completions", "/openai/deployments/d%3F1/chat/completions?api-version=2025-03-01"),
        ("/v1/embeddings", "/openai/deployments/d%3F1/embeddings?api-version=2025-03-01"),
        ("/v1/responses", "/openai/responses?api-version=2025-03-01"),
    ],
)
def test_an_api_version_means_the_dated_paths(path: str, wanted: str) -> None:
    endpoint = an_endpoint(PROVIDERS["azure"], api_version="2025-03-01")
    assert target_of(endpoint, Head(path), "d?1", False) == wanted


def test_an_api_version_changes_nothing_where_there_are_no_dated_paths() -> None:
    assert target_of(an_endpoint(PROVIDERS["bedrock"], api_version="1"), Head("/v1/messages"), "m", False) == (
        "/model/m/invoke"
    )


@pytest.mark.parametrize(
    ("prefix", "path", "wanted"),
    [
        ("/v1beta/openai", "/v1/chat/completions", "/v1beta/openai/chat/completions"),
        ("", "/v1/chat/completions", "/chat/completions"),
        ("/v2", "/v1beta/models/m:x", "/v1beta/models/m:x"),
    ],
)
def test_a_server_may_begin_its_paths_otherwise(prefix: str, path: str, wanted: str) -> None:
    assert target_of(an_endpoint(COMPATIBLE["openai"], prefix), Head(path), "m", False) == wanted


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/messages/", "/v1/batches"])
def test_what_a_provider_does_not_have_has_no_way(path: str) -> None:
    with pytest.raises(NoWayError, match=f"up has no {path}"):
        target_of(an_endpoint(PROVIDERS["bedrock"]), Head(path), "m", False)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"model":"m"}', {"max_price": {"prompt": 3, "completion": 15}}),
        ('{"provider":null}', {"max_price": {"prompt": 3, "completion": 15}}),
        (
            '{"provider":{"max_price":{"prompt":9},"sort":"price"}}',
            {"max_price": {"prompt": 3, "completion": 15}, "sort": "price"},
        ),
        (
            '{"provider":{"max_price":{"prompt":0.5,"completion":"2.5","request":0.01}}}',
            {"max_price": {"prompt": 0.5, "completion": "2.5", "request": 0.01}},
        ),
        (
            '{"provider":{"max_price":{"prompt":1e-7,"completion":99,"image":1e999}}}',
            {"max_price": {"prompt": 1e-07, "completion": 15, "image": float("inf")}},
        ),
        (
            '{"provider":{"max_price":{"prompt":-1,"completion":"1_0"}}}',
            {"max_price": {"prompt": 3, "completion": 15}},
        ),
        (
            '{"provider":{"max_price":{"prompt":true,"completion":null}}}',
            {"max_price": {"prompt": 3, "completion": 15}},
        ),
        ('{"provider":{"max_price":[1]}}', {"max_price": {"prompt": 3, "completion": 15}}),
    ],
)
def test_a_router_is_kept_to_the_rates_that_were_quoted(text: str, wanted: object) -> None:
    call = a_call()
    call = Call(**{name: getattr(call, name) for name in Call.__slots__} | {"body": read(text.encode()).body})
    quote = quoted(call, a_card({"default": (Step(0, RATES),)}))
    fields = quirks_for(an_endpoint(PROVIDERS["openrouter"]), quote).set_fields
    assert json.loads(fields["provider"]) == wanted
    assert fields["a"] == "1"


def test_others_get_their_quirks_as_they_are() -> None:
    endpoint = an_endpoint(PROVIDERS["openai"])
    quote = quoted(a_call(), a_card({"default": (Step(0, RATES),)}))
    assert isinstance(quote.call.body, Body)
    assert quirks_for(endpoint, quote) is endpoint.quirks


async def test_the_request_is_whole_and_its_secret_is_shown_nowhere_else() -> None:
    endpoint = an_endpoint(PROVIDERS["azure"])
    origin = Origin.of(endpoint.base_url)
    raw = await request_bytes(endpoint, origin, "/x", (("accept", "*/*"),), b"{}")
    assert raw == (
        b"POST /base/x HTTP/1.1\r\nhost: up.test\r\ncontent-length: 2\r\ncontent-type: application/json\r\n"
        b"accept-encoding: identity\r\naccept: */*\r\napi-key: s3cret\r\n\r\n{}"
    )
    assert "s3cret" not in repr(endpoint)


def test_every_provider_is_data_that_holds_together() -> None:
    for name, provider in PROVIDERS.items():
        assert provider.dialect in COMPATIBLE, name
        assert bool(provider.base_url) or name == "azure"
        assert {"{region}" in provider.base_url} <= {"region" in provider.needs}, name
        # A call that was never generated is void everywhere; one that timed out is not, unless its provider says so.
        assert {401, 404, 429} <= provider.unbilled_statuses
        assert 200 not in provider.unbilled_statuses
        assert not set(provider.set_fields) & provider.dropped_fields, name
