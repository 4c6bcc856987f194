"""`bursar openapi` prints what every gateway answers, and nothing of it is imported before somebody asks."""

from __future__ import annotations

import json
import subprocess
import sys

from click.testing import CliRunner
from desk import Office

from bursar.cli.main import cli


async def test_the_command_prints_what_a_gateway_answers(office: Office) -> None:
    printed = CliRunner().invoke(cli, ["openapi"], prog_name="bursar")
    assert printed.exit_code == 0
    assert json.loads(printed.stdout) == (await office.ask("GET", "/openapi.json", who="none")).json


def test_every_operation_says_what_it_is_and_what_it_may_answer() -> None:
    described = json.loads(CliRunner().invoke(cli, ["openapi"]).stdout)
    operations = [(path, one) for path, methods in described["paths"].items() for one in methods.values()]
    assert len({one["operationId"] for _, one in operations}) == len(operations) == 22
    for path, one in operations:
        assert one["description"], path
        assert one["security"] == [{"bearer": []}], path
        assert {"401", "403", "422", "503"} <= one["responses"].keys(), path
        for status, answer in one["responses"].items():
            if not status.startswith("2"):
                kind = answer["content"]["application/json"]["schema"]
                assert kind == {"$ref": "#/components/schemas/ErrorAnswer"}, (path, status)
        if "requestBody" in one:
            (content,) = one["requestBody"]["content"].values()
            name = content["schema"]["$ref"].rsplit("/", 1)[1]
            assert described["components"]["schemas"][name]["additionalProperties"] is False, name


def test_a_gateway_that_nobody_asks_for_the_api_imports_none_of_it() -> None:
    wanted = "{'fastapi', 'starlette', 'jwt', 'cryptography'}"
    code = f"import sys, bursar.edge.site; print(sorted({wanted} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
