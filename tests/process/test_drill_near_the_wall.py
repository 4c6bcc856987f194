"""Long prompts near the wall, with real processes and a real tokenizer where there is one. Takes about ten seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_drill import drill, figures_of

from bursar.upstream import tokenizer

SMALL = ["--scenario", "long", "--agents", "8", "--workers", "2", "--latency-ms", "20", "--seed", "5"]


@pytest.mark.parametrize("dialect", ["messages", "responses", "gemini", "chat"])
def test_nearly_all_of_a_cap_is_usable_with_long_prompts(tmp_path: Path, dialect: str) -> None:
    if dialect == "chat" and not tokenizer.is_installed():
        pytest.skip("the vocabularies are not installed: pip install bursar[tokenizers]")
    status, document, said = drill(tmp_path, *SMALL, "--dialect", dialect)
    assert status == 0, said
    figures = figures_of(document)
    assert figures["used_before_refusal"] * 100 >= 97 * figures["cap"]
    assert figures["till_nanodollars"] <= figures["cap"] == 1_000_000_000
    assert (figures["over"], figures["overrun_nanodollars"], figures["held"]) == (0, 0, 0)
