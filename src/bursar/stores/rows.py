"""Rows of the books as the rest of the house sees them; the same for every database."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bursar.clock import SECOND, Instant
from bursar.ledger.account import Account, HoldState
from bursar.ledger.books import RUN_PREFIX, HoldFacts, amounts, unpack
from bursar.ledger.periods import LIFETIME
from bursar.ledger.store import (
    DeliveryRow,
    DeliveryState,
    Entry,
    HappeningRow,
    HoldRow,
    KeyRow,
    QuarantineRow,
    RunRow,
)

PAGE_ROWS = 1000
"""Entries are read in pages, so that no reader keeps a database from tidying up what is not needed any more."""
CLAIMS_KEPT = 60 * SECOND
"""After what time a claim that nobody renews is swept away."""


def hold_row(row: Sequence[object]) -> HoldRow:
    """Give a hold as the books remember it."""
    hold = HoldFacts._make(row)
    settled_at = None if hold.settled_at is None else Instant(hold.settled_at)
    return HoldRow(
        call_id=hold.call_id,
        worker=hold.worker,
        state=HoldState(hold.state),
        accounts=unpack(hold.accounts),
        held=amounts(hold.held),
        captured=amounts(hold.captured),
        overrun=amounts(hold.overrun),
        output_tokens=hold.output_tokens,
        model=hold.model,
        upstream=hold.upstream,
        opened_at=Instant(hold.opened_at),
        settled_at=settled_at,
        basis=hold.basis,
        why=hold.why,
    )


def run_row(row: tuple[str, str, str, int, int], accounts: tuple[Account, ...]) -> RunRow:
    """Give a run with its accounts."""
    scope, owner, label, opened_at, refused = row
    # A run may have budgets per period beside its lifetime one; each call in flight is held on all of them.
    calls_open = sum(account.held for account in accounts if (account.unit, account.period) == ("calls", LIFETIME))
    return RunRow(scope.removeprefix(RUN_PREFIX), owner, label, Instant(opened_at), accounts, calls_open, refused)


def entry_row(row: tuple[int, int, str, str, str, int, int, int, str, str]) -> Entry:
    """Give one line of the ledger."""
    seq, at, kind, call_id, worker, usd, calls, tokens, accounts, detail = row
    named = unpack(accounts)
    return Entry(seq, Instant(at), kind, call_id, worker, usd, calls, tokens, named, json.loads(detail))


def key_row(row: tuple[str, str, str, str, int, int | None, str, int | None]) -> KeyRow:
    """Give a key."""
    name, digest, run, limits_json, created_at, revoked_at, terms_json, expires_at = row
    revoked = None if revoked_at is None else Instant(revoked_at)
    expires = None if expires_at is None else Instant(expires_at)
    return KeyRow(name, digest, run, limits_json, Instant(created_at), revoked, terms_json, expires)


def quarantine_row(row: tuple[str, int, str, int, int, int, int, int, int]) -> QuarantineRow:
    """Give a model in quarantine."""
    model, since, call_id, *rest = row
    held, cost = (rest[0], rest[1], rest[2]), (rest[3], rest[4], rest[5])
    return QuarantineRow(model, Instant(since), call_id, amounts(held), amounts(cost))


def happening_row(row: tuple[int, str, str, int, str, str]) -> HappeningRow:
    """Give something that people want to hear of."""
    number, kind, key, at, subject, detail = row
    return HappeningRow(number, kind, key, Instant(at), subject, json.loads(detail))


def delivery_row(row: tuple[int, str, str, int, int, str]) -> DeliveryRow:
    """Give how far a webhook was told of a happening, whose number comes first."""
    _, webhook, state, attempts, next_at, said = row
    return DeliveryRow(webhook, DeliveryState(state), attempts, Instant(next_at), said)
