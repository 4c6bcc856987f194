"""Reports in the shapes of the providers' APIs, as their SDKs and reference pages have them."""

from __future__ import annotations

import datetime
from typing import Any

DAY = datetime.date(2026, 11, 10)


def openai_bucket(day: datetime.date, *results: dict[str, Any]) -> dict[str, Any]:
    start = int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp())
    return {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": list(results)}


def openai_page(*buckets: dict[str, Any], next_page: str | None = None) -> dict[str, Any]:
    return {"object": "page", "data": list(buckets), "has_more": next_page is not None, "next_page": next_page}


def openai_cost(line_item: str | None, usd: Any, currency: str = "usd", project: str | None = None) -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": usd, "currency": currency},
        "line_item": line_item,
        "project_id": project,
        "organization_id": "org-1",
        "quantity": None,
    }


def openai_usage(model: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": 1000,
        "output_tokens": 500,
        "input_cached_tokens": 800,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "num_model_requests": 5,
        "project_id": None,
        "user_id": None,
        "api_key_id": None,
        "model": model,
        "batch": None,
        "service_tier": None,
        **changes,
    }


def anthropic_bucket(day: datetime.date, *results: dict[str, Any]) -> dict[str, Any]:
    after = day + datetime.timedelta(days=1)
    return {"starting_at": f"{day}T00:00:00Z", "ending_at": f"{after}T00:00:00Z", "results": list(results)}


def anthropic_page(*buckets: dict[str, Any], next_page: str | None = None) -> dict[str, Any]:
    return {"data": list(buckets), "has_more": next_page is not None, "next_page": next_page}


def anthropic_cost(model: str | None, cents: str, **changes: Any) -> dict[str, Any]:
    return {
        "currency": "USD",
        "amount": cents,
        "workspace_id": "wrkspc_1",
        "description": "Claude Sonnet 4.5 Usage - Input Tokens",
        "cost_type": "tokens",
        "context_window": "0-200k",
        "model": model,
        "service_tier": "standard",
        "token_type": "uncached_input_tokens",
        "inference_geo": "global",
        **changes,
    }


def anthropic_usage(model: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "uncached_input_tokens": 1500,
        "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
        "cache_read_input_tokens": 200,
        "output_tokens": 500,
        "server_tool_use": {"web_search_requests": 0},
        "api_key_id": None,
        "workspace_id": "wrkspc_1",
        "model": model,
        "service_tier": "standard",
        "context_window": "0-200k",
        "inference_geo": "global",
        **changes,
    }
