"""Makes, exchanges and revokes keys, each with an entry of who did it; a secret is given once and kept nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bursar.clock import SECOND, Instant
from bursar.edge.admin.books import Problem
from bursar.edge.callers import digest, new_secret, template_to_json
from bursar.ledger.account import Limits, Note, OpenScope
from bursar.ledger.store import KeyRow, Store

HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Made:
    """A key and its secret."""

    row: KeyRow
    secret: str


def is_live(row: KeyRow, now: Instant) -> bool:
    """Say whether a key still opens anything."""
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now)


async def key_of(store: Store, key_id: str) -> KeyRow | Problem:
    """Find a key by its stable id."""
    row = next((row for row in await store.keys() if row.id == key_id), None)
    return row or Problem(404, "unknown", f"there is no key {key_id}; `bursar keys list --all` shows them")


async def create(
    store: Store, name: str, template: Limits, terms_json: str, expires_at: Instant | None, by: str
) -> Made | Problem:
    """Make a key; a name may have several, which share its budgets."""
    secret = new_secret()
    if not json.loads(terms_json).get("role"):
        if template == Limits():
            return Problem(422, "invalid", "a key needs caps for its runs: at least one of usd, calls and tokens")
        await store.submit(OpenScope(scope=f"key:{name}", owner="", limits=Limits()))
    await store.put_key(name, digest(secret), "", template_to_json(template), terms_json, expires_at)
    row = await _row(store, secret)
    await store.submit(Note(by, "key created", f"key:{name}", "", _facts(row)))
    return Made(row, secret)


async def rotate(store: Store, old: KeyRow, overlap: int, by: str, now: Instant) -> Made | Problem:
    """Make a key with the same caps and terms; the old one ends after the overlap, in microseconds."""
    if old.run:
        return Problem(409, "run_key", "the key of a run ends with its run and is not exchanged")
    if not is_live(old, now):
        return Problem(409, "key_ended", f"{old.id} is revoked or expired; make another key")
    secret = new_secret()
    await store.put_key(old.name, digest(secret), "", old.limits_json, old.terms_json, old.expires_at)
    end = Instant(min(now + overlap, old.expires_at or now + overlap))
    await store.put_key(old.name, old.digest, "", old.limits_json, old.terms_json, end)
    row = await _row(store, secret)
    await store.submit(Note(by, "key rotated", f"key:{old.name}", _facts(old), _facts(row)))
    return Made(row, secret)


async def revoke(store: Store, row: KeyRow, by: str, now: Instant) -> int:
    """Revoke a key; the last one of its name takes the keys of its runs with it. Give how many were revoked."""
    others = [one for one in await store.keys() if one.name == row.name and one.digest != row.digest]
    has_another = any(not one.run and is_live(one, now) for one in others)
    if has_another or row.run:
        count = await store.revoke_secret(row.digest)
    else:
        count = await store.revoke_key(row.name)
    if count:
        await store.submit(Note(by, "key revoked", f"key:{row.name}", _facts(row)))
    return count


def in_order(rows: Iterable[KeyRow]) -> list[KeyRow]:
    """Give the newest first."""
    return sorted(rows, key=lambda row: (-row.created_at, row.id))


async def _row(store: Store, secret: str) -> KeyRow:
    row = await store.find_key(digest(secret))
    if row is None:
        raise LookupError("the key that was just written")
    return row


def _facts(row: KeyRow) -> str:
    shown = replace(row, digest="")
    facts = {"id": row.id, "run": shown.run, "caps": json.loads(row.limits_json or "{}")}
    return json.dumps({**facts, "terms": json.loads(row.terms_json), "expires_at": row.expires_at})
