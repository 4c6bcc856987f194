"""`bursar canary`: the proofs that the ledger has counted, and the turns to red and back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner, Result

from bursar.cli.main import cli
from bursar.edge.canary import KEY_SCOPE, KIND, RUN_SCOPE
from bursar.ledger.account import Ask, Authorize, Limits, OpenScope
from bursar.stores import open_store

ASK = Ask(
    usd_fixed=1,
    tokens_fixed=1,
    picodollars_per_output_token=1,
    choices=1,
    tokens_wanted=1,
    tokens_comfort=1,
    tokens_floor=1,
    client_bounded=True,
)


def invoke(ledger: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["canary", "--ledger", ledger, *arguments], catch_exceptions=False)


async def fill(ledger: str, refusals: int, turns: list[tuple[str, str]]) -> None:
    store = open_store(ledger)
    await store.start()
    await store.submit(OpenScope(KEY_SCOPE, "", Limits()))
    await store.submit(OpenScope(RUN_SCOPE, KEY_SCOPE, Limits(usd=0, calls=0)))
    for number in range(refusals):
        scopes = (RUN_SCOPE, KEY_SCOPE)
        await store.submit(Authorize(f"c{number}", store.worker, scopes, ASK, "m", "u", True))
    for state, why in turns:
        await store.outbox.tell(KIND, state, RUN_SCOPE, {"state": state, "why": why, "worker": "w1"})
    await store.close()


def test_proofs_and_turns_are_shown_to_people_and_programs(tmp_path: Path) -> None:
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    asyncio.run(fill(ledger, 3, [("red", "it was sent"), ("green", "")]))
    first, *turns = invoke(ledger).output.splitlines()
    assert first.startswith("a call with nothing left was refused 3 times since 2")
    assert [line.partition("  ")[2] for line in turns] == [
        "the canary of worker w1 is red, and no call is let through there: it was sent",
        "the canary of worker w1 is green again",
    ]
    shown = json.loads(invoke(ledger, "--json", "--limit", "1").output)
    assert (shown["refused"], [turn["state"] for turn in shown["turns"]]) == (3, ["green"])
    # It is nobody's call: no run, no budget, and nothing that people are told of but the turns.
    listed = [
        CliRunner().invoke(cli, [*words, "--ledger", ledger]).output
        for words in (["runs", "list"], ["budgets", "list"])
    ]
    assert "@canary" not in "".join(listed)
    events = CliRunner().invoke(cli, ["events", "--ledger", ledger, "--json"]).output.splitlines()
    assert [json.loads(line)["kind"] for line in events] == ["canary", "canary"]


def test_where_nothing_went_wrong_or_nothing_was_proven_it_says_so(tmp_path: Path) -> None:
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    asyncio.run(fill(ledger, 1, []))
    assert "was refused once since" in invoke(ledger).output
    assert invoke(ledger).output.endswith("no canary has turned red\n")
    other = f"sqlite:///{tmp_path / 'other.db'}"

    async def make() -> None:
        store = open_store(other)
        await store.start()
        await store.close()

    asyncio.run(make())
    assert "no gateway has proven anything on this ledger yet" in invoke(other).output
    assert json.loads(invoke(other, "--json").output) == {"since": None, "refused": 0, "turns": []}
