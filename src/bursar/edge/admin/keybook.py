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
from bursar.money import ensure

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
    if not json.loads(terms_json).get("role"):
        if template == Limits():
            return Problem(422, "invalid", "a key needs caps for its runs: at least one of usd, calls and tokens")
        await store.submit(OpenScope(scope=f"key:{name}", owner="", limits=Limits()))
    row = KeyRow(name, "", "", template_to_json(template), Instant(0), None, terms_json, expires_at)
    return await _make(store, row, Note(by, "key created", f"key:{name}"))


async def rotate(store: Store, old: KeyRow, overlap: int, by: str, now: Instant) -> Made | Problem:
    """Make a key with the same caps and terms; the old one ends after the overlap, in microseconds."""
    if old.run:
        return Problem(409, "run_key", "the key of a run ends with its run and is not exchanged")
    if not is_live(old, now):
        return Problem(409, "key_ended", f"{old.id} is revoked or expired; make another key")
    made = await _make(store, old, Note(by, "key rotated", f"key:{old.name}", _facts(old)))
    end = Instant(min(now + overlap, old.expires_at or now + overlap))
    await store.put_key(old.name, old.digest, "", old.limits_json, old.terms_json, end)
    return made


async def revoke(store: Store, row: KeyRow, by: str, now: Instant) -> int:
    """Revoke a key; the last one of its name takes the keys of its runs with it. Give how many were revoked."""
    others = [one for one in await store.keys() if one.name == row.name and one.digest != row.digest]
    has_another = any(not one.run and is_live(one, now) for one in others)
    if row.revoked_at is not None:
        return 0
    await store.submit(Note(by, "key revoked", f"key:{row.name}", _facts(row)))
    is_alone = has_another or bool(row.run)
    return await (store.revoke_secret(row.digest) if is_alone else store.revoke_key(row.name))


def in_order(rows: Iterable[KeyRow]) -> list[KeyRow]:
    """Give the newest first."""
    return sorted(rows, key=lambda row: (-row.created_at, row.id))


async def _make(store: Store, like: KeyRow, note: Note) -> Made:
    """Write a key under a new secret; who made it is written first, so that no key is without."""
    secret = new_secret()
    row = replace(like, digest=digest(secret))
    await store.submit(replace(note, after=_facts(row)))
    await store.put_key(row.name, row.digest, "", row.limits_json, row.terms_json, row.expires_at)
    written = await store.find_key(row.digest)
    ensure(written is not None, "a key that was written is there", row.id)
    return Made(written or row, secret)


def _facts(row: KeyRow) -> str:
    facts = {"id": row.id, "run": row.run, "caps": json.loads(row.limits_json or "{}")}
    return json.dumps({**facts, "terms": json.loads(row.terms_json), "expires_at": row.expires_at})
