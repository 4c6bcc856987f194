"""SIGHUP: settings are read anew, and no stream is cut for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from commands import SECONDS_MAX, Bench, bench, finished, line, line_with

from bursar.drill.answering import Config

MODEL = "gpt-4.1-mini"


def call(url: str, secret: str, *, stream: bool = False) -> tuple[int, str]:
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
    head = {"authorization": f"Bearer {secret}", "content-type": "application/json", "x-bursar-run": "r1"}
    data = json.dumps(body | {"stream": stream}).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/v1/chat/completions", data, head), timeout=SECONDS_MAX
        ) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def settings(here: Bench, models: str, rest: str) -> None:
    text = f'[keys.ci]\nkey_env = "CI_KEY"\nmodels = ["{models}"]\n{rest}'
    (here.folder / "bursar.toml").write_text(
        f'{text}[upstreams.openai]\nbase_url = "{here.provider.base_url}"\n[ledger]\nurl = "sqlite:///books/ledger.db"\n'
    )


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_next_request_meets_the_new_settings_and_a_stream_in_flight_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("CI_KEY", "bursar-reload-secret")
    async with bench(tmp_path, Config(first_byte_ms=1_500)) as here:
        settings(here, "*", 'usd = "5"\n')
        process = await here.start("serve", "--port", "0", "--json", "--workers", workers)
        said = json.loads(await line(process.stdout))
        url = said["url"]
        stream = asyncio.create_task(asyncio.to_thread(call, url, "bursar-reload-secret", stream=True))
        await here.asked()
        settings(here, "claude-*", 'usd = "7"\n[server]\nport = 4999\n')
        os.kill(process.pid, signal.SIGHUP)
        for _ in range(int(workers)):
            await line_with(process.stderr, "read anew")
        # Both workers are asked, whichever of them takes a connection.
        answers = [await asyncio.to_thread(call, url, "bursar-reload-secret") for _ in range(6)]
        assert {status for status, _ in answers} == {403}
        status, text = await stream
        assert status == 200
        assert text.rstrip().endswith("data: [DONE]")
        budgets = await here.json("budgets", "list", "--scope", "key:ci")
        assert [row["limit"] for row in budgets if row["unit"] == "usd"] == [7_000_000_000]
        (here.folder / "bursar.toml").write_text("[keys.ci]\nno_such_key = 1\n")
        os.kill(process.pid, signal.SIGHUP)
        assert "no_such_key" in await line_with(process.stderr, "not read anew")
        assert (await asyncio.to_thread(call, url, "bursar-reload-secret"))[0] == 403
        process.terminate()
        done = await finished(process)
        assert done.status == 0
        settings(here, "*", "")
        # The canary has gone through the gateway with the new settings, too.
        history = await here.json("canary")
        assert (history["refused"] > int(workers), history["turns"]) == (True, [])
        assert (await here.json("ledger", "verify"))["agrees"] is True
