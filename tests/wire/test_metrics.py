"""`/metrics`: what was granted, settled, refused and went over, in the format that Prometheus reads."""

from __future__ import annotations

import json

from bodies import CHAT
from conftest import MODEL, SECRET, Wire
from prometheus_client.parser import text_string_to_metric_families
from scripted import answer, exchange, play, request


async def metrics(wire: Wire) -> dict[tuple[str, ...], float]:
    reply = await exchange(wire.port, request("/metrics", b"", {}, method="GET"))
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert SECRET not in reply.body.decode()
    return {
        (sample.name.removeprefix("bursar_"), *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_an_overrun_is_counted_with_both_figures_and_the_quarantine_says_why(wire: Wire) -> None:
    reply = json.loads(CHAT.reply)
    reply["usage"] |= {"completion_tokens": 50_000, "total_tokens": 50_010}
    wire.provider.script = play(answer(json.dumps(reply).encode()))
    assert (await metrics(wire))["ledger_up",] == 1
    await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
    (event,) = await wire.settled(1)
    await wire.post(CHAT.path, CHAT.request, x_bursar_run="r2")
    found = await metrics(wire)
    held, cost = event.held_nanodollars, event.captured_nanodollars + event.overrun_nanodollars
    model = event.model
    assert found["calls_granted_total", "no", model, "openai"] == 1
    assert found["calls_settled_total", "metered", model] == 1
    assert found["overruns_total", model] == 1
    assert round(found["captured_usd_total", "metered", model] * 1e9) == cost
    assert round(found["overrun_usd_total", model] * 1e9) == event.overrun_nanodollars
    assert round(found["overrun_held_usd_total", model] * 1e9) == held
    assert round(found["quarantine_held_usd", model] * 1e9) == held
    assert round(found["quarantine_cost_usd", model] * 1e9) == cost
    assert [count for labels, count in found.items() if labels[:2] == ("refusals_total", "cap_quarantined")] == [1]


async def test_what_is_refused_is_counted_by_its_code_and_no_name_of_a_client_becomes_a_label(wire: Wire) -> None:
    body = CHAT.request | {"model": "no-such-model-9"}
    await wire.post(CHAT.path, body)
    await wire.post(CHAT.path, CHAT.request | {"model": MODEL, "no_such_field": 1})
    found = await metrics(wire)
    assert found["refusals_total", "unpriced", "422"] == 1
    assert not [labels for labels in found if "no-such-model-9" in labels]


async def test_a_ledger_that_cannot_be_read_is_a_metric_and_no_error(wire: Wire) -> None:
    await wire.store.close()
    assert (await metrics(wire))["ledger_up",] == 0
