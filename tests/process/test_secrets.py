"""No secret and no prompt is anywhere that it should not be: logs, errors, metrics, the process list, the database."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from commands import SECONDS_MAX, Bench, bench, finished, line

PROMPT = "planted prompt 7f3a"
DECLARED = "bursar-planted-declared-key-0b71"
WRONG = "bursar-planted-wrong-key-99c2"
SIGNING = "whsec_cGxhbnRlZC1zaWduaW5nLXNlY3JldC0yMDI2"


def ask(url: str, secret: str, body: object = None, **headers: str) -> str:
    """Give everything that a client sees of an answer."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"authorization": f"Bearer {secret}", "content-type": "application/json", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, named), timeout=SECONDS_MAX) as reply:
            return f"{reply.status} {reply.headers} {reply.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.headers} {error.read().decode()}"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4.1-mini", "max_tokens": 20, "messages": [{"role": "user", "content": PROMPT}], **more}


def processes() -> str:
    """Give what `ps` shows of every process, environment left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode("latin-1"))
        except OSError:
            continue
    return "\n".join(found)


def files(folder: Path) -> str:
    """Give the bytes of every file that bursar has written, its settings left out."""
    return "\n".join(
        path.read_bytes().decode("latin-1")
        for path in folder.rglob("*")
        if path.is_file() and path.name != "bursar.toml"
    )


async def test_what_is_planted_is_found_nowhere(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        here.environ |= {"CI_KEY": DECLARED, "HOOK_SECRET": SIGNING}
        with (here.folder / "bursar.toml").open("a") as settings:
            settings.write('[keys.ci]\nkey_env = "CI_KEY"\n')
            settings.write('[webhooks.hook]\nurl = "http://127.0.0.1:9/"\nsecret_env = "HOOK_SECRET"\n')
        made = (await here.json("keys", "create", "test", "--run-calls", "3"))["secret"]
        process = await here.start("serve", "--port", "0", "--json", "--workers", "2")
        url = json.loads(await line(process.stdout))["url"]
        seen, run_secret = await asyncio.to_thread(everything_asked, url, made)
        listed = processes()
        process.terminate()
        done = await finished(process)
        told = [done.err, done.out, *seen, listed, files(here.folder), *(await commands(here))]
        planted = {DECLARED, WRONG, SIGNING, SIGNING.removeprefix("whsec_"), made, run_secret, "sk-real-openai"}
        for text in told:
            for secret in (*planted, PROMPT):
                assert secret not in text, f"{secret} is in: {text[:300]}"
        # There is nothing to find where nothing was let through.
        assert here.provider.till.total.calls == 3


def everything_asked(url: str, made: str) -> tuple[list[str], str]:
    """Make calls that work and calls that fail in every way; give the answers, and the secret of a run key."""
    opened = json.loads(ask(f"{url}/bursar/v1/runs", made, {"calls": 2}).partition("\n\n")[2])
    run_secret = str(opened["secret"])
    calls, v1 = f"{url}/v1/chat/completions", f"{url}/bursar/v1"
    answers = [
        *(ask(calls, run_secret, chat(seed=number)) for number in range(3)),
        ask(calls, DECLARED, chat(stream=True)),
        ask(calls, DECLARED, chat(model="no-such-model")),
        ask(calls, DECLARED, chat(unknown_field=PROMPT)),
        ask(calls, DECLARED, b'{"model": ' + PROMPT.encode()),
        ask(calls, WRONG, chat()),
        ask(calls, DECLARED, chat(), **{"x-api-key": WRONG}),
        ask(f"{url}/v1/responses", DECLARED, {"model": "gpt-5", "input": PROMPT, "tools": [{"type": "no_such_tool"}]}),
        *(ask(f"{v1}/{path}", secret) for path in ("me", "keys", "runs", "entries") for secret in (made, WRONG)),
        ask(f"{url}/metrics", ""),
        ask(f"{url}/readyz", ""),
    ]
    return answers, run_secret


async def commands(here: Bench) -> list[str]:
    """Give what the commands on the books say."""
    asked = (
        ("keys", "list", "--all"),
        ("runs", "list"),
        ("ledger", "holds"),
        ("ledger", "export"),
        ("events",),
        ("webhooks", "list"),
        ("config", "check"),
    )
    return [done.out + done.err for done in [await here.bursar(*words) for words in asked]]
