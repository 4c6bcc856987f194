"""`bursar events` and `bursar webhooks`: what happened and who was told; and the settings behind it."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from standardwebhooks import Webhook as Verifier

from bursar.cli import events
from bursar.cli.main import cli
from bursar.clock import SystemClock
from bursar.ledger.account import Amounts, Ask, Authorize, Basis, Limits, OpenScope, Settle
from bursar.ledger.store import NEVER, DeliveryState
from bursar.settings import SettingsError, parse
from bursar.stores.sqlite import SqliteStore

SECRET = "whsec_" + "b2xkLXNlY3JldC1vZi10d2VudHktZm91ci1ieXRlcw=="
ASK = Ask(100, 40, 0, 1, 10, 10, 1, False)


def call(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


async def spend(path: Path, *runs: str) -> None:
    store = SqliteStore(path, SystemClock())
    await store.start()
    await store.submit(OpenScope("key:ci", "", Limits()))
    for run in runs:
        scopes = (f"run:{run}", "key:ci")
        await store.submit(OpenScope(scopes[0], "key:ci", Limits(usd=100)))
        await store.submit(Authorize(f"c-{run}", store.worker, scopes, ASK, "m1", "openai"))
        held = Amounts(100, 1, 50)
        await store.submit(
            Settle(f"c-{run}", store.worker, Amounts(60 if run != "over" else 150, 1, 20), Basis.METERED, scopes, held)
        )
    await store.close()


async def fill(path: Path) -> None:
    await spend(path, "r1", "over")
    store = SqliteStore(path, SystemClock())
    await store.start()
    (taken, *_) = await store.outbox.take("ops", (), NEVER, 10**12, 10**12, 1)
    await store.outbox.note("ops", taken, DeliveryState.GIVEN_UP, "status 500")
    await store.close()


@pytest.fixture
def books(tmp_path: Path) -> str:
    asyncio.run(fill(tmp_path / "ledger.db"))
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def test_what_happened_is_listed_with_who_was_not_told(books: str) -> None:
    lines = call("events", "--ledger", books).output.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith(
        "threshold   run:r1 has spent 50% of its cap of $0.0000001: $0.00000006 (not told: ops given up)"
    )
    assert "overrun     the call c-over to m1 at openai cost more than was held for it" in lines[2]
    rows = [json.loads(line) for line in call("events", "--ledger", books, "--json").output.splitlines()]
    assert [row["kind"] for row in rows] == ["threshold", "threshold", "overrun", "quarantine"]
    assert rows[0]["deliveries"] == [{"webhook": "ops", "state": "given up", "attempts": 1, "said": "status 500"}]
    assert (rows[0]["limit"], rows[0]["spent"], rows[0]["percent"]) == ("0.0000001", "0.00000006", 50)


def test_a_list_is_cut_by_time_kind_and_number(books: str) -> None:
    assert call("events", "--ledger", books, "--limit", "1").output.count("\n") == 1
    assert call("events", "--ledger", books, "--kind", "overrun", "--kind", "threshold").output.count("\n") == 3
    assert call("events", "--ledger", books, "--since", "1h").output.count("\n") == 4
    assert call("events", "--ledger", books, "--since", "2001-02-03").output.count("\n") == 4
    assert call("events", "--ledger", books, "--since", "2999-01-01T08:00Z").output == ""
    wrong = call("events", "--ledger", books, "--since", "yesterday")
    assert (wrong.exit_code, "write for example 2h" in wrong.output) == (2, True)


async def test_what_happens_from_now_on_is_followed_each_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FOLLOW_SECONDS", 0.001)
    await spend(tmp_path / "ledger.db", "r1", "r2")
    settings = parse({"ledger": {"url": f"sqlite:///{tmp_path / 'ledger.db'}"}}, "bursar.toml")
    task = asyncio.create_task(events._events(settings, None, ("threshold",), 1, True, True))
    told: list[str] = []

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(told) < count:
                await asyncio.sleep(0.001)
                told.extend(json.loads(line)["scope"] for line in capsys.readouterr().out.splitlines())

    await until(1)
    for number in range(3, 6):
        await spend(tmp_path / "ledger.db", f"r{number}")
        await until(number - 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told == ["run:r2", "run:r3", "run:r4", "run:r5"]


# ---- webhooks -------------------------------------------------------------------------------------------------------


class Receiver(BaseHTTPRequestHandler):
    """Takes what is posted to /yes, and nothing else."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((dict(self.headers), body))  # type: ignore[attr-defined]
        self.send_response(200 if self.path == "/yes" else 403)
        self.end_headers()
        self.wfile.write(b"heard \x1b[31m you")

    def log_message(self, *_: object) -> None: ...


