"""The proxies that are compared, each started with everything on that makes its cap work."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from load import Target, WrongAnswerError, ask_once

HERE = Path(__file__).parent
WORK = HERE / ".work" / str(os.getpid())
LITELLM = HERE / ".venv-litellm" / "bin"
START_SECONDS_MAX = 120
# A gateway whose clients left mid-stream reads on for a while, so that it bills exactly.
STOP_SECONDS_MAX = 90
BURSAR = str(Path(sys.executable).with_name("bursar"))
LITELLM_PACKAGE = "litellm[proxy]"


@dataclass
class Stack:
    """One proxy in front of the stub; `capped_key` is a key whose cap is used up by its first call."""

    target: Target
    version: str
    what_is_on: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    capped_key: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        log = (WORK / f"{self.target.name}.log").open("wb")
        self.process = subprocess.Popen(
            self.command, cwd=WORK, env={**os.environ, **self.env}, stdout=log, stderr=log, start_new_session=True
        )

    async def ready(self) -> float:
        """Wait for the first right answer; give the seconds it took."""
        start = time.perf_counter()
        while time.perf_counter() - start < START_SECONDS_MAX:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            try:
                answer = await ask_once(self.target)
            except (OSError, WrongAnswerError):
                await asyncio.sleep(0.05)
                continue
            if answer.status == 200:
                return time.perf_counter() - start
            await asyncio.sleep(0.2)
        log = (WORK / f"{self.target.name}.log").read_text(encoding="utf-8", errors="replace")
        raise WrongAnswerError(f"{self.target.name} did not come up:\n{log[-3000:]}")

    async def calls_until_refused(self, calls_max: int = 20) -> int | None:
        """Give how many calls the capped key got through; None when nothing stopped it."""
        for answered in range(calls_max):
            answer = await ask_once(self.target, key=self.capped_key)
            if answer.status != 200:
                return answered
            await asyncio.sleep(0.2)
        return None

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def books() -> str:
    """Give what bursar's ledger says after the load; raises WrongAnswerError when it does not add up."""
    options = ["--config", str(WORK / "bursar.toml")]
    verified = subprocess.run([BURSAR, "ledger", "verify", *options], capture_output=True, text=True, check=False)
    listed = subprocess.run([BURSAR, "runs", "list", "--json", *options], capture_output=True, text=True, check=True)
    accounts = [account for run in json.loads(listed.stdout) if run["key"] == "bench" for account in run["accounts"]]
    calls = sum(account["captured"] for account in accounts if account["unit"] == "calls")
    held = [account["held"] for account in accounts]
    if verified.returncode or any(held):
        raise WrongAnswerError(f"bursar's books do not add up: held {held}, {verified.stdout}{verified.stderr}")
    return f"{calls:,} calls booked, nothing held, balances equal the replay of the entries"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def upstream(port: int) -> Stack:
    target = Target("direct", port)
    return Stack(target, "", "no proxy", [sys.executable, str(HERE / "stub.py"), str(port)])


def nginx(stub_port: int) -> Stack | None:
    """A plain proxy: no parsing, no books. It is the physical limit, not a competitor."""
    if not shutil.which("nginx"):
        _try(["apt-get", "update", "-qq"])
        _try(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "nginx-light"])
    if not shutil.which("nginx"):
        return None
    target = Target("nginx", free_port())
    (WORK / "nginx.conf").write_text(
        dedent(f"""
        daemon off; worker_processes 1; pid {WORK}/nginx.pid; error_log stderr crit; {_run_as()}
        events {{ worker_connections 8192; }}
        http {{
          access_log off; keepalive_requests 1000000000;
          client_body_temp_path {WORK}/nginx-body; proxy_temp_path {WORK}/nginx-proxy;
          fastcgi_temp_path {WORK}/nginx-f; uwsgi_temp_path {WORK}/nginx-u; scgi_temp_path {WORK}/nginx-s;
          upstream stub {{ server 127.0.0.1:{stub_port}; keepalive 256; keepalive_requests 1000000000; }}
          server {{
            listen 127.0.0.1:{target.port} backlog=4096;
            client_body_buffer_size 64k;
            location / {{
              proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header connection "";
              proxy_buffering off; proxy_read_timeout 600s;
            }}
          }}
        }}
        """),
        encoding="utf-8",
    )
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
    command = ["nginx", "-p", str(WORK), "-c", str(WORK / "nginx.conf")]
    return Stack(target, version.rpartition("/")[2], "plain proxy, 1 worker", command)


