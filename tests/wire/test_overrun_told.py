"""A call that costs more than was held for it is told to the operator with both figures, also where nobody listens."""

from __future__ import annotations

import json
import logging
import re

import pytest
from bodies import CHAT
from conftest import Wire
from scripted import answer, play


async def test_the_operator_reads_what_was_held_and_what_it_cost(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    reply = json.loads(CHAT.reply)
    reply["usage"] |= {"completion_tokens": 50_000, "total_tokens": 50_010}
    wire.provider.script = play(answer(json.dumps(reply).encode()))
    with caplog.at_level(logging.ERROR, "bursar"):
        await wire.post(CHAT.path, CHAT.request, x_bursar_run="r1")
        (event,) = await wire.settled(1)
    (row,) = await wire.holds()
    assert (event.held_nanodollars, event.held_tokens) == (row.held.usd, row.held.tokens)
    (told,) = [record.message for record in caplog.records if record.message.startswith("overrun")]
    figures = re.search(r"cost (\d+) nanodollars and (\d+) tokens, (\d+) and (\d+) were held", told)
    assert figures is not None
    cost_usd, cost_tokens, held_usd, held_tokens = map(int, figures.groups())
    assert (cost_usd, held_usd) == (row.captured.usd + row.overrun.usd, row.held.usd)
    assert (cost_tokens, held_tokens) == (row.captured.tokens + row.overrun.tokens, row.held.tokens)
    assert cost_usd > held_usd
    (quarantined,) = await wire.store.quarantined()
    assert (quarantined.model, quarantined.held, quarantined.cost.usd) == (row.model, row.held, cost_usd)
