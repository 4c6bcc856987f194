"""The uses of a provider's own tools stand in the books, beside the tokens."""

from __future__ import annotations

import json

from ledger_kit import PATH, a_quote, opened, run_virtual

from bursar.call import ServerTool, Usage
from bursar.ledger.account import Limits
from bursar.ledger.hold import Ledger, OpenHold
from bursar.money import Money


def test_uses_are_booked_by_the_name_of_their_tool_and_are_no_tokens() -> None:
    async def scenario() -> None:
        store = opened(Limits(usd=10**12))
        hold = await Ledger(store, 30.0).authorize(a_quote(), "c1", PATH)
        assert isinstance(hold, OpenHold)
        uses = {ServerTool.WEB_SEARCH: 2, ServerTool.WEB_FETCH: 1}
        async with hold:
            hold.dispatch()
            hold.capture(Money(77), Usage(3, 4, tool_uses=uses))
        assert hold.settled is not None
        assert hold.settled.captured.tokens == 7
        usage = json.loads(json.loads(store.lines[-1].detail)["usage"])
        assert usage == {"input": 3, "output": 4, "web_search": 2, "web_fetch": 1}

    run_virtual(scenario())
