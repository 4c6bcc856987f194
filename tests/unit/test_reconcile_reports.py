"""The reports of the providers are read whole and strictly, or refused with a reason."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pytest
from anthropic.types.beta.organization import BetaAnalyticsCostReportTimeBucket
from bill_samples import (
    DAY,
    anthropic_bucket,
    anthropic_cost,
    anthropic_page,
    anthropic_usage,
    openai_bucket,
    openai_cost,
    openai_page,
    openai_usage,
)
from openai.types.admin.organization import UsageCompletionsResponse, UsageCostsResponse
from openai.types.admin.organization.usage_costs_response import DataResultOrganizationCostsResult

from bursar.cli.bills.reports import KINDS, Billed, Report, ReportError, Tokens, page_after, read_report

NEXT = DAY + datetime.timedelta(days=1)
COSTS, USAGE = KINDS["openai-costs"], KINDS["openai-usage"]
CLAUDE_COSTS, CLAUDE_USAGE = KINDS["anthropic-costs"], KINDS["anthropic-usage"]


def costs(*results: dict[str, Any]) -> Report:
    return read_report(COSTS, json.dumps(openai_page(openai_bucket(DAY, *results))))


@pytest.mark.parametrize(
    ("line_item", "model"),
    [
        ("gpt-5.5-2026-04-23, input", "gpt-5.5"),
        ("gpt-5.5-2026-04-23, cached input", "gpt-5.5"),
        ("gpt-6-astra, input_tokens", "gpt-6-astra"),
        ("priority | gpt-5.6-sol, output, long context", "gpt-5.6-sol"),
        ("gpt-audio-mini-2025-12-15 audio, input", "gpt-audio-mini"),
        ("ft:gpt-4o:acme, output", "ft:gpt-4o:acme"),
        ("web search tool calls", "web search tool calls"),
        ("assistants api | file search", "assistants api | file search"),
        ("Vector storage, GB days", "Vector storage, GB days"),
    ],
)
def test_a_line_item_is_for_a_model_or_keeps_its_words(line_item: str, model: str) -> None:
    assert costs(openai_cost(line_item, 0.06)).rows == (Billed(DAY, model, usd=Decimal("0.06")),)


def test_amounts_are_exact_also_as_text_and_credits_are_negative() -> None:
    values = [row.usd for row in costs(*(openai_cost("m, input", usd) for usd in (0.1, "0.2", 3, -0.05))).rows]
    assert values == [Decimal("0.1"), Decimal("0.2"), Decimal(3), Decimal("-0.05")]
    text = json.dumps(openai_page(openai_bucket(DAY, openai_cost("m, input", 7)))).replace(
        '"value": 7', '"value": 0.5617712500000000001'
    )
    assert read_report(COSTS, text).rows[0].usd == Decimal("0.5617712500000000001")


def test_a_day_on_which_nothing_was_billed_is_a_day_of_the_report() -> None:
    report = read_report(COSTS, json.dumps(openai_page(openai_bucket(DAY), openai_bucket(NEXT))))
    assert report == Report("openai-costs", frozenset({DAY, NEXT}), ())


@pytest.mark.parametrize("glue", ["list", "lines", "nothing"])
def test_a_report_is_all_its_pages_however_they_are_put_together(glue: str) -> None:
    one = openai_page(openai_bucket(DAY, openai_cost("a, input", 1)), next_page="p2")
    two = openai_page(openai_bucket(NEXT, openai_cost("b, input", 2)))
    joint = {"list": "", "lines": "\n\n", "nothing": ""}[glue]
    text = json.dumps([one, two]) if glue == "list" else joint.join(map(json.dumps, (one, two)))
    report = read_report(COSTS, f" {text}\n")
    assert [(row.day, row.model) for row in report.rows] == [(DAY, "a"), (NEXT, "b")]


def test_openai_usage_parts_the_tokens_and_counts_batches_apart() -> None:
    results = (
        openai_usage("gpt-5-2025-08-07", service_tier="default", input_cache_write_tokens=50),
        openai_usage("gpt-5", batch=True, input_cached_tokens=None),
        {"object": "organization.usage.embeddings.result", "input_tokens": 7, "num_model_requests": 1, "model": "e"},
    )
    report = read_report(USAGE, json.dumps(openai_page(openai_bucket(DAY, *results))))
    assert report.rows == (
        Billed(DAY, "gpt-5", tokens=Tokens(150, 500, 800, 50), named="gpt-5-2025-08-07", tier="default"),
        Billed(DAY, "gpt-5 (batch)", tokens=Tokens(1000, 500), named="gpt-5", tier="batch"),
        Billed(DAY, "e", tokens=Tokens(7), named="e"),
    )
    assert report.rows[0].tokens is not None
    assert report.rows[0].tokens.all == 1500


def test_anthropic_costs_are_cents_and_what_is_not_for_a_model_keeps_its_words() -> None:
    results = (
        anthropic_cost("claude-sonnet-4-5-20250929", "123.78912"),
        anthropic_cost(None, "50", cost_type="web_search", description="Web Search Usage"),
        anthropic_cost(None, "1", cost_type="session_usage", description=None),
    )
    report = read_report(CLAUDE_COSTS, json.dumps(anthropic_page(anthropic_bucket(DAY, *results))))
    assert [(row.model, row.usd) for row in report.rows] == [
        ("claude-sonnet-4-5", Decimal("1.2378912")),
        ("Web Search Usage", Decimal("0.5")),
        ("session_usage", Decimal("0.01")),
    ]


def test_anthropic_usage_keeps_what_makes_the_price_and_names_searches_apart() -> None:
    results = (
        anthropic_usage("claude-opus-4-6-20260101", inference_geo="us", context_window="200k-1M"),
        anthropic_usage("claude-opus-4-6", speed="fast", server_tool_use={"web_search_requests": 3}),
        anthropic_usage("claude-opus-4-6", service_tier="batch", context_window=None),
    )
    report = read_report(CLAUDE_USAGE, json.dumps(anthropic_page(anthropic_bucket(DAY, *results))))
    told = [(row.model, row.named, row.tier, row.input_tokens_min) for row in report.rows]
    assert told == [
        ("claude-opus-4-6", "claude-opus-4-6-20260101", "standard@us", 200_000),
        ("claude-opus-4-6", "claude-opus-4-6", "fast", 0),
        ("web search", "", "requests", 0),
        ("claude-opus-4-6 (batch)", "claude-opus-4-6", "batch", 0),
    ]
    assert report.rows[0].tokens == Tokens(1500, 500, 200, 500, 1000)


def test_the_samples_of_openai_are_what_its_sdk_expects() -> None:
    """So that these tests are about the provider's shapes, and not about our idea of them."""
    cost, usage = openai_cost("gpt-5, input", 0.06, project="p"), openai_usage("gpt-5", batch=False)
    page = openai_page(openai_bucket(DAY, cost), next_page="p2")
    found = UsageCostsResponse.model_validate(page, strict=True)
    (result,) = found.data[0].results
    assert isinstance(result, DataResultOrganizationCostsResult)
    assert result.amount is not None
    assert (result.amount.value, result.line_item, found.next_page) == (0.06, "gpt-5, input", "p2")
    tokens = UsageCompletionsResponse.model_validate(openai_page(openai_bucket(DAY, usage)), strict=True)
    assert tokens.data[0].results[0].object == "organization.usage.completions.result"


