"""`bursar run`, as a real process around a real command, in front of a fake provider with a till of its own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import stat
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from commands import AGENT, Bench, bench, finished, gone, line

from bursar.cli import child as child_module
from bursar.cli.child import Child
from bursar.drill.answering import Config
from bursar.money import Money
from bursar.stores import open_store

PYTHON = sys.executable


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


def receipt(here: Bench) -> dict[str, object]:
    found: dict[str, object] = json.loads((here.folder / "receipt.json").read_text())
    return found


# ---- the cap, the books and the receipt -----------------------------------------------------------------------------


async def test_the_cap_holds_and_the_receipt_is_what_the_provider_billed(here: Bench) -> None:
    done = await here.run(
        "for _ in range(5): call()\nsys.exit(7)", "--usd", "1", "--calls", "3", "--json", "receipt.json"
    )
    assert done.statuses == [200, 200, 200, 429, 429], done.err
    assert done.status == 7
    assert here.provider.till.total.calls == 3
    facts = receipt(here)
    assert facts["spent_usd"] == str(Money(here.provider.till.total.nanodollars))
    assert (facts["calls"], facts["cap_calls"], facts["cap_usd"], facts["held_usd"]) == (3, 3, "1.00", "0.00")
    assert facts["session"] == {
        "calls": 3,
        "refused": 2,
        "refused_with": {"429": 2},
        "failed": 0,
        "presumed": 0,
        "in_flight": 0,
        "presumed_usd": "0.00",
    }
    assert (facts["exit_status"], facts["stopped_at_cap"]) == (7, False)
    assert re.search(rf"run {facts['run']}: spent \$0\.\d+ of \$1\.00, 3 of 3 calls, in ", done.err), done.err
    assert "2 calls refused, nothing sent" in done.err
    assert f"resume with: bursar run --run {facts['run']} -- COMMAND" in done.err


async def test_the_books_agree_afterwards_and_name_the_command_without_its_arguments(here: Bench) -> None:
    await here.run("call()  # secret prompt", "--usd", "1", "--run", "r-books")
    (row,) = await here.json("runs", "list")
    assert (row["run"], row["key"], row["command"]) == ("r-books", "local", Path(PYTHON).name)
    assert (await here.json("ledger", "verify"))["agrees"] is True
    shown = await here.json("runs", "show", "r-books")
    assert [call["state"] for call in shown["calls"]] == ["captured"]
    assert shown["calls"][0]["captured"]["usd_nanodollars"] == here.provider.till.total.nanodollars
    assert await here.json("ledger", "holds") == []
    assert "secret prompt" not in (await here.bursar("ledger", "export")).out


async def test_the_key_of_a_run_is_revoked_when_its_command_has_ended(here: Bench) -> None:
    await here.run("call()", "--usd", "1", "--run", "r-key")
    store = open_store(f"sqlite:///{here.folder / 'books' / 'ledger.db'}")
    await store.start()
    (key,) = await store.keys()
    await store.close()
    assert (key.name, key.run, key.revoked_at is not None) == ("local", "r-key", True)


async def test_a_run_without_caps_takes_those_of_the_settings(here: Bench) -> None:
    done = await here.run("call()", "--json", "receipt.json")
    assert (receipt(here)["cap_usd"], receipt(here)["cap_calls"]) == ("5.00", 500)
    assert re.search(r"bursar: run r-[a-z2-7]{12}: at most \$5.00 and 500 calls\n", done.err)


async def test_a_cap_in_tokens_holds(here: Bench) -> None:
    done = await here.run("for _ in range(3): call()", "--tokens", "0", "--json", "receipt.json")
    assert done.statuses == [429, 429, 429]
    assert (receipt(here)["tokens"], receipt(here)["cap_tokens"]) == (0, 0)
    assert here.provider.till.requests == 0


async def test_a_run_goes_on_with_what_it_has_left_and_takes_new_caps(here: Bench) -> None:
    options = ("--run", "r-again", "--json", "receipt.json")
    assert (await here.run("call(), call()", "--calls", "2", *options)).statuses == [200, 200]
    again = await here.run("call()", *options)
    assert again.statuses == [429]
    assert "spent so far" in again.err
    raised = await here.run("call(), call()", "--calls", "3", *options)
    assert raised.statuses == [200, 429]
    assert (receipt(here)["calls"], receipt(here)["cap_calls"]) == (3, 3)
    assert receipt(here)["spent_usd"] == str(Money(here.provider.till.total.nanodollars))


async def test_a_run_that_repeats_itself_is_refused_as_often_as_it_was_told(here: Bench) -> None:
    done = await here.run("for _ in range(4): call()", "--usd", "1", "--loops", "2")
    assert done.statuses == [200, 200, 200, 429], done.err
    lets_it = await here.run("for _ in range(12): call()", "--usd", "1", "--loops", "none")
    assert lets_it.statuses == [200] * 12, lets_it.err
    wrong = await here.run("call()", "--usd", "1", "--loops", "1")
    assert (wrong.status, 'write a number from 2 to 100, or "none"' in wrong.err) == (2, True)


async def test_a_run_is_raised_from_another_terminal_while_it_goes_on(here: Bench) -> None:
    agent = here.agent("call()\ncall()\nsys.stdin.readline()\ncall()", "--calls", "1", "--run", "r-live")
    process = await here.start(*agent, stdin=asyncio.subprocess.PIPE)
    assert json.loads(await line(process.stdout))[0] == 200
    assert json.loads(await line(process.stdout))[0] == 429
    assert (await here.bursar("runs", "raise", "r-live", "--calls", "2")).status == 0
    assert process.stdin is not None
    process.stdin.write(b"\n")
    assert (await finished(process)).statuses == [200]


async def test_a_stopped_run_starts_nothing_until_it_is_resumed(here: Bench) -> None:
    await here.run("call()", "--run", "r-off", "--usd", "1")
    assert (await here.bursar("runs", "stop", "r-off")).status == 0
    stopped = await here.run("call()", "--run", "r-off")
    assert (stopped.status, stopped.out) == (125, "")
    assert "`bursar runs resume r-off`" in stopped.err
    assert (await here.bursar("runs", "resume", "r-off")).status == 0
    assert (await here.run("call()", "--run", "r-off")).statuses == [200]


async def test_a_call_that_the_command_left_behind_is_settled_before_the_receipt(tmp_path: Path) -> None:
    async with bench(tmp_path, Config(first_byte_ms=400)) as here:
        script = "import threading; threading.Thread(target=call, daemon=True).start()\n"
        script += "while not os.path.exists('asked'): time.sleep(0.01)"
        process = await here.start(*here.agent(script, "--json", "receipt.json"))
        await here.asked()
        (here.folder / "asked").touch()
        done = await finished(process)
        assert "waiting for 1 calls in flight" in done.err
        assert receipt(here)["held_usd"] == "0.00"
        assert receipt(here)["spent_usd"] != "0.00"
        assert here.provider.till.total.calls == 1


# ---- what the command gets ------------------------------------------------------------------------------------------


async def test_the_command_has_a_run_key_and_no_provider_key(here: Bench) -> None:
    here.environ |= {"GROQ_API_KEY": "gsk-real", "COHERE_API_KEY": "co-real", "OTHER_KEY": "bursar-real"}
    with (here.folder / "bursar.toml").open("a") as settings:
        settings.write('[keys.other]\nkey_env = "OTHER_KEY"\n')
    done = await here.run("say(dict(os.environ))\nsys.stdin.read()", "--keep-env", "NOTHING")
    (environ,) = done.said[0]
    assert environ["OPENAI_API_KEY"].startswith("bursar-run-")
    assert environ["OPENAI_API_KEY"] == environ["ANTHROPIC_API_KEY"]
    # Groq is served as well, so its clients get the run key; nobody serves Cohere here.
    assert environ["GROQ_API_KEY"] == environ["OPENAI_API_KEY"]
    assert "COHERE_API_KEY" not in environ
    assert not [value for value in environ.values() if "real" in value]


async def test_the_run_may_also_be_named_in_the_path_but_not_left(here: Bench) -> None:
    script = """
