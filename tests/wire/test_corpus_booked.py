"""The golden corpus through a real gateway: what its ledger holds and books is what the sums of each pair say."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from conftest import Wire, wire_up
from scripted import answer, chunked, play

from bursar.clock import Instant

CORPUS = Path(__file__).parents[1] / "golden" / "corpus" / "corpus_sums.py"
NOON = Instant(1_795_435_200_000_000)
"""2026-11-23T12:00Z: prices change with the day, and some with the hour."""
UPSTREAMS = ("openai", "anthropic", "bedrock", "gemini", "deepseek", "mistral", "groq", "xai")


class Noon:
    """A clock that stands still."""

    def now(self) -> Instant:
        return NOON


def corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus_sums", CORPUS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("corpus_sums", module)
    spec.loader.exec_module(module)
    return module


def scripted_reply(pair: dict[str, Any], raw: bytes) -> bytes:
    reply = pair["reply"]
    if "events" in reply:
        return chunked(raw[:50], raw[50:]) if len(raw) > 50 else chunked(raw)
    if "frames" in reply:
        return chunked(raw[:50], raw[50:], content_type="application/vnd.amazon.eventstream")
    kind = reply.get("content_type", "application/json")
    return answer(raw, reply.get("status", 200), kind)


async def booked(wire: Wire, sums: ModuleType, pair: dict[str, Any], number: int) -> tuple[int, int]:
    """Send one pair through and give what was held and what was captured."""
    wire.provider.script = play(scripted_reply(pair, sums.reply_bytes(pair)))
    prefix = f"/{pair['upstream']}" if "upstream" in pair else ""
    query = "?alt=sse" if ":stream" in pair["path"] and "events" in pair["reply"] else ""
    headers = {name.replace("-", "_"): value for name, value in pair.get("headers", {}).items()}
    run = f"r{number}"
    await wire.post(prefix + pair["path"] + query, sums.request_bytes(pair), x_bursar_run=run, **headers)
    ended = (await wire.settled(number))[-1]
    assert ended.run == run
    (hold,) = [hold for hold in await wire.holds() if hold.call_id == ended.call_id]
    return hold.held.usd, hold.captured.usd


async def test_every_pair_is_held_and_booked_to_the_nanodollar(tmp_path: Path) -> None:
    sums = corpus()
    upstreams: dict[str, Any] = {name: {"base_url": "PROVIDER", "key_env": "WIRE_KEY"} for name in UPSTREAMS}
    upstreams["bedrock"]["region"] = "us-east-1"
    secrets = dict.fromkeys(UPSTREAMS, "sk-real")
    run = {"usd": "1000.00", "calls": 10}
    wrong = []
    async with wire_up(
        tmp_path,
        None,
        secrets,
        upstreams=upstreams,
        policy={"server_tools": ["web_search", "web_fetch", "file_search"]},
        keys={"wire": {"key_env": "BURSAR_WIRE_TEST_KEY", "run": run, "runs_per_hour_max": 10_000}},
    ) as wire:
        parts = wire.gateway._parts
        wire.gateway._parts = dataclasses.replace(parts, gate=dataclasses.replace(parts.gate, clock=Noon()))
        for number, (file, pair) in enumerate(sums.pairs(), start=1):
            expected = (pair["numbers"]["hold"], pair["numbers"]["bill"])
            found = await booked(wire, sums, pair, number)
            if found != expected:
                wrong.append((file.stem, file.parent.name, found, expected))
        assert wrong == []
        assert await wire.audit() == []
