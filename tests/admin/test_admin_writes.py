"""What operators and keys change over HTTP: each change takes effect, says who made it, and can be sent twice."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from pathlib import Path

import pytest
from desk import Answered, Office

from bursar.edge.callers import digest
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Granted, Settle

NEW_RUN = {"usd": "1.50", "calls": 3, "label": "nightly"}


async def notes(office: Office) -> list[tuple[str, str, str]]:
    got = await office.ask("GET", "/entries?limit=200")
    found = [one["detail"] for one in got.json if one["kind"] == "note"]
    return [(one["by"], one["what"], one["subject"]) for one in found]


async def last_entry(office: Office) -> dict[str, object]:
    entries = [entry async for entry in office.gateway.store.entries()]
    return {"kind": entries[-1].kind, **entries[-1].detail}


def left(got: Answered, unit: str) -> int | None:
    (found,) = [one["left"] for one in got.json["budgets"] if one["unit"] == unit]
    return None if found is None else int(found)


# ---- runs -----------------------------------------------------------------------------------------------------------


async def test_a_key_opens_a_run_of_its_own_and_the_run_key_sees_only_itself(office: Office) -> None:
    got = await office.ask("POST", "/runs", NEW_RUN | {"tags": ["env=prod"]}, who="key")
    assert got.status == 201
    run, secret = got.json["run"], got.json["secret"]
    assert (run["key"], run["label"], run["state"], run["tags"]) == ("ci", "nightly", "open", ["env=prod"])
    assert {one["unit"]: one["limit"] for one in run["budgets"]} == {"usd": 1_500_000_000, "calls": 3}
    me = await office.ask("GET", "/me", who=secret)
    assert (me.json["run"], me.json["left"]) == (run["run"], {"usd": "1.50", "calls": 3, "tokens": None})
    assert ("key:ci", "run opened", f"run:{run['run']}") in await notes(office)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"usd": "5.01"}, 403, "above_template"),
        ({"calls": 101}, 403, "above_template"),
        ({"key": "other"}, 403, "forbidden"),
        ({"parent": "nobody"}, 404, "unknown"),
        ({"tags": ["env=prod", "env=test"]}, 422, "contradiction"),
        ({"parent": "r1", "tags": ["env=test"]}, 422, "contradiction"),
        ({"usd": 1.5}, 422, "invalid"),
        ({"usd": "1e3"}, 422, "invalid"),
        ({"calls": "3"}, 422, "invalid"),
        ({"cals": 3}, 422, "invalid"),
    ],
)
async def test_a_key_opens_no_run_that_its_terms_do_not_allow(
    office: Office, body: dict[str, object], status: int, code: str
) -> None:
    got = await office.ask("POST", "/runs", body, who="key")
    assert (got.status, got.code) == (status, code)
    assert len(await office.gateway.store.runs()) == 1


async def test_a_child_run_is_paid_by_its_parents_and_carries_their_tags(office: Office) -> None:
    child = (await office.ask("POST", "/runs", {"calls": 1, "parent": "r1"}, who="key")).json["run"]["run"]
    grandchild = await office.ask("POST", "/runs", {"parent": child, "tags": ["step=2"]}, who="key")
    run = grandchild.json["run"]
    assert (run["parents"], run["tags"]) == ([child, "r1"], ["env=prod", "step=2"])
    me = await office.ask("GET", "/me", who=grandchild.json["secret"])
    assert me.json["left"]["calls"] == 1
    assert {one["scope"] for one in me.json["budgets"]} >= {f"run:{run['run']}", f"run:{child}", "run:r1", "key:ci"}


async def test_an_operator_opens_runs_for_a_key_that_there_is_and_above_its_template(office: Office) -> None:
    got = await office.ask("POST", "/runs", {"key": "ci", "usd": "50"}, who="operator")
    assert got.status == 201
    assert (await office.ask("GET", "/me", who=got.json["secret"])).json["left"]["usd"] == "50.00"
    for body, status in (({"usd": "1"}, 422), ({"key": "nobody"}, 404), ({"key": "nobody", "usd": "1"}, 404)):
        assert (await office.ask("POST", "/runs", body, who="operator")).status == status


async def test_a_key_opens_no_more_runs_in_an_hour_than_it_may(office: Office) -> None:
    made = await office.ask("POST", "/keys", {"name": "few", "run": {"calls": 1}, "runs_per_hour_max": 2})
    secret = made.json["secret"]
    got = [await office.ask("POST", "/runs", {}, who=secret) for _ in range(3)]
    assert [one.status for one in got] == [201, 201, 429]
    assert got[2].code == "too_many_runs"


async def test_a_run_is_raised_stopped_and_resumed_with_who_did_it(office: Office) -> None:
    raised = await office.ask("POST", "/runs/r1/raise", {"calls": 200}, who="operator")
    assert left(raised, "calls") == 200
    entry = await last_entry(office)
    assert (entry["kind"], entry["by"], entry["limit"]) == ("limit", "key:operator", 200)
    assert (await office.ask("POST", "/runs/r1/stop", who="operator")).json["state"] == "stopped"
    assert (await last_entry(office))["by"] == "key:operator"
    me = (await office.ask("GET", "/me", who="run")).json
    assert (me["state"], "stopped" in me["advice"]) == ("stopped", True)
    assert (await office.ask("POST", "/runs/r1/resume", who="operator")).json["state"] == "open"
    for path in ("/runs/nobody/stop", "/runs/nobody/resume"):
        assert (await office.ask("POST", path, who="operator")).code == "unknown"
    assert (await office.ask("POST", "/runs/nobody/raise", {"calls": 1}, who="operator")).status == 404
    assert (await office.ask("POST", "/runs/r1/raise", {}, who="operator")).status == 422


async def test_runs_come_in_pages(office: Office) -> None:
    names = {(await office.ask("POST", "/runs", {}, who="key")).json["run"]["run"] for _ in range(4)} | {"r1"}
    seen: list[str] = []
    after = ""
    while True:
        got = (await office.ask("GET", f"/runs?limit=2&after={after}")).json
        seen += [run["run"] for run in got["data"]]
        after = got["next"]
        if after is None:
            break
    assert (len(seen), set(seen)) == (5, names)


# ---- me -------------------------------------------------------------------------------------------------------------

ASK = Ask(400_000_000, 40, 0, 1, 10, 10, 1, False)


async def test_me_tells_what_is_spent_held_and_left_and_gives_advice(office: Office) -> None:
    store = office.gateway.store
    await office.ask("POST", "/budgets", {"scope": "key:ci", "usd": "1", "period": "day"})
    for call in ("c1", "c2"):
        answer = await store.submit(Authorize(call, store.worker, ("run:r1", "key:ci"), ASK, "m", "u"))
        assert isinstance(answer, Granted)
    await store.submit(
        Settle("c1", store.worker, Amounts(400_000_000, 1, 30), Basis.METERED, ("run:r1", "key:ci"), Amounts(0, 0, 0))
    )
    me = (await office.ask("GET", "/me", who="run")).json
    (day,) = [one for one in me["budgets"] if one["period"].startswith("day")]
    assert (day["spent"], day["held"], day["left"]) == (400_000_000, 400_000_000, 200_000_000)
    assert day["resets_at"].endswith("T00:00:00Z")
    assert me["left"] == {"usd": "0.20", "calls": 98, "tokens": None}
    assert "less than 20%" in me["advice"]
    await store.submit(
        Settle("c2", store.worker, Amounts(700_000_000, 1, 30), Basis.METERED, ("run:r1", "key:ci"), Amounts(0, 0, 0))
    )
    me = (await office.ask("GET", "/me", who="run")).json
    assert (me["state"], me["left"]["usd"]) == ("overrun", "0.00")
    me = (await office.ask("GET", "/me", who="key")).json
    assert (me["run"], me["left"]["usd"], "until its period ends" in me["advice"]) == (None, "0.00", True)
    holds = (await office.ask("GET", "/holds?limit=1")).json
    assert [one["call"] for one in holds["data"]] == ["c2"]
    assert holds["data"][0]["overrun"]["usd"] == "0.30"
    more = (await office.ask("GET", f"/holds?limit=1&after={holds['next']}")).json
    assert ([one["call"] for one in more["data"]], more["next"]) == (["c1"], None)
    assert (await office.ask("GET", "/holds?state=open")).json["data"] == []
    assert (await office.ask("GET", "/holds/c1")).json["captured"] == {"usd": "0.40", "calls": 1, "tokens": 30}
    assert (await office.ask("GET", "/holds/c9")).status == 404


# ---- budgets --------------------------------------------------------------------------------------------------------


async def test_budgets_are_set_listed_changed_and_removed(office: Office) -> None:
    for scope in ("org", "team:research", "user:a@b.c", "tag:env=prod", "model:gpt-*", "upstream:openai", "key:ci"):
        body = {"scope": scope, "usd": "2", "calls": 7, "period": "week", "timezone": "Europe/Berlin"}
        got = await office.ask("POST", "/budgets", body, who="operator")
        assert got.status == 200, got.body
        assert {one["unit"]: one["limit"] for one in got.json} == {"usd": 2_000_000_000, "calls": 7}
    listed = (await office.ask("GET", "/budgets?scope=team:research")).json["data"]
    (calls,) = [one for one in listed if one["unit"] == "calls"]
    raised = await office.ask(
        "POST", "/budgets", {"scope": "team:research", "calls": 9, "period": "week", "timezone": "Europe/Berlin"}
    )
    assert [(one["id"] == calls["id"], one["limit"]) for one in raised.json if one["unit"] == "calls"] == [(True, 9)]
    removed = await office.ask("DELETE", f"/budgets/{calls['id']}", who="operator")
    assert (removed.json["id"], removed.json["limit"]) == (calls["id"], None)
    assert (await last_entry(office))["by"] == "key:operator"
    ids = [one["id"] for one in (await office.ask("GET", "/budgets?limit=200")).json["data"]]
    assert (len(ids), len(set(ids)), calls["id"] in ids) == (15, 15, False)
    first = (await office.ask("GET", "/budgets?limit=10")).json
    rest = (await office.ask("GET", f"/budgets?limit=10&after={first['next']}")).json
    assert [one["id"] for one in first["data"] + rest["data"]] == ids


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"scope": "key:nobody", "usd": "1"}, 404),
        ({"scope": "run:nobody", "usd": "1"}, 404),
        ({"scope": "somebody", "usd": "1"}, 422),
        ({"scope": "tag:env prod", "usd": "1"}, 422),
        ({"scope": "key:ci"}, 422),
        ({"scope": "key:ci", "usd": "1", "period": "year"}, 422),
        ({"scope": "key:ci", "usd": "1", "period": "day", "timezone": "Mars/Base"}, 422),
        ({"scope": "key:ci", "usd": "-1"}, 422),
    ],
)
async def test_a_budget_of_nobody_or_of_nothing_is_refused(office: Office, body: dict[str, str], status: int) -> None:
    before = len((await office.ask("GET", "/entries?limit=200")).json)
    got = await office.ask("POST", "/budgets", body)
    assert (got.status, bool(got.code)) == (status, True)
    assert (await office.ask("DELETE", "/budgets/a2V5OmNp")).status == 404
    assert len((await office.ask("GET", "/entries?limit=200")).json) == before


# ---- keys -----------------------------------------------------------------------------------------------------------


async def test_a_key_is_made_exchanged_and_revoked(office: Office) -> None:
    body = {"name": "web", "run": {"usd": "1"}, "team": "research", "tags": ["env=prod"], "expires_in_days": 30}
    made = (await office.ask("POST", "/keys", body)).json
    key, secret = made["key"], made["secret"]
    assert key["terms"] == {"team": "research", "tags": ["env=prod"]}
    assert (key["run_caps"]["usd"], key["expires_at"] is not None) == ("1.00", True)
    run = (await office.ask("POST", "/runs", {}, who=secret)).json
    rotated = await office.ask("POST", f"/keys/{key['id']}/rotate", {"overlap_hours": 1})
    newer = rotated.json
    assert newer["key"]["terms"] == key["terms"]
    assert newer["key"]["expires_at"] == key["expires_at"]
    assert (await office.ask("GET", "/me", who=secret)).status == 200  # for another hour
    assert (await office.ask("GET", f"/keys/{key['id']}")).json["expires_at"] < key["expires_at"]
    assert (await office.ask("DELETE", f"/keys/{key['id']}")).json["revoked_at"] is not None
    assert (await office.ask("GET", "/me", who=secret)).status == 401
    assert (await office.ask("GET", "/me", who=run["secret"])).status == 200  # the name lives on in the newer key
    await office.ask("DELETE", f"/keys/{newer['key']['id']}")
    for gone in (newer["secret"], run["secret"]):
        assert (await office.ask("GET", "/me", who=gone)).status == 401
    whats = [what for by, what, subject in await notes(office) if subject == "key:web" and by == "key:admin"]
    assert whats == ["key created", "key rotated", "key revoked", "key revoked"]


async def test_a_rotation_without_overlap_ends_the_old_secret_at_once(office: Office) -> None:
    made = (await office.ask("POST", "/keys", {"name": "web"})).json
    path = f"/keys/{made['key']['id']}/rotate"
    assert (await office.ask("POST", path, {"overlap_hours": 0})).status == 201
    assert (await office.ask("GET", "/me", who=made["secret"])).status == 401
    assert (await office.ask("POST", path, {"overlap_hours": 0})).code == "key_ended"
    (run_key,) = [one for one in (await office.ask("GET", "/keys?runs=true")).json["data"] if one["run"] == "r1"]
    assert (await office.ask("POST", f"/keys/{run_key['id']}/rotate", {})).code == "run_key"


async def test_keys_come_in_pages_without_those_of_runs_or_those_that_ended(office: Office) -> None:
    names = [one["name"] for one in (await office.ask("GET", "/keys")).json["data"]]
    assert sorted(names) == ["admin", "ci", "operator", "viewer"]
    everything = (await office.ask("GET", "/keys?ended=true&runs=true")).json["data"]
    assert len(everything) == 7
    first = (await office.ask("GET", "/keys?ended=true&runs=true&limit=4")).json
    rest = (await office.ask("GET", f"/keys?ended=true&runs=true&limit=4&after={first['next']}")).json
    assert first["data"] + rest["data"] == everything
    assert rest["next"] is None
    assert (await office.ask("GET", "/keys/k-000000000000")).status == 404
    assert (await office.ask("GET", "/keys?after=%21")).status == 422
    assert (await office.ask("POST", "/keys", {"name": "far", "networks": ["10.0.0.0/99"]})).code == "invalid"


# ---- models ---------------------------------------------------------------------------------------------------------


async def test_a_model_is_taken_out_of_quarantine_and_its_price_is_shown(office: Office) -> None:
    store = office.gateway.store
    await store.submit(Authorize("c1", store.worker, ("run:r1", "key:ci"), ASK, "m1", "u"))
    await store.submit(
        Settle("c1", store.worker, Amounts(900_000_000, 1, 1), Basis.METERED, ("run:r1", "key:ci"), Amounts(0, 0, 0))
    )
    (row,) = (await office.ask("GET", "/quarantine")).json
    assert (row["model"], row["call"], row["cost"]["usd"]) == ("m1", "c1", "0.90")
    assert (await office.ask("POST", "/quarantine/clear", {"model": "m1"}, who="operator")).json == []
    assert ("key:operator", "model cleared", "m1") in await notes(office)
    assert (await office.ask("POST", "/quarantine/clear", {"model": "m1"})).status == 404
    (price,) = (await office.ask("GET", "/prices?model=gpt-4.1-mini")).json
    assert (price["upstream"], price["rates"][0]["output"]) == ("openai", "1.60")
    assert (await office.ask("GET", "/prices?model=gpt-4.1-mini&upstream=nobody")).status == 404


# ---- writes that are sent twice -------------------------------------------------------------------------------------


async def test_a_write_that_is_sent_again_is_done_once_and_shows_no_secret_again(office: Office) -> None:
    once = await office.ask("POST", "/runs", NEW_RUN, who="key", idempotency_key="n1")
    again = await office.ask("POST", "/runs", NEW_RUN, who="key", idempotency_key="n1")
    assert (again.status, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json["run"] == once.json["run"]
    assert again.json["secret"] is None
    assert "shown then" in again.json["note"]
    assert once.json["secret"]
    other = await office.ask("POST", "/runs", {**NEW_RUN, "calls": 2}, who="key", idempotency_key="n1")
    assert (other.status, other.code) == (409, "idempotency_conflict")
    elsewhere = await office.ask("POST", "/runs/r1/stop", who="operator", idempotency_key="n1")
    assert elsewhere.status == 200  # another's name is another name
    assert len(await office.gateway.store.runs()) == 2


async def test_of_many_at_once_one_is_done(office: Office) -> None:
    got = await asyncio.gather(
        *(office.ask("POST", "/runs", NEW_RUN, who="key", idempotency_key="n2") for _ in range(8))
    )
    assert {one.status for one in got} <= {201, 409}
    assert all(one.status == 201 or one.code == "idempotency_pending" for one in got)
    assert len(await office.gateway.store.runs()) == 2


async def test_a_write_that_changed_nothing_can_be_sent_again(office: Office) -> None:
    for _ in range(2):
        assert (await office.ask("POST", "/runs", {"usd": "99"}, who="key", idempotency_key="n3")).status == 403
    assert (await office.ask("POST", "/runs", NEW_RUN, who="key", idempotency_key="n3")).status == 201
    got = await office.ask("POST", "/runs", NEW_RUN, who="key", idempotency_key="x" * 129)
    assert (got.status, got.code) == (422, "invalid")


# ---- secrets and requests -------------------------------------------------------------------------------------------


async def test_a_secret_is_in_its_first_answer_and_nowhere_else(
    office: Office, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = await office.ask("POST", "/keys", {"name": "web"}, idempotency_key="k1")
    rotated = await office.ask("POST", f"/keys/{made.json['key']['id']}/rotate", {}, idempotency_key="k2")
    opened = await office.ask("POST", "/runs", {}, who=made.json["secret"], idempotency_key="k3")
    wrong = await office.ask("POST", "/keys", {"name": office.secrets["key"] + "!"})
    secrets = [one.json["secret"] for one in (made, rotated, opened)] + list(filter(None, office.secrets.values()))
    lists = ("/keys?ended=true&runs=true", "/entries?limit=200", "/runs", "/budgets")
    said = [(await office.ask("GET", path)).body for path in lists] + [wrong.body, caplog.text.encode()]
    said += [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(secrets) > 8
    for secret in secrets:
        assert not [one for one in said if secret.encode() in one]
    digests = [digest(secret).encode() for secret in secrets]
    assert not [one for one in said[: len(lists) + 2] for known in digests if known in one]


async def test_what_is_no_request_is_told_so_in_the_one_shape(office: Office) -> None:
    bearer = ("authorization", f"Bearer {office.secrets['admin']}")
    for method, path, status, code in (
        ("GET", "/nothing", 404, "no_such_path"),
        ("GET", "/runs/", 404, "no_such_path"),
        ("PATCH", "/runs", 405, "method_not_allowed"),
        ("DELETE", "/runs/r1", 405, "method_not_allowed"),
        ("GET", "/runs?limt=5", 422, "invalid"),
        ("GET", "/runs?limit=5&limit=6", 422, "invalid"),
        ("GET", "/runs?limit=0", 422, "invalid"),
    ):
        got = await office.ask(method, path)
        assert (got.status, got.code) == (status, code), (method, path)
    assert (await office.ask("PATCH", "/runs")).headers["allow"] == "GET, HEAD, POST"
    assert (await office.ask("GET", "/runs/r1/stop")).headers["allow"] == "POST"
    large = await office.send("POST", "/runs", b"x" * 70_000, [bearer, ("content-type", "application/json")])
    assert (large.status, large.code) == (413, "unreadable")
    for raw in (b"{", b"[]", b"null", b'{"usd": NaN}', b"\xff"):
        assert (await office.ask("POST", "/runs", raw, who="key")).code in ("invalid", "unreadable")
    head = await office.ask("HEAD", "/runs")
    full = await office.ask("GET", "/runs")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", full.headers["content-length"])


async def test_what_not_every_store_could_write_is_refused(office: Office) -> None:
    bad = base64.urlsafe_b64encode(b"run:\0/x\nusd\nlifetime").decode().rstrip("=")
    for method, path, body in (
        ("POST", "/runs", {"key": "ci", "label": "a\0b"}),
        ("POST", "/runs", {"key": "ci", "label": "a\nb"}),
        ("POST", "/quarantine/clear", {"model": "a\0b"}),
        ("POST", "/budgets", {"scope": "run:a\0b", "usd": "1"}),
        ("GET", "/budgets?scope=run:%00", None),
        ("GET", "/holds/%00", None),
        ("GET", f"/runs?after={base64.urlsafe_b64encode(bytes(2)).decode()}", None),
    ):
        got = await office.ask(method, path.replace("%00", "\0") if path.startswith("/holds") else path, body)
        assert (got.status, got.code) == (422, "invalid"), (path, body)
    assert (await office.ask("DELETE", f"/budgets/{bad}")).status == 404


async def test_the_description_and_its_page_need_no_key_and_no_other_server(office: Office) -> None:
    described = await office.ask("GET", "/openapi.json", who="none")
    page = await office.ask("GET", "/docs", who="none")
    assert (described.status, page.status) == (200, 200)
    text = page.body.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    for path in described.json["paths"]:
        assert f"<code>{path}</code>" in text
    assert json.dumps(described.json["info"]["title"]) == '"bursar"'


async def test_what_breaks_is_told_in_the_one_shape_and_to_the_log_only(office: Office) -> None:
    await office.gateway.store.put_key("odd", "0" * 64, "", "no JSON", "{}")
    with pytest.raises(json.JSONDecodeError):  # for the server, which logs it
        await office.ask("GET", "/keys/k-000000000000")
    assert (office.last.status, office.last.code) == (500, "internal")
    assert "JSON" not in office.last.body.decode()


async def test_while_the_ledger_cannot_be_asked_nobody_is_told_anything(office: Office) -> None:
    await office.gateway.store.close()
    got = await office.ask("GET", "/runs")
    assert (got.status, got.code, got.headers["retry-after"]) == (503, "ledger_unavailable", "1")
