"""The drill's own money, for a storm on a real provider: it is never passed, whatever the gateway lets through."""

from __future__ import annotations

import json

from bursar.drill.till import Metered, Model, bill_nanodollars, now_us
from bursar.drill.verdict import BilledCall
from bursar.drill.witness import Seen

_INPUT = ("prompt_tokens", "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
# What an API lays around the text of a request.
_FRAME_TOKENS = 200


class RealPurse:
    """Pays for calls by list price, sets the most that each can cost aside before, and keeps the bill."""

    def __init__(self, model: Model, nanodollars_max: int) -> None:
        self._model = model
        self._left = nanodollars_max
        self._paid = 0
        self._in_flight = 0
        self._lines: list[BilledCall] = []

    def take(self, request: bytes, output_tokens_max: int | None) -> int | None:
        """Set the most that a call can cost aside; None when there is not that much left."""
        # No tokenizer makes more tokens than there are bytes.
        output_tokens = self._model.output_tokens_max if output_tokens_max is None else output_tokens_max
        most = bill_nanodollars(self._model, Metered(len(request) + _FRAME_TOKENS, output_tokens))
        if most > self._left:
            return None
        self._left -= most
        self._in_flight += 1
        return most

    def settle(self, taken: int, reply: bytes) -> None:
        """Put back what a reply did not cost; one whose cost is not known has cost everything."""
        used = _usage(reply)
        cost = taken if used is None else bill_nanodollars(self._model, used)
        self._left += taken - cost
        self._in_flight -= 1
        self._paid += cost
        self._lines.append(BilledCall(now_us(), cost))

    def refund(self, taken: int) -> None:
        """Put back everything: an error of the client's, which nobody bills."""
        self._left += taken
        self._in_flight -= 1

    async def look(self) -> Seen:
        """Give what was paid until now."""
        return Seen(len(self._lines), self._paid, self._in_flight)

    async def lines(self) -> tuple[BilledCall, ...]:
        """Give every call that was paid."""
        return tuple(self._lines)


def _usage(reply: bytes) -> Metered | None:
    """Read the usage of a whole answer; input is all taken at its full price, whatever cache it came from."""
    try:
        fields = json.loads(reply)
        usage = fields["usage"]
        read_in, out = (sum(int(usage.get(name) or 0) for name in names) for names in (_INPUT, _OUTPUT))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Metered(read_in, out) if read_in and out else None