def bursar(stub_port: int) -> Stack:
    target = Target("bursar", free_port())
    (WORK / "bursar.toml").write_text(
        dedent(f"""
        [ledger]
        url = "sqlite:///{WORK}/bench.db"

        [keys.bench]
        key_env = "BENCH_KEY"
        run = {{ usd = "1000000", calls = 1000000000, loops = "none" }}

        [keys.capped]
        key_env = "BENCH_CAPPED_KEY"
        run = {{ usd = "1000000", calls = 1 }}

        [upstreams.openai]
        dialect = "openai"
        base_url = "http://127.0.0.1:{stub_port}"
        key_env = "BENCH_PROVIDER_KEY"
        """),
        encoding="utf-8",
    )
    version = subprocess.run([BURSAR, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return Stack(
        target,
        version[-1],
        "1 worker; caps in dollars and calls on run and key; two durable SQLite commits per call (synchronous=FULL)",
        [BURSAR, "serve", "--config", str(WORK / "bursar.toml"), "--port", str(target.port), "--workers", "1"],
        {"BENCH_KEY": target.key, "BENCH_CAPPED_KEY": "sk-capped", "BENCH_PROVIDER_KEY": "sk-provider"},
        capped_key="sk-capped",
    )


def litellm(stub_port: int) -> Stack | None:
    """LiteLLM keeps keys in a database; its documented way without one is custom auth, and key budgets work with it."""
    if not _install_litellm():
        return None
    target = Target("litellm", free_port())
    (WORK / "litellm.yaml").write_text(
        dedent(f"""
        model_list:
          - model_name: gpt-4o-mini
            litellm_params:
              model: openai/gpt-4o-mini
              api_base: http://127.0.0.1:{stub_port}/v1
              api_key: sk-provider
        general_settings:
          custom_auth: bench_auth.user_api_key_auth
          custom_auth_run_common_checks: true
        litellm_settings:
          telemetry: false
        """),
        encoding="utf-8",
    )
    (WORK / "bench_auth.py").write_text(
        dedent("""
        from litellm.proxy._types import UserAPIKeyAuth

        BUDGETS = {"sk-bench": 1000000.0, "sk-capped": 0.00001}


        async def user_api_key_auth(request, api_key):
            return UserAPIKeyAuth(api_key=api_key, max_budget=BUDGETS[api_key])
        """),
        encoding="utf-8",
    )
    command = [str(LITELLM / "litellm"), "--config", str(WORK / "litellm.yaml"), "--host", "127.0.0.1"]
    version = subprocess.run(
        [str(LITELLM / "python"), "-c", "from importlib.metadata import version; print(version('litellm'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return Stack(
        target,
        version,
        "1 worker; budget in dollars on the key, kept in memory; no database, no Redis, nothing durable",
        [*command, "--port", str(target.port), "--num_workers", "1"],
        {
            "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(32)}",
            "PYTHONPATH": str(WORK),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        },
        capped_key="sk-capped",
    )


def _install_litellm() -> bool:
    if (LITELLM / "litellm").exists():
        return True
    print("installing LiteLLM, the newest release, into an environment of its own ...", flush=True)
    python = str(LITELLM / "python")
    overrides = str(HERE / "litellm-overrides.txt")
    return (
        _try([sys.executable, "-m", "venv", str(LITELLM.parent)])
        and _try([python, "-m", "pip", "install", "-q", "uv"])
        and _try(
            [python, "-m", "uv", "pip", "install", "-q", "--python", python, "--override", overrides, "litellm[proxy]"]
        )
    )


def _run_as() -> str:
    return "user root;" if os.geteuid() == 0 else ""


def _try(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False).returncode == 0
    except FileNotFoundError:
        return False
