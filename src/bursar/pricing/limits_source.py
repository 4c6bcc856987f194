"""Cuts our table of limits out of LiteLLM's: what each model takes and gives, and a second opinion on its price.

Only models whose cost the gateway can bound are kept: those that turn text and images into text (or into embeddings).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

# The source's name of a provider, and the name that the price book knows it by.
PROVIDERS = {
    "anthropic": "anthropic",
    "deepseek": "deepseek",
    "gemini": "google",
    "groq": "groq",
    "mistral": "mistral",
    "openai": "openai",
    "text-completion-openai": "openai",
    "xai": "x-ai",
}
MODES = {"chat", "responses", "completion", "embedding"}
# These search on their own and charge for each search, or speak, draw or listen at rates of their own.
UNBOUNDED_NAME = re.compile(
    r"search|deep-research|audio|realtime|transcribe|tts|image|live|omni|video|moderation|computer-use|robotics|multi-agent"
)
# Rates at which no request of ours can be billed: batches, and tools that the gateway does not let through.
HARMLESS_COST = re.compile(r"batches|search_context|grounding|^regional_|^code_interpreter|^file_search|^web_search")
# An input token of an image is bounded like one of text as long as it is no dearer; audio has a rate of its own.
IMAGE_IN = re.compile(r"^input_cost_per_image_token")
AUDIO_IN = re.compile(r"^(input_cost_per_audio_token|cache_read_input_audio_token_cost)")
# Long inputs cost more beyond this many thousand tokens; the names with a tier behind repeat it.
CLIFF = re.compile(r"^input_cost_per_token_above_(\d+)k_tokens$")
TOKEN_COST = re.compile(
    r"^(input_cost_per_token|output_cost_per_token|output_cost_per_reasoning_token|cache_(read|creation)_input_token_cost)"
)
COLUMNS = [
    "context_tokens",
    "output_tokens_max",
    "input_picodollars_per_token",
    "output_picodollars_per_token",
    "us_inference_percent",
    "cliff_tokens",
    "one_price_a_day",
    "audio_picodollars_per_token",
]


def limits_rows(models: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Give our rows by provider and name in lower case; the numbers of `models` are Decimal or int."""
    table: dict[str, dict[str, list[int]]] = {}
    for key, entry in sorted(models.items()):
        provider = PROVIDERS.get(entry.get("litellm_provider", ""))
        row = read_row(key, entry)
        if provider is None or row is None:
            continue
        name = key.removeprefix(entry["litellm_provider"] + "/").lower()
        rows = table.setdefault(provider, {})
        rows[name] = merged(rows[name], row) if name in rows else row
    return table


def read_row(key: str, entry: Mapping[str, Any]) -> list[int] | None:
    """Give the model's row, or None when the gateway could not bound what it costs."""
    if entry.get("mode") not in MODES or UNBOUNDED_NAME.search(key):
        return None
    input_cost = entry.get("input_cost_per_token") or 0
    if any(is_odd(name, cost) and not (IMAGE_IN.search(name) and cost <= input_cost) for name, cost in entry.items()):
        return None
    context, output = entry.get("max_input_tokens"), entry.get("max_output_tokens")
    if entry["mode"] == "embedding":
        output = 0
    if not isinstance(context, int) or not isinstance(output, int):
        return None
    us = (entry.get("provider_specific_entry") or {}).get("us", 1)
    return [
        context,
        output,
        picodollars(entry.get("input_cost_per_token", 0)),
        picodollars(entry.get("output_cost_per_token", 0)),
        int((Decimal(us) * 100).to_integral_value(ROUND_CEILING)),
        min((int(cliff[1]) * 1_000 for cliff in map(CLIFF.match, entry) if cliff), default=0),
        int(not any("peak" in name for name in entry)),
        picodollars(entry.get("input_cost_per_audio_token") or 0),
    ]


def is_odd(name: str, cost: object) -> bool:
    """Say whether the entry charges for something that is not a token of text."""
    known = (HARMLESS_COST, TOKEN_COST, AUDIO_IN)
    return bool("cost" in name and cost and not any(pattern.search(name) for pattern in known))


def merged(one: list[int], other: list[int]) -> list[int]:
    """Give the wider bounds and the dearer prices of two rows of one model."""
    return [max(pair) for pair in zip(one, other, strict=True)]


def picodollars(usd_per_token: Decimal | int) -> int:
    """Give the price of a token in picodollars, rounded up."""
    return int((Decimal(usd_per_token) * 10**12).to_integral_value(ROUND_CEILING))
