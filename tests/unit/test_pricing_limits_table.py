"""The script that cuts the table of limits keeps only models whose cost the gateway can bound."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bursar.pricing.limits_source import read_row

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_model_limits.py"
CHAT: dict[str, Any] = {
    "litellm_provider": "openai",
    "mode": "chat",
    "max_input_tokens": 1_000,
    "max_output_tokens": 100,
    "input_cost_per_token": Decimal("1.25e-6"),
    "output_cost_per_token": Decimal("1e-5"),
}
ROW = [1_000, 100, 1_250_000, 10_000_000, 100, 0, 1, 0]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_model_limits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, ROW),
        ({"mode": "responses"}, ROW),
        ({"mode": "embedding", "max_output_tokens": None}, [1_000, 0, *ROW[2:]]),
        ({"provider_specific_entry": {"us": Decimal("1.1"), "fast": 2}}, [*ROW[:4], 110, *ROW[5:]]),
        (
            {"input_cost_per_token_above_200k_tokens": 1, "input_cost_per_token_above_128k_tokens": 1},
            [*ROW[:5], 128_000, 1, 0],
        ),
        ({"input_cost_per_token_above_272k_tokens_flex": 1}, ROW),
        ({"off_peak_pricing": {"input_cost_per_token": 1}}, [*ROW[:6], 0, 0]),
        ({"input_cost_per_token_batches": 1, "search_context_cost_per_query": {"a": 1}}, ROW),
        ({"input_cost_per_image_token": Decimal("1.25e-6")}, ROW),
        ({"input_cost_per_audio_token": Decimal("9e-6")}, [*ROW[:7], 9_000_000]),
        ({"cache_read_input_audio_token_cost": 1}, ROW),
        ({"output_cost_per_image": 0}, ROW),
        ({"input_cost_per_image_token": Decimal("1.26e-6")}, None),
        ({"output_cost_per_image": Decimal("0.04")}, None),
        ({"mode": "image_generation"}, None),
        ({"mode": "realtime"}, None),
        ({"max_output_tokens": None}, None),
        ({"max_input_tokens": "many"}, None),
    ],
)
def test_a_model_is_kept_when_tokens_are_all_that_it_charges_for(
    changes: dict[str, Any], row: list[int] | None
) -> None:
    assert read_row("gpt-5", CHAT | changes) == row


@pytest.mark.parametrize("name", ["gpt-4o-search-preview", "o3-deep-research", "gpt-audio", "gpt-realtime-2"])
def test_a_model_that_searches_or_speaks_is_left_out_by_its_name(name: str) -> None:
    assert read_row(name, CHAT) is None


def test_the_table_is_cut_from_a_wheel_and_two_rows_of_one_model_are_the_wider_and_dearer(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {
        "gpt-5": CHAT | {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-5},
        "openai/GPT-5": CHAT | {"input_cost_per_token": 2e-6, "output_cost_per_token": 1e-6, "max_input_tokens": 7},
        "elsewhere/gpt-5": CHAT
        | {"litellm_provider": "elsewhere", "input_cost_per_token": 1, "output_cost_per_token": 1},
    }
    wheel = tmp_path / "litellm-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(script.SOURCE_FILE, json.dumps(models))
        archive.writestr(
            "litellm-9.9.9.dist-info/licenses/LICENSE", "Portions ...\nMIT License\n\nCopyright (c) Them\n"
        )
    monkeypatch.setattr(script, "TABLE", tmp_path / "table.json")
    script.main(wheel, "2026-11-23")
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert table["models"] == {"openai": {"gpt-5": [1_000, 100, 2_000_000, 10_000_000, 100, 0, 1, 0]}}
    assert (table["made_on"], table["notice"]) == ("2026-11-23", "MIT License\n\nCopyright (c) Them")
    assert table["source"].startswith("LiteLLM 9.9.9")
    assert "1 models" in capsys.readouterr().out
