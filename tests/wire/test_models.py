"""The list of models: what is priced, at an upstream that can be called, and allowed to the key; nobody is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY_ENV, SECRET, Wire, wire_up
from scripted import Answer, exchange, request


def with_google() -> dict[str, Any]:
    return {"secrets": {"gemini": "real-key"}, "upstreams": {"gemini": {}}}


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with wire_up(tmp_path, **with_google()) as made:
        yield made


async def get(wire: Wire, path: str, **headers: str) -> Answer:
    named = {"authorization": f"Bearer {SECRET}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    got = await exchange(wire.port, request(path, b"", named, method="GET"))
    assert wire.provider.served == []
    return got


def names(got: Answer) -> list[str]:
    assert got.status == 200
    rows = got.json.get("data", got.json.get("models"))
    assert isinstance(rows, list)
    return [row.get("id") or row["name"] for row in rows]


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/v1/models", "/openai/v1/models", "/r/r1/v1/models"])
async def test_openai_lists_what_is_priced(wire: Wire, path: str) -> None:
    got = await get(wire, path)
    assert got.json["object"] == "list"
    assert {"gpt-4.1-mini", "gpt-5", "text-embedding-3-small"} <= set(names(got))
    assert not {"dall-e-3", "gpt-99", "claude-sonnet-4-5", "tts-1", "gpt-4o-audio-preview"} & set(names(got))
    assert len(names(got)) == len(set(names(got)))


async def test_anthropic_lists_by_its_header_or_its_upstream(wire: Wire) -> None:
    for got in (await get(wire, "/v1/models", anthropic_version="2023-06-01"), await get(wire, "/anthropic/v1/models")):
        assert "claude-sonnet-4-5" in names(got)
        assert not [name for name in names(got) if not name.startswith("claude")]
        assert got.json["has_more"] is False
        assert (got.json["first_id"], got.json["last_id"]) == (names(got)[0], names(got)[-1])
        row = got.json["data"][0]  # type: ignore[index]
        assert row["type"] == "model"
        assert row["max_tokens"] > 0


@pytest.mark.parametrize(
    "path", ["/v1beta/models", "/v1beta/models?pageSize=50&key=" + SECRET, "/gemini/v1beta/models"]
)
async def test_google_lists_with_limits_and_methods(wire: Wire, path: str) -> None:
    got = await get(wire, path)
    rows = {row["name"]: row for row in got.json["models"]}  # type: ignore[attr-defined]
    assert rows["models/gemini-2.5-pro"] == {
        "name": "models/gemini-2.5-pro",
        "displayName": "gemini-2.5-pro",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    assert rows["models/gemini-embedding-001"]["supportedGenerationMethods"] == ["embedContent", "countTokens"]


async def test_the_key_of_google_may_be_in_the_query_alone(wire: Wire) -> None:
    raw = request(f"/v1beta/models?key={SECRET}", b"", {}, method="GET")
    assert (await exchange(wire.port, raw)).status == 200
    raw = request("/v1/models", b"", {"x-goog-api-key": SECRET}, method="GET")
    assert "models/gemini-2.5-pro" in names(await exchange(wire.port, raw))


@pytest.mark.parametrize(
    ("path", "headers", "name"),
    [
        ("/v1/models/gpt-5", {}, "gpt-5"),
        ("/openai/v1/models/gpt-5", {}, "gpt-5"),
        ("/v1/models/claude-sonnet-4-5", {"anthropic_version": "2023-06-01"}, "claude-sonnet-4-5"),
        ("/v1beta/models/gemini-2.5-pro", {}, "models/gemini-2.5-pro"),
        ("/v1beta/models/gemini%2D2.5-pro", {}, "models/gemini-2.5-pro"),
    ],
)
async def test_one_model_is_told(wire: Wire, path: str, headers: dict[str, str], name: str) -> None:
    got = await get(wire, path, **headers)
    assert got.status == 200
    assert name in (got.json.get("id"), got.json.get("name"))


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/models/gpt-99", {}),
        ("/v1/models/claude-sonnet-4-5", {}),
        ("/v1/models/gpt-5", {"anthropic_version": "2023-06-01"}),
        ("/v1beta/models/gemini-2.5-pro:generateContent", {}),
    ],
)
async def test_a_model_that_is_not_priced_is_not_there(wire: Wire, path: str, headers: dict[str, str]) -> None:
    got = await get(wire, path, **headers)
    assert got.status == 404
    assert "model_not_found" in got.body.decode()


async def test_without_a_key_nothing_is_told(wire: Wire) -> None:
    for path in ("/v1/models", "/v1/models/gpt-5", "/v1beta/models"):
        assert (await get(wire, path, authorization="Bearer bursar-unknown")).status == 401


async def test_a_key_sees_what_it_may_call(tmp_path: Path) -> None:
    keys = {"wire": {"key_env": KEY_ENV, "run": {"usd": "1"}, "models": ["gpt-4.1*", "gemini-2.5-pro"]}}
    async with wire_up(tmp_path, keys=keys, **with_google()) as wire:
        assert all(name.startswith("gpt-4.1") for name in names(await get(wire, "/v1/models")))
        assert names(await get(wire, "/v1beta/models")) == ["models/gemini-2.5-pro"]
        nothing = await get(wire, "/v1/models", anthropic_version="2023-06-01")
        assert nothing.json == {"data": [], "has_more": False, "first_id": None, "last_id": None}
        assert (await get(wire, "/v1/models/gpt-5")).status == 404


async def test_an_upstream_without_a_key_has_nothing_that_can_be_called(tmp_path: Path) -> None:
    async with wire_up(tmp_path) as wire:
        assert names(await get(wire, "/v1beta/models")) == []


async def test_own_models_come_first(tmp_path: Path) -> None:
    own = {"input": "0", "output": "0", "context_tokens": 1000, "output_tokens_max": 100, "upstream": "mine"}
    mine = {"mine": {"dialect": "openai", "base_url": "PROVIDER/x"}}
    async with wire_up(tmp_path, upstreams=mine, models={"my/model": own}) as wire:
        assert names(await get(wire, "/mine/v1/models")) == ["my/model"]
        got = await get(wire, "/mine/v1/models/my%2Fmodel")
        assert got.json == {"id": "my/model", "object": "model", "created": 0, "owned_by": "bursar"}
        assert (await get(wire, "/mine/v1/models/my/model")).status == 200
        assert "my/model" not in names(await get(wire, "/v1/models"))


@pytest.mark.parametrize("path", ["/v1/modelsx", "/v2/models", "/x/v1/models", "/v1/models?x", "/v1beta/tunedModels"])
async def test_other_paths_are_no_lists(wire: Wire, path: str) -> None:
    assert (await get(wire, path)).status == (200 if path == "/v1/models?x" else 404)


async def test_a_list_is_read_and_nothing_else(wire: Wire) -> None:
    for method in ("POST", "DELETE", "PUT"):
        raw = request("/v1/models/gpt-5", b"{}", {"authorization": f"Bearer {SECRET}"}, method=method)
        assert (await exchange(wire.port, raw)).status == 404
    assert wire.provider.served == []