def test_the_samples_of_anthropic_are_what_its_sdk_expects() -> None:
    """Its SDK has the newer analytics report, whose rows also say the list price; they are read as well."""
    cost = {**anthropic_cost("claude-sonnet-4-5", "123.45"), "list_amount": "150", "requests": None}
    bucket = anthropic_bucket(DAY, cost)
    assert BetaAnalyticsCostReportTimeBucket.model_validate(bucket).results[0].amount == "123.45"
    report = read_report(CLAUDE_COSTS, json.dumps(anthropic_page(bucket)))
    assert [(row.model, row.usd) for row in report.rows] == [("claude-sonnet-4-5", Decimal("1.2345"))]


def test_one_project_or_workspace_can_be_picked_out() -> None:
    text = json.dumps(
        openai_page(openai_bucket(DAY, openai_cost("a, input", 1, project="p1"), openai_cost("a, input", 2)))
    )
    assert [row.usd for row in read_report(COSTS, text, "p1").rows] == [1]
    results = (anthropic_cost("c", "100"), anthropic_cost("c", "200", workspace_id=None))
    text = json.dumps(anthropic_page(anthropic_bucket(DAY, *results)))
    assert [row.usd for row in read_report(CLAUDE_COSTS, text, "wrkspc_1").rows] == [1]


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("openai-costs", "", "nothing in it"),
        ("openai-costs", "[]", "nothing in it"),
        ("openai-costs", "not json", "not JSON"),
        ("openai-costs", "{} {", "page 1 is not as it should be: data: Field required"),
        ("openai-costs", '{"data": []} {', "not JSON"),
        ("openai-costs", "3", "page 1 is not as it should be"),
        ("openai-costs", json.dumps({"error": {"message": "no"}}), "data: Field required"),
        ("openai-costs", json.dumps(openai_page(next_page="x")), "only a part"),
        ("openai-costs", json.dumps(openai_page(openai_bucket(DAY), openai_bucket(DAY))), "2026-11-10 is in it twice"),
        ("openai-costs", json.dumps(openai_page(openai_bucket(DAY, openai_usage("m")))), "a result of 2026-11-10"),
        ("openai-usage", json.dumps(openai_page(openai_bucket(DAY, openai_cost("m, i", 1)))), "a result of 2026-11-10"),
        ("openai-costs", json.dumps(openai_page(openai_bucket(DAY, openai_cost(None, 1)))), "group_by=line_item"),
        ("openai-costs", json.dumps(openai_page(openai_bucket(DAY, openai_cost("m, i", 1, "eur")))), "is in eur"),
        ("openai-costs", json.dumps(openai_page(openai_bucket(DAY, openai_cost("m, i", "much")))), "amount.value"),
        ("openai-usage", json.dumps(openai_page(openai_bucket(DAY, openai_usage(None)))), "group_by=model"),
        (
            "openai-usage",
            json.dumps(openai_page(openai_bucket(DAY, openai_usage("m", input_cached_tokens=1001)))),
            "more cached tokens than tokens",
        ),
        ("openai-usage", json.dumps(openai_page(openai_bucket(DAY, openai_usage("m", input_tokens=-1)))), "input_tok"),
        ("openai-costs", json.dumps(anthropic_page(anthropic_bucket(DAY))), "a bucket is not as it should be"),
        ("anthropic-costs", json.dumps(openai_page(openai_bucket(DAY))), "a bucket is not as it should be"),
        (
            "openai-costs",
            json.dumps(openai_page({**openai_bucket(DAY), "end_time": openai_bucket(DAY)["start_time"] + 3600})),
            "not one UTC day",
        ),
        (
            "anthropic-costs",
            json.dumps(
                anthropic_page(
                    {**anthropic_bucket(DAY), "starting_at": f"{DAY}T01:00:00Z", "ending_at": f"{NEXT}T01:00:00"}
                )
            ),
            "not one UTC day",
        ),
        (
            "anthropic-costs",
            json.dumps(anthropic_page(anthropic_bucket(DAY, anthropic_cost("c", "1", currency="EUR")))),
            "is in EUR",
        ),
        (
            "anthropic-costs",
            json.dumps(
                anthropic_page(anthropic_bucket(DAY, anthropic_cost(None, "1", description=None, cost_type=None)))
            ),
            r"group_by\[\]=description",
        ),
        (
            "anthropic-usage",
            json.dumps(anthropic_page(anthropic_bucket(DAY, anthropic_usage(None)))),
            r"group_by\[\]=model",
        ),
    ],
)
def test_what_is_not_the_report_is_refused_with_a_reason(kind: str, text: str, why: str) -> None:
    with pytest.raises(ReportError, match=why):
        read_report(KINDS[kind], text)


def test_a_bucket_in_another_zone_is_the_same_day() -> None:
    bucket = {**anthropic_bucket(DAY), "starting_at": f"{DAY}T02:00:00+02:00", "ending_at": f"{NEXT}T00:00:00"}
    assert read_report(CLAUDE_COSTS, json.dumps(anthropic_page(bucket))).days == {DAY}


def test_the_cursor_of_the_next_page_has_to_be_there_when_there_is_more() -> None:
    assert page_after(COSTS, json.dumps(openai_page(next_page="p2"))) == "p2"
    assert page_after(COSTS, json.dumps(openai_page())) is None
    assert page_after(COSTS, json.dumps({**openai_page(), "next_page": "p2"})) is None
    with pytest.raises(ReportError, match="names no next_page"):
        page_after(COSTS, json.dumps({"data": [], "has_more": True}))
    with pytest.raises(ReportError, match="the answer of /v1/organization/costs"):
        page_after(COSTS, "{}")
    with pytest.raises(ReportError, match="not one answer"):
        page_after(COSTS, "[]")