base = os.environ["BURSAR_URL"]
call("/r/" + os.environ["BURSAR_RUN"] + "/v1/chat/completions", base)
call("/r/another/v1/chat/completions", base)
call("/r/another/v1/chat/completions", base)
"""
    done = await here.run(script, "--calls", "2", "--json", "receipt.json")
    assert done.statuses == [200, 200, 429]
    assert len(await here.json("runs", "list")) == 1


async def test_a_call_that_cannot_be_allowed_is_on_the_receipt(here: Bench) -> None:
    done = await here.run(
        "call('/chat/completions', BASE, KEY, {'tools': [{'type': 'web_search'}]})", "--json", "receipt.json"
    )
    assert done.statuses == [422]
    assert receipt(here)["session"] | {"refused": 1, "refused_with": {"422": 1}} == receipt(here)["session"]
    assert "1 call refused, nothing sent" in done.err


async def test_without_any_provider_key_it_warns_at_once_and_calls_name_the_variable(here: Bench) -> None:
    del here.environ["OPENAI_API_KEY"], here.environ["ANTHROPIC_API_KEY"]
    done = await here.run("call()")
    assert "warning: none of ANTHROPIC_API_KEY, GEMINI_API_KEY, OPENAI_API_KEY is set here" in done.err
    ((status, body),) = done.said
    assert 400 <= status < 500
    assert "OPENAI_API_KEY" in body


async def test_quiet_says_nothing_and_json_goes_to_stdout(here: Bench) -> None:
    done = await here.run("", "--quiet", "--json", "-")
    assert done.err == ""
    assert json.loads(done.out)["exit_status"] == 0


@pytest.mark.parametrize(("policy", "status"), [("", 400), ("[policy]\nrefusal_status = 402\n", 402)])
async def test_aider_is_known_by_the_command_and_refused_with_what_stops_it(
    here: Bench, policy: str, status: int
) -> None:
    settings = here.folder / "bursar.toml"
    settings.write_text(settings.read_text() + policy)
    aider = here.folder / "aider"
    aider.write_text(f"#!{PYTHON}\n{AGENT}\ncall()")
    aider.chmod(0o755)
    done = await here.bursar("run", "--calls", "0", "--", str(aider))
    assert done.statuses == [status]
    assert "the cap of 0 calls" in done.said[0][1]


# ---- ends -----------------------------------------------------------------------------------------------------------


async def test_stop_ends_the_command_at_the_cap_with_124(here: Bench) -> None:
    done = await here.run("while True: call(); time.sleep(0.01)", "--calls", "2", "--stop", "--json", "receipt.json")
    assert done.status == 124
    # The request to end may come before the command has read the refusal.
    assert done.statuses[:2] == [200, 200]
    assert set(done.statuses[2:]) <= {429}
    assert receipt(here)["stopped_at_cap"] is True
    assert "the command was ended at the cap" in done.err
    assert here.provider.till.total.calls == 2


async def test_stop_leaves_a_command_alone_that_stays_below_the_cap(here: Bench) -> None:
    done = await here.run("call()\nsys.exit(3)", "--calls", "2", "--stop")
    assert (done.status, done.statuses) == (3, [200])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
async def test_signals_are_passed_on(here: Bench, number: signal.Signals) -> None:
    script = f"signal.signal({int(number)}, lambda *_: sys.exit(33))\nsay('ready')\nwhile True: signal.pause()"
    # A session of its own has no terminal that could signal the command itself.
    process = await here.start(*here.agent(script), start_new_session=True)
    await line(process.stdout)
    process.send_signal(number)
    done = await finished(process)
    assert done.status == 33
    assert "resume with" in done.err


async def test_a_command_that_a_signal_ended_gives_128_and_the_signal(here: Bench) -> None:
    assert (await here.run("os.kill(os.getpid(), 9)")).status == 137


def take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def test_a_command_that_suspends_itself_suspends_bursar_and_goes_on_with_it(here: Bench) -> None:
    ours, theirs = os.openpty()
    try:
        process = await here.start(
            *here.agent("os.kill(os.getpid(), signal.SIGSTOP)\ncall()\nsys.exit(4)"),
            stdin=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        os.killpg(process.pid, signal.SIGCONT)
        done = await finished(process)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.status, done.statuses) == (4, [200])


async def test_ctrl_c_reaches_the_command_through_the_terminal(here: Bench) -> None:
    ours, theirs = os.openpty()
    script = "signal.signal(2, lambda *_: sys.exit(5))\nassert os.isatty(0)\nsay('ready')\nwhile True: signal.pause()"
    try:
        process = await here.start(
            *here.agent(script, "--json", "receipt.json"),
            stdin=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        await line(process.stdout)
        os.write(ours, b"\x03")
        done = await finished(process)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.status == 5
    assert receipt(here)["exit_status"] == 5


async def test_the_command_ends_when_bursar_is_killed(here: Bench) -> None:
    process = await here.start(*here.agent("say(os.getpid())\nwhile True: signal.pause()"))
    (pid,) = json.loads(await line(process.stdout))
    process.kill()
    await gone(pid)
    await process.wait()


async def test_what_a_killed_bursar_held_is_booked_whole_when_the_run_goes_on(tmp_path: Path) -> None:
    async with bench(tmp_path, Config(first_byte_ms=300)) as here:
        process = await here.start(*here.agent("call()", "--run", "r-killed", "--usd", "1"))
        await here.asked()
        process.kill()
        await process.wait()
        (hold,) = await here.json("ledger", "holds")
        done = await here.run("call()", "--run", "r-killed", "--json", "receipt.json")
        assert done.statuses == [200]
        shown = {one["call"]: one for one in (await here.json("runs", "show", "r-killed"))["calls"]}
        assert (shown[hold["call"]]["state"], shown[hold["call"]]["captured"]) == ("expired", hold["held"])
        facts = receipt(here)
        assert (facts["calls"], facts["held_usd"]) == (2, "0.00")
        assert Money.from_usd(str(facts["spent_usd"])).nanodollars >= here.provider.till.total.nanodollars
        assert here.provider.till.total.calls == 2


async def test_what_is_not_there_opens_no_run(here: Bench) -> None:
    plain = here.folder / "plain"
    plain.write_text("no program")
    missing = await here.bursar("run", "--usd", "1", "--", "bursar-no-such-command")
    assert (missing.status, missing.err) == (127, "bursar: bursar-no-such-command: command not found\n")
    denied = await here.bursar("run", "--usd", "1", "--", str(plain))
    assert denied.status == 126
    plain.chmod(plain.stat().st_mode | stat.S_IXUSR)
    assert not (here.folder / "books").exists()
    broken = await here.bursar("run", "--usd", "1", "--", str(plain))
    assert broken.status == 126


async def test_what_bursar_cannot_do_is_125(here: Bench) -> None:
    (here.folder / "bursar.toml").write_text("[serve]\n")
    done = await here.run("call()")
    assert (done.status, done.out) == (125, "")
    assert "unknown key serve" in done.err


async def test_a_command_that_ignores_the_request_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "KILL_AFTER_SECONDS", 0.05)
    reading, writing = os.pipe()
    script = "import os, signal; signal.signal(15, signal.SIG_IGN); os.write(1, b'x'); signal.pause()"
    saved = os.dup(1)
    os.dup2(writing, 1)
    try:
        child = Child([PYTHON, "-c", script], os.environ)
    finally:
        os.dup2(saved, 1)
        for fd in (saved, writing):
            os.close(fd)
    ending = asyncio.create_task(child.wait())
    assert await asyncio.to_thread(os.read, reading, 1) == b"x"
    os.close(reading)
    await child.stop()
    assert await ending == 128 + signal.SIGKILL
    assert child.has_ended
