"""Keys: list, make, exchange and revoke them."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from fastapi import Path, Query

from bursar.clock import SECOND, Instant
from bursar.edge.admin import keybook, shapes, showing
from bursar.edge.admin.access import ADMINS
from bursar.edge.admin.books import Problem
from bursar.edge.admin.opening import filled
from bursar.edge.admin.routing import After, Asking, AtDesk, Repeat, Rows, done, limits_of, router, told
from bursar.edge.callers import terms_to_json
from bursar.ledger.account import Limits

ROUTES = router()
DAY = 86_400 * SECOND
KeyId = Annotated[str, Path(pattern=r"^k-[0-9a-f]{12}$", examples=["k-0123456789ab"])]
_TERMS = ("team", "user", "tags", "tags_required", "models", "upstreams", "networks", "role", "runs_per_hour_max")


@ROUTES.get("/keys", tags=["keys"], **told(ADMINS))
async def list_keys(
    desk: AtDesk,
    ended: Annotated[bool, Query(description="Also those that are revoked or expired.")] = False,
    runs: Annotated[bool, Query(description="Also the keys of runs.")] = False,
    limit: Rows = 50,
    after: After = "",
) -> shapes.Page[shapes.Key]:
    """List the keys of the books, the newest first; never their secrets."""
    start = done(showing.after(after))
    now = desk.clock.now()
    rows = keybook.in_order(
        row for row in await desk.store.keys() if (runs or not row.run) and (ended or keybook.is_live(row, now))
    )
    places = [row.id for row in rows]
    rows = rows[places.index(start) + 1 :] if start in places else [] if start else rows
    shown, last = showing.page(rows, limit, showing.opaque(rows[limit - 1].id) if len(rows) >= limit else "")
    return shapes.Page(data=[showing.key(row) for row in shown], next=last)


@ROUTES.post("/keys", tags=["keys"], status_code=201, **told(ADMINS, 409))
async def make_key(desk: AtDesk, person: Asking, body: shapes.NewKey, repeat: Repeat = "") -> shapes.MadeKey:
    """Make a key and show its secret, this once."""
    done(_wrong_network(body.networks))
    template = Limits() if body.role else filled(desk.templates(body.name), limits_of(body.run))
    terms = terms_to_json({name: getattr(body, name) for name in _TERMS})
    days = body.expires_in_days
    expires_at = None if days is None else Instant(desk.clock.now() + days * DAY)
    made = done(await keybook.create(desk.store, body.name, template, terms, expires_at, person.name))
    return shapes.MadeKey(secret=made.secret, key=showing.key(made.row))


@ROUTES.get("/keys/{key}", tags=["keys"], **told(ADMINS, 404))
async def show_key(desk: AtDesk, key: KeyId) -> shapes.Key:
    """Show a key."""
    return showing.key(done(await keybook.key_of(desk.store, key)))


@ROUTES.post("/keys/{key}/rotate", tags=["keys"], status_code=201, **told(ADMINS, 404, 409))
async def rotate_key(
    desk: AtDesk, person: Asking, key: KeyId, body: shapes.Rotation, repeat: Repeat = ""
) -> shapes.MadeKey:
    """Make another key with the same caps and terms; the old one goes on for the hours of overlap."""
    old = done(await keybook.key_of(desk.store, key))
    overlap = body.overlap_hours * keybook.HOUR
    made = done(await keybook.rotate(desk.store, old, overlap, person.name, desk.clock.now()))
    return shapes.MadeKey(secret=made.secret, key=showing.key(made.row))


@ROUTES.delete("/keys/{key}", tags=["keys"], **told(ADMINS, 404, 409))
async def revoke_key(desk: AtDesk, person: Asking, key: KeyId, repeat: Repeat = "") -> shapes.Key:
    """Revoke a key; in force for the next call of every gateway. The last of its name takes its run keys with it."""
    row = done(await keybook.key_of(desk.store, key))
    await keybook.revoke(desk.store, row, person.name, desk.clock.now())
    return showing.key(done(await keybook.key_of(desk.store, key)))


def _wrong_network(networks: list[str]) -> Problem | None:
    for one in networks:
        try:
            ipaddress.ip_network(one)
        except ValueError as error:
            return Problem(422, "invalid", f"networks: {error}")
    return None
