"""Budgets, holds, entries, models in quarantine, and prices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Header, Path, Query
from fastapi.responses import StreamingResponse

from bursar.edge.admin import books, shapes, showing
from bursar.edge.admin.access import OPERATORS, READERS
from bursar.edge.admin.books import Problem
from bursar.edge.admin.faults import ProblemError
from bursar.edge.admin.routing import After, Asking, AtDesk, Repeat, Rows, by_unit, done, router, told
from bursar.ledger.account import HoldState, Unit
from bursar.ledger.periods import PeriodError, is_spec, period_spec
from bursar.ledger.store import Store
from bursar.pricing.rates import Card
from bursar.pricing.show import facts

ROUTES = router()
STREAM_SECONDS = 10.0
"""How long a stream of entries lasts; a client goes on from there. Shorter than what a gateway that stops waits for."""
LOOK_SECONDS = 0.5
Seq = Annotated[int, Query(ge=0, le=2**53, description="The number of the last entry that is known.")]


# ---- budgets --------------------------------------------------------------------------------------------------------


@ROUTES.get("/budgets", tags=["budgets"], **told(READERS, 404))
async def list_budgets(
    desk: AtDesk,
    scope: Annotated[str, Query(pattern="^[!-~]{0,200}$", description="Only of this scope, such as key:ci.")] = "",
    limit: Rows = 50,
    after: After = "",
) -> shapes.Page[shapes.Budget]:
    """List the budgets, with what is spent and held of each in its present period."""
    found = done(await books.budgets(desk.store, scope or None, desk.clock.now()))
    start = done(_key(after)) if after else ("", "", "")
    rows = sorted((row for row in found if row.key > start), key=lambda row: row.key)
    shown, last = showing.page(rows, limit, showing.opaque(*rows[limit - 1].key) if len(rows) >= limit else "")
    return shapes.Page(data=[showing.budget(row) for row in shown], next=last)


@ROUTES.post("/budgets", tags=["budgets"], **told(OPERATORS, 404, 409))
async def set_budget(desk: AtDesk, person: Asking, body: shapes.NewBudget, repeat: Repeat = "") -> list[shapes.Budget]:
    """Set budgets of a scope for one period, higher or lower; in force for the next call of every gateway."""
    try:
        spec = period_spec(body.period, body.timezone or desk.timezone)
    except PeriodError as error:
        raise ProblemError(Problem(422, "invalid", str(error))) from None
    now = desk.clock.now()
    rows = done(await books.set_limits(desk.store, body.scope, by_unit(body), spec, person.name, now))
    return [showing.budget(row) for row in rows]


@ROUTES.delete("/budgets/{budget}", tags=["budgets"], **told(OPERATORS, 404, 409))
async def remove_budget(
    desk: AtDesk, person: Asking, budget: Annotated[str, Path(max_length=600)], repeat: Repeat = ""
) -> shapes.Budget:
    """Let a budget limit nothing any more; what is spent goes on to be counted."""
    scope, unit, spec = done(_key(budget))
    now = desk.clock.now()
    rows = done(await books.set_limits(desk.store, scope, {Unit(unit): None}, spec, person.name, now))
    return next(showing.budget(row) for row in rows if row.unit == unit)


def _key(budget: str) -> tuple[str, str, str] | Problem:
    found = showing.plain(budget, 3)
    if found is None or found[1] not in set(Unit) or not is_spec(found[2]):
        return Problem(404, "unknown", "there is no such budget; the list of budgets has their ids")
    return found[0], found[1], found[2]


# ---- holds ----------------------------------------------------------------------------------------------------------


@ROUTES.get("/holds", tags=["holds"], **told(READERS))
async def list_holds(
    desk: AtDesk,
    state: Literal["open", "captured", "expired", "void"] | None = None,
    limit: Rows = 50,
    after: After = "",
) -> shapes.Page[shapes.Hold]:
    """List what was set aside for calls, the newest first."""
    start = done(showing.after(after))
    rows = await desk.store.holds(None if state is None else HoldState(state), limit + 1, start)
    shown, last = showing.page(rows, limit, showing.opaque(rows[limit - 1].call_id) if len(rows) >= limit else "")
    return shapes.Page(data=[showing.hold(row) for row in shown], next=last)


@ROUTES.get("/holds/{call}", tags=["holds"], **told(READERS, 404))
async def show_hold(desk: AtDesk, call: Annotated[str, Path(pattern=shapes.WORD)]) -> shapes.Hold:
    """Show what was set aside for one call, and what it did cost."""
    row = await desk.store.hold(call)
    if row is None:
        return done(Problem(404, "unknown", "there is no such call, or it was folded away"))
    return showing.hold(row)


# ---- entries --------------------------------------------------------------------------------------------------------


@ROUTES.get("/entries", tags=["entries"], **told(READERS))
async def list_entries(desk: AtDesk, after_seq: Seq = 0, limit: Rows = 50) -> list[shapes.Entry]:
    """List the entries of the ledger after one, ascending; an empty list is the end, for now."""
    return await _entries(desk.store, after_seq, limit)


@ROUTES.get(
    "/entries/stream",
    tags=["entries"],
    response_class=StreamingResponse,
    **{
        **told(READERS),
        "responses": {
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "Entries as events.",
            },
            **told(READERS)["responses"],
        },
    },
)
async def stream_entries(
    desk: AtDesk,
    after_seq: Seq = 0,
    last_event_id: Annotated[str, Header(max_length=20, pattern="^[0-9]{0,16}$")] = "",
) -> StreamingResponse:
    """Follow the entries as server-sent events; `id` is the entry's number.

    The stream ends after some seconds. An EventSource goes on by itself where it stopped (`Last-Event-ID`).
    """
    start = int(last_event_id) if last_event_id else after_seq
    # So that a ledger that cannot be read is a 503 and no empty stream.
    first = await _entries(desk.store, start, 200)
    return StreamingResponse(_events(desk.store, start, first), media_type="text/event-stream")


async def _entries(store: Store, after_seq: int, limit: int) -> list[shapes.Entry]:
    found: list[shapes.Entry] = []
    async for row in store.entries(after_seq):
        found.append(showing.entry(row))
        if len(found) == limit:
            break
    return found


async def _events(store: Store, seq: int, rows: list[shapes.Entry]) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    loop = asyncio.get_running_loop()
    end = loop.time() + STREAM_SECONDS
    while True:
        for row in rows:
            seq = row.seq
            yield f"id: {seq}\nevent: {row.kind}\ndata: {row.model_dump_json()}\n\n"
        if loop.time() >= end:
            return
        if not rows:
            await asyncio.sleep(LOOK_SECONDS)
        rows = await _entries(store, seq, 200)


# ---- models ---------------------------------------------------------------------------------------------------------


@ROUTES.get("/quarantine", tags=["models"], **told(READERS))
async def list_quarantine(desk: AtDesk) -> list[shapes.Quarantined]:
    """List the models on which nothing is authorized, since a call did cost more than was held for it."""
    return [showing.quarantined(row) for row in await desk.store.quarantined()]


@ROUTES.post("/quarantine/clear", tags=["models"], **told(OPERATORS, 404, 409))
async def clear_model(
    desk: AtDesk, person: Asking, body: shapes.ModelName, repeat: Repeat = ""
) -> list[shapes.Quarantined]:
    """Take a model out of quarantine; give what is still in it."""
    done(await books.clear_model(desk.store, body.model, person.name))
    return [showing.quarantined(row) for row in await desk.store.quarantined()]


@ROUTES.get("/prices", tags=["models"], **told(READERS, 404))
async def show_prices(
    desk: AtDesk,
    model: Annotated[str, Query(min_length=1, max_length=200, examples=["gpt-4.1-mini"])],
    upstream: Annotated[str, Query(max_length=64, description="Only at this upstream.")] = "",
) -> list[shapes.Price]:
    """Show what a model costs, and what bounds it, at every upstream that has it."""
    names = [name for name in desk.upstreams if upstream in ("", name)]
    now = desk.clock.now()
    cards = [(name, await asyncio.to_thread(desk.book.card, name, model, now)) for name in names]
    found = [showing.price(name, facts(card)) for name, card in cards if isinstance(card, Card)]
    if not found:
        done(Problem(404, "unknown", "no upstream here prices a model of that name; `bursar prices show` says why"))
    return found
