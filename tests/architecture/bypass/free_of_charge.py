"""Each line tries to have a call made as if it were free."""

from __future__ import annotations

from bursar.call import Call, Head
from bursar.dialects.free import FreeRequest, count_of, free_request
from bursar.dialects.protocol import Request
from bursar.ledger.hold import OpenHold
from bursar.upstream.client import Upstream


async def a_call(upstream: Upstream, call: Call) -> None:
    await upstream.ask_free(call)  # error: arg-type


async def a_hold(upstream: Upstream, hold: OpenHold) -> None:
    await upstream.ask_free(hold)  # error: arg-type


async def a_free_request_that_pays(upstream: Upstream, free: FreeRequest) -> None:
    await upstream.send(free)  # error: arg-type


async def bytes_and_a_path(upstream: Upstream) -> None:
    await upstream.ask_free(b"{}", "/v1/messages")  # error: arg-type


async def a_count_that_may_not_exist(upstream: Upstream, call: Call) -> None:
    await upstream.ask_free(count_of(call))  # error: arg-type


async def a_refusal(upstream: Upstream, request: Request) -> None:
    await upstream.ask_free(free_request(request))  # error: arg-type


async def another_path(upstream: Upstream, free: FreeRequest) -> None:
    free.head = Head("/v1/messages")  # error: misc
    await upstream.ask_free(free)


async def one_without_a_seal(upstream: Upstream) -> None:
    await upstream.ask_free(FreeRequest("gemini", "gemini", "m", b"{}", Head()))  # error: call-arg
