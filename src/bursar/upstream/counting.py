"""Counts the input of a call when its bytes ask for more money than there is: at the provider, for free, or here.

A count is never needed to make a call safe, only to make its quote tight; so whatever goes wrong, there is none.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from bursar.dialects.free import FreeRequest, count_of, counted
from bursar.dialects.input_text import input_text
from bursar.ledger.account import Denied, Reason, Unit
from bursar.ledger.hold import OpenHold, ask_of
from bursar.money import PICODOLLARS_PER_NANODOLLAR
from bursar.pricing.counted import CountedBy, InputCount
from bursar.pricing.quote import Quote, counting_saves
from bursar.upstream import tokenizer
from bursar.upstream.client import NotSentError, UnansweredError, Upstream

SECONDS_MAX = 3.0
"""How long a call may wait for its count, a place in the line included."""
AT_ONCE_MAX = 8
"""How many counts one upstream is asked for at a time; they have a rate limit of their own."""
REMEMBERED_MAX = 1_024
REMEMBERED_SECONDS = 60.0
"""A refused agent that asks the same again gets the same count; after that, the provider may have changed its mind."""
REFUSED_SECONDS = 600.0
"""An upstream that knows no such path is not asked again for so long."""
_VERSIONS = frozenset({"anthropic-version", "anthropic-beta", "openai-beta"})
_OWN = frozenset({"https://api.openai.com", "https://api.anthropic.com", "https://generativelanguage.googleapis.com"})
"""A proxy in between may guess: what it calls a count bounds nothing."""
_OWN_IN_REGION = re.compile(r"https://bedrock-runtime\.[a-z0-9-]{1,30}\.amazonaws\.com")
_NO_SUCH_PATH = frozenset({404, 405, 410, 501})


def is_providers_own(base_url: str) -> bool:
    """Say whether the count of this server is the one that its provider bills by."""
    plain = base_url.rstrip("/")
    return plain in _OWN or _OWN_IN_REGION.fullmatch(plain) is not None


def is_worth_counting(quote: Quote, answer: OpenHold | Denied) -> bool:
    """Say whether a count could make room for a call that did not fit, or give one more output that was cut short."""
    match answer:
        case OpenHold():
            wanted = quote.output_tokens if quote.client_bounded else quote.output_tokens_comfort
            if answer.granted.output_tokens >= wanted:
                return False
            # Less than the shortest answer is not worth a round trip.
            shortest = quote.per_output_token.picodollars * quote.output_tokens_floor // PICODOLLARS_PER_NANODOLLAR
            return counting_saves(quote)[0].nanodollars > shortest
        case Denied(reason=Reason.EXHAUSTED | Reason.HELD, unit=Unit.USD | Unit.TOKENS):
            usd, tokens = counting_saves(quote)
            saved = usd.nanodollars if answer.unit is Unit.USD else tokens
            # Not what the answer says was asked: that may be of the first call in the line ahead of this one.
            asked = ask_of(quote).amounts(quote.output_tokens_floor).of(answer.unit)
            room = answer.limit - answer.captured - (answer.held if answer.reason is Reason.HELD else 0)
            return asked - saved <= room
        case Denied():
            return False


class Counting:
    """Counts for the calls of one worker."""

    def __init__(
        self,
        upstream: Upstream,
        asks: Mapping[str, bool],
        deployments: Mapping[str, Mapping[str, str]],
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        self._upstream = upstream
        self._deployments = deployments
        """By upstream, the models behind the names of an operator's own."""
        self._asks: Final = dict(asks)
        """Whether the count of this upstream is the provider's own; one that a proxy guesses bounds nothing."""
        self._seconds_max = seconds_max
        self._has_tokenizer = tokenizer.is_installed()
        self._lines = {name: asyncio.Semaphore(AT_ONCE_MAX) for name in self._asks}
        self._known: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._refused_until: dict[tuple[str, str], float] = {}

    async def count(self, quote: Quote) -> InputCount | None:
        """Count the input of the call that was quoted, or give None."""
        call = quote.call
        if call.input.opaque:
            return None
        free = self._free_request(quote)
        if free is not None and (tokens := await self._asked(free)) is not None:
            return InputCount(call, tokens, CountedBy.PROVIDER)
        tokens = await self._counted_here(quote) if self._has_tokenizer else None
        return None if tokens is None else InputCount(call, tokens, CountedBy.TOKENIZER)

    async def _counted_here(self, quote: Quote) -> int | None:
        call = quote.call
        # A name such as `gpt-5` may be given to any model by whoever deploys it.
        deployed = self._deployments.get(call.upstream, {}).get(call.model)
        model = call.model if deployed is None else deployed.rpartition(":")[2]
        encoding = tokenizer.encoding_of(quote.card.provider, model)
        found = None if encoding is None else input_text(call)
        return None if encoding is None or found is None else await tokenizer.tokens_of(found, encoding)

    def _free_request(self, quote: Quote) -> FreeRequest | None:
        call = quote.call
        if not self._asks.get(call.upstream, False):
            return None
        if self._refused_until.get((call.upstream, call.dialect), 0.0) > _now():
            return None
        return count_of(call)

    async def _asked(self, free: FreeRequest) -> int | None:
        """Give the count of the provider, as it is known or as it is asked for now."""
        key = _key(free)
        known = self._known.get(key)
        if known is not None and known[1] > _now():
            return known[0]
        try:
            async with asyncio.timeout(self._seconds_max), self._lines[free.upstream]:
                answer = await self._upstream.ask_free(free, self._seconds_max)
        except (NotSentError, UnansweredError, TimeoutError):
            return None
        if answer.status in _NO_SUCH_PATH:
            self._refused_until[free.upstream, free.dialect] = _now() + REFUSED_SECONDS
        tokens = counted(free, answer.status, answer.body)
        if tokens is not None:
            self._remember(key, tokens)
        return tokens

    def _remember(self, key: bytes, tokens: int) -> None:
        self._known[key] = (tokens, _now() + REMEMBERED_SECONDS)
        while len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)


def _key(free: FreeRequest) -> bytes:
    # The version and the betas decide how a request is read; the rest of the head is other for every request.
    versions = [header for header in free.head.headers if header[0] in _VERSIONS]
    head = f"{free.upstream}\n{free.head.target}\n{versions}\n".encode()
    return hashlib.sha256(head + free.body).digest()


def _now() -> float:
    return asyncio.get_running_loop().time()
