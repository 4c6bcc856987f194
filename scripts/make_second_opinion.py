"""Make tests/prices/second_opinion.json: what LiteLLM's own cost function says that calls of live models cost.

    make bench                       installs LiteLLM into bench/.venv-litellm, among other things
    bench/.venv-litellm/bin/python scripts/make_second_opinion.py "$(date +%F)"

LiteLLM runs here only; the tests compare bursar's bill with the figures in the file. A model is live when LiteLLM knows
no date of its end, or one after today.
"""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent.parent / "tests" / "prices" / "second_opinion.json"
# LiteLLM's name of a provider, and the name that the price book knows it by.
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
# Models that draw, speak, listen or search, which bursar does not price by the token.
OTHER_KINDS = re.compile(r"search|research|audio|realtime|transcribe|tts|image|live|omni|video|moderation|container")
ABOVE = re.compile(r"_above_(\d+)k_tokens$")

Lines = dict[str, Any]


def main(made_on: str) -> None:
    """Ask LiteLLM for every live model and every usage that its price list has a rate for, and write the answers."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm  # type: ignore[import-not-found]

    # DeepSeek is dearer at some hours, and LiteLLM goes by the clock.
    asked_at = datetime.now(UTC).replace(microsecond=0)
    models: dict[str, dict[str, Lines]] = {}
    for key, entry in sorted(litellm.model_cost.items()):
        provider = PROVIDERS.get(entry.get("litellm_provider", ""))
        if provider is None or not is_live(key, entry, made_on):
            continue
        name = key.removeprefix(entry["litellm_provider"] + "/").lower()
        found = {label: {**usage, "usd": cost_of(litellm, key, entry, usage)} for label, usage in usages(entry).items()}
        models.setdefault(provider, {}).setdefault(name, found)
    notice = distribution("litellm").read_text("licenses/LICENSE") or ""
    head = {
        "source": f"LiteLLM {version('litellm')}, litellm.cost_per_token",
        "made_on": made_on,
        "asked_at": asked_at.isoformat(),
        "made_by": "scripts/make_second_opinion.py",
        "licence": "MIT (what was used is outside the enterprise directory)",
        "notice": notice[notice.index("MIT License") :].strip(),
    }
    TABLE.write_text(rendered(head, models), encoding="utf-8")
    found = [usages for rows in models.values() for usages in rows.values()]
    print(f"{TABLE}: {len(found)} models, {sum(map(len, found))} usages")


def is_live(key: str, entry: Lines, today: str) -> bool:
    """Say whether the model can be called today and is billed by the token of text."""
    is_priced = bool(entry.get("input_cost_per_token"))
    is_text = entry.get("mode") in MODES and not OTHER_KINDS.search(key)
    return is_priced and is_text and str(entry.get("deprecation_date") or "9999") > today


def usages(entry: Lines) -> dict[str, Lines]:
    """Give the usages to ask for: five of every model, and those that have rates of their own."""
    is_embedding = entry["mode"] == "embedding"
    out = 0 if is_embedding else 1
    window = entry.get("max_input_tokens") or 4_096
    fit = min(window, 100_000)
    found: dict[str, Lines] = {
        "one token": {"input": 1, "output": out},
        "odd": {"input": 7, "output": 3 * out},
        "plain": {"input": 1_000, "output": 500 * out},
        "long answer": {"input": 13, "output": 4_001 * out},
        "large": {"input": fit, "output": 2_000 * out},
    }
    if entry.get("cache_read_input_token_cost") and not is_embedding:
        found["cached"] = {"input": 129, "output": 77, "read": 1_921}
    if entry.get("cache_creation_input_token_cost"):
        found["written"] = {"input": 129, "output": 77, "read": 512, "write": 1_409}
    if entry.get("cache_creation_input_token_cost_above_1hr"):
        found["written for an hour"] = {"input": 129, "output": 77, "read": 512, "write_1h": 1_409}
    found |= tiers(entry)
    for name in entry:
        above = ABOVE.search(name)
        if name.startswith("input_cost_per_token_above") and above:
            edge = int(above[1]) * 1_000
            found["at the cliff"] = {"input": edge, "output": 2_000}
            found["over the cliff"] = {"input": edge + 1, "output": 2_000}
    return found


def tiers(entry: Lines) -> dict[str, Lines]:
    """Give a usage for every tier, speed and region that LiteLLM has a rate for."""
    found: dict[str, Lines] = {}
    for tier in ("flex", "priority"):
        if entry.get(f"input_cost_per_token_{tier}") and entry.get(f"output_cost_per_token_{tier}"):
            found[tier] = {"input": 1_001, "output": 333, "tier": tier}
            if entry.get(f"cache_read_input_token_cost_{tier}"):
                found[tier]["read"] = 640
    special = entry.get("provider_specific_entry") or {}
    if "us" in special:
        found["in the US"] = {"input": 1_001, "output": 333, "read": 640, "tier": "default@us"}
    if "fast" in special:
        found["fast"] = {"input": 1_001, "output": 333, "read": 640, "tier": "fast"}
    return found


def cost_of(litellm: Any, key: str, entry: Lines, usage: Lines) -> str:
    """Give what LiteLLM says that the usage costs in USD, as the float that it is."""
    from litellm.types.utils import Usage  # type: ignore[import-not-found]

    fresh, read = usage["input"], usage.get("read", 0)
    write, write_1h = usage.get("write", 0), usage.get("write_1h", 0)
    tier, _, region = usage.get("tier", "").partition("@")
    prompt = fresh + read + write + write_1h
    given = Usage(
        prompt_tokens=prompt,
        completion_tokens=usage["output"],
        total_tokens=prompt + usage["output"],
        prompt_tokens_details={
            "cached_tokens": read,
            "cache_creation_tokens": write + write_1h,
            "cache_creation_token_details": {
                "ephemeral_5m_input_tokens": write,
                "ephemeral_1h_input_tokens": write_1h,
            },
        },
        cache_read_input_tokens=read,
        cache_creation_input_tokens=write + write_1h,
        **({"speed": "fast"} if tier == "fast" else {}),
        **({"inference_geo": region} if region else {}),
    )
    amounts = litellm.cost_per_token(
        model=key,
        custom_llm_provider=entry["litellm_provider"],
        usage_object=given,
        call_type="embedding" if entry["mode"] == "embedding" else "completion",
        service_tier=tier if tier in ("flex", "priority") else None,
    )
    return repr(sum(amounts))


def rendered(head: Lines, models: dict[str, dict[str, Lines]]) -> str:
    """Write one usage a line, so that a new version is easy to review."""
    text = ["{", *(f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()), '  "models": {']
    providers = []
    for provider, rows in sorted(models.items()):
        blocks = []
        for name, found in sorted(rows.items()):
            lines = ",\n".join(f"        {json.dumps(label)}: {json.dumps(usage)}" for label, usage in found.items())
            blocks.append(f"      {json.dumps(name)}: {{\n{lines}\n      }}")
        providers.append(f"    {json.dumps(provider)}: {{\n" + ",\n".join(blocks) + "\n    }")
    return "\n".join(text) + "\n" + ",\n".join(providers) + "\n  }\n}\n"


if __name__ == "__main__":
    main(sys.argv[1])
