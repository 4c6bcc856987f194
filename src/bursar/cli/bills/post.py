"""Posts what a provider billed and the ledger does not have, or the other way round, with evidence.

A daily total is evidence about no single call, so no run, key or budget is touched: the difference is booked on scopes
of its own, `reconcile:PROVIDER:more` and `reconcile:PROVIDER:less`, once for each day and model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bursar.cli.bills.compare import Line
from bursar.ledger.account import (
    Adjust,
    Amounts,
    Answer,
    Ask,
    Authorize,
    Basis,
    Granted,
    HoldState,
    Limits,
    OpenScope,
    Settle,
    Settled,
)
from bursar.ledger.store import Store


class PostError(Exception):
    """The ledger did not take a posting; the message says which."""


@dataclass(frozen=True, slots=True)
class Posting:
    """What one side of one day and model is to be booked at."""

    call_id: str
    scope: str
    upstream: str
    model: str
    usd: int
    evidence: str


@dataclass(slots=True)
class Posted:
    """How many postings were made, corrected, and found as they should be."""

    made: int = 0
    corrected: int = 0
    unchanged: int = 0


def postings(lines: Iterable[Line], provider: str, digest: str) -> list[Posting]:
    """Give both sides of every line that can be compared, also those that are to be zero: one may stand from before."""
    found = []
    for line in lines:
        if line.difference is None:
            continue
        evidence = (
            f"{provider} billed {line.provider_usd} nanodollars for {line.model} on {line.day}, the ledger has "
            f"{line.ledger_usd}; report sha256:{digest}"
        )
        for side, usd in (("more", max(line.difference, 0)), ("less", max(-line.difference, 0))):
            scope = f"reconcile:{provider}:{side}"
            call_id = f"{scope}:{line.day}:{line.model}"
            model = f"{line.model} (reconciled)"  # never the name of a model, which could be in quarantine
            found.append(Posting(call_id, scope, f"reconcile:{provider}", model, usd, evidence))
    return found


async def post(store: Store, wanted: Iterable[Posting]) -> Posted:
    """Book every posting, each once however often it is posted; raises PostError, LedgerUnavailableError."""
    posted = Posted()
    for posting in wanted:
        row = await store.hold(posting.call_id)
        if row is None:
            if posting.usd:
                await _book(store, posting)
                posted.made += 1
        elif row.state is HoldState.OPEN:
            raise PostError(f"{posting.call_id} is just being posted by somebody else; try again")
        elif row.captured.usd + row.overrun.usd == posting.usd:
            posted.unchanged += 1
        else:
            actual = Amounts(posting.usd, 0, 0)
            _ensure(await store.submit(Adjust(posting.call_id, actual, posting.evidence)), Settled, posting)
            posted.corrected += 1
    return posted


async def _book(store: Store, posting: Posting) -> None:
    await store.submit(OpenScope(posting.scope, "", Limits(), label="what a provider billed against what was booked"))
    ask = Ask(posting.usd, 0, 0, 1, tokens_wanted=0, tokens_comfort=0, tokens_floor=0, client_bounded=True)
    path = (posting.scope,)
    granted = await store.submit(
        Authorize(posting.call_id, store.worker, path, ask, posting.model, posting.upstream, is_last_try=True)
    )
    _ensure(granted, Granted, posting)
    held, actual = Amounts(posting.usd, 1, 0), Amounts(posting.usd, 0, 0)
    settle = Settle(posting.call_id, store.worker, actual, Basis.ADJUSTED, path, held, why=posting.evidence)
    _ensure(await store.submit(settle), Settled, posting)


def _ensure(answer: Answer, kind: type[Granted] | type[Settled], posting: Posting) -> None:
    if not isinstance(answer, kind):
        raise PostError(f"{posting.call_id} was not booked: {answer}")
