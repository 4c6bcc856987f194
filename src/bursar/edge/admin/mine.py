"""What the holder of a key may still spend: every budget on the path of the next call, and the tightest of them."""

from __future__ import annotations

from dataclasses import dataclass

from bursar.clock import Instant
from bursar.edge.admin.positions import Position, positions
from bursar.edge.callers import Caller
from bursar.edge.identity import standing_path
from bursar.ledger.account import Limits
from bursar.ledger.store import Store

SOON_PERCENT = 20


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands."""

    state: str
    left: Limits
    rows: tuple[Position, ...]
    resets_at: Instant | None
    advice: str


async def standing(store: Store, caller: Caller, now: Instant) -> Standing:
    """Say where the holder of a key stands; raises LedgerUnavailableError."""
    run_path = await store.path_of(f"run:{caller.run}") if caller.run else None
    path = standing_path(caller, caller.run, run_path or ())
    scopes = (*path.scopes, *path.also)
    rows = [row for scope in scopes for row in positions(await store.accounts(scope), now)]
    states = {row.state for row in rows}
    state = next((one for one in ("overrun", "stopped") if one in states), "open")
    least = {unit: _least(rows, unit) for unit in ("usd", "calls", "tokens")}
    tight = [row for row in least.values() if row is not None]
    empty = next((row for row in tight if row.left == 0), None)
    return Standing(
        state=state,
        left=Limits(**{unit: None if row is None else row.left for unit, row in least.items()}),
        rows=tuple(rows),
        resets_at=empty.ends_at if empty else None,
        advice=_advice(state, tight, empty),
    )


def _least(rows: list[Position], unit: str) -> Position | None:
    limited = [row for row in rows if row.unit == unit and row.left is not None]
    return min(limited, key=lambda row: row.left or 0, default=None)


def _advice(state: str, tight: list[Position], empty: Position | None) -> str:
    if state != "open":
        return f"the account is {state}: every call is refused until a person resumes it; stop here"
    if empty is not None and empty.held:
        return f"the rest of {empty.scope} is held by calls in flight; wait for one to end"
    if empty is not None:
        until = "until its period ends" if empty.ends_at else "unless a person raises it"
        return f"{empty.scope} has nothing left in {empty.unit}: calls are refused {until}; finish without a model"
    if any(row.left is not None and row.limit and row.left * 100 <= row.limit * SOON_PERCENT for row in tight):
        return f"less than {SOON_PERCENT}% is left: finish what matters most, in few calls"
    return ""
