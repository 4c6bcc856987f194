"""Runs inside runs: a sub-agent spends its parent's money, and less than all of it where it has a cap of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from bodies import CHAT
from conftest import KEY_ENV, Wire, wire_up
from scripted import answer, play

from bursar.edge.callers import digest, new_run_secret, new_secret, template_to_json
from bursar.ledger.account import AccountState, Limits, OpenScope, SetLimit, SetState, Unit


async def ask(wire: Wire, **headers: str) -> tuple[int, bytes]:
    wire.provider.script = play(answer(CHAT.reply))
    got = await wire.post(CHAT.path, CHAT.request, **headers)
    return got.status, got.body


async def calls(wire: Wire, run: str) -> int:
    account = await wire.account(f"run:{run}", Unit.CALLS)
    return account.captured + account.held


async def test_museum_31_children_share_what_their_parent_may_spend(wire: Wire) -> None:
    await ask(wire, x_bursar_run="top")
    await wire.store.submit(SetLimit("run:top", Unit.CALLS, 4))
    for number, child in enumerate(("a", "b", "b")):
        parent = "top" if number < 2 else ""
        told = {"x_bursar_parent_run": parent} if parent else {}
        assert (await ask(wire, x_bursar_run=child, **told))[0] == 200
    assert [await calls(wire, run) for run in ("top", "a", "b")] == [4, 1, 2]
    status, body = await ask(wire, x_bursar_run="c", x_bursar_parent_run="top")
    assert (status, b'"run:top"' in body) == (429, True)
    # The parent's own calls are spent, too, and a grandchild's are everybody's.
    await wire.store.submit(SetLimit("run:top", Unit.CALLS, 5))
    assert (await ask(wire, x_bursar_run="d", x_bursar_parent_run="a"))[0] == 200
    assert [await calls(wire, run) for run in ("top", "a", "d")] == [5, 2, 1]
    assert (await ask(wire, x_bursar_run="top"))[0] == 429
    assert await wire.audit() == []


async def test_a_child_may_have_a_smaller_cap_of_its_own_and_stops_with_its_parent(wire: Wire) -> None:
    await ask(wire, x_bursar_run="top")
    await ask(wire, x_bursar_run="small", x_bursar_parent_run="top")
    await wire.store.submit(SetLimit("run:small", Unit.CALLS, 1))
    status, body = await ask(wire, x_bursar_run="small")
    assert (status, b'"run:small"' in body) == (429, True)
    await ask(wire, x_bursar_run="other", x_bursar_parent_run="top")
    await wire.store.submit(SetState("run:top", AccountState.STOPPED))
    assert [(await ask(wire, x_bursar_run=run))[0] for run in ("top", "other")] == [429, 429]


async def test_a_parent_is_there_and_of_the_same_key(wire: Wire) -> None:
    status, body = await ask(wire, x_bursar_run="a", x_bursar_parent_run="nobody")
    assert (status, b"there is no run nobody" in body) == (400, True)
    await ask(wire, x_bursar_run="top")
    secret = new_secret()
    await wire.store.submit(OpenScope("key:other", "", Limits()))
    await wire.store.put_key("other", digest(secret), "", template_to_json(Limits(calls=5)))
    told = {"x_bursar_run": "b", "x_bursar_parent_run": "top"}
    assert (await ask(wire, authorization=f"Bearer {secret}", **told))[0] == 403
    assert {row.run for row in await wire.store.runs()} == {"top"}


async def test_a_run_that_is_there_gets_no_other_parent(wire: Wire) -> None:
    for run in ("top", "free"):
        await ask(wire, x_bursar_run=run)
    assert (await ask(wire, x_bursar_run="free", x_bursar_parent_run="top"))[0] == 400
    assert (await ask(wire, x_bursar_run="top", x_bursar_parent_run="top"))[0] == 400
    above = "top"
    for number in range(8):
        assert (await ask(wire, x_bursar_run=f"n{number}", x_bursar_parent_run=above))[0] == 200
        above = f"n{number}"
    assert (await ask(wire, x_bursar_run="too-deep", x_bursar_parent_run=above))[0] == 400


async def test_another_gateway_knows_the_parents(tmp_path: Path) -> None:
    async with wire_up(tmp_path) as one, wire_up(tmp_path) as other:
        await ask(one, x_bursar_run="top")
        await ask(one, x_bursar_run="a", x_bursar_parent_run="top")
        await ask(other, x_bursar_run="a")
        await ask(other, x_bursar_run="b", x_bursar_parent_run="a")
        assert [await calls(one, run) for run in ("top", "a", "b")] == [4, 3, 1]


@pytest.mark.parametrize(
    ("headers", "child"),
    [
        ({"x_claude_code_session_id": "s", "x_claude_code_agent_id": "k"}, "s:k"),
        ({"x_session_id": "k", "x_parent_session_id": "s"}, "k"),
    ],
)
async def test_the_sub_agents_of_an_agent_are_children_of_its_session(
    wire: Wire, headers: dict[str, str], child: str
) -> None:
    # Also where the sub-agent is seen first.
    assert (await ask(wire, **headers))[0] == 200
    assert [await calls(wire, run) for run in ("s", child)] == [1, 1]


async def test_a_run_key_of_a_child_pays_for_its_parents_and_keeps_the_tags_of_its_run(wire: Wire) -> None:
    await ask(wire, x_bursar_run="top")
    path = ("run:top", "tag:job=7")
    await wire.store.submit(OpenScope("run:mine", "key:wire", Limits(calls=5), path=path))
    secret = new_run_secret()
    await wire.store.put_key("wire", digest(secret), "mine", template_to_json(Limits()))
    bearer = f"Bearer {secret}"
    assert (await ask(wire, authorization=bearer, x_bursar_tags="job=7"))[0] == 200
    assert (await ask(wire, authorization=bearer, x_bursar_tags="job=8"))[0] == 403
    assert [await calls(wire, run) for run in ("top", "mine")] == [2, 1]
    await wire.store.submit(SetLimit("tag:job=7", Unit.CALLS, 0, opens=True))
    status, body = await ask(wire, authorization=bearer)
    assert (status, b'"tag:job=7"' in body) == (429, True)


async def test_children_count_as_new_runs_of_their_key(tmp_path: Path) -> None:
    few = {"wire": {"key_env": KEY_ENV, "run": {"calls": 50}, "runs_per_hour_max": 3}}
    async with wire_up(tmp_path, keys=few) as wire:
        await ask(wire, x_bursar_run="top")
        found = [(await ask(wire, x_bursar_run=f"c{n}", x_bursar_parent_run="top"))[0] for n in range(4)]
        assert found == [200, 200, 429, 429]
