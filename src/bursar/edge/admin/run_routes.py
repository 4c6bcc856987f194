"""Runs, and what whoever asks may still spend."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from bursar.edge.admin import books, opening, shapes, showing
from bursar.edge.admin.access import KEY, OPERATORS, READERS, RUN, Person
from bursar.edge.admin.books import Problem
from bursar.edge.admin.desk import Desk
from bursar.edge.admin.mine import standing
from bursar.edge.admin.routing import After, Asking, AtDesk, Repeat, Rows, by_unit, done, limits_of, router, told
from bursar.edge.callers import Caller
from bursar.ledger.account import AccountState

ROUTES = router()
RunId = Annotated[str, Path(pattern=shapes.RUN, examples=["r-abcdefghijkl"])]


@ROUTES.get("/runs", tags=["runs"], **told(READERS))
async def list_runs(desk: AtDesk, limit: Rows = 50, after: After = "") -> shapes.Page[shapes.Run]:
    """List the runs, the newest first."""
    start = done(showing.after(after))
    rows = await desk.store.runs(limit + 1, start)
    shown, last = showing.page(rows, limit, showing.opaque(rows[limit - 1].run) if len(rows) >= limit else "")
    now = desk.clock.now()
    return shapes.Page(data=[showing.run(row, now) for row in shown], next=last)


@ROUTES.post("/runs", tags=["runs"], status_code=201, **told((*OPERATORS, KEY), 404, 409, 429))
async def open_run(desk: AtDesk, person: Asking, body: shapes.NewRun, repeat: Repeat = "") -> shapes.OpenedRun:
    """Open a run with caps, and give the key that is bound to it.

    A key opens runs of its own, with at most the caps of its template. An operator names the key.
    """
    holder = done(await _holder(desk, person, body))
    asked = limits_of(body)
    give = opening.within if person.role == KEY else opening.filled
    limits = done(give(holder.template, asked))
    wanted = opening.Wanted(limits, body.label, body.parent or "", tuple(body.tags))
    made = done(await opening.open_run(desk.store, holder, wanted, person.name))
    return shapes.OpenedRun(secret=made.secret, run=await _shown(desk, made.row.run))


@ROUTES.get("/runs/{run}", tags=["runs"], **told(READERS, 404))
async def show_run(desk: AtDesk, run: RunId) -> shapes.Run:
    """Show a run: its budgets, its parents and its tags."""
    return await _shown(desk, run)


@ROUTES.post("/runs/{run}/raise", tags=["runs"], **told(OPERATORS, 404, 409))
async def raise_run(desk: AtDesk, person: Asking, run: RunId, body: shapes.Caps, repeat: Repeat = "") -> shapes.Run:
    """Set caps of a run anew (the whole, not the difference); in force for its next call. Lower is possible, too."""
    done(await books.raise_run(desk.store, run, by_unit(body), person.name))
    return await _shown(desk, run)


@ROUTES.post("/runs/{run}/stop", tags=["runs"], **told(OPERATORS, 404, 409))
async def stop_run(desk: AtDesk, person: Asking, run: RunId, repeat: Repeat = "") -> shapes.Run:
    """Refuse every further call of a run; calls in flight end as they would."""
    done(await books.set_state(desk.store, run, AccountState.STOPPED, person.name))
    return await _shown(desk, run)


@ROUTES.post("/runs/{run}/resume", tags=["runs"], **told(OPERATORS, 404, 409))
async def resume_run(desk: AtDesk, person: Asking, run: RunId, repeat: Repeat = "") -> shapes.Run:
    """Let a run that was stopped, or had an overrun, make calls again, as far as its caps go."""
    done(await books.set_state(desk.store, run, AccountState.OPEN, person.name))
    return await _shown(desk, run)


@ROUTES.get("/me", tags=["me"], **told((KEY, RUN)))
async def me(desk: AtDesk, person: Asking) -> shapes.Me:
    """Say what the key that asks may still spend: the tightest of all budgets that its next call meets."""
    caller = person.caller or done(Problem(403, "forbidden", "a token has no budget"))
    found = await standing(desk.store, caller, desk.clock.now())
    return shapes.Me(
        key=caller.key,
        run=caller.run or None,
        state=found.state,
        left=showing.amounts(found.left),
        budgets=[showing.budget(row) for row in found.rows],
        resets_at=shapes.at_or_none(found.resets_at),
        advice=found.advice,
    )


async def _shown(desk: Desk, run: str) -> shapes.Run:
    row = await desk.store.run(run)
    if row is None:
        return done(books.no_run(run))
    return showing.run(row, desk.clock.now(), await desk.store.path_of(f"run:{run}") or ())


async def _holder(desk: Desk, person: Person, body: shapes.NewRun) -> Caller | Problem:
    """Give the key that a run is opened for."""
    if person.role == KEY and person.caller is not None:
        if body.key not in (None, person.caller.key):
            return Problem(403, "forbidden", "a key opens runs of its own; leave `key` out")
        return person.caller
    if body.key is None:
        return Problem(422, "invalid", "say whose run it is: `key`")
    if not await desk.store.accounts(f"key:{body.key}"):
        return books.nobody(f"key:{body.key}")
    return await desk.access.callers.named(body.key, desk.templates(body.key))