def test_a_webhook_is_sent_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.got = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HOOK_URL", f"http://127.0.0.1:{server.server_port}/yes")
        config = tmp_path / "bursar.toml"
        config.write_text(
            '[webhooks.ops]\nurl_env = "HOOK_URL"\nsecret_env = "HOOK_SECRET"\n'
            f'[webhooks.no]\nurl = "http://127.0.0.1:{server.server_port}/no"\nsecret_env = "HOOK_SECRET"\n'
        )
        done = call("webhooks", "test", "ops", "--config", str(config))
        refused = call("webhooks", "test", "no", "--config", str(config), "--json")
        server.shutdown()
        thread.join()
    assert (done.exit_code, done.output) == (0, "127.0.0.1 took it: status 200 heard [31m you\n")
    headers, body = server.got[0]  # type: ignore[attr-defined]
    assert Verifier(SECRET).verify(body, headers)["kind"] == "test"
    assert refused.exit_code == 1
    assert json.loads(refused.output).items() >= {"is_delivered": False, "status": 403}.items()
    away = call("webhooks", "test", "no", "--config", str(config))
    assert (away.exit_code, "did not take it: 127.0.0.1" in away.output) == (1, True)
    unknown = call("webhooks", "test", "nope", "--config", str(config))
    assert (unknown.exit_code, "known: ops, no" in unknown.output) == (1, True)


@pytest.mark.parametrize(
    ("value", "why"),
    [("", "is not set"), ("hunter2", "openssl rand"), ("whsec_%%", "openssl rand"), ("whsec_AAAA", "shorter than 24")],
)
def test_a_secret_that_cannot_sign_is_named_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, why: str
) -> None:
    monkeypatch.setenv("HOOK_SECRET", value)
    config = tmp_path / "bursar.toml"
    config.write_text('[webhooks.ops]\nurl = "https://ops.example.com/T0KEN"\nsecret_env = "HOOK_SECRET"\n')
    for command in (("webhooks", "test", "ops"), ("webhooks", "list")):
        output = call(*command, "--config", str(config)).output
        assert "[webhooks.ops]" in output
        assert why in output
        assert "T0KEN" not in output
        assert not value or value not in output
    served = call("serve", "--config", str(config), "--ledger", str(tmp_path / "ledger.db"), "--port", "0")
    assert (served.exit_code, why in served.output) == (1, True)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "either url or url_env"),
        ({"url": "https://a.example/", "url_env": "A"}, "either url or url_env"),
        ({"url": "https://a.example/"}, "needs secret_env"),
        ({"url": "http://a.example/", "format": "slack"}, "in the clear"),
        ({"url": "ftp://a.example/", "format": "slack"}, "is not a URL"),
        ({"url": "https://a.example/?a=b c", "format": "slack"}, "is not a URL"),
        ({"url": "https://a.example/", "format": "slack", "events": ["threshhold"]}, "events"),
    ],
)
def test_a_webhook_that_could_not_be_told_refuses_to_start(given: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parse({"webhooks": {"ops": given}}, "bursar.toml")
