"""`bursar run` inside a run: a child of that run, behind the gateway that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bursar.cli.common import FailedError

if TYPE_CHECKING:
    from bursar.cli.child import Child
    from bursar.cli.receipt import Tally
    from bursar.ledger.store import KeyRow, RunRow, Store


@dataclass(frozen=True, slots=True)
class Outer:
    """The run in which a command is, and the gateway that serves it."""

    key: KeyRow
    """The key of that run, which its children take after."""
    url: str
    path: tuple[str, ...]
    """Who pays for its calls beside it."""

    @property
    def inner_path(self) -> tuple[str, ...]:
        """Give who pays for the calls of a child beside the child."""
        return (f"run:{self.key.run}", *self.path)


async def outer_of(store: Store, environ: Mapping[str, str]) -> Outer | None:
    """Give the run that a command with this environment is part of; None where the ledger knows of none.

    That the key of the run is there is the proof: its name alone, anybody could set.
    """
    from bursar.edge.callers import digest

    secret, url, run = (environ.get(name, "") for name in ("BURSAR_KEY", "BURSAR_URL", "BURSAR_RUN"))
    if not (secret and url and run):
        return None
    row = await store.find_key(digest(secret))
    if row is None or row.revoked_at is not None or row.run != run:
        return None
    return Outer(row, url, await store.path_of(f"run:{run}") or ())


async def ensure_inside(store: Store, run: str, outer: Outer | None) -> None:
    """Let a run that is gone on with be the same child as before, or the same run outside; raises FailedError."""
    path = await store.path_of(f"run:{run}") or ()
    if outer is not None and path != outer.inner_path:
        raise FailedError(f"run {run} is not part of run {outer.key.run}, in which this is; leave --run out")


async def live_inside(store: Store, child: Child, run: str, tally: Tally) -> int:
    """Give the command's exit status; what it did is counted by the books, since the gateway is another's."""
    before = await store.run(run)
    child.pass_signals_on()
    try:
        status = await child.wait()
    finally:
        await child.stop()
    after = await store.run(run)
    tally.calls = _calls(after) - _calls(before)
    tally.refused = (after.calls_refused if after else 0) - (before.calls_refused if before else 0)
    return status


def _calls(row: RunRow | None) -> int:
    lifetime = (account for account in (row.accounts if row else ()) if account.id.endswith("/calls/lifetime"))
    return sum(account.captured + account.held for account in lifetime)
