"""The fake provider as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request

SRC = os.path.join(os.path.dirname(__file__), "..", "..", "src")
COMMAND = [sys.executable, "-m", "bursar.drill.fake_provider", "--port", "0", "--json-config"]
ENVIRON = {**os.environ, "PYTHONPATH": SRC}


def test_it_says_where_it_is_serves_and_ends_when_told_to() -> None:
    config = json.dumps({"output_tokens_least": 9, "output_tokens_most": 9, "faults": [{"kind": "slow", "percent": 1}]})
    with subprocess.Popen([*COMMAND, config], stdout=subprocess.PIPE, text=True, env=ENVIRON) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            body = json.dumps({"model": "gpt-4.1", "messages": [{"role": "user", "content": "hi"}]}).encode()
            with urllib.request.urlopen(f"{url}/v1/chat/completions", body, timeout=10) as response:
                assert json.load(response)["usage"]["completion_tokens"] == 9
            with urllib.request.urlopen(f"{url}/till", timeout=10) as response:
                assert json.load(response)["calls"] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_a_config_that_it_does_not_know_is_refused() -> None:
    for config in ('{"latency": 3}', "[", '{"faults": [{"kind": "storm"}]}', "/no/such/file"):
        done = subprocess.run([*COMMAND, config], capture_output=True, text=True, env=ENVIRON, timeout=30, check=False)
        assert done.returncode == 2
        assert "--json-config" in done.stderr
