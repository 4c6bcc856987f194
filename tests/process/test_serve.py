"""`bursar serve`, as real processes: ready line, messages, workers that die or hang, draining."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from commands import SECONDS_MAX, Bench, bench, finished, gone, line, line_with

from bursar.cli import supervisor as supervisor_module
from bursar.cli.gateway import listen
from bursar.cli.supervisor import Slot, Supervisor
from bursar.drill.answering import Config


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


async def key(here: Bench) -> str:
    secret: str = (await here.json("keys", "create", "test", "--run-usd", "1", "--run-calls", "100"))["secret"]
    return secret


async def serving(here: Bench, *options: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await here.start("serve", "--port", "0", *options)
    said = await line_with(process.stderr, "listening on")
    found = re.search(r"listening on (http://127\.0\.0\.1:\d+) \(\d+ workers?, ledger sqlite:///.*ledger\.db\)", said)
    assert found, said
    return process, found[1]


def post(url: str, secret: str) -> int:
    body = {"model": "gpt-4.1-mini", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
    head = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), head)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_MAX) as reply:
            reply.read()
            status: int = reply.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=SECONDS_MAX) as reply:
        text: str = reply.read().decode()
    return text


def sum_of(page: str, metric: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(metric + "{"))


def workers_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_serves_drains_and_ends_well(tmp_path: Path, workers: str) -> None:
    async with bench(tmp_path, Config(first_byte_ms=300)) as here:
        secret = await key(here)
        process, url = await serving(here, "--workers", workers)
        # Each worker has proven itself by now, whichever is asked.
        assert json.loads(await asyncio.to_thread(get, f"{url}/readyz"))["canary"] == "green"
        assert "\nbursar_canary_up 1.0\n" in await asyncio.to_thread(get, f"{url}/metrics")
        call = asyncio.create_task(asyncio.to_thread(post, url, secret))
        await here.asked()
        process.terminate()
        assert await call == 200
        done = await finished(process)
        assert (done.status, done.err) == (0, "")
        assert (await here.json("canary"))["refused"] >= int(workers)
        assert await here.json("ledger", "holds") == []
        assert (await here.json("ledger", "verify"))["agrees"] is True


async def test_programs_get_the_ready_line_as_json(here: Bench) -> None:
    process = await here.start("serve", "--port", "0", "--json")
    said = json.loads(await line(process.stdout))
    assert said["pid"] == process.pid
    assert said["workers"] == 1
    assert await asyncio.to_thread(post, said["url"], "bursar-unknown") == 401
    process.send_signal(signal.SIGINT)
    done = await finished(process)
    assert done.status == 0
    assert "no key yet" in done.err
    assert "bursar keys create NAME" in done.err


async def test_a_worker_that_is_killed_is_replaced_and_no_connection_is_lost(here: Bench) -> None:
    secret = await key(here)
    process, url = await serving(here, "--workers", "2")
    before = workers_of(process.pid)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    calls = [asyncio.to_thread(post, url, secret) for _ in range(16)]
    assert await asyncio.gather(*calls) == [200] * 16
    # Whichever worker is asked adds up the counts of all, of the dead one too.
    pages = await asyncio.gather(*(asyncio.to_thread(get, f"{url}/metrics") for _ in range(4)))
    assert [sum_of(page, "bursar_calls_granted_total") for page in pages] == [16] * 4
    assert "a worker died (signal SIGKILL); starting another" in await line_with(process.stderr, "died")
    assert len(workers_of(process.pid)) == 2
    process.terminate()
    assert (await finished(process)).status == 0


async def test_workers_end_when_their_supervisor_is_killed(here: Bench) -> None:
    process, _ = await serving(here, "--workers", "2")
    workers = workers_of(process.pid)
    process.kill()
    await asyncio.gather(*map(gone, workers))
    await process.wait()


async def test_a_key_that_is_revoked_is_refused_at_once(here: Bench) -> None:
    secret = await key(here)
    process, url = await serving(here, "--workers", "2")
    assert await asyncio.to_thread(post, url, secret) == 200
    assert (await here.json("keys", "revoke", "test"))["revoked"] == 1
    assert await asyncio.gather(*(asyncio.to_thread(post, url, secret) for _ in range(8))) == [401] * 8
    process.terminate()
    await finished(process)


# ---- what keeps it from starting ------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_named(here: Bench) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for workers in ("1", "2"):
            done = await here.bursar("serve", "--port", port, "--workers", workers)
            assert done.status == 1
            assert f"port {port} on 127.0.0.1 is taken" in done.err


async def test_a_missing_provider_key_is_named(here: Bench) -> None:
    del here.environ["OPENAI_API_KEY"], here.environ["ANTHROPIC_API_KEY"]
    done = await here.bursar("serve", "--port", "0")
    assert done.status == 1
    assert "set one of ANTHROPIC_API_KEY, GEMINI_API_KEY, OPENAI_API_KEY" in done.err


async def test_a_key_of_the_settings_without_its_secret_is_named(here: Bench) -> None:
    config = here.folder / "bursar.toml"
    config.write_text(config.read_text() + '[keys.ci]\nkey_env = "CI_SECRET"\n')
    done = await here.bursar("serve", "--port", "0")
    assert done.status == 1
    assert "[keys.ci] takes its secret from CI_SECRET, which is not set" in done.err


async def test_wrong_settings_are_named(here: Bench) -> None:
    (here.folder / "bursar.toml").write_text("[server]\nports = 1\n")
    done = await here.bursar("serve")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "unknown key server.ports; did you mean port?" in done.err


async def test_a_ledger_that_cannot_be_opened_is_named_in_one_line(here: Bench) -> None:
    books = here.folder / "file"
    books.write_text("this is no database, and it is long enough to be read as one " * 100)
    done = await here.bursar("serve", "--port", "0", "--ledger", str(books))
    assert done.status == 1
    assert f"ledger sqlite:///{books}: " in done.err
    assert "Traceback" not in done.err


# ---- the supervisor -------------------------------------------------------------------------------------------------


def environ_of(here: Bench, config: Path) -> dict[str, str]:
    return {**here.environ, "BURSAR_CONFIG": str(config), "BURSAR_LEDGER": f"sqlite:///{here.folder}/books/ledger.db"}


async def test_a_worker_that_never_served_is_not_tried_again(here: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    sockets = listen("127.0.0.1", 0, 16, sockets=2)
    supervisor = Supervisor(sockets, environ_of(here, here.folder / "gone.toml"), 5)
    async with asyncio.timeout(SECONDS_MAX):
        await supervisor.run(lambda: pytest.fail("it cannot be ready"))
    assert supervisor.has_failed
    err = capfd.readouterr().err
    assert "gone.toml: cannot be read" in err
    assert "Traceback" not in err


async def test_a_worker_whose_loop_hangs_is_killed(here: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "PING_SECONDS", 0.02)
    (listening,) = listen("127.0.0.1", 0, 16)
    slot = Slot(listening, environ_of(here, here.folder / "bursar.toml"))
    living = asyncio.create_task(slot.live())
    async with asyncio.timeout(SECONDS_MAX):
        await slot.is_ready.wait()
        assert slot.process is not None
        # From here on silence is short; the worker answered while it could.
        monkeypatch.setattr(supervisor_module, "SILENCE_SECONDS_MAX", 0.3)
        os.kill(slot.process.pid, signal.SIGSTOP)
        assert await living == -signal.SIGKILL
    listening.close()
