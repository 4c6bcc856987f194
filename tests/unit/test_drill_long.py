"""The scenario with long prompts: asked for by name, and counted by a provider whose count is not billed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from bursar.cli.drill import drill, scenarios_for
from bursar.drill.answering import Clerk, Config
from bursar.drill.scenarios import BY_NAME, LONG, SERIES
from bursar.drill.till import Till

NOTHING = dict.fromkeys(("agents", "cap_usd", "cap_calls", "workers", "stream", "latency_ms", "faults", "seed"))


def test_a_scenario_is_asked_for_by_its_name() -> None:
    (storm,) = scenarios_for(**NOTHING, dialect="chat", scenario="long")  # type: ignore[arg-type]
    assert (storm.name, storm.dialects, storm.counts_input) == ("long", ("chat",), True)
    assert storm.usable_percent_min == LONG.usable_percent_min == 97


def test_the_series_stays_short() -> None:
    assert LONG not in SERIES
    assert set(BY_NAME) == {"calls", "dollars", "trouble", "long"}


def test_a_name_that_is_none_is_told_the_names() -> None:
    result = CliRunner().invoke(drill, ["--scenario", "lang"])
    assert result.exit_code == 2
    assert "'lang' is none of: calls, dollars, trouble, long" in result.output


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_the_fake_provider_counts_what_it_bills(api: str) -> None:
    clerk = Clerk(Config(caches=False), Till())
    text = "word " * 20_000
    said = {"input": text} if api == "responses" else {"messages": [{"role": "user", "content": text}]}
    asked = {"model": LONG.models[api], **said}
    counted = json.loads(clerk.count_tokens(api, json.dumps(asked).encode()))["input_tokens"]
    assert clerk.till.total.calls == 0
    bound = {"max_output_tokens": 50} if api == "responses" else {"max_tokens": 50}
    list(clerk.serve(api, "key", json.dumps(asked | bound).encode(), False))
    assert clerk.till.total.input_tokens == counted > 25_000 - 10
